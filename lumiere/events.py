"""Events of a run: progress after each step, and the resulting clip (standard library only)."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from lumiere.request import Request

if TYPE_CHECKING:
    import numpy as np


@dataclass(frozen=True)
class Progress:
    """Progress after a step.

    Attributes:
        step: number of finished steps.
        steps: number of steps in all parts of the clip.
        share: finished share of the work, 0 to 1. Steps are weighted by the frames that the model processes.
        seconds: time since the start of the run.
        length: current number of frames of the clip. Reaches the requested number in the last segment.
        preview: returns small frames of the predicted clip, uint8 `t h w c`, or None without a preview.
    """

    step: int
    steps: int
    share: float
    seconds: float
    length: int
    preview: "Callable[[], np.ndarray | None]"


@dataclass(frozen=True)
class Result:
    """The resulting clip.

    Attributes:
        frames: uint8 `t h w c`, possibly fewer than requested if the run was stopped.
        request: reproduces the clip, seed included.
        steps: number of steps in all parts of the clip.
        steps_done: number of finished steps.
        stopped: whether the run was stopped early.
        seconds: duration of the run.
    """

    frames: "np.ndarray"
    request: Request
    steps: int
    steps_done: int
    stopped: bool
    seconds: float
