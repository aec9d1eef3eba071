"""Takes out flicker: what a model leaves of each frame's own noise, seen where nothing moves."""

import torch.nn.functional as F
from torch import Tensor

REACH = 8  # frames before and after each that its mean and variance are taken over


def steady(clip: Tensor, flicker: float) -> Tensor:
    """Clean latents `b c t h w`, each pulled towards its mean over the frames around, where it varies little.

    By as much as a Wiener filter would that takes `flicker` for the variance of noise: wholly where latents,
    there and next to it, vary by no more than that, and hardly where they vary by much more, as wherever
    something moves. 0 leaves them as they are.
    """
    if flicker == 0:
        return clip
    mean = _over_time(clip)
    variance = _over_time((clip - mean).square()).mean(1, keepdim=True)
    variance = F.max_pool3d(variance, (1, 3, 3), stride=1, padding=(0, 1, 1))
    share = (1 - flicker / variance.clamp(min=flicker)).to(clip)
    return mean + share * (clip - mean)


def _over_time(x: Tensor) -> Tensor:
    """Means of `b c t h w` over the frames around each; at the ends over those that there are."""
    rows = x.flatten(3)  # b c t h w -> b c t (h w)
    means = F.avg_pool2d(rows, (2 * REACH + 1, 1), stride=1, padding=(REACH, 0), count_include_pad=False)
    return means.view(x.shape)
