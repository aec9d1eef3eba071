"""The turns in which a clip is made: windows of frames one after another, each in passes over the steps."""

from dataclasses import dataclass, replace
from enum import Enum

import torch

from . import forecaster, opener
from .conditioning import Given
from .request import Request
from .revisions import HIGH, passes
from .sampling import Sampler
from .windows import grow

GOES_ON = 0.7  # share of the steps that a turn takes which is given what was before it


class Beginning(Enum):
    """What frames begin as, with noise.

    Nothing; what is given; what a forecaster tells; what an opener tells, from a still or a first frame that
    is given.
    """

    NOISE, GIVEN, FORECAST, FROM_STILL, FROM_FIRST = range(5)


@dataclass(frozen=True)
class Turn:
    """Frames that are made at once.

    request: with the steps that they take. passes: those steps in the order in which they are run, without
    the first of them where frames begin as more than noise. drafts: made in the first pass. guided_down_to:
    the timestep below which the model is told the prompt alone.
    """

    request: Request
    window: slice
    passes: list[slice]
    drafts: int
    guided_down_to: float
    beginning: Beginning

    @property
    def frames(self) -> int:
        return self.window.stop - self.window.start

    @property
    def steps(self) -> int:
        """One more than denoise where stills are drawn: those of all drafts together."""
        return self.draws_stills + self.denoising_steps

    @property
    def denoising_steps(self) -> int:
        return sum(part.stop - part.start for part in self.passes)

    @property
    def again(self) -> int:
        """Last frames of the clip before it that are made again, so that the clip goes over into the turn."""
        return forecaster.AGAIN if self.beginning is Beginning.FORECAST else 0

    @property
    def draws_stills(self) -> bool:
        return self.beginning is Beginning.FROM_STILL


@dataclass(frozen=True)
class Planner:
    """Divides clips into turns, by the settings of a `LumierePipeline`.

    scheduler_config, growth, guided_above, revisions, drafts: as there. foretold: frames that a forecaster
    tells from as many before them; 0 without one. opened: first frames that an opener tells from a still; 0
    without one.
    """

    scheduler_config: dict
    growth: tuple[int, int] | None = None
    guided_above: float = 0.0
    revisions: int = 0
    drafts: int = 1
    foretold: int = 0
    opened: int = 0

    def turns(self, request: Request, given: Given | None) -> tuple[int, list[Turn]]:
        """How many first frames there are already, and what is made after them."""
        begun, made = self.windows(request, given)
        later = replace(request, steps=max(1, round(GOES_ON * request.steps)))
        turns, there = [], begun
        for window in made:
            turns.append(self._turn(later if there else request, window, there, given))
            there = window.stop
        return begun, turns

    def windows(self, request: Request, given: Given | None) -> tuple[int, list[slice]]:
        """How many first frames there are already, and the frames made one after another."""
        if self.growth is None or request.strength < 1 or (given is not None and given.mask[-1].any()):
            return 0, [slice(0, request.frames)]
        new, before = self.growth
        begun = 0 if given is None else int(given.mask.all((1, 2)).cumprod().sum()) // new * new
        return begun, grow(request.frames, new, before, begun)

    def _turn(self, request: Request, window: slice, there: int, given: Given | None) -> Turn:
        """there: frames that the clip has by then; if any, the window goes on from them."""
        low = self._guided_down_to(request, goes_on=there > 0)
        beginning = self._beginning(request, window, there, given)
        if beginning is Beginning.FORECAST:
            steps = [self._from(forecaster.BEGINS, request)]
        elif beginning in (Beginning.FROM_STILL, Beginning.FROM_FIRST):
            steps = [self._from(opener.BEGINS, request)]
        elif there or request.strength < 1:
            steps = [slice(request.steps - request.steps_run, request.steps)]
        else:
            steps = passes(self._steps_of(request), HIGH * self.timesteps, low, self.revisions)
        drafts = self.drafts if request.strength == 1 and not there else 1
        return Turn(request, window, steps, drafts, low, beginning)

    def _beginning(self, request: Request, window: slice, there: int, given: Given | None) -> Beginning:
        if request.strength < 1:
            return Beginning.GIVEN
        seen, told = there - window.start, window.stop - there
        if seen >= forecaster.AGAIN and there >= self.foretold >= told:  # enough is seen, and all of it told
            return Beginning.FORECAST
        if there or window.stop > self.opened:
            return Beginning.NOISE
        if given is None or not given.mask.any():
            return Beginning.FROM_STILL
        only_the_first = given.mask[0].all() and not given.mask[1:].any()
        return Beginning.FROM_FIRST if only_the_first else Beginning.NOISE

    def _guided_down_to(self, request: Request, goes_on: bool) -> float:
        """The timestep from which on down the model is told the prompt alone.

        Half as far down where a clip goes on: much is decided there.
        """
        if request.strength < 1:
            return 0.0
        share = (1 + self.guided_above) / 2 if goes_on else self.guided_above
        return share * self.timesteps

    def _from(self, share: float, request: Request) -> slice:
        """The steps from that share of the timesteps on down: one at least."""
        skipped = sum(timestep > share * self.timesteps for timestep in self._steps_of(request))
        return slice(min(skipped, request.steps - 1), request.steps)

    def _steps_of(self, request: Request) -> list[float]:
        """The timesteps of a request that begins as noise, the first ones highest."""
        sampler = Sampler(request.scheduler, self.scheduler_config, request.steps, torch.Generator())
        return sampler.timesteps.tolist()

    @property
    def timesteps(self) -> int:
        """Of the training."""
        return self.scheduler_config.get("num_train_timesteps", 1000)
