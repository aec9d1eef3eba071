"""Reads the limits of models and keeps one loaded model on the device for all requests."""

import argparse
import gc
import sys
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lumiere.loading.layout import config_folder, locate, locate_motion, read_limits
from lumiere.loading.registry import (
    CAMERAS,
    MODELS,
    MOTION_VARIABLE,
    PRESETS,
    PREVIEWS,
    VARIABLE,
    Model,
    camera_name,
    entry,
    narrowed,
    own,
    short_name,
    wanted,
    within,
)
from lumiere.loading.styles import Style, read_lora
from lumiere.model.motion_files import MOTION, read_description
from lumiere.request import WEIGHT, Limits
from lumiere.sampling.settings import STORAGE, Speed

if TYPE_CHECKING:  # torch and diffusers take seconds to import; a refusal needs neither
    from lumiere.pipeline import LumierePipeline

__all__ = [
    "MODELS",
    "VARIABLE",
    "Model",
    "add_options",
    "allowed",
    "chosen",
    "entry",
    "free",
    "get",
    "limits",
]
__all__ += ["options", "own", "resident", "small_files", "takes_given_pixels", "within"]

STYLE_ALPHA = 0.7  # default share of a second base
SAMPLING = ("motion_scale", "free_init", "free_noise", "free_u", "loop")  # options that `Sampling` has, too
# Flags of version 0.1, accepted until 0.3, with their new names and types
ALIASES = (("--style", "style_base", str), ("--alpha", "style_alpha", float))

_resident: "list[tuple[tuple, LumierePipeline]]" = []  # at most one
_loading = threading.Lock()


def add_options(parser: Any, several: bool = False) -> None:
    """Adds the options that select a model to an argument parser.

    Args:
        parser: parser or group.
        several: allows `--model` more than once; read the result with `allowed` instead of `chosen`.
    """
    add = parser.add_argument
    names, more = ", ".join(MODELS), "; may be repeated" if several else ""
    add(
        "--model",
        action="append" if several else "store",
        metavar="NAME",
        help=f"{names}, or a base as folder, .safetensors checkpoint or hub id (${VARIABLE}){more}",
    )
    add(
        "--motion",
        metavar="WEIGHTS",
        help=f"motion weights for the base: folder, file or hub id (${MOTION_VARIABLE})",
    )
    add(
        "--preset",
        choices=PRESETS,
        help="motion weights and settings for a base of Stable Diffusion 1.5: "
        + ", ".join(f"{name} as {like}" for name, like in PRESETS.items()),
    )
    add(
        "--domain-adapter",
        type=float,
        metavar="X",
        help="weight of the LoRA published with the motion weights, 0 to 2 (v3: 0, AnimateLCM: 0.8)",
    )
    add("--vae", metavar="NAME", help="another VAE for the base: folder, .safetensors file or hub id")
    add(
        "--lora",
        action="append",
        default=[],
        metavar="FILE[:WEIGHT]",
        help="a style for the base: .safetensors file or hub id; may be repeated",
    )
    add(
        "--embedding",
        action="append",
        default=[],
        metavar="FILE[:TOKEN]",
        help="a textual inversion, whose token (the name of the file) stands for it in prompts; may be "
        "repeated",
    )
    add("--style-base", metavar="BASE", help="another base of the family, blended with the model's own")
    add("--style-alpha", type=float, metavar="X", help=f"share of --style-base, 0 to 1 ({STYLE_ALPHA})")
    for old, name, kind in ALIASES:
        add(old, dest=name, type=kind, default=argparse.SUPPRESS, help=argparse.SUPPRESS)
    add(
        "--camera",
        action="append",
        default=[],
        metavar="MOVE[:WEIGHT]",
        help=f"a camera move of AnimateDiff (v1-5-2): {', '.join(CAMERAS)}, or a MotionLoRA file; may be "
        "repeated",
    )
    add(
        "--motion-scale",
        type=float,
        metavar="X",
        help="amount of motion of an AnimateDiff adapter, 0 to 4 (the model's own, usually 1)",
    )
    add("--loop", action="store_true", default=None, help="a clip whose last frame leads to its first one")
    add(
        "--free-noise",
        action="store_true",
        default=None,
        help="long clips of an AnimateDiff adapter by FreeNoise",
    )
    add("--free-u", action="store_true", default=None, help="more detail and contrast by FreeU")
    add(
        "--free-init",
        type=int,
        metavar="N",
        help="passes of FreeInit, which make frames more consistent (the model's own, usually 1)",
    )
    add(
        "--preview",
        metavar="NAME",
        help=f"another tiny autoencoder for previews: {', '.join(PREVIEWS)}, a folder or hub id",
    )
    add("--offload", action="store_true", help="parts of the model leave the device while others work")
    add("--group-offload", action="store_true", help="weights are on the device only while their layer runs")
    add("--storage", choices=STORAGE, help="dtype of the weights of UNet and text encoders at rest")
    add("--channels-last", action="store_true", help="convolutions with the channels last")
    add("--compile", action="store_true", help="compiles the transformer blocks: faster from the second clip")
    add("--device", metavar="NAME", help="cuda, mps or cpu; the first there is unless given")


def options(description: str) -> argparse.ArgumentParser:
    """Returns a parser with only these options, for a program that serves several models."""
    parser = argparse.ArgumentParser(description=description)
    add_options(parser, several=True)
    return parser


def chosen(options: argparse.Namespace) -> Model:
    """Returns the model selected by the options of `add_options`.

    Raises:
        ValueError: a style is not valid.
    """
    return _as_said(options, entry(options.model, options.motion, options.preset))


def allowed(options: argparse.Namespace) -> dict[str, Model]:
    """Returns all models in the options or the environment by short name: letters, digits, `.`, `_` and `-`.

    Raises:
        ValueError: two models have the same short name, or options that fit one base are combined with
            several models.
    """
    names, found = options.model or wanted(), {}
    several = len(names) > 1
    one = ("motion", "preset", "domain_adapter", "vae", "lora", "embedding", "style_base", "camera")
    single = [f"--{name.replace('_', '-')}" for name in one if getattr(options, name)]
    if several and single:
        raise ValueError(f"{' and '.join(single)} must be given with one model: received {len(names)}.")
    for name in names:
        short = short_name(name)
        if short in found:
            raise ValueError(f"two of the models have the name {short}: rename a folder.")
        # None for the only model of the environment: `entry` then also reads its motion weights there.
        model = entry(name if several or options.model else None, options.motion, options.preset)
        found[short] = _as_said(options, model)
    return found


def _as_said(options: argparse.Namespace, model: Model) -> Model:
    alpha = STYLE_ALPHA if options.style_alpha is None else options.style_alpha
    base = options.style_base
    cameras = tuple(map(read_lora, options.camera))
    for name, weight in cameras:
        if not abs(weight) <= WEIGHT:  # False for NaN
            raise ValueError(
                f"the weight of the camera {name} must be from -{WEIGHT} to {WEIGHT}: received {weight:g}."
            )
    moves = [camera_name(name) for name, _ in cameras]
    if len(set(moves)) < len(moves):  # requests name a camera by its move
        raise ValueError(f"cameras must have different names: received {', '.join(moves)}.")
    sampling = {name: getattr(options, name) for name in SAMPLING}
    if options.domain_adapter is not None:
        if model.domain_adapter is None:
            raise ValueError("--domain-adapter needs the motion weights of AnimateDiff v3 or AnimateLCM.")
        if not 0 <= options.domain_adapter <= 2:
            raise ValueError(f"--domain-adapter must be from 0 to 2: received {options.domain_adapter:g}.")
        model = replace(model, domain_adapter=(model.domain_adapter[0], options.domain_adapter))
    if options.offload and options.group_offload:
        raise ValueError("--offload and --group-offload exclude each other: received both.")
    return replace(
        model,
        vae=options.vae or model.vae,
        style=Style(tuple(map(read_lora, options.lora)), base, alpha if base else 1.0),
        cameras=cameras,
        embeddings=tuple(map(_embedding, options.embedding)),
        sampling=replace(model.sampling, **{name: x for name, x in sampling.items() if x is not None}),
        offload=options.offload,
        speed=Speed(options.compile, options.channels_last, options.storage, options.group_offload),
        preview=PREVIEWS.get(options.preview, options.preview) or model.preview,
    )


def _embedding(text: str) -> tuple[str, str | None]:
    """Parses `FILE[:TOKEN]`; other colons belong to the file."""
    file, _, token = text.rpartition(":")
    is_token = file and not token.endswith(".safetensors") and not {"/", "\\"} & set(token)
    return (file, token) if is_token else (text, None)


def limits(model: "str | Model | None" = None) -> Limits:
    """Returns the valid ranges of a request from the small files of the model.

    Args:
        model: registry entry or name, folder or hub id. Defaults to `LUMIERE_MODEL`, or the embedded model.

    Raises:
        OSError: the files are missing or belong to another kind of model.
        ValueError: the operator's limits are too low for any clip.
    """
    model = entry(model)
    folder, where = small_files(model)
    ours = model.motion is None or (where / MOTION[0]).is_file()  # AnimateDiff does not downsample time
    described: Any = read_description(where) if ours else {"downsample_factor": 1}
    adapter = not ours or described.get("classes", {}).get("attns") == "AnimateDiffBlock"
    known = replace(read_limits(folder, described.get("downsample_factor")), adapter=adapter)
    return narrowed(known, model)


def small_files(model: "str | Model | None" = None) -> tuple[Path, Path]:
    """Locates the base and the motion weights of a model, and downloads their small files only.

    Args:
        model: registry entry or name, folder or hub id. Defaults to `LUMIERE_MODEL`, or the embedded model.

    Returns:
        The folder of the base and the folder or file of the motion weights; weight files may be missing.

    Raises:
        OSError: the model does not exist or the download failed.
    """
    model = entry(model)
    folder = config_folder(locate(model.source, model.revision, weights=False))
    if model.motion is None:
        return folder, folder / "motion"
    return folder, locate_motion(model.motion, model.motion_revision, weights=False)


def takes_given_pixels(model: "str | Model | None" = None) -> bool:
    """Returns whether the motion weights have channels for given pixels, from their small files.

    Args:
        model: registry entry or name, folder or hub id. Defaults to `LUMIERE_MODEL`, or the embedded model.
    """
    _, where = small_files(model)
    return (where / MOTION[0]).is_file() and bool(read_description(where).get("cond_channels"))


def get(
    model: "str | Model | None" = None,
    device: str | None = None,
    told: Callable[[str], None] | None = None,
) -> "LumierePipeline":
    """Returns the pipeline of a model. The first call loads it; concurrent calls wait for that load.

    The cache holds one pipeline and frees it before loading another model. A running job keeps its pipeline
    alive, so switch models only when the new job has the device.

    Args:
        model: registry entry or name, folder or hub id. Defaults to `LUMIERE_MODEL`, or the embedded model.
        device: cuda, mps or cpu. Defaults to the first available.
        told: callback for notes such as overridden scheduler entries. Defaults to printing on stderr.

    Raises:
        OSError: a file is missing or damaged. A later call tries again.
        ValueError: the components do not fit each other, or the device does not exist.
    """
    model = entry(model)
    with _loading:
        if known := resident(model, device):
            if known.style != model.style:
                known.restyle(model.style)
            return known
        free()
        from lumiere.pipeline import LumierePipeline

        pipeline = LumierePipeline.from_pretrained(model, device=device)
        for note in pipeline.notes:
            (told or _say)(note)
        _resident.append((_key(model, device), pipeline))
        return pipeline


def resident(model: Model, device: str | None = None) -> "LumierePipeline | None":
    """Returns the cached pipeline if it belongs to this model and device, in any style, or None."""
    return next((pipeline for key, pipeline in _resident if key == _key(model, device)), None)


def _key(model: Model, device: str | None) -> tuple:
    return replace(model, style=Style()), device or ""


def free() -> None:
    """Frees the cached pipeline, if any, and its device memory."""
    if not _resident:
        return
    _resident.clear()
    gc.unfreeze()  # `gc.freeze` would otherwise exempt the pipeline from collection
    gc.collect()
    import torch

    if torch.accelerator.is_available():
        torch.accelerator.empty_cache()


def _say(note: str) -> None:
    print(note, file=sys.stderr)
