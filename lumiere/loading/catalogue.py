"""Lists the models of the registry: what each can do, its size and licence, and whether it is on disk."""

import textwrap
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

from lumiere.loading.hub import offline
from lumiere.loading.layout import check, locate, locate_autoencoder, locate_file, locate_motion
from lumiere.loading.registry import CAMERA_MODEL, CAMERAS, MODELS, PRESETS, Model, camera_file
from lumiere.model.motion_files import ADAPTER, MOTION

WIDTH = 100  # characters of a line

T = TypeVar("T")


@dataclass(frozen=True)
class Row:
    """One model of the registry.

    Attributes:
        name: name in the registry.
        model: registry entry.
        on_disk: whether nothing is left to download.
    """

    name: str
    model: Model
    on_disk: bool

    @property
    def clip(self) -> str:
        """Default settings, for example "16 frames, 25 steps of ddim, guidance 7.5"."""
        model = self.model
        side = f" of {model.side}²" if model.side else ""
        guidance = "no guidance" if model.guidance == 1 else f"guidance {model.guidance:g}"
        steps = f"{model.steps} step{'s' if model.steps > 1 else ''} of {model.scheduler}"
        return f"{model.frames} frames{side}, {steps}, {guidance}"

    @property
    def abilities(self) -> tuple[str, ...]:
        """What the model can do besides text to video with its default settings."""
        model = self.model
        longest = f"{model.shortest} to {model.longest} frames" if model.longest else "clips of any length"
        if model.motion is None:
            return ("trained with given pictures, clips and regions", longest)
        found = [longest, "given pixels at inference only", "motion scale, FreeNoise, FreeInit"]
        if model.moves:
            found.append("cameras")
        if model.domain_adapter:
            found.append(f"domain adapter (weight {model.domain_adapter[1]:g})")
        found += [f"preset {preset}" for preset, like in PRESETS.items() if like == self.name]
        return tuple(found)

    @property
    def costs(self) -> str:
        """Download, GPU memory if it was measured, and licence."""
        model = self.model
        size = f"{model.download:g} GB to download" if model.download else "part of the package"
        memory = f", {model.gigabytes:g} GB of GPU memory" if model.gigabytes else ""
        return f"{size}{memory}; licence: {model.licence}"


def rows() -> list[Row]:
    """Returns all models of the registry."""
    return [Row(name, model, on_disk(model)) for name, model in MODELS.items()]


def on_disk(model: Model) -> bool:
    """Returns whether a model loads without a download.

    Args:
        model: registry entry.
    """
    return _found_offline(_locate, model)


def _found_offline(locate: Callable[[T], object], what: T) -> bool:
    with offline():
        try:
            locate(what)
        except OSError:
            return False
    return True


def fetch(model: Model) -> None:
    """Downloads what a model lacks; `hub.telling` reports the progress.

    Args:
        model: registry entry.

    Raises:
        OSError: the download failed, or files are missing on the hub.
    """
    _locate(model)
    if model.preview:
        locate_autoencoder(model.preview, "preview")


def _locate(model: Model) -> None:
    base = locate(model.source, model.revision, half=model.half)
    if base.is_dir():
        check(base)
    motion = locate_motion(model.motion, model.motion_revision) if model.motion else base / "motion"
    names = (MOTION[0], ADAPTER[1], f"{ADAPTER[1].removesuffix('.safetensors')}.fp16.safetensors")
    if not motion.is_file() and not any((motion / name).is_file() for name in names):
        raise FileNotFoundError(f"there are no motion weights in {motion}.")
    if model.domain_adapter and model.domain_adapter[1]:
        locate_file(model.domain_adapter[0], "LoRA", ADAPTER[1])
    if model.vae:
        locate_autoencoder(model.vae, "VAE")


def camera_on_disk(move: str, model: Model | None = None) -> bool:
    """Returns whether the MotionLoRA of a camera move is on disk, or will be at the start.

    Args:
        move: one of the model's `moves`.
        model: registry entry. Its own `cameras` come with it. Defaults to the one with published moves.
    """
    model = model or MODELS[CAMERA_MODEL]
    source = model.moves[move]
    return source in dict(model.cameras) or _found_offline(camera_file, source)


def table() -> str:
    """Returns the list that `lumiere models` prints."""
    return "\n".join([*map(_lines, rows()), _cameras()])


def _lines(row: Row) -> str:
    place = "on disk" if row.on_disk else "not on disk"
    facts = [
        row.model.source + (f" with {row.model.motion}" if row.model.motion else ""),
        row.clip,
        "also: " + ", ".join(row.abilities),
        row.costs,
    ]
    return f"{row.name} ({place})\n" + "\n".join(map(_indented, facts))


def _cameras() -> str:
    here = [move for move in CAMERAS if camera_on_disk(move)]
    places = f"on disk: {', '.join(here) or 'none'}"
    return f"cameras ({places})\n" + _indented(f"{', '.join(CAMERAS)}; 0.08 GB each; licence: Apache-2.0")


def _indented(text: str) -> str:
    wrapped = textwrap.fill(text, WIDTH - 4, break_on_hyphens=False, break_long_words=False)
    return textwrap.indent(wrapped, " " * 4)
