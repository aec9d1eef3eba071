"""Conditioning <J, C, M>: noisy clip J, conditioning clip C and mask M (Lumiere, section 4).

A mask is boolean `t h w`, True at conditioning pixels. Modes differ only in their mask:

- `first_frame`: image-to-video
- `first_and_last`: interpolation between two images
- `first_frames`: video continuation
- `region`: inpainting of a region in every frame
- `cinemagraph`: animation of a region of an image; the rest stays still
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

SEAM = 4  # width in pixels of the crossfade between conditioning and generated pixels
CONTEXT = 4, 16  # frames that condition a continuation: a quarter of the new clip, clamped to this range


class Given(NamedTuple):
    """Conditioning frames and mask.

    Pixels outside the mask matter in two cases. Near the mask, the autoencoder sees both and `put_back` fades
    between them. With `Request.strength` below 1, the clip starts from all pixels.

    Attributes:
        frames: uint8 `t h w c`.
        mask: bool `t h w`, True at conditioning pixels.
    """

    frames: np.ndarray
    mask: np.ndarray


class Cond(NamedTuple):
    """Conditioning latents and mask.

    Attributes:
        latents: float32 `1 c t h w`.
        mask: bool `t h w`, True at conditioning latents.
    """

    latents: Tensor
    mask: Tensor

    def of(self, frames: slice) -> "Cond":
        """Returns the conditioning of a slice of frames."""
        return Cond(self.latents[:, :, frames], self.mask[frames])

    def rolled(self, shift: int) -> "Cond":
        """Returns the conditioning of a clip whose frames are rolled by `shift` (`torch.roll`)."""
        return Cond(self.latents.roll(shift, 2), self.mask.roll(shift, 0))


def with_context(cond: Cond | None, clip: Tensor | None, frames: slice) -> Cond | None:
    """Conditions a segment on the frames generated so far, in addition to the conditioning of the clip.

    Args:
        cond: conditioning of the whole clip, or None.
        clip: latents `1 c n h w` of the first n frames, or None.
        frames: frames of the segment.

    Returns:
        Conditioning of the segment, None when `cond` and `clip` are None.
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
    """Conditions a clip on its first frame and optionally on its last one.

    Args:
        first: uint8 `h w c`.
        last: uint8 `h w c`, or None.
        frames: length of the clip.
    """
    clip = np.repeat(first[None], frames, 0)
    mask = first_frame(*clip.shape[:3])
    if last is not None:
        clip[-1], mask = last, first_and_last(*clip.shape[:3])
    return Given(clip, mask.numpy())


def continuation(clip: np.ndarray, frames: int) -> Given:
    """Conditions a clip on the last frames of another clip.

    Args:
        clip: uint8 `t h w c`.
        frames: length of the new clip. A quarter of it is conditioned, 4 to 16 frames, if `clip` is that
            long.
    """
    least, most = CONTEXT
    count = min(max(least, min(most, frames // 4)), len(clip), frames - 1)
    beginning = np.concatenate([clip[-count:], np.repeat(clip[-1:], frames - count, 0)])
    return Given(beginning, first_frames(count, *beginning.shape[:3]).numpy())


def inpainting(clip: np.ndarray, wanted: np.ndarray) -> Given:
    """Conditions a clip on all pixels outside a region.

    Args:
        clip: uint8 `t h w c`.
        wanted: bool `h w`, True in the region to inpaint.
    """
    return Given(clip, region(torch.from_numpy(wanted), len(clip)).numpy())


def moving_picture(image: np.ndarray, moving: np.ndarray, frames: int) -> Given:
    """Conditions a clip on a still image outside a moving region.

    Args:
        image: uint8 `h w c`.
        moving: bool `h w`, True in the region to animate.
        frames: length of the clip.
    """
    clip = np.repeat(image[None], frames, 0)
    return Given(clip, cinemagraph(torch.from_numpy(moving), frames).numpy())


def first_frame(frames: int, height: int, width: int) -> Tensor:
    """Returns the mask of image-to-video, bool `t h w`."""
    return first_frames(1, frames, height, width)


def first_and_last(frames: int, height: int, width: int) -> Tensor:
    """Returns the mask of interpolation between two images, bool `t h w`."""
    mask = first_frames(1, frames, height, width)
    mask[-1] = True
    return mask


def first_frames(count: int, frames: int, height: int, width: int) -> Tensor:
    """Returns the mask of video continuation, bool `t h w`.

    Args:
        count: number of conditioning frames, at least 1 and below `frames`.
        frames: length of the clip.
        height: pixels.
        width: pixels.

    Raises:
        ValueError: `count` is out of range, so that no frame would be generated or none conditioned.
    """
    if not 1 <= count < frames:
        raise ValueError(f"Of {frames} frames 1 to {frames - 1} can be given; received {count}.")
    mask = torch.zeros(frames, height, width, dtype=torch.bool)
    mask[:count] = True
    return mask


def region(wanted: Tensor, frames: int) -> Tensor:
    """Returns the mask of inpainting, bool `t h w`, from `wanted` `h w`, True in the region to inpaint."""
    return ~wanted.bool().expand(frames, -1, -1)


def cinemagraph(moving: Tensor, frames: int) -> Tensor:
    """Returns the mask of a cinemagraph, bool `t h w`, whose first frame is conditioned everywhere.

    Args:
        moving: `h w`, True in the region to animate.
        frames: length of the clip.
    """
    mask = region(moving, frames).clone()
    mask[0] = True
    return mask


def to_latents(mask: Tensor, cell: int) -> Tensor:
    """Downsamples a mask, `t (h cell) (w cell) -> t h w`; a latent is True only if all of its pixels are."""
    return F.avg_pool2d(mask.float().unsqueeze(1), cell).squeeze(1) == 1  # the mean of ones is exactly 1


def channels(clip: Tensor, mask: Tensor) -> Tensor:
    """Returns the channels that condition the model: masked latents and their mask.

    Args:
        clip: conditioning latents `b c t h w`.
        mask: `b t h w`, or `t h w` for all clips.

    Returns:
        `b (c + 1) t h w`; latents are zero outside the mask.
    """
    mask = mask.to(clip).expand(clip.shape[0], *clip.shape[2:]).unsqueeze(1)  # b 1 t h w
    return torch.cat([clip * mask, mask], dim=1)


def blend(pred_x0: Tensor, clip: Tensor, mask: Tensor) -> Tensor:
    """Replaces predicted latents by conditioning latents inside the mask.

    Args:
        pred_x0: predicted clean latents `b c t h w`.
        clip: conditioning latents `b c t h w`.
        mask: bool `t h w` or `b t h w`.
    """
    return torch.where(mask.unsqueeze(-4), clip, pred_x0)  # mask (b) t h w, latents b c t h w


def put_back(frames: np.ndarray, given: Given) -> np.ndarray:
    """Restores the original pixels of a finished clip where every frame is conditioned.

    The autoencoder reconstructs each frame slightly differently. Pixels conditioned in only some frames keep
    their reconstruction, so that these frames match the frames between them.

    Args:
        frames: generated frames, uint8 `t h w c`.
        given: conditioning frames and mask.

    Returns:
        uint8 `t h w c`, with a crossfade of `SEAM` pixels around the restored region.
    """
    always = torch.from_numpy(given.mask.all(0)).float()
    if not always.any():
        return frames
    near = F.avg_pool2d(always[None], 2 * SEAM + 1, 1, SEAM, count_include_pad=False)[0]  # 0.5 at edges
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
    """Draws the conditioning mask of a training clip.

    Args:
        frames: length of the clip.
        height: height of the mask.
        width: width of the mask.
        generator: on the CPU.
        share: probability of a conditioning mask. Clips of one frame are never conditioned.
        continued: probability that a conditioning mask is `first_frames`, with up to half of the clip. The
            other modes are equally likely.

    Returns:
        bool `t h w`, all False without conditioning.
    """

    def whole(low: int, high: int) -> int:
        return int(torch.randint(low, high, (), generator=generator))

    def patch() -> Tensor:
        """Draws a rectangle with sides of a quarter to three quarters of the mask's."""
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
