"""Limits of clips, files and the server that an operator can change (standard library only).

Environment variables override them: `LUMIERE_MAX_FRAMES=64 python app.py`. Other constants are defined next
to the code that they protect.
"""

import os
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any

PREFIX = "LUMIERE_"


def limit(default: int, low: int, high: int, why: str) -> int:
    """Declares a limit with its default, its valid range and the reason for the default.

    Args:
        default: value without an environment variable.
        low: minimum.
        high: maximum.
        why: unit and reason.
    """
    return field(default=default, metadata={"low": low, "high": high, "why": why})


@dataclass(frozen=True)
class ServerLimits:
    """Operator limits, all integers.

    Raises:
        ValueError: a limit is out of range; the message contains its environment variable.
    """

    max_frames: int = limit(480, 4, 10_000, "of one clip: half a minute at 16 frames a second")
    max_side: int = limit(1024, 64, 4096, "pixels along a side of a clip; phones decode no more than 4096")
    max_pixels: int = limit(
        2**23, 2**14, 2**31, "frames x height x width of a clip, which is its cost: 512 frames of 128 x 128"
    )
    max_steps: int = limit(150, 1, 150, "of denoising; past 150 no scheduler changes the clip")
    upload_mb: int = limit(64, 1, 10_000, "of one upload with all its files: some seconds of a phone's video")
    image_side: int = limit(8192, 64, 16_384, "pixels of a picture that is given: more than any phone's")
    video_side: int = limit(
        1024, 64, 4096, "pixels to which a given video is scaled down; 480 such frames take 1.5 GB"
    )
    video_seconds: int = limit(30, 1, 600, "in which a given video must be read")
    queue: int = limit(
        16,
        1,
        10_000,
        "requests that wait behind the 24 first in line; whoever comes later is told to try again",
    )
    keep_minutes: int = limit(60, 1, 100_000, "after which clips and uploads are deleted")
    disk_mb: int = limit(2048, 8, 10**8, "of clips and uploads at once; past that the oldest go first")
    free_mb: int = limit(128, 0, 10**8, "of free disk below which no clip is begun: the largest takes less")
    grace_seconds: int = limit(30, 0, 3600, "for the clip in the making, at the end of the server")
    fetch: int = limit(
        -1,
        -1,
        2,
        "who may download models on the page: 0 nobody, 1 every visitor, 2 those from this machine; -1: 2 if "
        "only this machine reaches the page, else 0",
    )
    log_prompts: int = limit(0, 0, 1, "1 writes prompts to the log, escaped; else nobody's words are kept")

    def __post_init__(self) -> None:
        for each in fields(self):
            low, high, value = each.metadata["low"], each.metadata["high"], getattr(self, each.name)
            if type(value) is not int or not low <= value <= high:
                raise ValueError(
                    f"{variable(each.name)} must be a whole number from {low} to {high}: received {value}."
                )

    @classmethod
    def read(cls, environment: Mapping[str, str] = os.environ) -> "ServerLimits":
        """Reads limits from environment variables. Defaults replace empty variables.

        Args:
            environment: variables by name.

        Returns:
            The limits.

        Raises:
            ValueError: a variable is not an integer or out of range.
        """
        given = {each.name: environment.get(variable(each.name), "").strip() for each in fields(cls)}
        values: dict[str, Any] = {name: _number(text) for name, text in given.items() if text}
        return cls(**values)  # which rejects text


def variable(name: str) -> str:
    """Returns the environment variable of a limit."""
    return PREFIX + name.upper()


def _number(text: str) -> int | str:
    """Converts text to an int. Returns other text, which validation rejects."""
    return int(text) if text.isascii() and text.lstrip("-").isdigit() and len(text) < 20 else text
