"""MotionLoRAs of AnimateDiff: low-rank changes of the motion modules that add a camera move."""

import os
import re
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from lumiere.model.animatediff import diffusers_name

FACTOR = re.compile(r"(.+\.to_(?:q|k|v|out))(?:\.0)?[._]lora[._](down|up|A|B)(?:\.default)?\.weight")
ALPHA = re.compile(r"(.+\.to_(?:q|k|v|out))(?:\.0)?\.alpha")

Changes = Mapping[str, Tensor]  # weight of the adapter, in diffusers' names -> its change at weight 1


def read_motion_lora(file: str | os.PathLike) -> Changes:
    """Reads a MotionLoRA with the keys of AnimateDiff's own code, of diffusers or of peft.

    Args:
        file: a `.safetensors` file.

    Returns:
        The change of each weight of the adapter.

    Raises:
        OSError: the file is missing or damaged.
        ValueError: it is no MotionLoRA, or a key is unknown or has no counterpart.
    """
    path = Path(file).expanduser()
    if not path.is_file():
        raise FileNotFoundError(f"there is no MotionLoRA {file}: give the path of a .safetensors file.")
    try:
        weights = load_file(path)
    except (SafetensorError, OSError) as error:
        raise OSError(f"cannot read the MotionLoRA {file}: it is damaged, or no safetensors file.") from error
    if not any(".motion_modules." in key for key in weights):
        raise ValueError(f"{file} is no MotionLoRA: it has no keys of motion modules.")
    factors, alphas = _grouped(weights, str(file))
    for name, pair in factors.items():
        if set(pair) != {"down", "up"} or pair["down"].shape[0] != pair["up"].shape[1]:
            raise ValueError(f"{file} has no matching pair of low-rank matrices for {name}.")
    return {
        name: pair["up"].float() @ pair["down"].float() * (alphas.get(name, rank) / rank)
        for name, pair in factors.items()
        for rank in [pair["down"].shape[0]]
    }


def _grouped(weights: dict[str, Tensor], where: str) -> tuple[dict[str, dict[str, Tensor]], dict[str, float]]:
    """Returns both factors of each weight, and the alphas."""
    factors: dict[str, dict[str, Tensor]] = {}
    alphas: dict[str, float] = {}
    sides = {"A": "down", "B": "up"}
    for key, weight in weights.items():
        name = diffusers_name(key.removeprefix("unet.")).replace(".processor.", ".")
        if found := FACTOR.fullmatch(name):
            factors.setdefault(_weight(found[1]), {})[sides.get(found[2], found[2])] = weight
        elif found := ALPHA.fullmatch(name):
            alphas[_weight(found[1])] = float(weight)
        else:
            raise ValueError(f"{where} is no MotionLoRA of a known kind: unknown key {key}.")
    return factors, alphas


def _weight(module: str) -> str:
    return f"{module}.0.weight" if module.endswith(".to_out") else f"{module}.weight"


def check_fit(changes: Changes, named: Mapping[str, Tensor]) -> None:
    """Checks that every changed weight exists in an adapter, with the same shape.

    Args:
        changes: a MotionLoRA.
        named: weights of the adapter by diffusers' names.

    Raises:
        ValueError: a weight is missing, has another shape, or its change is not finite.
    """
    for name, change in changes.items():
        if name not in named:
            raise ValueError(f"the MotionLoRA is for another adapter: this one has no {name}.")
        if change.shape != named[name].shape:
            sizes = [" x ".join(map(str, tensor.shape)) for tensor in (change, named[name])]
            raise ValueError(f"the MotionLoRA is for another adapter: {name} is {sizes[1]}, not {sizes[0]}.")
        if not torch.isfinite(change).all():
            raise ValueError(f"the MotionLoRA holds values that are not finite, in {name}.")
