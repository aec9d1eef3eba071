"""What the rows of the evaluation need of a studio: clips of one model, seed and set of settings."""

from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from lumiere.model.conditioning import Given
from lumiere.pipeline import LumierePipeline
from lumiere.request import Request

Setting = bool | int | float | str | None  # of a field of `Request`; None selects the model's default


class ClipSource(Protocol):
    """Generates clips, as `evaluate.Studio` does.

    Attributes:
        folder: model folder.
        seed: base seed; the clip of prompt `index` uses `seed + index`.
        pipeline: the pipeline of the model.
    """

    folder: Path
    seed: int
    pipeline: LumierePipeline

    def request(self, prompt: str, frames: int, index: int, **settings: Setting) -> Request:
        """Returns the `Request` of a prompt."""

    def make(
        self,
        prompt: str,
        frames: int,
        index: int,
        given: Given | None = None,
        whole: bool = False,
        **settings: Setting,
    ) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
        """Returns a clip and the preview of its last step, `t h w c` each."""

    def clip(
        self,
        prompt: str,
        frames: int,
        index: int,
        given: Given | None = None,
        whole: bool = False,
        **settings: Setting,
    ) -> NDArray[np.uint8]:
        """Returns only the clip."""

    def through_autoencoder(self, frames: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Encodes and decodes frames `t h w c` with the VAE."""
