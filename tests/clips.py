"""A clip of the tiny model, for tests of what makes it, and settings that draw training clips."""

import copy

from lumiere.events import Result
from lumiere.pipeline import LumierePipeline
from lumiere.request import Request
from lumiere.training.config import Settings

REQUEST = Request("a red ball over the hills", frames=8, height=64, width=64, steps=4, seed=7)


def last(pipeline, request, stop=None) -> Result:
    return list(pipeline.generate(request, stop))[-1]


def drawing(batch_size: int, frames: int, **options) -> Settings:
    """Settings of a batch whose clips all have captions and no conditioning, unless options say otherwise."""
    options = {"caption_dropout": 0, "cond_prob": 0} | options
    return Settings("model", "data", "out", batch_size=batch_size, frames=frames, **options)


def with_unet(pipeline, forward) -> LumierePipeline:
    """The pipeline with this in the place of its space-time model's forward pass."""
    other = copy.copy(pipeline)
    other.lumiere = copy.deepcopy(pipeline.lumiere)
    other.lumiere.forward = forward
    return other
