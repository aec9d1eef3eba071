"""Encoded prompts, as a UNet takes them."""

from collections.abc import Iterator
from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class Text:
    """What a UNet is told, a row per text: states (n d k), and for XL pooled ones (n k) and sizes (n 6)."""

    states: Tensor
    added: dict[str, Tensor] | None = None

    def __len__(self) -> int:
        return len(self.states)

    def split(self, rows: int) -> Iterator["Text"]:
        """Parts of so many rows each, in order."""
        for first in range(0, len(self), rows):
            part = slice(first, first + rows)
            added = self.added and {name: value[part] for name, value in self.added.items()}
            yield Text(self.states[part], added)

    def last(self) -> "Text":
        """The last row alone."""
        *_, row = self.split(1)
        return row

    @property
    def arguments(self) -> dict:
        """Those of the UNet's forward pass."""
        told = {"encoder_hidden_states": self.states}
        return told if self.added is None else told | {"added_cond_kwargs": self.added}
