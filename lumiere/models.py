"""The models by name, and the one that is kept on the device for all requests."""

import gc
import os
import re
import sys
import threading
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from .bounds import Bounds
from .folder import MOTION, locate, locate_motion, read_json, read_limits
from .request import Limits

if TYPE_CHECKING:  # torch and diffusers take seconds, and a refusal need not wait for them
    from .pipeline import LumierePipeline


@dataclass(frozen=True)
class Model:
    """A base model with its motion weights, and settings for requests that do not say otherwise.

    source: hub id, or folder in the repository. motion: hub id, folder or file of motion weights, `motion/`
    in the source when None. Their revisions: commits on the hub, the newest when None. half: fetches half as
    large files. schedule: entries of the scheduler's config that the motion weights need besides those that
    all adapters do. window: frames denoised at once in clips with more than the motion weights can tell
    apart. shortest, longest: frames. longest_side: pixels. pixels: of all frames together, at most; where the
    operator says otherwise (bounds.py), that counts.
    text_width: of the bases that the motion weights fit, which the weights do not tell. gigabytes: of memory
    on a GPU, for a clip with these settings.
    """

    source: str
    motion: str | None = None
    revision: str | None = None
    motion_revision: str | None = None
    half: bool = False
    schedule: tuple[tuple[str, object], ...] = ()
    scheduler: str = "dpm++ 2m"
    steps: int = 20
    guidance: float = 4.0
    frames: int = 16
    fps: int = 16
    window: int | None = None
    shortest: int = 1
    longest: int | None = None
    longest_side: int | None = None
    pixels: int | None = None
    text_width: int | None = None
    gigabytes: float | None = None
    licence: str = "unknown"


SD15 = Model(
    "stable-diffusion-v1-5/stable-diffusion-v1-5",
    revision="451f4fe16113bff5a5d2269ed5ad43b0592e9a14",
    half=True,
    scheduler="ddim",
    steps=25,
    guidance=7.5,
    fps=8,
    window=16,
    shortest=8,
    longest=128,
    pixels=2**25,
    text_width=768,
    licence="weights CreativeML OpenRAIL-M, motion Apache-2.0",
)
MODELS = {
    "paper-world": Model("assets/models/paper-world", licence="MIT"),
    "sd15-animatediff": replace(
        SD15,
        motion="guoyww/animatediff-motion-adapter-v1-5-3",
        motion_revision="449d8993ead63a068e1030eb26925132814db1c8",
    ),
    "sd15-animatediff-v2": replace(
        SD15,
        motion="guoyww/animatediff-motion-adapter-v1-5-2",
        motion_revision="6167b88ffe39b4441fdf2113e77b99a6f56b7906",
    ),
    "sd15-lightning": replace(
        SD15,
        motion="ByteDance/AnimateDiff-Lightning/animatediff_lightning_4step_diffusers.safetensors",
        motion_revision="027c893eec01df7330f5d4b733bc9485ee02e8b2",
        schedule=(("timestep_spacing", "trailing"),),
        scheduler="euler",
        steps=4,
        guidance=1.0,
        licence="CreativeML OpenRAIL-M",
    ),
    "sd15-long": replace(
        SD15,
        motion="Lightricks/LongAnimateDiff/lt_long_mm_16_64_frames_v1.1.ckpt",
        frames=64,
        window=64,
        shortest=16,
    ),
    "sdxl-animatediff": replace(
        SD15,
        source="stabilityai/stable-diffusion-xl-base-1.0",
        revision="462165984030d82259a11f4367a4eed129e94a7b",
        motion="guoyww/animatediff-motion-adapter-sdxl-beta",
        guidance=8.0,
        longest_side=1536,
        text_width=2048,
        licence="weights CreativeML OpenRAIL++-M, motion Apache-2.0",
    ),
}
DEFAULT = "paper-world"
VARIABLE = "LUMIERE_MODEL"  # name in the table, folder or hub id; replaces the default
MOTION_VARIABLE = "LUMIERE_MOTION"  # hub id, folder or file of motion weights; for all bases that need some

_resident: "list[tuple[tuple, LumierePipeline]]" = []  # one at most
_loading = threading.Lock()


def entry(name: "str | Model | None" = None, motion: str | None = None) -> Model:
    """The model of this name, a folder or a hub id, with other motion weights if given.

    What is not in the table gets the usual settings, or with published motion weights, those of the first
    model in the table that has them.
    """
    if isinstance(name, Model):
        return name
    motion = motion or (os.environ.get(MOTION_VARIABLE) or None if name is None else None)
    name = name or os.environ.get(VARIABLE) or DEFAULT
    model = MODELS.get(name)
    if motion is None:
        return model or Model(name)
    like, base = _published(motion), model or Model(name)
    if like is None:
        like = replace(base, motion_revision=None, schedule=(), gigabytes=None, licence="unknown")
    elif like.motion != motion:  # a copy of the file
        like = replace(like, motion_revision=None)
    return replace(
        like,
        source=base.source,
        revision=base.revision,
        half=base.half,
        motion=motion,
        licence=like.licence if base.source == like.source else "unknown",
    )


def _published(motion: str) -> Model | None:
    """The first model in the table with these motion weights, or with the same for other numbers of steps."""
    name = Path(motion).name
    for model in MODELS.values():
        if model.motion and Path(model.motion).name == name:
            return model
    found = re.match(r"animatediff_lightning_(\d)step_", name)
    return replace(MODELS["sd15-lightning"], motion=None, steps=int(found[1])) if found else None


def limits(model: "str | Model | None" = None) -> Limits:
    """What the model can be asked for, from its small files alone. Raises OSError in words."""
    model = entry(model)
    folder = locate(_source(model), model.revision, weights=False)
    if model.motion is None:
        where = folder / "motion"
    else:
        where = locate_motion(model.motion, model.motion_revision, weights=False)
    ours = model.motion is None or (where / MOTION[0]).is_file()  # those of AnimateDiff keep the frame rate
    factor = read_json(where / MOTION[0]).get("downsample_factor") if ours else 1
    return narrowed(read_limits(folder, factor), model)


def narrowed(known: Limits, model: Model) -> Limits:
    """The limits that follow from the parts of a model and the operator, and from its entry in the table."""
    own = {"max_frames": model.longest, "max_side": model.longest_side, "max_pixels": model.pixels}
    own = {name: most for name, most in own.items() if most and getattr(known, name) == getattr(Bounds, name)}
    shortest = max(known.min_frames, model.shortest)
    return replace(known, min_frames=shortest, default_frames=model.frames, **own)


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
    key = (model, device or "")
    with _loading:
        if _resident and _resident[0][0] == key:
            return _resident[0][1]
        free()
        from .pipeline import LumierePipeline

        pipeline = LumierePipeline.from_pretrained(
            _source(model),
            _motion(model),
            device,
            revision=model.revision,
            motion_revision=model.motion_revision,
            half=model.half,
            schedule=dict(model.schedule),
            window=model.window,
            text_width=model.text_width,
        )
        pipeline.limits = narrowed(pipeline.limits, model)
        for note in pipeline.notes:
            (told or _say)(note)
        _resident.append((key, pipeline))
        return pipeline


def free() -> None:
    """Lets go of the model that is kept, if any, and gives its memory back."""
    if not _resident:
        return
    _resident.clear()
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
        package = Path(__file__).resolve().parent
        for place in (package.parent, package):
            if (place / model.source).is_dir():
                return str(place / model.source)
    return model.source


def _motion(model: Model) -> str | Path | None:
    """The motion weights as they can be loaded: a published checkpoint is converted, once."""
    if model.motion is None or Path(model.motion).suffix != ".ckpt" or _published(model.motion) is None:
        return model.motion
    from huggingface_hub import cached_assets_path

    from .adapters import convert

    folder = cached_assets_path("lumiere", model.motion.replace("/", "--"))
    file = folder / f"{model.motion_revision or 'newest'}.safetensors"
    if not file.is_file():
        convert(locate_motion(model.motion, model.motion_revision), file)
    return file
