"""The API endpoints: one typed, documented endpoint per mode, all built from one table."""

import inspect
from collections.abc import Callable, Collection, Iterator
from typing import Any

import gradio as gr

from lumiere.modes import NEEDS
from lumiere.request import FIRST_FRAMES, SCHEDULERS

# mode -> (endpoint name, description)
MODES = {
    "text": ("generate", "Makes a clip from a prompt"),
    "image": ("image_to_video", "Brings a picture to life: it is the first frame of the clip"),
    "images": ("first_and_last_frame", "Makes the clip between two pictures, its first frame and its last"),
    "inpaint": ("inpaint", "Makes a clip anew in a region, which is white in a picture"),
    "cinemagraph": (
        "cinemagraph",
        "Moves a picture in a region, which is white in another; the rest stands still",
    ),
    "continue": ("continue_clip", "Goes on with a clip: what is given comes first in the result"),
    "video": ("video_to_video", "Makes a clip anew everywhere, the more the higher the strength"),
}
FILES = {
    "image": "The picture; cut and scaled to the size of the clip.",
    "last_image": "The picture of the last frame.",
    "clip": "A video: MP4, MOV, MKV, WebM, AVI, TS, GIF, WebP; scaled down to {side} pixels a side.",
    "region": "A picture, white where the clip is made anew.",
}
OWN = "the model's own when none is given."
PROMPT = (
    "What should happen, at most 2000 characters; (word:1.3) weights a word, and 0: spring | 32: winter is a "
    "prompt at each of these frames."
)
Row = tuple[str, Any, Any, str]  # name, type, default, description
SETTINGS: tuple[Row, ...] = (
    ("frames", int | None, None, f"Length of the clip, divisible by the model's temporal factor; {OWN}"),
    ("fps", int | None, None, f"Frames shown per second, 1 to 60; {OWN}"),
    ("height", int | None, None, f"In pixels; {OWN}"),
    ("width", int | None, None, f"In pixels; {OWN}"),
    ("steps", int | None, None, f"Denoising steps, 1 to 150; {OWN}"),
    ("guidance", float | None, None, f"How closely to follow the prompt, 0 to 30; 1 is not at all; {OWN}"),
    ("scheduler", str | None, None, f"One of {', '.join(SCHEDULERS)}; {OWN}"),
    ("seed", int | None, None, "0 to 4294967295; a random one when none is given."),
    ("negative_prompt", str, "", "What the clip should not show."),
)
FIRST_FRAME: Row = (
    "first_frame",
    str,
    FIRST_FRAMES[0],
    f"One of {', '.join(FIRST_FRAMES)}; none: from noise with the rest, base: drawn by the base model. "
    "Without effect for motion weights that take no given pixels.",
)
LOOP: Row = ("loop", bool, False, "Whether the last frame leads to the first one; from noise, in one part.")
OF_ADAPTERS: tuple[Row, ...] = (
    ("motion_scale", float | None, None, f"Amount of motion of an AnimateDiff adapter, 0 to 4; {OWN}"),
    ("free_noise", bool | None, None, f"Whether an adapter makes a long clip by FreeNoise; {OWN}"),
    ("free_init", int | None, None, f"Passes of FreeInit, 1 to 10, each of which runs all steps; {OWN}"),
    ("clip_skip", int, 0, "Last layers of CLIP to skip, 0 to 11; the embedded model takes 0 only."),
)
STRENGTH: Row = ("strength", float, 0.6, "How much is made anew, above 0 to 1.")

Answer = tuple[gr.FileData, dict]
Run = Callable[[dict, dict], Iterator[tuple]]


def endpoints(
    run: Run,
    models: Collection[str],
    video_side: int,
    styles: Collection[str] = (),
    cameras: Collection[str] = (),
    adapter: bool = False,
) -> list[Callable]:
    """Returns generator functions for `gr.api`, named after their endpoints.

    Args:
        run: generates a clip from {`Request` field: value} and {`Sources` field: file}. Its last item is the
            result.
        models: model names. With two or more, the endpoints take an optional `model`.
        video_side: maximum height and width of an uploaded clip, in pixels.
        styles: style names. If not empty, the endpoints take optional `style_weights`.
        cameras: camera moves. If not empty, the endpoints take optional `cameras`.
        adapter: whether a model has an AnimateDiff adapter, so that the endpoints take its options.
    """
    which = f"One of {', '.join(models)}; the first when none is given."
    weights = f"Weights of {', '.join(styles)}, in this order; {OWN}"
    more: tuple[Row, ...] = (("model", str | None, None, which),) if len(models) > 1 else ()
    moves = f'Weights from -4 to 4 of {", ".join(cameras)}, as in {{"zoom-in": 0.8}}; {OWN}'
    more += (("cameras", dict[str, float] | None, None, moves),) if cameras else ()
    more += OF_ADAPTERS if adapter else ()
    more += (("style_weights", list[float] | None, None, weights),) if styles else ()
    files = FILES | {"clip": FILES["clip"].format(side=video_side)}
    return [_endpoint(mode, run, files, more) for mode in MODES]


def _endpoint(mode: str, run: Run, files: dict[str, str], more: tuple[Row, ...]) -> Callable:
    name, does = MODES[mode]
    settings = (*SETTINGS, *more)
    if mode == "text":
        settings = (*settings, FIRST_FRAME, LOOP)
    elif mode == "video":
        settings = (STRENGTH, *settings)
    rows: list[Row] = [("prompt", str, inspect.Parameter.empty, PROMPT)]
    rows += [(file, gr.FileData, inspect.Parameter.empty, files[file]) for file in NEEDS[mode]]
    rows += settings
    names = [row[0] for row in rows]

    # A generator with a single result: when a client disconnects, gradio can close only generators.
    def call(*values: object) -> Iterator[tuple]:
        fields = dict(zip(names, values, strict=True))
        given = {file: fields.pop(file) for file in NEEDS[mode]}
        yield from run(fields | {"mode": mode}, given)

    form = inspect.Parameter.POSITIONAL_OR_KEYWORD
    parameters = [inspect.Parameter(n, form, default=value, annotation=kind) for n, kind, value, _ in rows]
    vars(call)["__signature__"] = inspect.Signature(parameters, return_annotation=Answer)
    call.__annotations__ = {row[0]: row[1] for row in rows} | {"return": Answer}
    call.__name__ = call.__qualname__ = name
    told = "\n".join(f"    {n}: {help}" for n, _, _, help in rows)
    call.__doc__ = (
        f"{does}; returns the MP4 file and the settings that made it, seed included.\n\nParameters:\n{told}\n"
    )
    return call
