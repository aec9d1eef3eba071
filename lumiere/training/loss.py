"""What a model that denoises is shown and should answer, and how its errors count."""

import math

import torch
from torch import Tensor


def noise_levels(times: Tensor, shift: float, spread: float) -> Tensor:
    """Timesteps, as shares of all, for numbers in [0, 1) that are uniform.

    shift: moves the median to shift / (1 + shift) (Esser et al. 2024, arXiv 2403.03206, 5.3.2). spread:
    scales the distances of their logits from the median's; below 1 most timesteps are near it, as in the
    logit-normal sampling of the same paper, which has thinner tails.
    """
    logits = math.log(shift) + spread * torch.logit(times.double())
    return torch.sigmoid(logits).clamp(max=1 - 1e-7)


def noise_and_target(scheduler, clean: Tensor, noise: Tensor, timesteps: Tensor) -> tuple[Tensor, Tensor]:
    """What the model is shown and should answer, at timesteps (b,), for clean and noise `b ...`."""
    kind = scheduler.config.prediction_type
    if kind not in ("v_prediction", "epsilon"):
        raise ValueError(f"The base model should predict v_prediction or epsilon; its config says {kind}.")
    target = noise if kind == "epsilon" else scheduler.get_velocity(clean, noise, timesteps)
    return scheduler.add_noise(clean, noise, timesteps), target


def weighted_error(predicted: Tensor, target: Tensor, weight: Tensor, count: Tensor | None = None) -> Tensor:
    """Mean over the clips (the first axis) of the weighted mean squared error of each.

    Each clip is weighted within itself, so that the mean over parts of a batch is that of the whole. It
    counts once, or as much as `count` (b,) says.
    """
    error = (weight * (predicted.float() - target).square()).flatten(1).mean(1)
    error = error / weight.flatten(1).mean(1)
    return (error if count is None else count * error).mean()


def scale_common(x: Tensor, weight: float) -> Tensor:
    """x `b c t ...` with what all frames have in common scaled, so that its square counts for `weight`.

    Noise that frames share hides what they have in common long after it shows how they differ, so an error
    of that is large and tells little where motion is learnt.
    """
    return x + (math.sqrt(weight) - 1) * x.mean(2, keepdim=True)


def min_snr(scheduler, timesteps: Tensor, most: float) -> Tensor:
    """How much an error of the target counts at timesteps (b,) (Hang et al. 2023, arXiv 2303.09556, 3.4).

    As much as one of the clean clip that counts for the ratio of signal to noise there, or `most` at most.
    """
    product = scheduler.alphas_cumprod.to(timesteps.device)[timesteps]
    ratio = product / (1 - product)
    multiple = ratio if scheduler.config.prediction_type == "epsilon" else ratio + 1
    return ratio.clamp(max=most) / multiple
