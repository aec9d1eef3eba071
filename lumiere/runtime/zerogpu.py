"""ZeroGPU on Hugging Face Spaces: a GPU for the duration of one call, in a forked process.

The weights are therefore on the device before the page is served. Requests are checked before the call,
since a refusal inside it would cost quota. Only arrays cross the fork, never tensors. This module is unused
elsewhere; the platform installs the package `spaces`.
"""

import contextvars
import multiprocessing
import os
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from lumiere.errors import GenerationError
from lumiere.events import Progress, Result
from lumiere.request import Request, required
from lumiere.runtime import model_cache

if TYPE_CHECKING:  # imports torch
    from lumiere.model.conditioning import Given

Work = Callable[[threading.Event], Iterator[str | Progress | Result]]  # of a `jobs.Job`

HERE = os.environ.get("SPACES_ZERO_GPU", "").lower() in ("1", "true", "yes")
START_SECONDS, MOST_SECONDS = 10, 120  # of a call: overhead for moving the weights, upper limit for a visitor
PIXEL_SECONDS = 1e-7  # per pixel that the model sees: a conservative guess, not measured on this GPU


class ZeroGPU:
    """Generates clips of one model on ZeroGPU. Create it before serving the page and before importing torch.

    Args:
        model: registry entry.
    """

    def __init__(self, model: model_cache.Model):
        import spaces

        self._model, self._pipeline = model, model_cache.get(model)
        self._stopped = multiprocessing.get_context("fork").Event()  # of the only running job
        self._call = spaces.GPU(duration=self.seconds)(self._clip)

    def generate(self, request: Request, given: "Given | None" = None) -> Work:
        """Checks a request at once and returns the work of a `jobs.Job`, like `LumierePipeline.generate`.

        Call it inside gradio's event handler: the call uses the quota of that visitor.

        Args:
            request: request.
            given: given pixels, or None.

        Raises:
            ValueError: the request cannot run on this model and device.
        """
        self._pipeline.check(request, given)
        visitor = contextvars.copy_context()

        def run(stop: threading.Event) -> Iterator[str | Progress | Result]:
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

    def seconds(self, request: Request, given: "Given | None" = None) -> int:
        """Returns the duration to reserve for a call, in seconds; shorter calls wait less.

        Args:
            request: request.
            given: given pixels, or None.
        """
        size = required(request.height) * required(request.width)
        pixels = self._pipeline.frames_shown(request, given) * size
        return min(MOST_SECONDS, round(START_SECONDS + PIXEL_SECONDS * pixels))

    def _clip(self, request: Request, given: "Given | None") -> Iterator[Progress | Result | GenerationError]:
        """Runs in the forked process; yields progress with computed previews, then the result or an error."""
        style = self._model.style.weighted(request.style_weights)
        if style != self._pipeline.style:
            self._pipeline.restyle(style)  # of this process: the next call forks from unchanged weights
        try:
            for item in self._pipeline.generate(request, self._stopped.is_set, given):
                if isinstance(item, Progress):
                    item = replace(item, preview=partial(np.asarray, item.preview()))
                yield item
        except GenerationError as error:  # yielded: the platform drops the messages of raised errors
            yield error

    def _relay_stop(self, stop: threading.Event, done: threading.Event) -> None:
        while not done.wait(0.1):
            if stop.is_set():
                self._stopped.set()
