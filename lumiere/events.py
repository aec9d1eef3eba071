"""What a run tells: its progress after each step, and the clip (standard library only)."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from lumiere.request import Request

if TYPE_CHECKING:
    import numpy as np


@dataclass(frozen=True)
class Progress:
    """One finished step.

    Attributes:
        step, steps: how many are done, and how many there are in all parts of the clip.
        share: of the work that is done, 0 to 1. Steps differ in the frames that the model sees.
        seconds: since the run began.
        length: frames of the clip so far; less than asked for until the last segment is begun.
        preview: makes the predicted clip, small, uint8 (t h w c).
    """

    step: int
    steps: int
    share: float
    seconds: float
    length: int
    preview: "Callable[[], np.ndarray]"


@dataclass(frozen=True)
class Result:
    """The clip: frames uint8 (t h w c), and the request that makes it again, seed included.

    steps: of all parts of the clip together. One that was stopped may have fewer frames than asked for.
    """

    frames: "np.ndarray"
    request: Request
    steps: int
    steps_done: int
    stopped: bool
    seconds: float
