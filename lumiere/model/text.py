"""Encoded prompts in the form of a UNet's arguments."""

from collections.abc import Iterator
from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class Text:
    """Encoded prompts, one row per prompt.

    Attributes:
        states: hidden states `n d k`.
        added: for SD XL, pooled embeddings `n k` and size conditions `n 6`.
    """

    states: Tensor
    added: dict[str, Tensor] | None = None

    def __len__(self) -> int:
        return len(self.states)

    def split(self, rows: int) -> Iterator["Text"]:
        """Yields chunks of up to `rows` rows, in order."""
        for first in range(0, len(self), rows):
            part = slice(first, first + rows)
            added = self.added and {name: value[part] for name, value in self.added.items()}
            yield Text(self.states[part], added)

    def last(self) -> "Text":
        """Returns the last row."""
        *_, row = self.split(1)
        return row

    @property
    def arguments(self) -> dict[str, Tensor | dict[str, Tensor]]:
        """Keyword arguments of the UNet's forward pass."""
        arguments: dict[str, Tensor | dict[str, Tensor]] = {"encoder_hidden_states": self.states}
        if self.added is not None:
            arguments["added_cond_kwargs"] = self.added
        return arguments
