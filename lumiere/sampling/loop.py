"""The sampling loop. Whatever is optional is inside `denoise`, or around the loop (see pipeline.py)."""

from collections.abc import Callable, Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from lumiere.sampling.schedulers import Schedule

Denoise = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]


class Step(NamedTuple):
    """One finished step: the sample at the next timestep and the predicted clean latents, `b c t h w`."""

    timestep: Tensor
    x: Tensor
    pred_x0: Tensor


def sample(denoise: Denoise, schedule: Schedule, x: Tensor) -> Iterator[Step]:
    """Denoises latents step by step.

    Args:
        denoise: maps the scaled sample and its timestep to the model's prediction and to the clean latents
            which that stands for.
        schedule: timesteps, scaling and the step between two of them.
        x: noisy latents `b c t h w`, as `schedule.start` makes them.

    Yields:
        A `Step` after each timestep. The last `x` is the clean result.
    """
    for timestep in schedule.timesteps:
        with torch.inference_mode():  # not around the yield: a generator may be resumed on another thread
            prediction, pred_x0 = denoise(schedule.scale(x, timestep), timestep)
            x = schedule.step(prediction, timestep, x)
        yield Step(timestep, x, pred_x0)
