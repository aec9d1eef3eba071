"""Given pixels <J, C, M>: beside the noisy clip J the model sees the given clip C and a mask M (Lumiere, 4).

A mask is boolean `t h w`, True where pixels are given; a mode is nothing but its mask:

first_frame     an image is brought to life
first_and_last  what happens between two images
first_frames    a clip is continued
region          a part of every frame is made anew
cinemagraph     a part of an image moves, the rest stands still
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

SEAM = 4  # pixels over which what is made anew fades into what is given around it
CONTEXT = 4, 16  # last frames of a clip by which it goes on: a quarter of the new clip, but in these limits


class Given(NamedTuple):
    """Frames uint8 (t h w c), and which of their pixels are given, bool (t h w).

    Of the others only those near given ones matter, where the autoencoder sees both and what is made fades
    in; and all of them where the clip begins as these frames (`Request.strength`).
    """

    frames: np.ndarray
    mask: np.ndarray


class Cond(NamedTuple):
    """Given latents, float32 `1 c t h w`, and which of them are given, bool `t h w`."""

    latents: Tensor
    mask: Tensor

    def of(self, frames: slice) -> "Cond":
        """Those of some frames."""
        return Cond(self.latents[:, :, frames], self.mask[frames])


def with_context(cond: Cond | None, clip: Tensor | None, frames: slice) -> Cond | None:
    """What is given of a segment: of the clip so far its frames, besides what is given of the whole clip.

    Args:
        cond: of all frames of the clip.
        clip: latents `1 c n h w` of the first n frames, or None.
        frames: of the segment.
    """
    cond = cond and cond.of(frames)
    if clip is None:
        return cond
    length, count = frames.stop - frames.start, clip.shape[2] - frames.start
    if cond is None:
        empty = clip.new_zeros(*clip.shape[:2], length, *clip.shape[3:])
        cond = Cond(empty, torch.zeros_like(empty[0, 0], dtype=torch.bool))
    latents, mask = (x.clone() for x in cond)
    latents[:, :, :count], mask[:count] = clip[:, :, frames.start :], True
    return Cond(latents, mask)


def images(first: np.ndarray, last: np.ndarray | None, frames: int) -> Given:
    """A clip of this many frames, of which the first one, uint8 (h w c), or also the last one is given."""
    clip = np.repeat(first[None], frames, 0)
    mask = first_frame(*clip.shape[:3])
    if last is not None:
        clip[-1], mask = last, first_and_last(*clip.shape[:3])
    return Given(clip, mask.numpy())


def continuation(clip: np.ndarray, frames: int) -> Given:
    """A clip of this many frames that begins with the last frames of another (t h w c)."""
    least, most = CONTEXT
    count = min(max(least, min(most, frames // 4)), len(clip), frames - 1)
    beginning = np.concatenate([clip[-count:], np.repeat(clip[-1:], frames - count, 0)])
    return Given(beginning, first_frames(count, *beginning.shape[:3]).numpy())


def inpainting(clip: np.ndarray, wanted: np.ndarray) -> Given:
    """A clip (t h w c) of which the `wanted` pixels (h w) are to be made anew."""
    return Given(clip, region(torch.from_numpy(wanted), len(clip)).numpy())


def moving_picture(image: np.ndarray, moving: np.ndarray, frames: int) -> Given:
    """An image (h w c) that stands still but for the `moving` pixels (h w)."""
    clip = np.repeat(image[None], frames, 0)
    return Given(clip, cinemagraph(torch.from_numpy(moving), frames).numpy())


def first_frame(frames: int, height: int, width: int) -> Tensor:
    return first_frames(1, frames, height, width)


def first_and_last(frames: int, height: int, width: int) -> Tensor:
    mask = first_frames(1, frames, height, width)
    mask[-1] = True
    return mask


def first_frames(count: int, frames: int, height: int, width: int) -> Tensor:
    """Raises ValueError unless 1 <= count < frames, as nothing would be left to make."""
    if not 1 <= count < frames:
        raise ValueError(f"Of {frames} frames 1 to {frames - 1} can be given; received {count}.")
    mask = torch.zeros(frames, height, width, dtype=torch.bool)
    mask[:count] = True
    return mask


def region(wanted: Tensor, frames: int) -> Tensor:
    """`wanted` (h w), True where the clip is to be made anew, on every frame."""
    return ~wanted.bool().expand(frames, -1, -1)


def cinemagraph(moving: Tensor, frames: int) -> Tensor:
    """`moving` (h w), True where the picture may move; its first frame is given whole."""
    mask = region(moving, frames).clone()
    mask[0] = True
    return mask


def to_latents(mask: Tensor, cell: int) -> Tensor:
    """`t (h cell) (w cell) -> t h w`: a latent is given only when all of its pixels are."""
    return F.avg_pool2d(mask.float().unsqueeze(1), cell).squeeze(1) == 1  # the mean of ones is exactly one


def channels(clip: Tensor, mask: Tensor) -> Tensor:
    """What the model is shown beside the noisy clip: given latents, zero elsewhere, and their mask.

    clip `b c t h w`, mask `b t h w` or, for all clips, `t h w`; the result is `b (c + 1) t h w`.
    """
    mask = mask.to(clip).expand(clip.shape[0], *clip.shape[2:]).unsqueeze(1)  # b 1 t h w
    return torch.cat([clip * mask, mask], dim=1)


def blend(clean: Tensor, clip: Tensor, mask: Tensor) -> Tensor:
    """The predicted clean clip with what is given put into it."""
    return torch.where(mask.unsqueeze(-4), clip, clean)  # mask (b) t h w, clips b c t h w


def put_back(frames: np.ndarray, given: Given) -> np.ndarray:
    """A finished clip, uint8 (t h w c), with the pixels that are given in all of its frames as they are.

    The autoencoder makes something else of them, a little different in each frame. Pixels that are given in
    some frames only stay as it made them, so that those frames do not differ from the ones between.
    """
    always = torch.from_numpy(given.mask.all(0)).float()
    if not always.any():
        return frames
    near = F.avg_pool2d(always[None], 2 * SEAM + 1, 1, SEAM, count_include_pad=False)[0]  # a half at edges
    share = torch.maximum(always, (2 * near).clamp(max=1)).unsqueeze(-1).numpy()  # h w 1
    pairs = zip(frames, given.frames, strict=True)
    mixed = [np.rint(made + share * (own.astype(np.float32) - made)).astype(np.uint8) for made, own in pairs]
    return np.stack(mixed)


def random_mask(
    frames: int,
    height: int,
    width: int,
    generator: torch.Generator,
    share: float = 0.5,
    continued: float = 0.2,
) -> Tensor:
    """The mask of a training clip (t h w): in this `share` of all as one of the modes, else all False.

    continued: share of those masks that give the beginning of the clip, up to half of it; the other
    modes are as likely as each other.
    """

    def whole(low: int, high: int) -> int:
        return int(torch.randint(low, high, (), generator=generator))

    def patch() -> Tensor:
        """A rectangle of a quarter to three quarters of each side."""
        shape = torch.zeros(height, width, dtype=torch.bool)
        h, w = (whole(max(1, side // 4), 3 * side // 4 + 1) for side in (height, width))
        y, x = whole(0, height - h + 1), whole(0, width - w + 1)
        shape[y : y + h, x : x + w] = True
        return shape

    modes: tuple[Callable[[], Tensor], ...] = (
        lambda: first_frame(frames, height, width),
        lambda: first_and_last(frames, height, width),
        lambda: region(patch(), frames),
        lambda: cinemagraph(patch(), frames),
    )
    if torch.rand((), generator=generator) >= share or frames == 1:
        return torch.zeros(frames, height, width, dtype=torch.bool)
    if torch.rand((), generator=generator) < continued:
        return first_frames(whole(1, max(1, frames // 2) + 1), frames, height, width)
    return modes[whole(0, len(modes))]()
