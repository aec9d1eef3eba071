"""Motion weights on disk: the numbers in `motion.safetensors`, what places them in `motion.json`."""

import json
import os
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from lumiere.inflate import Lumiere
from lumiere.layers import (
    AttentionInflationBlock,
    ConvolutionInflationBlock,
    TemporalDownsample,
    TemporalUpsample,
)
from lumiere.places import KINDS, unet_places

FORMAT = 1
CLASSES = {
    klass.__name__: klass
    for klass in (ConvolutionInflationBlock, AttentionInflationBlock, TemporalDownsample, TemporalUpsample)
}
OPTIONS = {  # of `Lumiere.from_unet`, for each kind of layer: its class and the arguments of that
    "convs": ("conv_klass", "conv_inflation_kwargs"),
    "attns": ("attn_klass", "attn_inflation_kwargs"),
    "downsamples": ("downsample_klass", "downsample_kwargs"),
    "upsamples": ("upsample_klass", "upsample_kwargs"),
}


def save_motion(
    lumiere: Lumiere, folder: str | Path, facts: dict | None = None, dtype: torch.dtype | None = None
) -> None:
    """Writes the motion weights of `lumiere` into `folder`, made when absent.

    `facts` is JSON data on where they come from (id of the base, steps, clips, ...); `read_facts` returns it.
    The numbers are written bit by bit as they are, or rounded to `dtype`.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    layers = {kind: getattr(lumiere, kind) for kind in KINDS}
    description = {
        "format": FORMAT,
        "downsample_factor": lumiere.downsample_factor,
        "placement": {kind: getattr(lumiere.places, kind) for kind in KINDS},
        "classes": {kind: type(layers[kind][0]).__name__ for kind in KINDS if layers[kind]},
        "kwargs": lumiere.kwargs,
        "facts": facts or {},
    }
    text = json.dumps(description, indent=2)
    state = lumiere.state_dict()
    weights = {key: value.to(dtype or value.dtype).contiguous() for key, value in state.items()}
    # Each file appears whole or not at all: a training that is cut off leaves weights that can be loaded.
    save_file(weights, folder / "motion.safetensors.part")
    os.replace(folder / "motion.safetensors.part", folder / "motion.safetensors")
    (folder / "motion.json.part").write_text(text, encoding="utf-8")
    os.replace(folder / "motion.json.part", folder / "motion.json")


def load_motion(unet: nn.Module, folder: str | Path) -> Lumiere:
    """Inflates a `UNet2DConditionModel` with the motion weights in `folder`, in the UNet's dtype and device.

    Raises ValueError when they belong to another UNet, or when keys are missing, unexpected or misshapen.
    """
    folder = Path(folder)
    description = _read(folder)
    factor = description["downsample_factor"]
    places = unet_places(unet, factor)
    if description["placement"] != {kind: getattr(places, kind) for kind in KINDS}:
        raise ValueError(f"The motion weights in {folder} belong to a UNet with other blocks or widths.")
    options = {}
    for kind, (klass, kwargs) in OPTIONS.items():
        options[kwargs] = description["kwargs"][kind]
        if kind in description["classes"]:  # there are none without temporal resampling
            options[klass] = CLASSES[description["classes"][kind]]
    lumiere = Lumiere.from_unet(unet, factor, **options)
    weights = load_file(folder / "motion.safetensors")
    _check(weights, lumiere.state_dict(), folder)
    lumiere.load_state_dict(weights)
    return lumiere


def read_facts(folder: str | Path) -> dict:
    """What `save_motion` was told about these weights."""
    return _read(Path(folder))["facts"]


def _read(folder: Path) -> dict:
    description = json.loads((folder / "motion.json").read_text(encoding="utf-8"))
    found = description.get("format") if isinstance(description, dict) else None
    if found != FORMAT:
        raise ValueError(f"motion.json in {folder} has format {found}; this version reads format {FORMAT}.")
    absent = {"downsample_factor", "placement", "classes", "kwargs", "facts"} - description.keys()
    if absent:
        raise ValueError(f"motion.json in {folder} lacks {', '.join(sorted(absent))}.")
    return description


def _check(weights: dict[str, Tensor], expected: dict[str, Tensor], folder: Path) -> None:
    both = weights.keys() & expected.keys()
    faults = {
        "missing": sorted(expected.keys() - both),
        "unexpected": sorted(weights.keys() - both),
        "misshapen": sorted(key for key in both if weights[key].shape != expected[key].shape),
    }
    words = [
        f"{len(keys)} {kind} ({', '.join(keys[:3])}{', ...' * (len(keys) > 3)})"
        for kind, keys in faults.items()
        if keys
    ]
    if words:
        raise ValueError(f"The keys of motion.safetensors in {folder} do not fit: {'; '.join(words)}.")
