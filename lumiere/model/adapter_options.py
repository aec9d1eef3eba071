"""Options of AnimateDiff layers for one run: amount of motion, and windowed attention for long clips."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import torch
from diffusers.models.attention import BasicTransformerBlock, FreeNoiseTransformerBlock
from torch import nn

from lumiere.model.lumiere import Lumiere
from lumiere.model.motion_weights import AnimateDiffBlock

SHARED = (  # arguments of both classes of transformer blocks, which their instances keep as attributes
    "dim num_attention_heads attention_head_dim dropout cross_attention_dim activation_fn attention_bias "
    "only_cross_attention double_self_attention positional_embeddings num_positional_embeddings"
).split()


@contextmanager
def motion_scale(lumiere: Lumiere, scale: float) -> Iterator[None]:
    """Scales what AnimateDiff layers add to the features, within a `with` block.

    Args:
        lumiere: inflated UNet with an AnimateDiff adapter.
        scale: 1 as trained, 0 for the frames of the base alone. LongAnimateDiff recommends 1.15.

    Raises:
        ValueError: the motion weights are not an AnimateDiff adapter.
    """
    layers = adapter_layers(lumiere, "a motion scale")
    before = [layer.motion_scale for layer in layers]
    try:
        for layer in layers:
            layer.motion_scale = scale
        yield
    finally:
        for layer, own in zip(layers, before, strict=True):
            layer.motion_scale = own


@contextmanager
def windowed_attention(lumiere: Lumiere, length: int, stride: int) -> Iterator[None]:
    """Applies temporal attention in overlapping windows, within a `with` block (FreeNoise, arXiv 2310.15169).

    Each transformer block averages its windows, weighted towards their centres (section 3.2). Weights are
    shared with the replaced blocks, so that no memory is needed.

    Args:
        lumiere: inflated UNet with an AnimateDiff adapter.
        length: frames per window, at most the number of positional embeddings.
        stride: frames between the starts of two windows.

    Raises:
        ValueError: the motion weights are not an AnimateDiff adapter, or a window is too long.
    """
    layers = adapter_layers(lumiere, "FreeNoise")
    if not 1 <= stride <= length or length > layers[0].positions:
        raise ValueError(
            f"a window has 1 to {layers[0].positions} frames, and a stride of at most its length: "
            f"received {length} and {stride}."
        )
    with ExitStack() as stack:
        for layer in layers:
            stack.enter_context(_replaced(layer, length, stride))
        yield


def adapter_layers(lumiere: Lumiere, option: str) -> list[AnimateDiffBlock]:
    """Returns the AnimateDiff layers of a model.

    Args:
        lumiere: any inflated UNet.
        option: what needs such layers, for the error message.

    Raises:
        ValueError: there are none.
    """
    layers = [layer for layer in lumiere.attns if isinstance(layer, AnimateDiffBlock)]
    if not layers:
        raise ValueError(f"{option} needs motion weights of AnimateDiff; these are Lumiere's own.")
    return layers


@contextmanager
def _replaced(layer: AnimateDiffBlock, length: int, stride: int) -> Iterator[None]:
    before = layer.motion_module.transformer_blocks
    blocks = nn.ModuleList(_windowed(block, length, stride) for block in before)
    layer.motion_module.transformer_blocks, layer.windowed = blocks, True
    try:
        yield
    finally:
        layer.motion_module.transformer_blocks, layer.windowed = before, False


def _windowed(block: BasicTransformerBlock, length: int, stride: int) -> FreeNoiseTransformerBlock:
    options = {name: getattr(block, name) for name in SHARED}
    with torch.device("meta"):
        windowed = FreeNoiseTransformerBlock(
            **options, context_length=length, context_stride=stride, weighting_scheme="pyramid"
        )
    windowed.load_state_dict(block.state_dict(), assign=True)
    return windowed.requires_grad_(False).eval()
