"""The models by name, and the cache that keeps what is loaded on the device for all requests."""

import os
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from .folder import MOTION, locate, read_json, read_limits
from .request import Limits

if TYPE_CHECKING:  # torch and diffusers take seconds, and a refusal need not wait for them
    from .pipeline import LumierePipeline


@dataclass(frozen=True)
class Model:
    """source: hub id, or folder in the repository. The rest is for requests that do not say otherwise."""

    source: str
    steps: int = 20
    guidance: float = 4.0
    scheduler: str = "dpm++ 2m"
    frames: int = 16
    licence: str = "unknown"


MODELS = {"paper-world": Model("assets/models/paper-world", licence="MIT")}
DEFAULT = "paper-world"
VARIABLE = "LUMIERE_MODEL"  # name in the table, folder or hub id; replaces the default

_resident: dict[tuple[str, str], "LumierePipeline"] = {}
_loading = threading.Lock()


def entry(name: str | None = None) -> Model:
    """The model of this name; a folder or hub id that is not in the table gets the usual settings."""
    name = name or os.environ.get(VARIABLE) or DEFAULT
    return MODELS.get(name) or Model(name)


def limits(name: str | None = None) -> Limits:
    """What the model can be asked for, from its small files alone. Raises OSError in words."""
    folder = locate(_source(name), weights=False)
    return read_limits(folder, read_json(folder / "motion" / MOTION[0]).get("downsample_factor"))


def get(name: str | None = None, device: str | None = None) -> "LumierePipeline":
    """The pipeline of a model, loaded at the first call and kept; who asks meanwhile waits for that loading.

    name: in the table, a folder or a hub id; `LUMIERE_MODEL` or the embedded model unless given.
    device: cuda, mps or cpu; the first there is unless given.
    Raises OSError or ValueError in words, and tries again when asked again.
    """
    key = (_source(name), device or "")
    with _loading:
        if key not in _resident:
            from .pipeline import LumierePipeline

            _resident[key] = LumierePipeline.from_pretrained(key[0], device=device)
        return _resident[key]


def _source(name: str | None) -> str:
    """Hub id or folder; those of the table lie beside the package or in it, wherever the program runs."""
    model = entry(name)
    if model in MODELS.values():
        package = Path(__file__).resolve().parent
        for place in (package.parent, package):
            if (place / model.source).is_dir():
                return str(place / model.source)
    return model.source
