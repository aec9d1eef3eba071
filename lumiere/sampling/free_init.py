"""Refines the initial noise of a clip from the clip itself (FreeInit, Wu et al. 2023, arXiv 2312.07537)."""

from collections.abc import Sequence

import torch
from torch import Tensor

ORDER, STOP = 4, 0.25  # Butterworth filter: order, normalized stop frequency in space and time


def reinitialized(noisy: Tensor, fresh: Tensor) -> Tensor:
    """Mixes low frequencies of a noised clip with high frequencies of fresh noise (section 4.2).

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
