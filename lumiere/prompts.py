r"""The syntax of prompts: weights of words, and prompts in time (standard library only).

`(red:1.3)` weights a word and `(red)` stands for `(red:1.1)`. Nested weights multiply. `\(` is a parenthesis.
`0: a tree in spring | 32: a tree in winter` is a prompt in time. Other text has no keys. Whole numbers on
both sides of a colon, as in `(12:30)`, are no weight and no key.
"""

import re
from collections.abc import Iterable

EMPHASIS = 1.1  # weight of words in parentheses without a number
WEIGHT = (0.0, 4.0)
MAX_KEYS = 32

# (?<!\d:)\d+ and :(?!\d): 12:30, 16:9 and 3:2 are times, formats and results
_NUMBER = r"[+-]?(?:\d+\.\d*|\.\d+|(?<!\d:)\d+)"
_SYNTAX = re.compile(rf"\\([\\()])|(\()|(?::\s*({_NUMBER})\s*)?(\))|[^\\():]+|.", re.DOTALL)
_KEY = re.compile(r"\s*(\d{1,6})\s*:(?!\d)(.*)", re.DOTALL)


def weighted(prompt: str) -> list[tuple[str, float]]:
    """Splits a prompt into pieces of text with their weights. Parentheses without a partner are text.

    Args:
        prompt: a prompt, or the prompt of one key.

    Returns:
        Pieces in order, none of them empty; together they are the prompt without the syntax of weights.
    """
    tokens = list(_SYNTAX.finditer(prompt))
    factors: dict[int, float | None] = {}  # of parentheses with a partner; None where they close
    opened: list[int] = []
    for place, token in enumerate(tokens):
        _, opening, weight, closing = token.groups()
        if opening:
            opened.append(place)
        elif closing and opened:
            factors |= {opened.pop(): float(weight or EMPHASIS), place: None}
    weights, pieces = [1.0], []
    for place, token in enumerate(tokens):
        if place not in factors:
            pieces.append((token[1] or token[0], weights[-1]))
        elif (factor := factors[place]) is None:
            weights.pop()
        else:
            weights.append(weights[-1] * factor)
    return _merged(pieces)


def _merged(pieces: Iterable[tuple[str, float]]) -> list[tuple[str, float]]:
    merged: list[tuple[str, float]] = []
    for text, weight in pieces:
        if merged and merged[-1][1] == weight:
            merged[-1] = merged[-1][0] + text, weight
        else:
            merged.append((text, weight))
    return merged


def unweighted(prompt: str) -> str:
    """Returns a prompt without the syntax of weights."""
    return "".join(text for text, _ in weighted(prompt))


def keyframes(prompt: str) -> list[tuple[int, str]]:
    """Splits a prompt in time into its keys.

    Args:
        prompt: `0: a tree in spring | 32: a tree in winter`, or any other prompt.

    Returns:
        Pairs of a frame and the whole prompt at that frame; [(0, prompt)] for any other prompt.
    """
    keys = [_KEY.fullmatch(part) for part in prompt.split("|")]
    if len(keys) == 1 or not all(keys):
        return [(0, prompt)]
    return [(int(key[1]), key[2].strip()) for key in keys if key]


def spacing(prompt: str) -> int | None:
    """Returns the smallest number of frames between two keys, None if the prompt is not in time."""
    frames = [frame for frame, _ in keyframes(prompt)]
    return min((b - a for a, b in zip(frames, frames[1:], strict=False)), default=None)


def check(name: str, prompt: str) -> None:
    """Checks the weights and keys of a prompt.

    Args:
        name: name of the field, for the message. Prompts are untrusted, and messages do not repeat them.
        prompt: any text.

    Raises:
        ValueError: a weight is out of range, or the keys are incomplete, not ascending or too many.
    """
    parts, keys = prompt.split("|"), keyframes(prompt)
    if len(parts) > 1 and len(keys) == 1 and _KEY.fullmatch(parts[0]):
        absent = next(number for number, part in enumerate(parts, 1) if not _KEY.fullmatch(part))
        raise ValueError(
            f"{name} in time must have a frame before each part, as in 0: spring | 32: winter: part {absent} "
            f"of {len(parts)} has none."
        )
    if len(keys) > MAX_KEYS:
        raise ValueError(f"{name} in time must have at most {MAX_KEYS} keys: received {len(keys)}.")
    for (before, _), (after, _) in zip(keys, keys[1:], strict=False):
        if after <= before:
            raise ValueError(f"{name} in time must have ascending frames: received {after} after {before}.")
    for number, (_, text) in enumerate(keys, 1):
        if len(keys) > 1 and not text:
            raise ValueError(f"{name} in time must have text at each key: key {number} has none.")
        for _, weight in weighted(text):
            low, high = WEIGHT
            if not low <= weight <= high:
                raise ValueError(
                    f"weights of words in {name} must be from {low:g} to {high:g}: received {weight:g}."
                )
