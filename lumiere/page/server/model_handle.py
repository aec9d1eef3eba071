"""The models of the page: one comes to the device when a clip of it is made, in place of another."""

import gc
import logging
import sys
import threading
from collections import deque
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import replace

from lumiere.loading.hub import telling
from lumiere.page import words
from lumiere.request import Limits, Request
from lumiere.runtime import model_cache, zerogpu

LOOK_SECONDS = 0.5  # between sentences about a loading, at which a visitor who left is noticed, too

log = logging.getLogger("lumiere.runtime.model_cache")


class Served:
    """What the page needs of a pipeline. At most one of several models is on the device."""

    def __init__(self, name: str, model: model_cache.Model, device: str | None = None):
        self.name, self.model, self.device = name, model, device

    def generate(self, request: Request, stop: threading.Event, given=None) -> Iterator:
        """As `LumierePipeline.generate`, after sentences about the loading where the model is not there.

        For whose turn it is on the device: nothing else may run meanwhile. Raises GenerationError for what
        can be told to whoever asked: that it cannot be loaded, or that the clip would not fit.
        """
        if model_cache.resident(self.model, self.device) is None:
            yield from self._load()
        model = replace(self.model, style=self.model.style.weighted(request.style_weights))
        if model_cache.resident(model, self.device).styler.style != model.style:
            yield words.STYLING
        pipeline = model_cache.get(model, self.device)
        from lumiere.pipeline import GenerationError  # not before: the page opens without torch

        try:
            items = pipeline.generate(request, stop, given)
        except ValueError as refusal:
            raise GenerationError(str(refusal)) from None
        yield from items

    def unknown_words(self, prompt: str) -> list[str]:
        """As of the pipeline; none while the model is not there."""
        pipeline = model_cache.resident(self.model, self.device)
        return pipeline.unknown_words(prompt) if pipeline else []

    def _load(self) -> Iterator[str]:
        """Loads the model on another thread and tells how far that is; ends with it, even if nobody waits."""
        news = deque([words.loading(self.name)], maxlen=1)

        def load():
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
            log.error("%s", words.unloadable(error), exc_info=None if expected else error)
            from lumiere.errors import GenerationError

            raise GenerationError(words.no_model(self.name)) from None
        settle()


def there(allowed: dict[str, model_cache.Model]) -> dict[str, tuple[model_cache.Model, Limits]]:
    """The models with their limits; of several, those whose small files can be had.

    Raises OSError and ValueError in words.
    """
    if zerogpu.HERE and len(allowed) > 1:
        raise ValueError(words.ONE_ON_ZERO)
    found = {}
    for number, (name, model) in enumerate(allowed.items(), 1):
        try:
            limits = model_cache.limits(model)
            if zerogpu.HERE:  # where weights are as they were before the fork
                limits = replace(limits, styles=())
            found[name] = model_cache.within(model, limits), limits
        except OSError as error:
            if number == len(allowed) and not found:
                raise
            tell(words.left_out(name, error))
    return found


def first_ready(model: model_cache.Model, device: str | None, alone: bool) -> str:
    """Loads the model that is there from the start, and returns what the operator is told then.

    alone: there is no other. Raises OSError and ValueError in words; where there are others, they go on.
    """
    try:
        told = words.ready(model_cache.get(model, device).device.type)
    except (OSError, ValueError) as error:
        if alone:
            raise
        tell(words.unloadable(error))
        told = words.PAGE_READY
    settle()
    return told


def tell(sentence: str) -> None:
    print(sentence, file=sys.stderr, flush=True)


def settle() -> None:
    """Once all is loaded: what is there stays, and to look for garbage in it takes 0.3 s each time."""
    gc.collect()
    gc.freeze()
