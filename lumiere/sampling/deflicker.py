"""Removes flicker, the residual noise of individual frames, from static regions."""

import torch.nn.functional as F
from torch import Tensor

REACH = 8  # frames on each side in the mean and variance over time


def steady(clip: Tensor, flicker: float) -> Tensor:
    """Smooths clean latents over time where they vary little (Wiener filter with noise variance `flicker`).

    Latents become their mean over time where they and their neighbours vary by at most `flicker`. Moving
    regions vary much more and hardly change.

    Args:
        clip: clean latents `b c t h w`.
        flicker: noise variance; 0 disables the filter.

    Returns:
        Filtered latents `b c t h w`.
    """
    if flicker == 0:
        return clip
    mean = _over_time(clip)
    variance = _over_time((clip - mean).square()).mean(1, keepdim=True)
    variance = F.max_pool3d(variance, (1, 3, 3), stride=1, padding=(0, 1, 1))
    share = (1 - flicker / variance.clamp(min=flicker)).to(clip)
    return mean + share * (clip - mean)


def _over_time(x: Tensor) -> Tensor:
    """Averages `b c t h w` over `REACH` frames on each side, or fewer at the ends of the clip."""
    rows = x.flatten(3)  # b c t h w -> b c t (h w)
    means = F.avg_pool2d(rows, (2 * REACH + 1, 1), stride=1, padding=(REACH, 0), count_include_pad=False)
    return means.view(x.shape)
