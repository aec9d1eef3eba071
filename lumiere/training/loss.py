"""Noisy inputs, targets and loss weights of diffusion training."""

import math
from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from diffusers import DDIMScheduler


def noise_levels(times: Tensor, shift: float, spread: float) -> Tensor:
    """Maps uniform numbers to timesteps, as shares of all timesteps.

    Args:
        times: uniform numbers in [0, 1).
        shift: moves the median to shift / (1 + shift) (Esser et al. 2024, arXiv 2403.03206, 5.3.2).
        spread: scales the distance of each logit from the median's. Below 1, most timesteps are near the
            median, as in the logit-normal sampling of the same paper, which has thinner tails.

    Returns:
        Shares in [0, 1), float64, of the shape of `times`.
    """
    logits = math.log(shift) + spread * torch.logit(times.double())
    return torch.sigmoid(logits).clamp(max=1 - 1e-7)


def noise_and_target(
    scheduler: "DDIMScheduler", latents: Tensor, noise: Tensor, timesteps: Tensor
) -> tuple[Tensor, Tensor]:
    """Returns the noisy latents and the target of the prediction, both `b ...`.

    Args:
        scheduler: scheduler with prediction type "epsilon" or "v_prediction".
        latents: clean latents `b ...`.
        noise: noise `b ...`.
        timesteps: timesteps `b`.

    Raises:
        ValueError: the scheduler has another prediction type.
    """
    kind = scheduler.config.prediction_type
    if kind not in ("v_prediction", "epsilon"):
        raise ValueError(f"The base model should predict v_prediction or epsilon; its config says {kind}.")
    target = noise if kind == "epsilon" else scheduler.get_velocity(latents, noise, timesteps)
    return scheduler.add_noise(latents, noise, timesteps), target


def weighted_error(predicted: Tensor, target: Tensor, weight: Tensor, count: Tensor | None = None) -> Tensor:
    """Returns the mean over clips of each clip's weighted mean squared error.

    Weights are normalized within each clip, so the mean over equal parts of a batch is that of the batch.

    Args:
        predicted: predictions `b ...`.
        target: targets `b ...`.
        weight: weights that broadcast to `b ...`.
        count: factor `b` of each clip. Defaults to 1.
    """
    error = (weight * (predicted.float() - target).square()).flatten(1).mean(1)
    error = error / weight.flatten(1).mean(1)
    return (error if count is None else count * error).mean()


def scale_common(x: Tensor, weight: float) -> Tensor:
    """Scales the mean over frames so that its squared error is multiplied by `weight`.

    Noise shared between frames hides their common content at timesteps where their differences are already
    visible. The error of the common content is therefore large and carries little information about motion.

    Args:
        x: predictions or targets `b c t ...`.
        weight: factor of the squared error of the mean, 0 or more.
    """
    return x + (math.sqrt(weight) - 1) * x.mean(2, keepdim=True)


def min_snr(scheduler: "DDIMScheduler", timesteps: Tensor, most: float) -> Tensor:
    """Returns the Min-SNR loss weight of each clip (Hang et al. 2023, arXiv 2303.09556, 3.4).

    An error of the prediction counts like an error of the clean latents with weight min(SNR, `most`).

    Args:
        scheduler: scheduler with prediction type "epsilon" or "v_prediction".
        timesteps: timesteps `b`.
        most: upper limit of the signal-to-noise ratio, above 0.
    """
    product = scheduler.alphas_cumprod.to(timesteps.device)[timesteps]
    ratio = product / (1 - product)
    multiple = ratio if scheduler.config.prediction_type == "epsilon" else ratio + 1
    return ratio.clamp(max=most) / multiple
