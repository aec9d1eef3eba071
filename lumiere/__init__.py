"""Lumiere: text to video with a space-time model inserted into a frozen text-to-image UNet.

Names are loaded when they are first used, so that `import lumiere` does not import torch.
"""

import importlib
from typing import Any

_PLACES = {
    "Lumiere": "lumiere.model.lumiere",
    "LumierePipeline": "lumiere.pipeline",
    "Request": "lumiere.request",
    "load_motion": "lumiere.model.motion_weights",
    "save_motion": "lumiere.model.motion_weights",
    "load_adapter": "lumiere.model.animatediff",
    "ConvolutionInflationBlock": "lumiere.model.layers",
    "AttentionInflationBlock": "lumiere.model.layers",
    "TemporalDownsample": "lumiere.model.layers",
    "TemporalUpsample": "lumiere.model.layers",
}
__all__ = [*_PLACES, "models"]


def __getattr__(name: str) -> Any:
    if name == "models":
        return importlib.import_module("lumiere.runtime.model_cache")
    if name not in _PLACES:
        raise AttributeError(f"module lumiere has no attribute {name}")
    return getattr(importlib.import_module(_PLACES[name]), name)
