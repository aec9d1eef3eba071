"""Plans the parts of a clip that are denoised in sequence: a still first frame and temporal segments."""

from dataclasses import dataclass

from lumiere.model.conditioning import Given
from lumiere.request import Request, required
from lumiere.sampling.settings import Sampling


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


def plan(request: Request, given: Given | None, sampling: Sampling, takes_cond: bool) -> list[Part]:
    """Returns the parts of a clip, in order.

    A clip runs in one part if its whole last frame is conditioned, or if it starts from another clip
    (`strength` below 1), because the end has to be known from the start.

    Args:
        request: the clip. With `first_frame="base"`, motion weights with conditioning channels start from a
            still.
        given: conditioning frames and mask, or None.
        sampling: `segment` and `context`, in frames.
        takes_cond: whether the motion weights take conditioning channels.
    """
    still = takes_cond and given is None and request.first_frame == "base"
    whole = request.strength < 1 or (given is not None and given.mask[-1].all())
    count = required(request.frames)
    length = count if whole or sampling.segment is None else sampling.segment
    parts = [Part(frames) for frames in segments(count, length, sampling.context)]
    return [Part(slice(0, 1), still=True), *parts] if still else parts


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
