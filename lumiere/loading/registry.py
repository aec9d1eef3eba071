"""The table of models by name, and what is known of others (standard library only)."""

import json
import os
import re
from dataclasses import dataclass, replace
from pathlib import Path

from lumiere.loading.layout import HUB_ID
from lumiere.loading.styles import Style
from lumiere.loading.version import SAMPLING_VERSION
from lumiere.request import Request
from lumiere.sampling.settings import Sampling


@dataclass(frozen=True)
class Model:
    """A base model with its motion weights, and settings for requests that do not say otherwise.

    source: hub id, or folder in the repository. motion: hub id, folder or file of motion weights, `motion/`
    in the source when None. Their revisions: commits on the hub, the newest when None. half: fetches half as
    large files. schedule: entries of the scheduler's config that the motion weights need besides those that
    all adapters do. shortest, longest: frames. longest_side: pixels. pixels: of all frames together, at most;
    where the operator says otherwise (limits.py), that counts. sampling: how clips are denoised. text_width:
    of the bases that the motion weights fit, which the weights do not tell. style: in the weights of the
    base. offload: parts of the model wait beside the device for their turn. preview: folder or hub id of a
    tiny autoencoder that shows the clip in the making; `preview/` in the source when None, and a linear map
    where there is none. gigabytes: of memory on a GPU, for a clip with these settings:
    `python -m tests.benchmarks.bases full_size` counts it.
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
    sampling: Sampling = Sampling()
    frames: int = 16
    fps: int = 16
    shortest: int = 1
    longest: int | None = None
    longest_side: int | None = None
    pixels: int | None = None
    style: Style = Style()
    offload: bool = False
    preview: str | None = None
    text_width: int | None = None
    gigabytes: float | None = None
    licence: str = "unknown"

    @property
    def usual(self) -> dict:
        """Fields of a `Request` that does not say otherwise."""
        return {name: getattr(self, name) for name in ("frames", "fps", "steps", "guidance", "scheduler")}

    @property
    def name(self) -> str:
        """Name in the table, hub id, or name of the folder; never a path."""
        for name, known in MODELS.items():
            if (known.source, known.motion) == (self.source, self.motion):
                return name
        on_hub = re.fullmatch(HUB_ID, self.source) and not Path(self.source).is_dir()
        return self.source if on_hub else short_name(self.source)

    @property
    def version(self) -> str:
        """Pinned revisions of the weights, if any, and the version of the sampling: `451f4fe+449d899/2`."""
        pinned = "+".join(commit[:7] for commit in (self.revision, self.motion_revision) if commit)
        return f"{pinned}/{SAMPLING_VERSION}" if pinned else str(SAMPLING_VERSION)


PREVIEWS = {name: f"madebyollin/{name}" for name in ("taesd", "taesdxl")}  # for Stable Diffusion 1.x, and XL
SD15 = Model(
    "stable-diffusion-v1-5/stable-diffusion-v1-5",
    revision="451f4fe16113bff5a5d2269ed5ad43b0592e9a14",
    half=True,
    scheduler="ddim",
    steps=25,
    guidance=7.5,
    fps=8,
    sampling=Sampling(window=16),
    shortest=8,
    longest=128,
    pixels=2**25,
    preview=PREVIEWS["taesd"],
    text_width=768,
    licence="weights CreativeML OpenRAIL-M, motion Apache-2.0",
)
MODELS = {
    "paper-world": Model(
        "assets/models/paper-world",
        scheduler="euler a",
        guidance=3.0,
        sampling=Sampling(guidance_interval=(0.6, 1.0), segment=24, context=8, flicker=0.005),
        licence="MIT",
    ),
    "sd15-animatediff": replace(
        SD15,
        gigabytes=5.6,
        motion="guoyww/animatediff-motion-adapter-v1-5-3",
        motion_revision="449d8993ead63a068e1030eb26925132814db1c8",
    ),
    "sd15-animatediff-v2": replace(
        SD15,
        gigabytes=5.6,
        motion="guoyww/animatediff-motion-adapter-v1-5-2",
        motion_revision="6167b88ffe39b4441fdf2113e77b99a6f56b7906",
    ),
    "sd15-lightning": replace(
        SD15,
        gigabytes=4.3,
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
        gigabytes=8.2,
        motion="Lightricks/LongAnimateDiff/lt_long_mm_16_64_frames_v1.1.ckpt",
        frames=64,
        sampling=Sampling(window=64),
        shortest=16,
    ),
    "sdxl-animatediff": replace(
        SD15,
        gigabytes=13.0,
        source="stabilityai/stable-diffusion-xl-base-1.0",
        revision="462165984030d82259a11f4367a4eed129e94a7b",
        motion="guoyww/animatediff-motion-adapter-sdxl-beta",
        guidance=8.0,
        longest_side=1536,
        preview=PREVIEWS["taesdxl"],
        text_width=2048,
        licence="weights CreativeML OpenRAIL++-M, motion Apache-2.0",
    ),
}
DEFAULT = "paper-world"
VARIABLE = "LUMIERE_MODEL"  # name in the table, folder or hub id, or several: a,b; replaces the default
MOTION_VARIABLE = "LUMIERE_MOTION"  # hub id, folder or file of motion weights; for all bases that need some


def entry(name: "str | Model | None" = None, motion: str | None = None) -> Model:
    """The model of this name, a folder or a hub id, with other motion weights if given.

    What is not in the table gets the usual settings, or with published motion weights, those of the first
    model in the table that has them.
    """
    if isinstance(name, Model):
        return name
    motion = motion or (os.environ.get(MOTION_VARIABLE) or None if name is None else None)
    name = name or wanted()[0]
    model = MODELS.get(name)
    if motion is None:
        return model or Model(name)
    like, base = published(motion), model or Model(name)
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


def short_name(source: str) -> str:
    """The last part of a folder or hub id, in letters, digits, `.`, `_` and `-`."""
    return re.sub(r"[^\w.-]", "-", os.path.basename(os.path.abspath(source)), flags=re.ASCII)


def saved_settings(request: Request, model: Model, name: str | None = None) -> str:
    """JSON that goes with a clip: the request, the model and its version.

    Args:
        request: what the clip was made from.
        model: what made it.
        name: of the model on a page that serves several; its own unless given.
    """
    made_by = {"model": name or model.name, "model_version": model.version}
    return json.dumps(request.saved() | made_by, ensure_ascii=False)


def wanted() -> list[str]:
    """What the environment names, or the embedded model: one at least."""
    names = [name.strip() for name in os.environ.get(VARIABLE, "").split(",")]
    return [name for name in names if name] or [DEFAULT]


def published(motion: str) -> Model | None:
    """The first model in the table with these motion weights, or with the same for other numbers of steps."""
    name = Path(motion).name
    for model in MODELS.values():
        if model.motion and Path(model.motion).name == name:
            return model
    found = re.match(r"animatediff_lightning_(\d)step_", name)
    return replace(MODELS["sd15-lightning"], motion=None, steps=int(found[1])) if found else None
