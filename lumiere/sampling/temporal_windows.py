"""Overlapping temporal windows for clips longer than the positional embeddings.

Predictions are averaged at every step where windows overlap (MultiDiffusion, Bar-Tal et al. 2023; Lumiere,
section 3.3), which makes the clip consistent across windows. Memory does not grow with the clip.
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from lumiere.sampling.settings import Sampling

WINDOW, OVERLAP = 128, 0.25  # frames of a window, and the overlapping share of two windows


def windows(frames: int, length: int, overlap: int, multiple: int = 1) -> list[slice]:
    """Returns the smallest number of windows that cover a clip.

    All windows but the last start at a multiple of `multiple`. The last one also does if `frames` and
    `length` are multiples.

    Args:
        frames: length of the clip. A clip within `length` has a single window.
        length: frames of a window.
        overlap: minimum overlap of adjacent windows.
        multiple: the temporal downsample factor.

    Raises:
        ValueError: `overlap` is negative or above `length - multiple`.
    """
    if frames <= length:
        return [slice(0, frames)]
    if not 0 <= overlap <= length - multiple:
        raise ValueError(f"Windows of {length} frames overlap by 0 to {length - multiple}: {overlap}.")
    last, stride = frames - length, (length - overlap) // multiple * multiple
    starts = [*range(0, last, stride), last]
    return [slice(start, start + length) for start in starts]


def windows_of(frames: int, length: int | None, positions: int | None, multiple: int) -> list[slice]:
    """Returns the windows of a clip for motion weights with a limited number of positions.

    Args:
        frames: length of the clip. A clip within `positions` has a single window.
        length: frames of a window. Defaults to `positions`, or to `WINDOW` if `positions` is None.
        positions: number of positional embeddings, None for clips of any length.
        multiple: the temporal downsample factor.
    """
    length = length or positions or WINDOW
    if positions:
        length = positions if frames <= positions else min(length, positions)
    return windows(frames, length, int(OVERLAP * length), multiple)


def window_and_stride(sampling: Sampling, positions: int | None) -> tuple[int, int]:
    """Returns the frames of an attention window of FreeNoise, and between the starts of two windows.

    Args:
        sampling: `window` in frames, if it is set.
        positions: number of positional embeddings, the default of the window.
    """
    length = min(sampling.window or positions or WINDOW, positions or WINDOW)
    return length, max(1, int(OVERLAP * length))


def in_windows(denoise: Callable[[Tensor, slice], Tensor], clip: Tensor, parts: list[slice]) -> Tensor:
    """Averages predictions over overlapping windows, weighted towards the centre of each window.

    Args:
        denoise: maps the latents of a window, and the window, to a prediction of as many frames.
        clip: latents `b c t h w`.
        parts: windows that cover all frames.

    Returns:
        The prediction, `b c' t h w`.
    """
    if len(parts) == 1:
        return denoise(clip, parts[0])
    total: Tensor | int = 0
    weights = clip.new_zeros(clip.shape[2], 1, 1)
    for part in parts:
        weight = _tent(part.stop - part.start).to(clip)
        around = (0, 0, 0, 0, part.start, clip.shape[2] - part.stop)
        total = total + F.pad(weight * denoise(clip[:, :, part], part), around)
        weights[part] += weight
    return total / weights


def _tent(length: int) -> Tensor:
    """Returns weights `t 1 1` that rise by 1 per frame from 1 at the ends to the middle."""
    places = torch.arange(1, length + 1)
    return torch.minimum(places, places.flip(0)).view(-1, 1, 1)
