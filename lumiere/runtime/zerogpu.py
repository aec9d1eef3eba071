"""ZeroGPU of Hugging Face Spaces: a GPU for the length of one call, in a process that is forked for it.

What follows from that: weights are on the device before the page is served, all checks are made before the
call, as a refusal would cost quota, and what crosses the fork is arrays, never tensors. Elsewhere, nothing of
this is used; the package `spaces` is there where it is needed, put there by the platform.
"""

import contextvars
import multiprocessing
import os
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial

import numpy as np

from lumiere.events import Progress
from lumiere.request import Request
from lumiere.runtime import model_cache

HERE = os.environ.get("SPACES_ZERO_GPU", "").lower() in ("1", "true", "yes")
START_SECONDS, MOST_SECONDS = 10, 120  # of a call: for the weights to come, and all that a visitor may have
PIXEL_SECONDS = 1e-7  # for each that the model sees: a guess on the safe side, as no such GPU was at hand


class ZeroGPU:
    """Makes clips of one model. To be made before the page is served and before torch is imported."""

    def __init__(self, model: model_cache.Model):
        import spaces

        self._pipeline = model_cache.get(model)
        self._stopped = multiprocessing.get_context("fork").Event()  # of the one job that runs at a time
        self._call = spaces.GPU(duration=self.seconds)(self._clip)

    def generate(self, request: Request, given=None) -> Callable[[threading.Event], Iterator]:
        """The work of a `jobs.Job`: `LumierePipeline.generate`, whose checks are made at once.

        Called where gradio answers a visitor, whose quota it is.
        """
        self._pipeline.check(request, given)
        visitor = contextvars.copy_context()

        def run(stop: threading.Event) -> Iterator:
            self._stopped.clear()
            done = threading.Event()
            threading.Thread(target=self._relay_stop, args=(stop, done), daemon=True).start()
            items = visitor.run(self._call, request, given)
            try:
                while (item := visitor.run(next, items, None)) is not None:
                    if isinstance(item, Exception):
                        raise item
                    yield item
            finally:
                done.set()
                visitor.run(items.close)

        return run

    def seconds(self, request: Request, given=None) -> int:
        """How long a call may take; who asks for less waits less."""
        pixels = self._pipeline.frames_shown(request, given) * request.height * request.width
        return min(MOST_SECONDS, round(START_SECONDS + PIXEL_SECONDS * pixels))

    def _clip(self, request: Request, given) -> Iterator:
        """In the forked process: progress with previews made, then the result, or an error to be raised."""
        from lumiere.errors import GenerationError

        try:
            for item in self._pipeline.generate(request, self._stopped.is_set, given):
                if isinstance(item, Progress):
                    item = replace(item, preview=partial(np.asarray, item.preview()))
                yield item
        except GenerationError as error:  # as an item: the platform keeps no message of what is raised
            yield error

    def _relay_stop(self, stop: threading.Event, done: threading.Event) -> None:
        while not done.wait(0.1):
            if stop.is_set():
                self._stopped.set()


def work(pipeline, request: Request, given, zero: ZeroGPU | None) -> Callable[[threading.Event], Iterator]:
    """What a `jobs.Job` runs: the pipeline, or where there is ZeroGPU, that. Raises ValueError."""
    return zero.generate(request, given) if zero else lambda stop: pipeline.generate(request, stop, given)
