"""Lazily loaded models: generating a clip moves its model to the device and replaces the previous one."""

import gc
import logging
import sys
import threading
from collections import deque
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import replace
from typing import TYPE_CHECKING

from lumiere.errors import GenerationError
from lumiere.events import Progress, Result
from lumiere.loading import catalogue
from lumiere.loading.hub import telling
from lumiere.page import strings
from lumiere.request import Limits, Request, required
from lumiere.runtime import model_cache, zerogpu

if TYPE_CHECKING:  # imports torch
    from lumiere.model.conditioning import Given

LOOK_SECONDS = 0.5  # between loading messages; a disconnected client is noticed at each

log = logging.getLogger("lumiere.runtime.model_cache")


class ModelHandle:
    """A handle with the pipeline methods that the page uses. At most one model is on the device.

    Args:
        name: name of the model on the page.
        model: registry entry.
        device: "cuda", "mps" or "cpu". Defaults to the first available.
    """

    def __init__(self, name: str, model: model_cache.Model, device: str | None = None):
        self.name, self.model, self.device = name, model, device

    def generate(
        self, request: Request, stop: threading.Event, given: "Given | None" = None
    ) -> Iterator[str | Progress | Result]:
        """Loads the model if necessary, then runs `LumierePipeline.generate`.

        Only the job that holds the device may call this.

        Args:
            request: the request to process.
            stop: ends the sampling early when set.
            given: given pixels of the mode. Defaults to None.

        Yields:
            Status sentences while the model loads, then the items of the pipeline.

        Raises:
            GenerationError: the model cannot be loaded, or the clip does not fit; its message is for users.
        """
        if model_cache.resident(self.model, self.device) is None:
            yield from self._load()
        model = replace(self.model, style=self.model.style.weighted(request.style_weights))
        if required(model_cache.resident(model, self.device)).style != model.style:
            yield strings.STYLING
        pipeline = model_cache.get(model, self.device)
        if pipeline.cameras_of(request) != pipeline.adapter.cameras:
            yield strings.MOVING
        try:
            items = pipeline.generate(request, stop, given)
        except ValueError as refusal:
            raise GenerationError(str(refusal)) from None
        yield from items

    def unknown_words(self, prompt: str) -> list[str]:
        """Returns `LumierePipeline.unknown_words`; an empty list while the model is not loaded."""
        pipeline = model_cache.resident(self.model, self.device)
        return pipeline.unknown_words(prompt) if pipeline else []

    def close_keys(self, request: Request) -> str | None:
        """Returns `LumierePipeline.close_keys`; None while the model is not loaded."""
        pipeline = model_cache.resident(self.model, self.device)
        return pipeline.close_keys(request) if pipeline else None

    def _load(self) -> Iterator[str]:
        """Loads the model on another thread and yields progress messages; closing it waits for the thread."""
        news = deque([strings.loading(self.name)], maxlen=1)

        def load() -> None:
            with telling(news.append):
                model_cache.get(self.model, self.device)

        with ThreadPoolExecutor(1, "lumiere-loading") as pool:
            loading = pool.submit(load)
            while not loading.done():
                yield news[0]
                wait([loading], LOOK_SECONDS)
        error = loading.exception()
        if error is not None:
            expected = isinstance(error, OSError | ValueError)
            log.error("%s", strings.unloadable(error), exc_info=None if expected else error)
            raise GenerationError(strings.no_model(self.name)) from None
        settle()


def there(
    allowed: dict[str, model_cache.Model], fetches: bool = False
) -> dict[str, tuple[model_cache.Model, Limits]]:
    """Returns the available models with their limits; skips models whose config files cannot be read.

    Args:
        allowed: model name -> registry entry.
        fetches: whether visitors may cause downloads. If not, camera moves are left out that need one.

    Returns:
        model name -> (registry entry, limits).

    Raises:
        OSError: no model is available.
        ValueError: two or more models on ZeroGPU.
    """
    if zerogpu.HERE and len(allowed) > 1:
        raise ValueError(strings.ONE_ON_ZERO)
    found = {}
    for number, (name, model) in enumerate(allowed.items(), 1):
        try:
            limits = model_cache.limits(model)
            if zerogpu.HERE and model.style.base:  # blending would load both bases in every call
                limits = replace(limits, styles=())
            if not fetches:
                kept = tuple(move for move in limits.cameras if catalogue.camera_on_disk(move, model))
                limits = replace(limits, cameras=kept)
            found[name] = model_cache.within(model, limits), limits
        except OSError as error:
            if number == len(allowed) and not found:
                raise
            tell(strings.left_out(name, error))
    return found


def first_ready(model: model_cache.Model, device: str | None, alone: bool) -> str:
    """Loads the first model and returns a message for the console.

    With other models, a failure is logged and the page starts without this model.

    Args:
        model: registry entry.
        device: device name. Defaults to the first available.
        alone: whether it is the only model.

    Raises:
        OSError: the only model cannot be read.
        ValueError: the only model is not supported.
    """
    try:
        told = strings.ready(model_cache.get(model, device).device.type)
    except (OSError, ValueError) as error:
        if alone:
            raise
        tell(strings.unloadable(error))
        told = strings.PAGE_READY
    settle()
    return told


def tell(sentence: str) -> None:
    """Prints a message to stderr."""
    print(sentence, file=sys.stderr, flush=True)


def settle() -> None:
    """Freezes the loaded objects: garbage collection would otherwise scan them, 0.3 s each time."""
    gc.collect()
    gc.freeze()
