"""The sampling loop. Optional behaviour belongs in `denoise`, or around the loop (see pipeline.py)."""

from collections.abc import Callable, Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from lumiere.sampling.schedulers import Schedule

Denoise = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]


class Step(NamedTuple):
    """One denoising step.

    Attributes:
        timestep: the timestep of the prediction.
        x: sample at the next timestep, `b c t h w`.
        pred_x0: predicted clean latents, `b c t h w`.
    """

    timestep: Tensor
    x: Tensor
    pred_x0: Tensor


def sample(denoise: Denoise, schedule: Schedule, x: Tensor) -> Iterator[Step]:
    """Denoises latents step by step.

    Args:
        denoise: maps a scaled sample and its timestep to the prediction and the predicted clean latents.
        schedule: timesteps, scaling and update rule.
        x: noisy latents `b c t h w` from `schedule.start`.

    Yields:
        A `Step` after each timestep. The last `x` is the clean result.
    """
    for timestep in schedule.timesteps:
        with torch.inference_mode():  # excludes the yield: another thread may resume the generator
            prediction, pred_x0 = denoise(schedule.scale(x, timestep), timestep)
            x = schedule.step(prediction, timestep, x)
        yield Step(timestep, x, pred_x0)
