"""Clips longer than the model is shown at once: overlapping windows in time, together or one after another.

Together, the predictions for a frame that several windows cover are averaged at every step (MultiDiffusion,
Bar-Tal et al. 2023, which Lumiere uses over time in section 3.3), so that the windows become one clip. Where
a motion has a beat, windows that begin as noise of their own agree on where it is in its cycle only as far as
they overlap, and the clip changes its pace between them. One after another, each window is given the end of
those before it as pixels, so that it goes on as they went. Memory grows with the clip in neither case.
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor


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


def grow(frames: int, new: int, before: int, begun: int = 0) -> list[slice]:
    """Windows that are made one after another: each adds `new` frames, and sees up to `before` before them.

    begun: first frames that are there already. Raises ValueError unless `new` is 1 or more and `before` not
    negative.
    """
    if new < 1 or before < 0:
        raise ValueError(f"Clips grow by 1 frame or more from 0 or more: received {new} and {before}.")
    return [slice(max(0, start - before), min(start + new, frames)) for start in range(begun, frames, new)]


def going_on(
    clip: Tensor | None, window: slice, known: tuple[Tensor, Tensor] | None, again: int = 0
) -> tuple[Tensor, Tensor] | None:
    """What a window is given: of the clip so far (1 c t h w) its frames, besides what is known of the whole.

    known, and the result: latents (1 c t h w) and which of them are given, bool (t h w); None for none.
    again: last frames of the clip so far that are made again.
    """
    if known is not None:
        known = known[0][:, :, window], known[1][window]
    if clip is None:
        return known
    length, count = window.stop - window.start, clip.shape[2] - window.start - again
    if known is None:
        empty = clip.new_zeros(*clip.shape[:2], length, *clip.shape[3:])
        known = empty, torch.zeros_like(empty[0, 0], dtype=torch.bool)
    latents, mask = (x.clone() for x in known)
    latents[:, :, :count], mask[:count] = clip[:, :, window.start :][:, :, :count], True
    return latents, mask


def joined(clip: Tensor | None, window: Tensor, where: slice, again: int = 0) -> Tensor:
    """The clip so far, `b c t h w`, with what a window made of it and after it.

    again: last frames of the clip so far that the window made again, to which it goes over in these frames.
    """
    if clip is None:
        return window
    window, end = window.clone(), clip.shape[2] - where.start
    share = torch.arange(1, again + 1).to(clip) / (again + 1)
    faded = slice(end - again, end)
    window[:, :, faded] = torch.lerp(
        clip[:, :, clip.shape[2] - again :], window[:, :, faded], share[:, None, None]
    )
    return torch.cat([clip[:, :, : where.start], window], dim=2)


def _tent(length: int) -> Tensor:
    """1 at the ends, rising by 1 per frame towards the middle (t 1 1)."""
    places = torch.arange(1, length + 1)
    return torch.minimum(places, places.flip(0)).view(-1, 1, 1)
