"""Plans how a clip is denoised: the parts in sequence, windows and steps of each."""

from dataclasses import dataclass

import torch

from lumiere.model.conditioning import Given
from lumiere.model.lumiere import Lumiere
from lumiere.request import Request, required
from lumiere.sampling.schedulers import Schedule
from lumiere.sampling.settings import Sampling
from lumiere.sampling.temporal_windows import windows_of


@dataclass(frozen=True)
class Part:
    """Frames denoised in one run of the loop.

    Attributes:
        frames: slice of the clip.
        still: whether the base draws this single frame.
    """

    frames: slice
    still: bool = False

    @property
    def length(self) -> int:
        """Number of frames."""
        return self.frames.stop - self.frames.start


@dataclass(frozen=True)
class Plan:
    """How the clip of a request is denoised.

    Attributes:
        request: the clip, with the model's defaults. With `first_frame="base"`, motion weights with
            conditioning channels start from a frame of the base.
        given: conditioning frames and mask, or None.
        sampling: sampling settings of the model.
        lumiere: the inflated UNet.
        scheduler_config: config of the scheduler.
    """

    request: Request
    given: Given | None
    sampling: Sampling
    lumiere: Lumiere
    scheduler_config: dict

    @property
    def parts(self) -> list[Part]:
        """The parts of the clip, in order.

        Three kinds of clips run in one part, because their end has to be known from the start: clips whose
        whole last frame is conditioned, clips that start from another clip (`strength` below 1), and loops.
        """
        request, given = self.request, self.given
        whole = self.request.loop or request.strength < 1 or (given is not None and given.mask[-1].all())
        frames, length = required(request.frames), None if whole else self.sampling.segment
        found = segments(frames, length or frames, self.sampling.context if length else 0)
        still = self.lumiere.cond_channels > 0 and given is None and request.first_frame == "base"
        return [Part(slice(0, 1), still=True)] * still + [Part(part) for part in found]

    def windows(self, part: Part) -> list[slice]:
        """Returns the temporal windows of a part. With FreeNoise, the attention layers have the windows."""
        if self.sampling.free_noise:
            return [slice(0, part.length)]
        factor = self.lumiere.downsample_factor
        return windows_of(part.length, self.sampling.window, self.lumiere.positions, factor)

    def passes(self, part: Part) -> int:
        """Returns how often a part is denoised; more than once with FreeInit, which starts from noise."""
        return 1 if part.still or self.request.strength < 1 else self.sampling.free_init

    def schedule(self, generator: torch.Generator) -> Schedule:
        """Returns the schedule of one pass over a part.

        Args:
            generator: CPU generator of the noise of stochastic schedulers.
        """
        options = generator, self.lumiere.noise_correlation, self.request.steps_run
        scheduler, steps = required(self.request.scheduler), required(self.request.steps)
        return Schedule(scheduler, self.scheduler_config, steps, *options)

    @property
    def guidance_interval(self) -> tuple[float, float]:
        """The lowest and highest guided timestep."""
        low, high = self.sampling.guidance_interval if self.request.strength == 1 else (0.0, 1.0)
        timesteps = self.scheduler_config.get("num_train_timesteps", 1000)
        return low * timesteps, high * timesteps

    def work(self, part: Part) -> list[int]:
        """Returns the frames processed at each step of a part, over all windows and texts."""
        frames = sum(window.stop - window.start for window in self.windows(part))
        low, high = self.guidance_interval
        return self.passes(part) * [
            frames * (2 if self.request.guidance != 1 and low <= timestep <= high else 1)
            for timestep in self.schedule(torch.Generator()).timesteps.tolist()
        ]

    @property
    def longest_window(self) -> int:
        """Largest number of frames of a forward pass."""
        windows = [window for part in self.parts for window in self.windows(part)]
        return max(window.stop - window.start for window in windows)

    @property
    def seams(self) -> list[int]:
        """The frames at which a segment or window starts or ends."""
        parts = [part for part in self.parts if not part.still]
        if len(parts) > 1:
            return [part.frames.stop for part in parts[:-1]]
        edges = {edge for window in self.windows(parts[0]) for edge in (window.start, window.stop)}
        return sorted(edges - {0, parts[0].length})


def segments(frames: int, length: int, context: int) -> list[slice]:
    """Splits a clip into consecutive segments that overlap by at least `context` frames.

    Args:
        frames: length of the clip.
        length: maximum length of a segment.
        context: minimum overlap, 0 to `length` - 1.

    Raises:
        ValueError: `context` is out of range.
    """
    if not 0 <= context < length:
        raise ValueError(f"context must be from 0 to {length - 1} frames: received {context}.")
    found = [slice(0, min(length, frames))]
    while found[-1].stop < frames:
        stop = min(found[-1].stop + length - context, frames)
        found.append(slice(stop - length, stop))
    return found
