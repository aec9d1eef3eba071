"""Reads untrusted animated pictures (WebP, PNG, AVIF) as clips, which ffmpeg reads in part or not at all."""

import os
import time
from collections.abc import Iterator

import numpy as np
from PIL import Image

from lumiere.media.ffmpeg import MAX_READ_SIDE
from lumiere.media.images import (
    COLOURS_WITHIN,
    DAMAGED,
    FORMATS,
    Refused,
    as_shown,
    check_side,
    coded_colours,
)
from lumiere.media.kinds import PICTURES, kind, read_head
from lumiere.request import FPS

MOVING = ("WEBP", "PNG", "AVIF")
LEAST_MS, USUAL_MS = 10, 100  # browsers show a frame of up to 10 ms for 100 ms
PHASE = 0.25  # part of a frame after its start at which the animation is sampled; durations are rounded


def is_picture(path: str | os.PathLike) -> bool:
    """Returns whether a file is a picture for Pillow, moving or not, rather than a video."""
    return kind(path) in PICTURES


def read_animation(
    path: str | os.PathLike,
    *,
    max_frames: int,
    max_side: int,
    max_seconds: float,
    fps: float | None,
) -> tuple[np.ndarray, float]:
    """Reads the beginning of an animated picture at a constant rate.

    Args:
        path: path of the file.
        max_frames: maximum number of frames.
        max_side: maximum height and width of the result; larger frames are scaled down.
        max_seconds: timeout.
        fps: rate of the result. Defaults to the mean rate of the file, or the nearest one from 1 to 60.

    Returns:
        RGB uint8 `t h w c`, and frames per second.

    Raises:
        ValueError: the picture is damaged, too large, does not move, or takes too long.
    """
    deadline = time.monotonic() + max_seconds
    try:
        colours = coded_colours(read_head(path, COLOURS_WITHIN))
        _check(path)
        if fps is None:
            lengths = [length for _, length in _frames(path, deadline, max_frames)]
            fps = min(max(len(lengths) / sum(lengths), FPS[0]), FPS[1])
        made: list[np.ndarray] = []
        passed = 0.0
        for frame, length in _frames(path, deadline):
            passed += length
            if (len(made) + PHASE) / fps >= passed:
                continue
            frame.thumbnail((max_side, max_side), Image.Resampling.BICUBIC)
            shown = as_shown(frame, colours)
            while len(made) < max_frames and (len(made) + PHASE) / fps < passed:
                made.append(shown)
            if len(made) == max_frames:
                break
        return np.stack(made), float(fps)
    except Refused:
        raise
    except DAMAGED:
        raise ValueError(f"cannot read a video from this file: {kind(path)} that is damaged.") from None


def _check(path: str | os.PathLike) -> None:
    with Image.open(path, formats=FORMATS) as image:
        check_side(image, MAX_READ_SIDE)
        if image.format not in MOVING or _count(image) < 2:
            raise Refused(f"{kind(path)} that does not move was given where a video is needed.")


def _count(image: Image.Image) -> int:
    return getattr(image, "n_frames", 1)  # only formats that can move have it


def _frames(
    path: str | os.PathLike, deadline: float, most: int | None = None
) -> Iterator[tuple[Image.Image, float]]:
    """Yields copies of the frames with their durations in seconds."""
    with Image.open(path, formats=FORMATS) as image:
        for number in range(min(_count(image), most or _count(image))):
            if time.monotonic() > deadline:
                raise Refused("cannot read a video from this file: it took too long.")
            image.seek(number)
            image.load()
            length = float(image.info.get("duration", USUAL_MS))
            frame = image.copy()
            frame.info = dict(image.info)
            yield frame, (length if length > LEAST_MS else USUAL_MS) / 1000
