"""What a call in the words of diffusers returns."""

from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image
from torch import Tensor

OUTPUT_TYPES = ("pil", "np", "pt")


@dataclass(frozen=True)
class LumiereOutput:
    """Clips of a call.

    Attributes:
        frames: a list of images per clip ("pil"), float32 `b t h w c` from 0 to 1 ("np"), or a tensor
            `b t c h w` of the same values ("pt").
    """

    frames: list[list[Image.Image]] | np.ndarray | Tensor

    @classmethod
    def of(cls, clips: list[np.ndarray], output_type: str) -> "LumiereOutput":
        """Converts clips to one of `OUTPUT_TYPES`.

        Args:
            clips: clips of one size, uint8 `t h w c`.
            output_type: the type of `frames`.
        """
        if output_type == "pil":
            return cls([[Image.fromarray(frame) for frame in clip] for clip in clips])
        stack = np.stack(clips).astype(np.float32) / 255
        return cls(stack if output_type == "np" else torch.from_numpy(stack).permute(0, 1, 4, 2, 3))
