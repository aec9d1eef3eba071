"""Measures of a clip beyond the judge's verdict: the amount, location and time of its changes.

Clips are uint8 `t h w c`; changes are in levels, 0 to 255.
"""

import math
from collections.abc import Mapping, Sequence
from typing import TypedDict

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from lumiere.paperworld.judge.judge import Verdict
from lumiere.paperworld.judge.sight import see_background, see_colour, see_silhouettes
from lumiere.paperworld.world.scene import SIZE
from lumiere.paperworld.world.shapes import Floats

MOST = 99.0  # dB, PSNR of identical pictures
REACH = 60.0  # pixels, maximum distance from a subject's centre to the end of its marks and shadow
LEAST_SHARE = 0.02  # minimum fraction of the picture that the visible background must cover
FAINT = 8.0  # levels; smaller changes do not count as motion
CELL = 8  # pixels per latent
Z = 1.959964  # half width of the 95 % interval of a normal distribution, in standard deviations
GRID, LOOKS = 8, 4  # cells per side and frames of a digest
OUTLINE = 32.0  # levels per pixel, minimum gradient of an outline
ALIKE = 0.5  # levels, maximum mean difference between digests of the same sampling


def changes(frames: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Returns the change of each pixel between frames, averaged over channels: `t-1 h w`."""
    return np.abs(np.diff(frames.astype(np.int16), axis=0)).mean(-1, dtype=np.float32)


def psnr(picture: NDArray[np.uint8], other: NDArray[np.uint8]) -> float:
    """Returns the PSNR in dB, at most `MOST`, of two pictures of any one shape."""
    error = np.square(picture.astype(np.float64) - other).mean()
    return min(MOST, 20 * math.log10(255) - 10 * math.log10(max(error, 1e-12)))


def preview_psnr(preview: NDArray[np.uint8], frames: NDArray[np.uint8]) -> float:
    """Returns the PSNR in dB of a preview and its clip, resized to the preview.

    Args:
        preview: evenly spaced frames `n h w c`.
        frames: the clip.
    """
    count, height, width = preview.shape[:3]
    matched = frames[np.arange(count) * len(frames) // count]
    small = [np.asarray(Image.fromarray(x).resize((width, height), Image.Resampling.BOX)) for x in matched]
    return psnr(preview, np.stack(small))


def wilson(right: float, count: int) -> tuple[float, float]:
    """Returns the 95 % interval (Wilson 1927) of a proportion, 0 to 1.

    Args:
        right: number of successes.
        count: number of trials.
    """
    share, z = right / count, Z * Z / count
    middle, half = share + z / 2, math.sqrt(z * share * (1 - share) + z * z / 4)
    return max(0.0, (middle - half) / (1 + z)), min(1.0, (middle + half) / (1 + z))


def digest(frames: NDArray[np.uint8]) -> list[int]:
    """Returns the mean colours of an 8 x 8 grid in four evenly spaced frames, rounded to integer levels."""
    height, width = frames.shape[1:3]
    some = frames[np.linspace(0, len(frames) - 1, LOOKS).astype(int)]
    cells = some.reshape(LOOKS, GRID, height // GRID, GRID, width // GRID, 3).mean((2, 4))
    return cells.round().astype(int).ravel().tolist()


def alike(digests: Sequence[Sequence[int]], others: Sequence[Sequence[int]]) -> bool:
    """Returns whether clips with these digests come from the same sampling, on any processor."""
    pairs = zip(digests, others, strict=True)
    return all(bool(np.abs(np.subtract(one, other)).mean() <= ALIKE) for one, other in pairs)


def seam_ratio(frames: NDArray[np.uint8], seams: Sequence[int]) -> float:
    """Returns the mean change into some frames, relative to the mean change into the other frames.

    Args:
        frames: the clip.
        seams: numbers of the frames, 1 to t - 1.
    """
    change = changes(frames).mean((1, 2), dtype=np.float64)
    there = np.zeros(len(change), bool)
    there[np.asarray(seams) - 1] = True
    return float(change[there].mean() / max(change[~there].mean(), 1e-9))


def inside_and_outside(frames: NDArray[np.uint8], moving: NDArray[np.bool_]) -> tuple[float, float]:
    """Returns the mean change inside and outside a region.

    Args:
        frames: the clip.
        moving: `h w`, True in the region.
    """
    change = changes(frames).mean(0, dtype=np.float64)
    return float(change[moving].mean()), float(change[~moving].mean())


def moving_region(frames: NDArray[np.uint8]) -> NDArray[np.bool_]:
    """Returns the moving region `h w`: latent cells with changing pixels and their neighbours."""
    most = np.ptp(frames.astype(np.int16), axis=0).max(-1)  # h w
    cells = SIZE // CELL
    moves = most.reshape(cells, CELL, cells, CELL).max((1, 3)) > FAINT
    around = np.pad(moves, 1)
    wide = np.logical_or.reduce(
        [around[y : y + cells, x : x + cells] for y in range(3) for x in range(3)],
    )
    return wide.repeat(CELL, 0).repeat(CELL, 1)


def box_around(covered: Floats) -> NDArray[np.bool_]:
    """Returns the bounding box of a subject's whole path, in whole latent cells with a margin of one cell.

    Args:
        covered: `t h w`, above 0 inside the subject.

    Returns:
        `h w`, True in the box.
    """
    seen, box = covered.max(0) > 0, np.ones((SIZE, SIZE), bool)
    for axis in (0, 1):
        first, *_, last = np.flatnonzero(seen.any(1 - axis)) // CELL
        cells = np.arange(SIZE) // CELL
        box &= np.expand_dims((cells >= first - 1) & (cells <= last + 1), 1 - axis)
    return box


def flicker(frames: NDArray[np.uint8]) -> float | None:
    """Returns the mean change of the background away from the subject, or None if too little is visible."""
    kind, _ = see_background(frames)
    colour = see_colour(frames, kind)
    background = np.ones((SIZE, SIZE), bool)
    if colour is not None:
        seen = see_silhouettes(frames, kind, colour)
        y, x = np.mgrid[:SIZE, :SIZE]
        for middle_x, middle_y in zip(seen.x[seen.radius > 0], seen.y[seen.radius > 0], strict=True):
            background &= np.hypot(_around(x - middle_x), _around(y - middle_y)) > REACH
    if background.mean() < LEAST_SHARE:
        return None
    return float(changes(frames)[:, background].mean(dtype=np.float64))


def outline_sharpness(frames: NDArray[np.uint8], truth: NDArray[np.uint8]) -> float:
    """Returns the mean gradient at the outlines of a true clip, relative to that of the true clip.

    Args:
        frames: the clip.
        truth: the true clip, with the same shape.

    Returns:
        1 for outlines as sharp as the true ones, less for softer outlines.
    """
    made, real = (np.hypot(*np.gradient(x.mean(-1, dtype=np.float32), axis=(1, 2))) for x in (frames, truth))
    outlines = real > OUTLINE
    return float(made[outlines].mean() / real[outlines].mean())


class Opening(TypedDict):
    """The beginning and the pace of a clip, as JSON data.

    Attributes:
        x: horizontal position of the subject in pixels.
        y: vertical position in pixels.
        radius: radius of the subject in pixels.
        direction: direction of the first movement in radians.
        pace: log of frames per cycle.
    """

    x: float
    y: float
    radius: float
    direction: float
    pace: float


def opening(frames: NDArray[np.uint8], verdict: Verdict) -> Opening | None:
    """Measures the beginning and the pace of a clip.

    Args:
        frames: the clip.
        verdict: its measured content.

    Returns:
        The measures, or None for a clip without a subject or without a cycle.
    """
    if verdict.colour is None or verdict.period is None:
        return None
    seen = see_silhouettes(frames[: LOOKS + 1], verdict.background, verdict.colour)
    dx, dy = (float(_around(a[-1] - a[1])) for a in (seen.x, seen.y))
    return {
        "x": float(seen.x[0]),
        "y": float(seen.y[0]),
        "radius": verdict.radius,
        "direction": math.atan2(dy, dx),
        "pace": math.log(verdict.period),
    }


def spread(openings: Sequence[Mapping[str, float]], name: str) -> float:
    """Returns the spread of one measure: the circular variance of angles, else the standard deviation.

    Args:
        openings: results of `opening`.
        name: key of `Opening`.
    """
    values = np.array([opening[name] for opening in openings])
    if name == "direction":
        return float(1 - np.abs(np.exp(1j * values).mean()))
    return float(values.std())


def _around(distance: Floats) -> Floats:
    """Wraps a distance to the nearest copy; the world is a torus."""
    return (distance + SIZE / 2) % SIZE - SIZE / 2
