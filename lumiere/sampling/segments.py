"""Which frames of a clip are denoised one after another: its first frame, then segments."""

from dataclasses import dataclass

from lumiere.model.conditioning import Given
from lumiere.request import Request
from lumiere.sampling.settings import Sampling


@dataclass(frozen=True)
class Part:
    """Frames that are denoised in one run of the loop. still: the first frame alone, by the base."""

    frames: slice
    still: bool = False

    @property
    def length(self) -> int:
        return self.frames.stop - self.frames.start


def plan(request: Request, given: Given | None, sampling: Sampling, takes_cond: bool) -> list[Part]:
    """The parts of a clip, in order.

    Args:
        request: `first_frame="base"` begins with a still where the motion weights take given pixels.
        given: pixels that a person gives. A clip whose last frame is given whole is denoised at once, as is
            one that starts from another clip (`strength` below 1): what ends it must be known from the start.
        sampling: `segment` and `context`, in frames.
        takes_cond: whether the motion weights take given pixels.
    """
    still = takes_cond and given is None and request.first_frame == "base"
    whole = request.strength < 1 or (given is not None and given.mask[-1].all())
    length = request.frames if whole or sampling.segment is None else sampling.segment
    parts = [Part(frames) for frames in segments(request.frames, length, sampling.context)]
    return [Part(slice(0, 1), still=True), *parts] if still else parts


def segments(frames: int, length: int, context: int) -> list[slice]:
    """Segments of `length` frames that follow each other and share `context` frames or more.

    Raises:
        ValueError: `context` is not from 0 to `length` - 1.
    """
    if not 0 <= context < length:
        raise ValueError(f"context must be from 0 to {length - 1} frames: received {context}.")
    found = [slice(0, min(length, frames))]
    while found[-1].stop < frames:
        stop = min(found[-1].stop + length - context, frames)
        found.append(slice(stop - length, stop))
    return found
