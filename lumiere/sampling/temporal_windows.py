"""Clips longer than the motion weights can tell apart: overlapping temporal windows, denoised together.

At every step the predictions for a frame that several windows cover are averaged (MultiDiffusion, Bar-Tal et
al. 2023, which Lumiere uses over time in section 3.3), so that the windows become one clip. Memory does not
grow with the clip.
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

WINDOW, OVERLAP = 128, 0.25  # frames of a window, and the share of them that two windows have in common


def windows(frames: int, length: int, overlap: int, multiple: int = 1) -> list[slice]:
    """Windows of `length` frames that cover `frames`, as few as can be.

    Neighbours share `overlap` frames or more. All but the last window begin at a multiple of `multiple`, and
    the last one does when `frames` and `length` are multiples. A clip that fits into one is one.
    """
    if frames <= length:
        return [slice(0, frames)]
    if not 0 <= overlap <= length - multiple:
        raise ValueError(f"Windows of {length} frames overlap by 0 to {length - multiple}: {overlap}.")
    last, stride = frames - length, (length - overlap) // multiple * multiple
    starts = [*range(0, last, stride), last]
    return [slice(start, start + length) for start in starts]


def windows_of(frames: int, length: int | None, positions: int | None, multiple: int) -> list[slice]:
    """The windows of a clip for motion weights with so many positions.

    Args:
        frames: of the clip.
        length: frames of a window; `positions`, or `WINDOW` without such, when None. Weights with positions
            see a clip whole as long as it has no more frames than these.
        positions: frames that the weights can tell apart at most; None for any number.
        multiple: the temporal downsample factor.
    """
    length = length or positions or WINDOW
    if positions:
        length = positions if frames <= positions else min(length, positions)
    return windows(frames, length, int(OVERLAP * length), multiple)


def in_windows(denoise: Callable[[Tensor], Tensor], clip: Tensor, parts: list[slice]) -> Tensor:
    """`denoise` of `b c t h w`, window by window. Where windows overlap the nearer centre counts for more.

    The result may have other channels than the clip, but has its frames.
    """
    if len(parts) == 1:
        return denoise(clip)
    total, weights = 0, clip.new_zeros(clip.shape[2], 1, 1)
    for part in parts:
        weight = _tent(part.stop - part.start).to(clip)
        around = (0, 0, 0, 0, part.start, clip.shape[2] - part.stop)
        total = total + F.pad(weight * denoise(clip[:, :, part]), around)
        weights[part] += weight
    return total / weights


def _tent(length: int) -> Tensor:
    """1 at the ends, rising by 1 per frame towards the middle (t 1 1)."""
    places = torch.arange(1, length + 1)
    return torch.minimum(places, places.flip(0)).view(-1, 1, 1)
