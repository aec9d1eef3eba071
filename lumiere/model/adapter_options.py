"""Options of AnimateDiff adapters: amount of motion, camera moves, and windowed attention for long clips.

Camera moves are MotionLoRAs: low-rank changes of the motion modules.
"""

import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from diffusers.models.attention import BasicTransformerBlock, FreeNoiseTransformerBlock
from torch import Tensor, nn

from lumiere.model.animatediff import adapter_keys, diffusers_name, read_tensors
from lumiere.model.lumiere import Lumiere
from lumiere.model.motion_weights import AnimateDiffBlock

SHARED = (  # arguments of both classes of transformer blocks, which their instances keep as attributes
    "dim num_attention_heads attention_head_dim dropout cross_attention_dim activation_fn attention_bias "
    "only_cross_attention double_self_attention positional_embeddings num_positional_embeddings"
).split()
FACTOR = re.compile(r"(.+\.to_(?:q|k|v|out))(?:\.0)?[._]lora[._](down|up|A|B)(?:\.default)?\.weight")
ALPHA = re.compile(r"(.+\.to_(?:q|k|v|out))(?:\.0)?\.alpha")

Changes = Mapping[str, Tensor]  # weight of the adapter, in diffusers' names -> its change at weight 1


def set_motion_scale(lumiere: Lumiere, scale: float) -> None:
    """Scales what AnimateDiff layers add to the features.

    Args:
        lumiere: inflated UNet with an AnimateDiff adapter.
        scale: 1 as trained, 0 for the frames of the base alone. LongAnimateDiff recommends 1.15.

    Raises:
        ValueError: the motion weights are not an AnimateDiff adapter.
    """
    for layer in _needed_layers(lumiere, "a motion scale"):
        layer.motion_scale = scale


@torch.no_grad()
def merge_motion_loras(lumiere: Lumiere, loras: Sequence[tuple[Changes, float]]) -> dict[str, Tensor]:
    """Adds MotionLoRAs to the weights of an AnimateDiff adapter.

    Args:
        lumiere: inflated UNet with an AnimateDiff adapter.
        loras: changes from `read_motion_lora` that fit (see `check_fit`), each with its weight; several add
            up.

    Returns:
        Copies of the changed weights on the CPU, as they were, for `restore`.

    Raises:
        ValueError: the motion weights are not an AnimateDiff adapter.
    """
    named = adapter_weights(lumiere)
    changed = {name for changes, _ in loras for name in changes}
    trained = {name: named[name].to("cpu", copy=True) for name in changed}
    for name in trained:
        change = sum(scale * changes[name] for changes, scale in loras if name in changes)
        named[name].copy_(named[name].float() + torch.as_tensor(change).to(named[name].device))
    return trained


@torch.no_grad()
def restore(lumiere: Lumiere, weights: Mapping[str, Tensor]) -> None:
    """Puts back the weights that `merge_motion_loras` returned."""
    named = adapter_weights(lumiere) if weights else {}
    for name, weight in weights.items():
        named[name].copy_(weight)


def adapter_weights(lumiere: Lumiere) -> dict[str, Tensor]:
    """Returns the weights of an AnimateDiff adapter by diffusers' names.

    Raises:
        ValueError: the motion weights are not an AnimateDiff adapter.
    """
    _needed_layers(lumiere, "a MotionLoRA")
    weights = lumiere.state_dict()
    return {name: weights[key] for key, name in adapter_keys(lumiere).items()}


def window_attention(lumiere: Lumiere, window: tuple[int, int] | None) -> None:
    """Applies temporal attention in overlapping windows (FreeNoise, Qiu et al. 2023, arXiv 2310.15169).

    Each transformer block averages its windows, weighted towards their centres (section 3.2). Clips then have
    any length. The new blocks share the modules of the old ones.

    Args:
        lumiere: inflated UNet with an AnimateDiff adapter.
        window: frames per window, at most the number of positional embeddings, and frames between the starts
            of two windows, 1 to the frames of one. None restores attention over all frames.

    Raises:
        ValueError: the motion weights are not an AnimateDiff adapter, or a window is too long.
    """
    layers = _needed_layers(lumiere, "FreeNoise")
    length, stride = window or (1, 1)
    if not 1 <= stride <= length or length > layers[0].positions:
        raise ValueError(
            f"a window has 1 to {layers[0].positions} frames, and a stride of at most its length: "
            f"received {length} and {stride}."
        )
    for layer in layers:
        plain = layer.plain_blocks[0] if layer.plain_blocks else layer.motion_module.transformer_blocks
        blocks = plain if window is None else nn.ModuleList(_windowed(block, *window) for block in plain)
        layer.motion_module.transformer_blocks = blocks
        layer.plain_blocks = () if window is None else (plain,)


def adapter_layers(lumiere: Lumiere) -> list[AnimateDiffBlock]:
    """Returns the layers of an AnimateDiff adapter; an empty list for Lumiere's own motion weights."""
    return [layer for layer in lumiere.attns if isinstance(layer, AnimateDiffBlock)]


def _needed_layers(lumiere: Lumiere, option: str) -> list[AnimateDiffBlock]:
    layers = adapter_layers(lumiere)
    if not layers:
        raise ValueError(f"{option} needs motion weights of AnimateDiff; these are Lumiere's own.")
    return layers


def _windowed(block: BasicTransformerBlock, length: int, stride: int) -> FreeNoiseTransformerBlock:
    """Returns a block with windows and the modules of another block."""
    options = {name: getattr(block, name) for name in SHARED}
    with torch.device("meta"):
        windowed = FreeNoiseTransformerBlock(
            **options, context_length=length, context_stride=stride, weighting_scheme="pyramid"
        )
    for name, module in block.named_children():
        setattr(windowed, name, module)
    return windowed.train(block.training)


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
    weights = read_tensors(path, "MotionLoRA")
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
