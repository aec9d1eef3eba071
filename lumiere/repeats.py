"""How a clip goes on that has been where it is now: as it did then.

Most of what moves in short clips comes round again: it bounces, turns, or leaves the picture to come in
again. What followed then is a better forecast than any network's, as nothing is lost from part to part: a
clip may go on like this for as long as it likes (video textures, Schödl et al. 2000).
"""

import torch
from torch import Tensor

ALIKE = 0.7  # how far frames differ from those of another time, at most: 1 where they have nothing in common
EARLIER = 1.25  # how much farther those may be that are taken because they are earlier


def repeated(clip: Tensor, frames: int) -> Tensor | None:
    """What followed when a clip (1 c t h w) looked like its last `frames` before, as many; None if never.

    Of several such times that are about as good the first is taken, of which the frames were made best.
    """
    length = clip.shape[2]
    last = clip[:, :, -frames:]
    change = 2 * (last - last.mean(2, keepdim=True)).square().mean()
    starts = range(length - 2 * frames + 1)  # of frames that as many follow
    if not starts or change == 0:
        return None
    apart = (
        torch.stack([(clip[:, :, start : start + frames] - last).square().mean() for start in starts])
        / change
    )
    if not apart.min() <= ALIKE:  # nor where latents are no numbers, which decoding tells
        return None
    first = int((apart <= EARLIER * apart.min()).nonzero()[0])
    return clip[:, :, first + frames : first + 2 * frames]
