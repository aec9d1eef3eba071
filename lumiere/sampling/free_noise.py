"""Initial noise of long clips that repeats noise of the first window (FreeNoise, arXiv 2310.15169)."""

import torch
from torch import Tensor


def rescheduled(noise: Tensor, length: int, stride: int, generator: torch.Generator) -> Tensor:
    """Replaces noise after the first window by shuffled frames of earlier noise.

    Far frames then share their noise, which keeps the content of a long clip consistent. Within a stride the
    order is random, so that the motion does not repeat.

    Args:
        noise: independent noise `b c t h w`.
        length: frames of the first window, which are kept.
        stride: frames that are shuffled together.
        generator: CPU generator of the order.

    Returns:
        Noise `b c t h w`.
    """
    noise, frames = noise.clone(), noise.shape[2]
    for start in range(length, frames, stride):
        source = start - length + torch.randperm(stride, generator=generator)
        kept = source[: frames - start]
        noise[:, :, start : start + len(kept)] = noise[:, :, kept]
    return noise
