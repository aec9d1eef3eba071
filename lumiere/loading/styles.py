"""What changes the look of a base model: LoRA files and a style-tuned twin (standard library only)."""

import math
from dataclasses import dataclass, replace
from pathlib import Path


@dataclass(frozen=True)
class Style:
    """LoRA files, each with a weight, on a blend of the base with another: W = alpha W_style + (1 - alpha) W.

    loras: pairs of a file or hub id and a weight from -4 to 4. base: folder or hub id of a model of the same
    family, or None. alpha: 0 to 1; the paper (4, stylised generation) takes 0.5 and more.
    Raises ValueError for anything else.
    """

    loras: tuple[tuple[str, float], ...] = ()
    base: str | None = None
    alpha: float = 1.0

    def __post_init__(self):
        for name, weight in self.loras:
            if not math.isfinite(weight) or abs(weight) > 4:
                raise ValueError(f"the weight of the LoRA {name} must be from -4 to 4: received {weight:g}.")
        if not 0 <= self.alpha <= 1:
            raise ValueError(f"alpha must be from 0 to 1: received {self.alpha:g}.")

    @property
    def weights(self) -> tuple[float, ...]:
        """What a request may change: the weights of the LoRAs, then alpha where there is another base."""
        return (*(weight for _, weight in self.loras), *((self.alpha,) if self.base else ()))

    @property
    def ranges(self) -> tuple[tuple[float, float], ...]:
        """Least and most of each in a request: 0 to 2, of alpha 0 to 1, or as far as the operator's own."""
        loras = ((min(0.0, weight), max(2.0, weight)) for _, weight in self.loras)
        return (*loras, *(((0.0, 1.0),) if self.base else ()))

    @property
    def names(self) -> tuple[str, ...]:
        """Of what they are for, without the folders."""
        return tuple(
            Path(name).stem for name in (*(name for name, _ in self.loras), *filter(None, [self.base]))
        )

    def weighted(self, weights: tuple[float, ...]) -> "Style":
        """This style with other weights, all of them in their order, or none."""
        if not weights:
            return self
        loras = tuple((name, weight) for (name, _), weight in zip(self.loras, weights, strict=False))
        return replace(self, loras=loras, alpha=weights[-1] if self.base else self.alpha)


def read_lora(text: str) -> tuple[str, float]:
    """`file` or `file:weight` as on the command line; the weight is 1 unless given."""
    file, colon, weight = text.rpartition(":")
    try:
        return (file, float(weight)) if file and colon else (text, 1.0)
    except ValueError:  # a colon of the file's own name
        return text, 1.0
