"""One clip in the making: what each of its turns begins as, in drafts, denoised pass by pass."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from .drafts import Draft, unrest
from .forecaster import Forecaster, with_what_stands_still
from .opener import Opener
from .prediction import Predictor
from .request import Request
from .sampling import Sampler
from .stills import draw_still
from .text import Text
from .turns import Beginning, Planner, Turn
from .windows import going_on, joined


@dataclass(frozen=True)
class Denoising:
    """What stays the same in all turns of a clip.

    planner: what the turns come from. forecaster, opener: of the `LumierePipeline`. shape: of a frame in
    latents, c h w. text: of the request. known: latents (1 c t h w), and which of them are given, bool
    (t h w). draws: a generator for each draft. stopped: asked before each step.
    """

    predict: Predictor
    planner: Planner
    forecaster: Forecaster | None
    opener: Opener | None
    shape: tuple[int, int, int]
    text: Text
    known: tuple[Tensor, Tensor] | None
    draws: list[torch.Generator]
    stopped: Callable[[], bool]

    def turn(self, turn: Turn, clip: Tensor | None) -> Iterator[Draft]:
        """Yields the draft that there is after each step: the first of several while they are made together.

        Each pass begins with the clean clip of the one before it and new noise. clip: what there is before
        the turn. When it is stopped there are no more.
        """
        drafts = []
        for draw in self.draws[: turn.drafts]:
            still = self._still(turn.request, draw) if turn.draws_stills else None
            if turn.draws_stills and still is None:
                return
            drafts.append(self._begin(turn, turn.passes[0], draw, *self._start(turn, clip, still)))
        if turn.draws_stills:
            yield drafts[0]
        for number, part in enumerate(turn.passes):
            if number:
                drafts = [self._begin(turn, part, self.draws[0], drafts[0].clean, drafts[0].known)]
            timesteps = drafts[0].sampler.timesteps[: part.stop - part.start]
            for timestep in timesteps:
                if self.stopped():
                    return
                guided = timestep >= turn.guided_down_to or turn.request.guidance <= 1
                told = (self.text, turn.request.guidance) if guided else (self.text.last(), 1.0)
                for draft in drafts:
                    self._step(draft, timestep, *told)
                if len(drafts) > 1 and timestep == timesteps[-1]:
                    drafts = [min(drafts, key=self._unrest)]
                yield drafts[0]

    @torch.inference_mode()
    def _still(self, request: Request, generator: torch.Generator) -> Tensor | None:
        """Clean latents (1 c 1 h w), by the base alone, of what is asked for at rest; None when stopped."""
        sampler, noise = self._sampler(request, generator), self._noise(1, generator)
        text = self.text.with_last(self.opener.rest(self.text.last().states))
        return draw_still(self.predict.base(), sampler, noise, text, request.guidance, self.stopped)

    @torch.inference_mode()
    def _start(
        self, turn: Turn, clip: Tensor | None, still: Tensor | None
    ) -> tuple[Tensor | None, tuple[Tensor, Tensor] | None]:
        """What the frames of a turn begin as, clean latents or None for noise, and what of them is given.

        clip: the frames before. still: what the first of them follow.
        """
        prompt = self.text.last().states
        match turn.beginning:
            case Beginning.FORECAST:
                before = clip
                told = self.forecaster.window(clip, turn.window, prompt)
            case Beginning.FROM_STILL:
                before = still
                told = self.opener.likeliest(still, prompt)[:, :, turn.window]
            case Beginning.FROM_FIRST:
                before = self.known[0][:, :, :1]
                told = self.opener.likeliest(before, prompt)
                told = joined(before, told, slice(1, None))[:, :, turn.window]
            case Beginning.GIVEN:
                return self.known[0], going_on(clip, turn.window, self.known)
            case Beginning.NOISE:
                return None, going_on(clip, turn.window, self.known)
        given = going_on(clip, turn.window, self.known, turn.again)
        return told, with_what_stands_still(told, given, before)

    def _begin(
        self,
        turn: Turn,
        part: slice,
        generator: torch.Generator,
        begins_as: Tensor | None,
        known: tuple[Tensor, Tensor] | None,
    ) -> Draft:
        """A draft of a window at the first of some steps: noise, or clean latents with noise."""
        sampler = self._sampler(turn.request, generator, part.start)
        noise = self._noise(turn.frames, generator)
        return Draft(sampler, sampler.start(noise, begins_as), begins_as, known)

    def _sampler(self, request: Request, generator: torch.Generator, first: int = 0) -> Sampler:
        """One that runs the steps of the request from the numbered one on."""
        correlation, last = self.predict.lumiere.noise_correlation, request.steps - first
        config = self.planner.scheduler_config
        return Sampler(request.scheduler, config, request.steps, generator, correlation, last)

    def _noise(self, frames: int, generator: torch.Generator) -> Tensor:
        """Unit noise, float32 (1 c t h w), drawn on the CPU: it depends on the seed and the shape alone."""
        channels, *size = self.shape
        return torch.randn((1, channels, frames, *size), generator=generator).to(self.predict.device)

    # Around each step, because it must not span a yield: a generator may be resumed on another thread.
    @torch.inference_mode()
    def _step(self, draft: Draft, timestep: Tensor, text: Text, guidance: float) -> None:
        """Goes on with a draft by one step."""
        model_input = draft.sampler.model_input(draft.sample, timestep)
        output, draft.clean = self.predict(
            draft.sampler, model_input, timestep, text, guidance, draft.known, draft.clean
        )
        draft.sample = draft.sampler.step(output, timestep, draft.sample)
        if self.predict.device.type != "cpu":
            torch.accelerator.synchronize(self.predict.device)  # time and stop mean this step, not one queued

    def _unrest(self, draft: Draft) -> float:
        """How much the model would change a draft, told the prompt alone."""
        text = self.text.last()
        return unrest(
            draft,
            lambda *shown: self.predict(draft.sampler, *shown, text, 1.0, draft.known)[1],
            self.planner.timesteps,
        )
