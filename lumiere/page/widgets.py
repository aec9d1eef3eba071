"""The widgets of the page in their places. Events are bound in `app.py`."""

import json
from dataclasses import dataclass, field

import gradio as gr

from ..models import Model
from ..request import FPS, GUIDANCE, SCHEDULERS, STEPS, Limits
from . import part, words

LONGEST = 128  # frames on the slider; programs may ask for all that the model takes
SETTINGS = ("negative_prompt", "frames", "fps", "steps", "guidance", "scheduler", "seed", "randomise")


@dataclass
class Page:
    """What events need to know. `settings` are the inputs after the prompt, in the order of `SETTINGS`."""

    prompt: gr.Textbox
    generate: gr.Button
    stop: gr.Button
    note: gr.HTML
    theatre: gr.HTML
    clip: gr.Video
    status: gr.HTML
    download: gr.DownloadButton
    settings: list = field(default_factory=list)

    @property
    def frames(self) -> gr.Slider:
        return self.settings[1]

    @property
    def seed(self) -> gr.Number:
        return self.settings[-2]


def page(limits: Limits, model: Model) -> Page:
    """Builds the whole page inside the current `gr.Blocks`."""
    gr.HTML(part("masthead.html").replace("@title", words.TITLE).replace("@intro", words.INTRO))
    with gr.Column(elem_id="workbench"):
        with gr.Column(elem_id="ask"):
            asked = ask()
        with gr.Column(elem_id="film"):
            shown = film()
        with gr.Column(elem_id="more"):
            examples(asked["prompt"])
            with gr.Accordion(words.SETTINGS, open=False, elem_id="settings"):
                made = Page(**asked, **shown, settings=settings(limits, model))
    return made


def ask() -> dict:
    prompt = gr.Textbox(
        label=words.PROMPT,
        placeholder=words.PLACEHOLDER,
        lines=1,
        max_lines=4,
        autofocus=True,
        elem_id="prompt",
    )
    with gr.Row(elem_id="go"):
        generate = gr.Button(words.GENERATE, variant="primary", elem_id="generate")
        stop = gr.Button(words.STOP, elem_id="stop")
    note = gr.HTML(words.TIP, html_template="<p></p>", js_on_load=part("note.js"), elem_id="note")
    return {"prompt": prompt, "generate": generate, "stop": stop, "note": note}


def film() -> dict:
    with gr.Column(elem_id="stage"):
        theatre = gr.HTML(
            html_template=part("theatre.html"), js_on_load=part("theatre.js"), label=words.STAGE_LABEL
        )
        clip = gr.Video(
            label=words.CLIP_LABEL,
            show_label=False,
            interactive=False,
            container=False,
            autoplay=True,
            loop=True,
            buttons=[],
            elem_id="clip",
        )
    with gr.Row(elem_id="told"):
        status = gr.HTML(
            {"state": "idle", "text": words.IDLE},
            html_template=part("status.html"),
            js_on_load=part("status.js"),
            label=words.PROGRESS_LABEL,
        )
        download = gr.DownloadButton(words.DOWNLOAD, interactive=False, size="sm", elem_id="download")
    return {"theatre": theatre, "clip": clip, "status": status, "download": download}


def examples(prompt: gr.Textbox) -> None:
    gr.HTML(f"<p>{words.TRY}</p>", elem_id="chips-title")
    with gr.Row(elem_id="chips"):
        for text in words.EXAMPLES:
            gr.Button(text, size="sm").click(None, js=f"() => {json.dumps(text)}", outputs=prompt).then(
                None, js="() => document.getElementById('generate').click()"
            )


def settings(limits: Limits, model: Model) -> list:
    """The widgets in the order in which they are read; returned in the order of `SETTINGS`."""
    room = limits.max_pixels // (limits.default_height * limits.default_width)
    most = min(LONGEST, limits.max_frames, room)
    frames = gr.Slider(
        limits.min_frames,
        most // limits.downsample_factor * limits.downsample_factor,
        model.frames,
        step=limits.downsample_factor,
        precision=0,
        label=words.FRAMES,
        info=words.FRAMES_HELP,
        elem_id="frames",
    )
    length = gr.HTML(
        words.length(model.frames, model.fps),
        html_template="<p></p>",
        js_on_load=part("note.js"),
        elem_id="length",
    )
    fps = gr.Slider(*FPS, model.fps, step=1, precision=0, label=words.FPS, info=words.FPS_HELP)
    seconds = "(frames, fps) => " + words.LENGTH_JS
    gr.on([frames.change, fps.change], None, [frames, fps], length, js=seconds, show_progress="hidden")
    steps = gr.Slider(
        *STEPS, model.steps, step=1, precision=0, label=words.STEPS, info=words.STEPS_HELP, elem_id="steps"
    )
    guidance = gr.Slider(*GUIDANCE, model.guidance, step=0.5, label=words.GUIDANCE, info=words.GUIDANCE_HELP)
    negative_prompt = gr.Textbox("", label=words.NEGATIVE, info=words.NEGATIVE_HELP, max_lines=3)
    scheduler = gr.Dropdown(
        [(words.scheduler(name), name) for name in SCHEDULERS],
        value=model.scheduler,
        label=words.SCHEDULER,
        info=words.SCHEDULER_HELP,
    )
    seed = gr.Number(label=words.SEED, info=words.SEED_HELP, precision=0, elem_id="seed")
    randomise = gr.Checkbox(True, label=words.RANDOMISE)
    return [negative_prompt, frames, fps, steps, guidance, scheduler, seed, randomise]
