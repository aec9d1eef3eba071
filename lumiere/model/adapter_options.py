"""Options of AnimateDiff adapters: amount of motion, camera moves, and windowed attention for long clips."""

from collections.abc import Sequence

import torch
from diffusers.models.attention import BasicTransformerBlock, FreeNoiseTransformerBlock
from torch import nn

from lumiere.model.animatediff import adapter_keys
from lumiere.model.lumiere import Lumiere
from lumiere.model.motion_lora import Changes, check_fit
from lumiere.model.motion_weights import AnimateDiffBlock

SHARED = (  # arguments of both classes of transformer blocks, which their instances keep as attributes
    "dim num_attention_heads attention_head_dim dropout cross_attention_dim activation_fn attention_bias "
    "only_cross_attention double_self_attention positional_embeddings num_positional_embeddings"
).split()


def set_motion_scale(lumiere: Lumiere, scale: float) -> None:
    """Scales what AnimateDiff layers add to the features.

    Args:
        lumiere: inflated UNet with an AnimateDiff adapter.
        scale: 1 as trained, 0 for the frames of the base alone. LongAnimateDiff recommends 1.15.

    Raises:
        ValueError: the motion weights are not an AnimateDiff adapter.
    """
    for layer in _adapter_layers(lumiere, "a motion scale"):
        layer.motion_scale = scale


@torch.no_grad()
def merge_motion_loras(lumiere: Lumiere, loras: Sequence[tuple[Changes, float]]) -> None:
    """Adds MotionLoRAs to the weights of an AnimateDiff adapter.

    Args:
        lumiere: inflated UNet with an AnimateDiff adapter.
        loras: changes from `read_motion_lora`, each with its weight; several add up.

    Raises:
        ValueError: the motion weights are not an AnimateDiff adapter, or a MotionLoRA has other layers.
            The weights are unchanged.
    """
    _adapter_layers(lumiere, "a MotionLoRA")
    weights = lumiere.state_dict()
    named = {name: weights[key] for key, name in adapter_keys(lumiere).items()}
    for changes, _ in loras:
        check_fit(changes, named)
    for changes, scale in loras:
        for name, change in changes.items():
            named[name].add_(change.to(named[name]), alpha=scale)


def window_attention(lumiere: Lumiere, length: int, stride: int) -> None:
    """Applies temporal attention in overlapping windows (FreeNoise, Qiu et al. 2023, arXiv 2310.15169).

    Each transformer block averages its windows, weighted towards their centres (section 3.2). Clips then have
    any length. The new blocks share the weights of the old ones.

    Args:
        lumiere: inflated UNet with an AnimateDiff adapter.
        length: frames per window, at most the number of positional embeddings.
        stride: frames between the starts of two windows, 1 to `length`.

    Raises:
        ValueError: the motion weights are not an AnimateDiff adapter, or a window is too long.
    """
    layers = _adapter_layers(lumiere, "FreeNoise")
    if not 1 <= stride <= length or length > layers[0].positions:
        raise ValueError(
            f"a window has 1 to {layers[0].positions} frames, and a stride of at most its length: "
            f"received {length} and {stride}."
        )
    for layer in layers:
        blocks = layer.motion_module.transformer_blocks
        layer.motion_module.transformer_blocks = nn.ModuleList(_windowed(x, length, stride) for x in blocks)
        layer.windowed = True


def _adapter_layers(lumiere: Lumiere, option: str) -> list[AnimateDiffBlock]:
    layers = [layer for layer in lumiere.attns if isinstance(layer, AnimateDiffBlock)]
    if not layers:
        raise ValueError(f"{option} needs motion weights of AnimateDiff; these are Lumiere's own.")
    return layers


def _windowed(block: BasicTransformerBlock, length: int, stride: int) -> FreeNoiseTransformerBlock:
    options = {name: getattr(block, name) for name in SHARED}
    with torch.device("meta"):
        windowed = FreeNoiseTransformerBlock(
            **options, context_length=length, context_stride=stride, weighting_scheme="pyramid"
        )
    windowed.load_state_dict(block.state_dict(), assign=True)
    return windowed.requires_grad_(False).eval()
