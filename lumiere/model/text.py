"""Encoded prompts in the form of a UNet's arguments."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from operator import itemgetter

import numpy as np
import torch
from torch import Tensor


@dataclass(frozen=True)
class Text:
    """Encoded prompts, one row per prompt.

    Attributes:
        states: hidden states `n d k`; for prompts in time `n t d k`, one for each frame.
        added: for SD XL, pooled embeddings `n k` and size conditions `n 6`; for prompts in time `n t k` and
            `n t 6`.
    """

    states: Tensor
    added: dict[str, Tensor] | None = None

    def __len__(self) -> int:
        return len(self.states)

    def split(self, rows: int) -> Iterator["Text"]:
        """Yields chunks of up to `rows` rows, in order."""
        for first in range(0, len(self), rows):
            yield self._map(itemgetter(slice(first, first + rows)))

    def last(self) -> "Text":
        """Returns the last row."""
        *_, row = self.split(1)
        return row

    def in_time(self, keys: Sequence[Sequence[int]], frames: int) -> "Text":
        """Interpolates linearly between prompts of key frames (as diffusers does for FreeNoise).

        Args:
            keys: for each row of the result, the frames of its prompts, ascending. The rows of this text are
                those prompts, in the same order. The first and the last prompt extend to the ends.
            frames: length of the clip.

        Returns:
            Prompts in time, one row for each entry of `keys`.
        """

        def interpolated(x: Tensor, at: Sequence[int]) -> Tensor:
            place = torch.from_numpy(np.interp(np.arange(frames), at, np.arange(len(at))))
            before = place.long()
            share = (place - before).to(x).view(-1, *[1] * (x.ndim - 1))
            return torch.lerp(x[before], x[(before + 1).clamp(max=len(at) - 1)], share)

        lengths = [len(at) for at in keys]
        return self._map(
            lambda x: torch.stack([interpolated(*pair) for pair in zip(x.split(lengths), keys, strict=True)])
        )

    def at(self, frames: slice) -> "Text":
        """Returns the text of some frames, the same for all unless it is a prompt in time."""
        return self._map(lambda x: x[:, frames]) if self._is_in_time else self

    def rolled(self, shift: int) -> "Text":
        """Returns the text of a clip whose frames are rolled by `shift` (`torch.roll`)."""
        return self._map(lambda x: x.roll(shift, 1)) if self._is_in_time else self

    @property
    def arguments(self) -> dict[str, Tensor | dict[str, Tensor]]:
        """Keyword arguments of the UNet's forward pass; rows of prompts in time are `(n t)`."""
        text = self._map(lambda x: x.flatten(0, 1)) if self._is_in_time else self
        arguments: dict[str, Tensor | dict[str, Tensor]] = {"encoder_hidden_states": text.states}
        if text.added is not None:
            arguments["added_cond_kwargs"] = text.added
        return arguments

    @property
    def _is_in_time(self) -> bool:
        return self.states.ndim == 4

    def _map(self, change: Callable[[Tensor], Tensor]) -> "Text":
        added = self.added and {name: change(value) for name, value in self.added.items()}
        return Text(change(self.states), added)
