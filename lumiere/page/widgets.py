"""The layout of the page. Events are bound in `events.py`."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from html import escape
from typing import Any

import gradio as gr

from lumiere.limits import ServerLimits
from lumiere.loading.layout import VOCABULARY
from lumiere.loading.registry import DEFAULT
from lumiere.loading.styles import Style
from lumiere.model.motion_files import read_json
from lumiere.modes import NEEDS
from lumiere.page import architecture, examples, part, strings
from lumiere.page.server import files
from lumiere.request import (
    ADAPTER_OPTIONS,
    FIRST_FRAMES,
    FPS,
    FREE_INIT,
    GUIDANCE,
    MOTION_SCALE,
    SCHEDULERS,
    STEPS,
    Limits,
)
from lumiere.runtime import model_cache

LONGEST = 128  # maximum frames on the slider; the API accepts every length that the model supports
MOST_PASSES, MOST_MOTION = 5, 2.0  # maxima on the sliders of FreeInit and of the amount of motion, too
SETTINGS = """negative_prompt frames fps steps guidance scheduler first_frame loop seed randomise height width
strength""".split()
FORM = ["prompt", "mode", *SETTINGS]  # inputs that can be restored
OUTPUTS = ("player", "status", "result", "seed", "stop", "note")

plain_html = partial(gr.HTML, apply_default_css=False)  # only our own margins


# Arguments of all events of the page
QUIET: dict[str, Any] = {"show_progress": "hidden", "api_visibility": "private", "preprocess": False}


@dataclass
class Page:
    """The components that events refer to.

    Attributes:
        inputs: the inputs that every page has, by field, in the order of `names`.
        extra: the inputs that only some models have, in the order of `extra_names`.
    """

    inputs: dict[str, Any]
    extra: list
    given: gr.HTML
    generate: gr.Button
    stop: gr.Button
    note: gr.HTML
    player: gr.HTML
    status: gr.HTML
    result: gr.HTML
    form: gr.HTML
    deep_link: gr.HTML
    export: gr.HTML
    thumbnail: gr.HTML
    models: gr.HTML | None

    @property
    def seed(self) -> gr.Number:
        """The seed input."""
        return self.inputs["seed"]


def names(limits: Limits) -> list[str]:
    """Returns the names of the inputs on the page of a model: `FORM`, then `ADAPTER_OPTIONS` for adapters."""
    return [*FORM, *(ADAPTER_OPTIONS if limits.adapter else ())]


def extra_names(limits: Limits) -> list[str]:
    """Returns the fields of inputs that only some models have, which are components of our own."""
    return ["style_weights"] * bool(limits.styles) + ["cameras"] * bool(limits.cameras)


def component(name: str, value: Any = None, **props: Any) -> gr.HTML:
    """Returns an HTML component.

    Args:
        name: folder in `components/` with its `template.html` and `script.js`.
        value: initial value.
        **props: props of the component.
    """
    template, script = (part(f"components/{name}/{file}") for file in ("template.html", "script.js"))
    return plain_html(value, html_template=template, js_on_load=script, **props)


def labels(name: str, number: float | None = None) -> dict[str, Any]:
    """Returns the label, the help and the element id of an input.

    Args:
        name: key of `strings.FIELDS`.
        number: replaces @ in the help.
    """
    label, help = strings.FIELDS[name]
    return {"label": label, "info": help.replace("@", f"{number}"), "elem_id": name.replace("_", "-")}


def header(name: str, addresses: Mapping[str, str]) -> str:
    """Returns the header: the title and, with two or more models, links to their pages.

    Args:
        name: model of the current page.
        addresses: model name -> address of its page, relative to the current page.
    """
    links = "".join(
        f'<a href="{escape(address)}"{" aria-current=page" * (each == name)}>{escape(each)}</a>'
        for each, address in addresses.items()
    )
    choice = f'<nav id="models" aria-label="{strings.MODELS}">{links}</nav>' if len(addresses) > 1 else ""
    made = part("components/header/template.html").replace("@title", strings.TITLE)
    return made.replace("@intro", strings.INTRO).replace("@choice", choice)


def page(
    limits: Limits,
    model: model_cache.Model,
    server_limits: ServerLimits,
    name: str,
    addresses: Mapping[str, str],
) -> Page:
    """Builds the whole page of a model inside the current `gr.Blocks`.

    Args:
        limits: limits of the model.
        model: registry entry of the model.
        server_limits: limits of the server.
        name: name of the model.
        addresses: model name -> address of its page.
    """
    upload_mb = server_limits.upload_mb
    told = {"most_bytes": upload_mb * 2**20, "too_large": strings.too_large(upload_mb), "lost": strings.LOST}
    store = f"lumiere-{name}"  # localStorage key: settings are saved per model
    plain_html(header(name, addresses))
    known = model == model_cache.within(model_cache.entry(DEFAULT), limits)
    with gr.Column(elem_id="workbench"):
        with gr.Column(elem_id="ways"):
            mode = gr.Radio(
                [(name, mode) for mode, name in strings.MODES.items()],
                value="text",
                label=strings.MODE,
                elem_id="mode",
            )
            component("modes", needs=NEEDS, help=strings.MODE_HELP, elem_id="mode-help")
        with gr.Column(elem_id="ask"):
            shown, made = ask(vocabulary(model), told)
        with gr.Column(elem_id="film"):
            shown |= film()
        with gr.Column(elem_id="more"):
            component(
                "settings_panel",
                store=store,
                presets=presets(limits, model),
                **strings.SETTINGS_PANEL,
                elem_id="settings-panel",
            )
            with gr.Column(elem_id="settings"):
                made |= {"mode": mode} | settings(limits, model)
                made |= consistency(model) if limits.adapter else {}
            made |= {"motion_scale": motion(model)} if limits.adapter else {}
            extra = [styles(model.style, limits)] if limits.styles else []
            extra += [camera(limits, model)] if limits.cameras else []
            component("examples", title=strings.TRY, examples=shelf(limits, model, known), elem_id="shelf")
    component("gallery", strings=strings.GALLERY, elem_id="gallery")
    drawing = architecture.drawing(architecture.read(*model_cache.small_files(model)), model.frames)
    script = part("components/architecture/script.js")
    plain_html(html_template=drawing, js_on_load=script, elem_id="architecture")
    panel = None
    if server_limits.fetch > 0 or not known:
        panel = component("models", strings=strings.MODEL_PANEL, elem_id="model-panel")
    with gr.Column(elem_id="unseen"):
        form = component("form", store=store, names=names(limits))
        deep_link = component("deep_link", names=names(limits), **told)
        export = component("export")
        thumbnail = component("thumbnail")
        shown |= {"form": form, "deep_link": deep_link, "export": export, "thumbnail": thumbnail}
    return Page({name: made[name] for name in names(limits)}, extra, **shown, models=panel)


def ask(kinds: list[dict], told: dict) -> tuple[dict, dict]:
    """Builds the inputs above the player.

    Args:
        kinds: result of `vocabulary`; the vocabulary component is left out if empty.
        told: upload limits and messages, passed as props to the upload component.

    Returns:
        {`Page` field: component}, and {`Request` field: input}.
    """
    given = component("given", **strings.GIVEN, **told, elem_id="given")
    strength = gr.Slider(0.05, 1, 0.6, step=0.05, **labels("strength"))
    prompt = gr.Textbox(
        examples.EXAMPLES[0][0],
        label=strings.PROMPT,
        placeholder=strings.PLACEHOLDER,
        lines=1,
        max_lines=4,
        autofocus=True,
        elem_id="prompt",
    )
    with gr.Row(elem_id="go"):
        generate = gr.Button(strings.GENERATE, variant="primary", elem_id="generate")
        stop = gr.Button(strings.STOP, elem_id="stop")
    note = component("note", strings.note([]), elem_id="note")
    if kinds:
        component("vocabulary", title=strings.VOCABULARY_TITLE, kinds=kinds, elem_id="vocabulary")
    shown = {"given": given, "generate": generate, "stop": stop, "note": note}
    return shown, {"prompt": prompt, "strength": strength}


def vocabulary(model: model_cache.Model) -> list[dict]:
    """Returns the words of the model's `vocabulary.json` by kind; an empty list if it has none."""
    file = model_cache.small_files(model)[0] / VOCABULARY
    known = read_json(file) if file.is_file() else {}
    return [{"name": title, "words": known[kind]} for kind, title in strings.KINDS.items() if kind in known]


def styles(style: Style, limits: Limits) -> gr.HTML:
    """Builds the sliders for the style weights."""
    told = {"names": style.names, "ranges": limits.styles}
    return component("style", style.weights, **strings.STYLE, **told, elem_id="style")


def camera(limits: Limits, model: model_cache.Model) -> gr.HTML:
    """Builds the pad of the camera moves, with the operator's own as they are set."""
    weights = dict(model_cache.own(model, limits)["cameras"])
    return component("camera", weights, **strings.CAMERA, moves=limits.cameras, elem_id="camera")


def consistency(model: model_cache.Model) -> dict:
    """Builds the inputs for FreeInit and FreeNoise; returns {`Request` field: input}."""
    sampling, (least, _) = model.sampling, FREE_INIT
    passes = least, max(MOST_PASSES, sampling.free_init), sampling.free_init
    free_init = gr.Slider(*passes, step=1, precision=0, **labels("free_init"))
    free_noise = gr.Checkbox(sampling.free_noise, **labels("free_noise"))
    return {"free_init": free_init, "free_noise": free_noise}


def motion(model: model_cache.Model) -> gr.Slider:
    """Builds the slider for the amount of motion."""
    scale = model.sampling.motion_scale
    return gr.Slider(MOTION_SCALE[0], max(MOST_MOTION, scale), scale, step=0.05, **labels("motion_scale"))


def film() -> dict:
    """Builds the player, the status line and the result; returns {`Page` field: component}."""
    with gr.Column(elem_id="stage"):
        player = component("player", **strings.PLAYER)
    idle = {"state": "idle", "text": strings.IDLE}
    status = component("status", idle, label=strings.PROGRESS_LABEL, elem_id="status")
    result = component("result", strings=strings.RESULT, modes=strings.MODES, elem_id="result")
    return {"player": player, "status": status, "result": result}


def presets(limits: Limits, model: model_cache.Model) -> list[dict]:
    """Returns the presets with the settings of each; "long" is left out if the model cannot make it."""
    factor = limits.downsample_factor
    long = -(-5 * model.fps // factor) * factor
    usual = {"frames": model.frames, "steps": model.steps, "fps": model.fps}
    standard = model_cache.own(model, limits)
    standard.pop("cameras", None)  # a preset keeps the camera moves
    made = {
        "draft": usual | {"steps": max(1, model.steps * 2 // 5)},
        "standard": standard,
        "fine": usual | {"steps": min(limits.max_steps, 2 * model.steps)},
        "long": usual | {"frames": long},
    }
    if long > longest(limits):
        del made["long"]
    return [
        {"name": strings.PRESET_NAMES[name], "help": strings.PRESET_HELP[name], "settings": settings}
        for name, settings in made.items()
    ]


def shelf(limits: Limits, model: model_cache.Model, known: bool) -> list[dict]:
    """Returns the examples of the page.

    Args:
        limits: limits of the model.
        model: registry entry; its defaults are the settings of each example.
        known: whether the model is the embedded one, whose examples have thumbnails and seeds.
    """
    shown = []
    for prompt, seed in examples.EXAMPLES:
        moving, still = examples.files(seed, prompt)
        form = model_cache.own(model, limits) | {"negative_prompt": "", "loop": model.sampling.loop}
        form["cameras"] = dict(form.get("cameras", ()))
        pictures = {}
        if known and moving.exists():
            pictures = {"picture": files.address(moving), "still": files.address(still)}
            form["seed"] = seed
        shown.append({"prompt": prompt, "settings": form} | pictures)
    return shown


def longest(limits: Limits) -> int:
    """Returns the maximum of the frames slider, a multiple of the temporal factor."""
    most = min(LONGEST, limits.longest(limits.default_height, limits.default_width))
    return most // limits.downsample_factor * limits.downsample_factor


def settings(limits: Limits, model: model_cache.Model) -> dict:
    """Builds the settings in reading order; returns {field: input}.

    Args:
        limits: limits of the model.
        model: registry entry with the default settings.
    """
    whole = partial(gr.Slider, precision=0)
    side = partial(whole, limits.min_side, limits.max_side, step=limits.size_multiple)
    frames = limits.min_frames, longest(limits), model.frames
    schedulers = [(strings.scheduler(name), name) for name in SCHEDULERS]
    first_frames = [(strings.FIRST_FRAMES[name], name) for name in FIRST_FRAMES]
    conditioned = model_cache.takes_given_pixels(model)
    loops = model.sampling.loop  # the operator's --loop makes every clip one
    return {
        "frames": whole(*frames, step=limits.downsample_factor, **labels("frames")),
        "fps": whole(*FPS, model.fps, step=1, **labels("fps", model.fps)),
        "steps": whole(STEPS[0], limits.max_steps, model.steps, step=1, **labels("steps")),
        "guidance": gr.Slider(*GUIDANCE, model.guidance, step=0.5, **labels("guidance")),
        "negative_prompt": gr.Textbox("", max_lines=3, **labels("negative_prompt")),
        "scheduler": gr.Dropdown(schedulers, value=model.scheduler, **labels("scheduler")),
        "first_frame": gr.Dropdown(
            first_frames,
            value=FIRST_FRAMES[0],
            visible=True if conditioned else "hidden",
            **labels("first_frame"),
        ),
        "loop": gr.Checkbox(loops, interactive=not loops, **labels("loop")),
        "seed": gr.Number(precision=0, **labels("seed")),
        "randomise": gr.Checkbox(True, **labels("randomise")),
        "height": side(limits.default_height, **labels("height")),
        "width": side(limits.default_width, **labels("width")),
    }
