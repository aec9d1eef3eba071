"""What models can be asked for, and the one that is kept on the device for all requests."""

import argparse
import gc
import sys
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from lumiere.limits import Bounds
from lumiere.loading.layout import locate, locate_motion, read_limits
from lumiere.loading.registry import (
    MODELS,
    MOTION_VARIABLE,
    PREVIEWS,
    VARIABLE,
    Model,
    entry,
    published,
    short_name,
    wanted,
)
from lumiere.loading.styles import Style, read_lora
from lumiere.model.motion_files import MOTION, read_json
from lumiere.request import Limits

if TYPE_CHECKING:  # torch and diffusers take seconds, and a refusal need not wait for them
    from lumiere.pipeline import LumierePipeline


_resident: "list[tuple[tuple, LumierePipeline]]" = []  # one at most
_loading = threading.Lock()


def add_options(parser, several: bool = False) -> None:
    """Adds to an argument parser what says which model is loaded, and how; `chosen` reads it.

    several: `--model` may be repeated, and `allowed` reads it.
    """
    add = parser.add_argument
    names, more = ", ".join(MODELS), "; may be repeated" if several else ""
    add(
        "--model",
        action="append" if several else "store",
        metavar="NAME",
        help=f"{names}, or a base as folder or hub id (${VARIABLE}){more}",
    )
    add(
        "--motion",
        metavar="WEIGHTS",
        help=f"motion weights for the base: folder, file or hub id (${MOTION_VARIABLE})",
    )
    add(
        "--lora",
        action="append",
        default=[],
        metavar="FILE[:WEIGHT]",
        help="a style for the base: .safetensors file or hub id; may be repeated",
    )
    add("--style", metavar="BASE", help="another base of the family, blended with the model's own")
    add("--alpha", type=float, default=0.7, metavar="X", help="share of --style, 0 to 1 (%(default)s)")
    add(
        "--preview",
        metavar="NAME",
        help=f"another tiny autoencoder for previews: {', '.join(PREVIEWS)}, a folder or hub id",
    )
    add("--offload", action="store_true", help="parts of the model leave the device while others work")
    add("--device", metavar="NAME", help="cuda, mps or cpu; the first there is unless given")


def options(description: str) -> argparse.ArgumentParser:
    """A parser of these options alone, for a program that offers several models."""
    parser = argparse.ArgumentParser(description=description)
    add_options(parser, several=True)
    return parser


def chosen(options) -> Model:
    """The model that the options of `add_options` say. Raises ValueError."""
    return _as_said(options, entry(options.model, options.motion))


def allowed(options) -> dict[str, Model]:
    """All models that the options or the environment say, by a name of letters, digits, `.`, `_` and `-`.

    Raises ValueError for two of one name, and for parts that fit one base where there are several.
    """
    names, found = options.model or wanted(), {}
    several = len(names) > 1
    if several and (options.motion or options.lora or options.style):
        raise ValueError(f"--motion, --lora and --style go with one model: received {len(names)}.")
    for name in names:
        short = short_name(name)
        if short in found:
            raise ValueError(f"two of the models have the name {short}: rename a folder.")
        # As None where it is the environment's only one: then the motion weights named there go with it.
        model = entry(name if several or options.model else None, options.motion)
        found[short] = _as_said(options, model)
    return found


def _as_said(options, model: Model) -> Model:
    style = Style(tuple(map(read_lora, options.lora)), options.style, options.alpha if options.style else 1.0)
    preview = PREVIEWS.get(options.preview, options.preview) or model.preview
    return replace(model, style=style, offload=options.offload, preview=preview)


def limits(model: "str | Model | None" = None) -> Limits:
    """What the model can be asked for, from its small files alone. Raises OSError in words."""
    model = entry(model)
    folder, where = small_files(model)
    ours = model.motion is None or (where / MOTION[0]).is_file()  # those of AnimateDiff keep the frame rate
    factor = read_json(where / MOTION[0]).get("downsample_factor") if ours else 1
    return narrowed(read_limits(folder, factor), model)


def small_files(model: "str | Model | None" = None) -> tuple[Path, Path]:
    """Where the base and the motion weights of a model are; the weights themselves may be missing there.

    Raises OSError in words.
    """
    model = entry(model)
    folder = locate(_source(model), model.revision, weights=False)
    if model.motion is None:
        return folder, folder / "motion"
    return folder, locate_motion(model.motion, model.motion_revision, weights=False)


def takes_given_pixels(model: "str | Model | None" = None) -> bool:
    """Whether the motion weights have channels for given pixels; reads their small files alone."""
    _, where = small_files(model)
    return (where / MOTION[0]).is_file() and bool(read_json(where / MOTION[0]).get("given_channels"))


def narrowed(known: Limits, model: Model) -> Limits:
    """The limits that follow from the parts of a model and the operator, and from its entry in the table."""
    own = {"max_frames": model.longest, "max_side": model.longest_side, "max_pixels": model.pixels}
    own = {name: most for name, most in own.items() if most and getattr(known, name) == getattr(Bounds, name)}
    shortest = max(known.min_frames, model.shortest)
    own["styles"] = model.style.ranges
    return replace(known, min_frames=shortest, **own)


def within(model: Model, limits: Limits) -> Model:
    """The model with as many frames and steps, unless others are asked for, as the limits allow at most."""
    longest = max(limits.min_frames, limits.longest(limits.default_height, limits.default_width))
    return replace(model, frames=min(model.frames, longest), steps=min(model.steps, limits.max_steps))


def own(model: Model, limits: Limits) -> dict:
    """Fields of a `Request` that does not say otherwise: the usual ones, and the size."""
    return model.usual | {"height": limits.default_height, "width": limits.default_width}


def get(
    model: "str | Model | None" = None,
    device: str | None = None,
    told: Callable[[str], None] | None = None,
) -> "LumierePipeline":
    """The pipeline of a model, loaded at the first call and kept; who asks meanwhile waits for that loading.

    One at a time is kept: that of another model is let go before this one is loaded. Who still runs it keeps
    it in memory so long, so that a switch belongs to whose turn it is on the device.

    model: its entry, its name in the table, a folder or a hub id; `LUMIERE_MODEL` or the embedded model
    unless given. device: cuda, mps or cpu; the first there is unless given. told: is given sentences about
    what was done to fit its parts to each other; otherwise they go to stderr.
    Raises OSError or ValueError in words, and tries again when asked again.
    """
    model = entry(model)
    with _loading:
        if pipeline := resident(model, device):
            if pipeline.styler.style != model.style:
                pipeline.restyle(model.style)
            return pipeline
        free()
        from lumiere.pipeline import LumierePipeline

        found = replace(model, source=_source(model), motion=_motion(model))
        pipeline = LumierePipeline.from_pretrained(found, device=device)
        pipeline.limits = narrowed(pipeline.limits, model)
        for note in pipeline.notes:
            (told or _say)(note)
        _resident.append((_key(model, device), pipeline))
        return pipeline


def resident(model: Model, device: str | None = None) -> "LumierePipeline | None":
    """The pipeline of a model, in whatever style, if it is the one that is kept."""
    return next((pipeline for key, pipeline in _resident if key == _key(model, device)), None)


def _key(model: Model, device: str | None) -> tuple:
    return replace(model, style=Style()), device or ""


def free() -> None:
    """Lets go of the model that is kept, if any, and gives its memory back."""
    if not _resident:
        return
    _resident.clear()
    gc.unfreeze()  # a program that froze what was loaded would keep it for ever
    gc.collect()
    import torch

    if torch.accelerator.is_available():
        torch.accelerator.empty_cache()


def _say(note: str) -> None:
    print(note, file=sys.stderr)


def _source(name: "str | Model | None") -> str:
    """Hub id or folder; those of the table lie beside the package or in it, wherever the program runs."""
    model = entry(name)
    if model.source in (known.source for known in MODELS.values()):
        package = Path(__file__).resolve().parents[1]
        for place in (package.parent, package):
            if (place / model.source).is_dir():
                return str(place / model.source)
    return model.source


def _motion(model: Model) -> str | Path | None:
    """The motion weights as they can be loaded: a published checkpoint is converted, once."""
    if model.motion is None or Path(model.motion).suffix != ".ckpt" or published(model.motion) is None:
        return model.motion
    from huggingface_hub import cached_assets_path

    from lumiere.model.animatediff import convert

    folder = cached_assets_path("lumiere", model.motion.replace("/", "--"))
    file = folder / f"{model.motion_revision or 'newest'}.safetensors"
    if not file.is_file():
        convert(locate_motion(model.motion, model.motion_revision), file)
    return file
