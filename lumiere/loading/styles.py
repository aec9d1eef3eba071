"""The style of a base model: LoRA files and a second base (standard library only)."""

import math
from dataclasses import dataclass, replace
from pathlib import Path


@dataclass(frozen=True)
class Style:
    """Weighted LoRA files on a blend of two base models: W = alpha W_style + (1 - alpha) W.

    Attributes:
        loras: pairs of a file or hub id and a weight from -4 to 4.
        base: folder or hub id of a model of the same family, or None.
        alpha: weight of `base`, 0 to 1; the paper (section 4, stylised generation) takes 0.5 and more.

    Raises:
        ValueError: a weight or alpha is out of range.
    """

    loras: tuple[tuple[str, float], ...] = ()
    base: str | None = None
    alpha: float = 1.0

    def __post_init__(self) -> None:
        for name, weight in self.loras:
            if not math.isfinite(weight) or abs(weight) > 4:
                raise ValueError(f"the weight of the LoRA {name} must be from -4 to 4: received {weight:g}.")
        if not 0 <= self.alpha <= 1:
            raise ValueError(f"alpha must be from 0 to 1: received {self.alpha:g}.")

    @property
    def weights(self) -> tuple[float, ...]:
        """Weights that a request may change: one per LoRA, then alpha if there is a second base."""
        return (*(weight for _, weight in self.loras), *((self.alpha,) if self.base else ()))

    @property
    def ranges(self) -> tuple[tuple[float, float], ...]:
        """Range of each weight in a request.

        LoRA weights range from 0 to 2, extended to the operator's weight if it lies outside. The range for
        alpha is 0 to 1.
        """
        loras = ((min(0.0, weight), max(2.0, weight)) for _, weight in self.loras)
        return (*loras, *(((0.0, 1.0),) if self.base else ()))

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the LoRAs and of the second base, without folders, in the order of `weights`."""
        return tuple(
            Path(name).stem for name in (*(name for name, _ in self.loras), *filter(None, [self.base]))
        )

    def weighted(self, weights: tuple[float, ...]) -> "Style":
        """Returns this style with other weights.

        Args:
            weights: one for each of `self.weights`, in that order, or none to keep all.
        """
        if not weights:
            return self
        loras = tuple((name, weight) for (name, _), weight in zip(self.loras, weights, strict=False))
        return replace(self, loras=loras, alpha=weights[-1] if self.base else self.alpha)


def read_lora(text: str) -> tuple[str, float]:
    """Parses `file` or `file:weight` from the command line. The weight defaults to 1."""
    file, colon, weight = text.rpartition(":")
    try:
        return (file, float(weight)) if file and colon else (text, 1.0)
    except ValueError:  # the colon belongs to the file name
        return text, 1.0
