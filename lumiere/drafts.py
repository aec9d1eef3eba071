"""Several drafts of one clip, of which the one that the model itself would change least is finished."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from .sampling import Sampler

LOOKS, LEVEL = 2, 0.3  # noises that a draft is looked at under, and their share of the timesteps
APART = 0x9E3779B97F4A7C15  # between the seeds of drafts, so that they are none that a person would choose


@dataclass
class Draft:
    """A clip in the making: latents with noise, and clean ones, float32 `1 c t h w`.

    clean: what it began as, and after a step what was predicted last. known: latents that are given, and
    which of them are, bool (t h w).
    """

    sampler: Sampler
    sample: Tensor
    clean: Tensor | None = None
    known: tuple[Tensor, Tensor] | None = None


def generators(seed: int, count: int) -> Iterator[torch.Generator]:
    """One for each draft; that of the first is of the seed itself."""
    for number in range(count):
        yield torch.Generator().manual_seed((seed + number * APART) % 2**63)


def unrest(draft: Draft, predict: Callable[[Tensor, Tensor], Tensor], timesteps: int) -> float:
    """How much the model would change a draft, were it shown to it with some noise.

    A clip that is like those of its training is what it would make of it, one in which a thing is there twice
    or has no outline is not; how frames differ from their mean counts twice. Small only where the clip is
    likely, as the errors of diffusion classifiers (Li et al. 2023, arXiv 2303.16203) are.

    predict(noisy, timestep): the clean latents that the model sees in noisy ones. timesteps: of its training.
    All drafts are looked at under the same noise.
    """
    generator, timestep = torch.Generator().manual_seed(0), torch.tensor(int(LEVEL * timesteps))
    total = 0.0
    for _ in range(LOOKS):
        noise = torch.randn(draft.clean.shape, generator=generator).to(draft.clean)
        change = predict(draft.sampler.noisy(draft.clean, noise, timestep), timestep) - draft.clean
        moving = change - change.mean(2, keepdim=True)
        total += (change.square().mean() + moving.square().mean()).item()
    return total
