"""A clip of the tiny model, for tests of what makes it."""

import copy

from lumiere.events import Result
from lumiere.pipeline import LumierePipeline
from lumiere.request import Request

REQUEST = Request("a red ball over the hills", frames=8, height=64, width=64, steps=4, seed=7)


def last(pipeline, request, stop=None) -> Result:
    return list(pipeline.generate(request, stop))[-1]


def with_unet(pipeline, forward) -> LumierePipeline:
    """The pipeline with this in the place of its space-time model's forward pass."""
    other = copy.copy(pipeline)
    other.lumiere = copy.deepcopy(pipeline.lumiere)
    other.lumiere.forward = forward
    return other
