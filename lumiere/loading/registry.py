"""The registry of models by name, and the settings of models outside it (standard library only)."""

import json
import os
import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from lumiere.limits import ServerLimits
from lumiere.loading.layout import HUB_ID, locate_file
from lumiere.loading.styles import Style
from lumiere.model.motion_files import ADAPTER
from lumiere.request import ADAPTER_OPTIONS, Limits, Request
from lumiere.sampling.settings import SAMPLING_VERSION, Sampling, Speed


@dataclass(frozen=True)
class Model:
    """A base model with its motion weights and the default settings of requests.

    Attributes:
        source: hub id, or folder in the repository.
        motion: hub id, folder or file of motion weights. Defaults to `motion/` in the source.
        revision, motion_revision: commits on the hub. Default to the newest.
        vae: folder, file or hub id of a VAE that replaces the base's own.
        half: downloads the fp16 variant of the weights, which is half as large.
        schedule: scheduler entries that these motion weights need beyond the entries common to all adapters.
        scheduler, steps, guidance, frames, fps: defaults of a request.
        sampling: sampling settings.
        shortest, longest: lowest and highest number of frames.
        longest_side: largest height or width in pixels.
        pixels: largest `frames * height * width`. The operator's setting in limits.py takes precedence.
        side: default height and width in pixels. Defaults to the base's own.
        domain_adapter: LoRA of the base that was published with the motion weights, and its weight; at weight
            0 it is not loaded. AnimateLCM needs its LoRA. The LoRA of AnimateDiff v3 has the look of the
            videos that the motion weights were trained on.
        cameras: pairs of a MotionLoRA (file, hub id or name of a camera move) and its weight, merged into the
            motion weights.
        embeddings: pairs of a textual inversion (file, folder or hub id) and its token in prompts; None takes
            the token of the file.
        style: LoRAs and second base, merged into the weights of the base.
        offload: keeps components on the CPU and moves each to the device when it is called.
        speed: compilation, storage of the weights and group offloading.
        preview: folder or hub id of a tiny autoencoder for previews. Defaults to `preview/` in the source, or
            to a linear map if the source has none.
        text_width: text embedding width of bases that fit the motion weights, whose files do not store it.
        download: GB on the hub, base and motion weights together.
        gigabytes: GPU memory in GB for a clip with the default settings, as measured by
            `python -m tests.benchmarks.bases full_size`.
        licence: licence of the weights.
    """

    source: str
    motion: str | None = None
    revision: str | None = None
    motion_revision: str | None = None
    vae: str | None = None
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
    side: int | None = None
    domain_adapter: tuple[str, float] | None = None
    cameras: tuple[tuple[str, float], ...] = ()
    embeddings: tuple[tuple[str, str | None], ...] = ()
    style: Style = Style()
    offload: bool = False
    speed: Speed = Speed()
    preview: str | None = None
    text_width: int | None = None
    download: float | None = None
    gigabytes: float | None = None
    licence: str = "unknown"

    @property
    def usual(self) -> dict:
        """Default values for the fields of a `Request`."""
        return {name: getattr(self, name) for name in ("frames", "fps", "steps", "guidance", "scheduler")}

    @property
    def moves(self) -> dict[str, str]:
        """Camera moves that a request may name: name -> MotionLoRA. Each of `cameras` is one."""
        like = published(self.motion) if self.motion else None
        known = CAMERAS if like and like.motion == MODELS[CAMERA_MODEL].motion else {}
        return known | {camera_name(source): source for source, _ in self.cameras}

    @property
    def name(self) -> str:
        """Name in the registry, hub id, or folder name; never a path."""
        for name, known in MODELS.items():
            if (known.source, known.motion) == (self.source, self.motion):
                return name
        on_hub = re.fullmatch(HUB_ID, self.source) and not Path(self.source).is_dir()
        return self.source if on_hub else short_name(self.source)

    @property
    def version(self) -> str:
        """Pinned commits of the weights, if any, and the sampling version: `451f4fe+449d899/2`."""
        pinned = "+".join(commit[:7] for commit in (self.revision, self.motion_revision) if commit)
        return f"{pinned}/{SAMPLING_VERSION}" if pinned else str(SAMPLING_VERSION)


PREVIEWS = {name: f"madebyollin/{name}" for name in ("taesd", "taesdxl")}  # Stable Diffusion 1.x and XL
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
LIGHTNING = replace(
    SD15,
    download=3.0,
    gigabytes=4.3,
    motion="ByteDance/AnimateDiff-Lightning/animatediff_lightning_4step_diffusers.safetensors",
    motion_revision="027c893eec01df7330f5d4b733bc9485ee02e8b2",
    schedule=(("timestep_spacing", "trailing"),),
    scheduler="euler",
    steps=4,
    guidance=1.0,
    licence="CreativeML OpenRAIL-M",
)
CAMERA_MODEL = "sd15-animatediff-v2"  # registry entry that the cameras were made for
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
        download=3.8,
        gigabytes=5.6,
        motion="guoyww/animatediff-motion-adapter-v1-5-3",
        motion_revision="449d8993ead63a068e1030eb26925132814db1c8",
        domain_adapter=("guoyww/animatediff/v3_sd15_adapter.ckpt", 0.0),
    ),
    CAMERA_MODEL: replace(
        SD15,
        download=4.0,
        gigabytes=5.6,
        motion="guoyww/animatediff-motion-adapter-v1-5-2",
        motion_revision="6167b88ffe39b4441fdf2113e77b99a6f56b7906",
    ),
    "sd15-lcm": replace(
        SD15,
        download=4.1,
        gigabytes=5.6,
        motion="wangfuyun/AnimateLCM",
        motion_revision="76d7e23ed24c70fa890de55200a6072aeb189f29",
        domain_adapter=("wangfuyun/AnimateLCM/AnimateLCM_sd15_t2v_lora.safetensors", 0.8),
        scheduler="lcm",
        steps=6,
        guidance=1.5,
        licence="weights CreativeML OpenRAIL-M, motion MIT",
    ),
    "sd15-lightning": LIGHTNING,
    **{
        f"sd15-lightning-{steps}": replace(
            LIGHTNING, motion=str(LIGHTNING.motion).replace("4step", f"{steps}step"), steps=steps
        )
        for steps in (1, 2, 8)
    },
    "sd15-long": replace(
        SD15,
        download=3.8,
        gigabytes=8.2,
        motion="Lightricks/LongAnimateDiff/lt_long_mm_16_64_frames_v1.1.ckpt",
        frames=64,
        sampling=Sampling(window=64),
        shortest=16,
    ),
    "sdxl-animatediff": replace(
        SD15,
        download=7.9,
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
    "sdxl-hotshot": replace(
        SD15,
        download=14.4,
        gigabytes=8.8,
        source="hotshotco/SDXL-512",
        revision="f2710b284a1c0a8b28dfffc3797cc82cb6ec09fe",
        half=False,
        motion="hotshotco/Hotshot-XL/hsxl_temporal_layers.f16.safetensors",
        schedule=(("beta_schedule", "scaled_linear"),),  # unlike AnimateDiff: that of XL
        scheduler="euler a",
        steps=30,
        guidance=7.5,
        frames=8,
        sampling=Sampling(window=8),
        side=512,
        longest_side=1024,
        preview=PREVIEWS["taesdxl"],
        text_width=2048,
        licence="CreativeML OpenRAIL++-M",
    ),
}
ORIGINAL_FILES = {  # file in the original layout, without extension -> registry entry with these weights
    "v3_sd15_mm": "sd15-animatediff",
    "mm_sd_v15_v2": CAMERA_MODEL,
    "AnimateLCM_sd15_t2v": "sd15-lcm",
    "mm_sdxl_v10_beta": "sdxl-animatediff",
    "hsxl_temporal_layers": "sdxl-hotshot",
}
PRESETS = {"fast": "sd15-lcm", "quality": "sd15-animatediff"}  # motion weights and settings for a base of 1.5
CAMERA_PREFIX = "animatediff-motion-lora-"
CAMERAS = {  # camera move -> hub id of the MotionLoRA for CAMERA_MODEL, 77 MB each
    move: f"guoyww/{CAMERA_PREFIX}{move}"
    for move in (
        "zoom-in zoom-out pan-left pan-right tilt-up tilt-down rolling-clockwise rolling-anticlockwise"
    ).split()
}
DEFAULT = "paper-world"
VARIABLE = "LUMIERE_MODEL"  # registry name, folder or hub id, or several as a,b; replaces the default
MOTION_VARIABLE = "LUMIERE_MOTION"  # hub id, folder or file of motion weights for the default model


def entry(name: "str | Model | None" = None, motion: str | None = None, preset: str | None = None) -> Model:
    """Returns the registry entry of a model, with other motion weights if `motion` is set.

    Models outside the registry get default settings. With published motion weights they get the settings of
    the first registry entry that uses these weights.

    Args:
        name: registry name, folder or hub id. Defaults to `LUMIERE_MODEL`, or the embedded model.
        motion: hub id, folder or file of motion weights. Defaults to `LUMIERE_MOTION` if it is set and no
            `name` is passed, else to the entry's own.
        preset: one of `PRESETS`, in the place of `motion`.

    Raises:
        ValueError: the preset does not exist, or does not fit the base.
    """
    if isinstance(name, Model):
        return name
    if preset:
        motion = _motion_of_preset(preset, name or wanted()[0], motion)
    motion = motion or (os.environ.get(MOTION_VARIABLE) or None if name is None else None)
    name = name or wanted()[0]
    model = MODELS.get(name)
    if motion is None:
        return model or Model(name)
    like, base = published(motion), model or Model(name)
    if like is None:
        unknown: dict[str, Any] = {"domain_adapter": None, "download": None, "gigabytes": None}
        like = replace(base, motion_revision=None, schedule=(), licence="unknown", **unknown)
    elif like.motion != motion:  # a local copy of the file
        like = replace(like, motion_revision=None)
    return replace(
        like,
        source=base.source,
        revision=base.revision,
        half=base.half,
        vae=base.vae,
        motion=motion,
        download=like.download if base.source == like.source else None,
        licence=like.licence if base.source == like.source else "unknown",
    )


def _motion_of_preset(preset: str, name: str, motion: str | None) -> str | None:
    if preset not in PRESETS:
        raise ValueError(f"a preset must be one of {', '.join(PRESETS)}: received {preset}.")
    if motion:
        raise ValueError(f"a preset has its own motion weights: received {motion} besides.")
    model = MODELS[PRESETS[preset]]
    if name in MODELS and MODELS[name].text_width != model.text_width:
        raise ValueError(f"presets are for bases of Stable Diffusion 1.5: received {name}.")
    return model.motion


def narrowed(known: Limits, model: Model) -> Limits:
    """Narrows limits to the registry entry of a model, and adds its camera moves and style weights.

    The entry's upper limits apply only where the operator keeps the default bound.

    Args:
        known: limits from the configs of the model and the operator's limits.
        model: registry entry.
    """
    most = {"max_frames": model.longest, "max_side": model.longest_side, "max_pixels": model.pixels}
    kept = [name for name in most if getattr(known, name) == getattr(ServerLimits, name)]
    own: dict[str, Any] = {name: most[name] for name in kept if most[name]}
    own["cameras"] = tuple(model.moves) if known.adapter else ()
    shortest = max(known.min_frames, model.shortest)
    own["styles"] = model.style.ranges
    if model.side and model.side <= known.max_side:
        own |= {"default_height": model.side, "default_width": model.side}
    return replace(known, min_frames=shortest, **own)


def within(model: Model, limits: Limits) -> Model:
    """Lowers the default frames and steps of a model to the limits."""
    longest = max(limits.min_frames, limits.longest(limits.default_height, limits.default_width))
    return replace(model, frames=min(model.frames, longest), steps=min(model.steps, limits.max_steps))


def own(model: Model, limits: Limits) -> dict:
    """Returns the default fields of a `Request` within limits, with size and the options of adapters."""
    model = within(model, limits)
    size = {"height": limits.default_height, "width": limits.default_width}
    if not limits.adapter:
        return model.usual | size
    options = {name: getattr(model.sampling, name) for name in ADAPTER_OPTIONS}
    cameras = {camera_name(source): weight for source, weight in model.cameras if weight}
    return model.usual | size | options | {"cameras": tuple(cameras.items())}


def camera_name(source: str) -> str:
    """Returns the name of a MotionLoRA in requests: the move, or the name of the file without its ending."""
    return short_name(source).removesuffix(".safetensors").removeprefix(CAMERA_PREFIX)


def camera_file(camera: str) -> Path:
    """Returns the local file of a MotionLoRA.

    Args:
        camera: name of a camera move, file or hub id.

    Raises:
        OSError: the file does not exist or the download failed.
    """
    return locate_file(CAMERAS.get(camera, camera), "MotionLoRA", ADAPTER[1])


def short_name(source: str) -> str:
    """Returns the last part of a folder or hub id, restricted to letters, digits, `.`, `_` and `-`."""
    return re.sub(r"[^\w.-]", "-", os.path.basename(os.path.abspath(source)), flags=re.ASCII)


def saved_settings(request: Request, model: Model, name: str | None = None) -> str:
    """Returns the JSON metadata of a clip: the request, the model and its version.

    Args:
        request: request that produced the clip.
        model: model that produced the clip.
        name: name of the model on a page that serves several. Defaults to `model.name`.
    """
    made_by = {"model": name or model.name, "model_version": model.version}
    return json.dumps(request.saved() | made_by, ensure_ascii=False)


def wanted() -> list[str]:
    """Returns the model names in `LUMIERE_MODEL`, or the embedded model; at least one."""
    names = [name.strip() for name in os.environ.get(VARIABLE, "").split(",")]
    return [name for name in names if name] or [DEFAULT]


def published(motion: str) -> Model | None:
    """Returns the first registry entry with these motion weights.

    Args:
        motion: hub id, folder or file; only the file name is compared.

    Returns:
        The entry, or None for unknown motion weights.
    """
    name = Path(motion).name
    for model in MODELS.values():
        if model.motion and Path(model.motion).name == name:
            return model
    original = ORIGINAL_FILES.get(re.sub(r"(\.f16)?\.(safetensors|ckpt)$", "", name))
    return MODELS[original] if original else None
