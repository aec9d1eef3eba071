"""Noise of a clip: correlated between frames, repeated, refined, and removed where nothing moves."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

ORDER, STOP = 4, 0.25  # Butterworth filter of FreeInit: order, normalized stop frequency in space and time
REACH = 8  # frames on each side in the mean and variance over time that flicker is measured by


def correlated(noise: Tensor, correlation: float) -> Tensor:
    """Correlates unit noise between frames (mixed noise of PYoCo, Ge et al. 2023, arXiv 2305.10474, 4.1).

    Args:
        noise: unit noise `b c t h w`, independent between frames.
        correlation: share of the variance common to all frames, from 0 to below 1.

    Returns:
        Noise `b c t h w`. Each frame remains unit noise.
    """
    return _scale_mean_and_rest(noise, correlation, 0.5)


def independent(noise: Tensor, correlation: float) -> Tensor:
    """Returns noise that is independent between frames, the inverse of `correlated`."""
    return _scale_mean_and_rest(noise, correlation, -0.5)


def _scale_mean_and_rest(x: Tensor, correlation: float, power: float) -> Tensor:
    """Multiplies x by a power of the correlation matrix along t (eigenspaces: mean and rest)."""
    if correlation == 0:
        return x
    mean = x.mean(2, keepdim=True)
    common = 1 + (x.shape[2] - 1) * correlation
    return common**power * mean + (1 - correlation) ** power * (x - mean)


def rescheduled(noise: Tensor, length: int, stride: int, generator: torch.Generator) -> Tensor:
    """Replaces noise after the first window by shuffled frames of earlier noise.

    This is FreeNoise (Qiu et al. 2023, arXiv 2310.15169). Far frames then share their noise, which keeps the
    content of a long clip consistent. Within a stride the order is random: the motion does not repeat.

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


def reinitialized(noisy: Tensor, fresh: Tensor) -> Tensor:
    """Mixes low frequencies of a noised clip with high frequencies of fresh noise.

    This is FreeInit (Wu et al. 2023, arXiv 2312.07537, section 4.2).
    The layout of the clip is in the low frequencies. A second run from this noise has more consistent frames.

    Args:
        noisy: the clip, noised to the last timestep with its initial noise, `b c t h w`.
        fresh: unit Gaussian noise, `b c t h w`.

    Returns:
        Initial noise of the next run, `b c t h w`.
    """
    axes = (-3, -2, -1)
    low = low_pass(noisy.shape[-3:]).to(noisy.device)
    spectra = (torch.fft.fftn(x.float(), dim=axes) for x in (noisy, fresh))
    kept, new = spectra
    return torch.fft.ifftn(kept * low + new * (1 - low), dim=axes).real.to(noisy.dtype)


def low_pass(shape: Sequence[int]) -> Tensor:
    """Returns the Butterworth low-pass filter of a shape `t h w`, in the order of `torch.fft.fftn`."""
    radii = [2 * torch.arange(size) / size - 1 for size in shape]  # -1 to 1, 0 at frequency 0
    square = sum(r**2 for r in torch.meshgrid(*radii, indexing="ij"))
    return torch.fft.ifftshift(1 / (1 + (square / STOP**2) ** ORDER))


def steady(clip: Tensor, flicker: float, loop: bool = False) -> Tensor:
    """Smooths clean latents over time where they vary little (Wiener filter with noise variance `flicker`).

    Latents become their mean over time where they and their neighbours vary by at most `flicker`. Moving
    regions vary much more and hardly change.

    Args:
        clip: clean latents `b c t h w`.
        flicker: noise variance; 0 disables the filter.
        loop: whether the first frame follows the last one.

    Returns:
        Filtered latents `b c t h w`.
    """
    if flicker == 0:
        return clip
    mean = _over_time(clip, loop)
    variance = _over_time((clip - mean).square(), loop).mean(1, keepdim=True)
    variance = F.max_pool3d(variance, (1, 3, 3), stride=1, padding=(0, 1, 1))
    share = (1 - flicker / variance.clamp(min=flicker)).to(clip)
    return mean + share * (clip - mean)


def _over_time(x: Tensor, loop: bool) -> Tensor:
    """Averages `b c t h w` over `REACH` frames on each side; fewer at the ends of a clip that is no loop."""
    rows, frames, padding = x.flatten(3), x.shape[2], REACH  # b c t h w -> b c t (h w)
    if loop:
        rows, padding = rows[:, :, torch.arange(-REACH, frames + REACH) % frames], 0
    means = F.avg_pool2d(rows, (2 * REACH + 1, 1), stride=1, padding=(padding, 0), count_include_pad=False)
    return means.view(x.shape)
