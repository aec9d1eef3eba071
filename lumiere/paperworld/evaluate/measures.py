"""Measures of a clip beyond the judge's verdict: the amount, location and time of its changes.

Clips are uint8 `t h w c`; changes are in levels, 0 to 255.
"""

import math

import numpy as np
from PIL import Image

from lumiere.paperworld.judge.sight import see_background, see_colour, see_silhouettes
from lumiere.paperworld.world.scene import SIZE

MOST = 99.0  # dB, PSNR of identical pictures
REACH = 60.0  # pixels, maximum distance from a subject's centre to the end of its marks and shadow
LEAST_SHARE = 0.02  # minimum fraction of the picture that the visible background must cover
FAINT = 8.0  # levels; smaller changes do not count as motion
CELL = 8  # pixels per latent
Z = 1.959964  # half width of the 95 % interval of a normal distribution, in standard deviations
GRID, LOOKS = 8, 4  # cells per side and frames of a digest
OUTLINE = 32.0  # levels per pixel, minimum gradient of an outline
ALIKE = 0.5  # levels, maximum mean difference between digests of the same sampling


def changes(frames):
    """Returns the change of each pixel between frames, averaged over channels: float32 `(t - 1, h, w)`."""
    return np.abs(np.diff(frames.astype(np.int16), axis=0)).mean(-1, dtype=np.float32)


def psnr(picture, other):
    """Returns the PSNR of two pictures in dB, at most `MOST`."""
    error = np.square(picture.astype(np.float64) - other).mean()
    return min(MOST, 20 * math.log10(255) - 10 * math.log10(max(error, 1e-12)))


def preview_psnr(preview, frames):
    """Returns the PSNR in dB of a preview (evenly spaced frames) and its clip, resized to the preview."""
    count, height, width = preview.shape[:3]
    matched = frames[np.arange(count) * len(frames) // count]
    small = [np.asarray(Image.fromarray(x).resize((width, height), Image.BOX)) for x in matched]
    return psnr(preview, np.stack(small))


def wilson(right, count):
    """Returns the 95 % Wilson interval (Wilson 1927), 0 to 1, of `right` successes in `count` trials."""
    share, z = right / count, Z * Z / count
    middle, half = share + z / 2, math.sqrt(z * share * (1 - share) + z * z / 4)
    return max(0.0, (middle - half) / (1 + z)), min(1.0, (middle + half) / (1 + z))


def digest(frames):
    """Returns the mean colours of an 8 x 8 grid in four evenly spaced frames, rounded to integer levels."""
    height, width = frames.shape[1:3]
    some = frames[np.linspace(0, len(frames) - 1, LOOKS).astype(int)]
    cells = some.reshape(LOOKS, GRID, height // GRID, GRID, width // GRID, 3).mean((2, 4))
    return cells.round().astype(int).ravel().tolist()


def alike(digests, others):
    """Returns whether clips with these digests come from the same sampling, on any processor."""
    pairs = zip(digests, others, strict=True)
    return all(np.abs(np.subtract(one, other)).mean() <= ALIKE for one, other in pairs)


def seam_ratio(frames, seams):
    """Returns the mean change into the frames `seams` (1 to t - 1), relative to all other frames."""
    change = changes(frames).mean((1, 2), dtype=np.float64)
    there = np.zeros(len(change), bool)
    there[np.asarray(seams) - 1] = True
    return float(change[there].mean() / max(change[~there].mean(), 1e-9))


def inside_and_outside(frames, moving):
    """Returns the mean change inside and outside the region `moving`, bool `h w`."""
    change = changes(frames).mean(0, dtype=np.float64)
    return float(change[moving].mean()), float(change[~moving].mean())


def moving_region(frames):
    """Returns the moving region, bool `h w`: latent cells with changing pixels and their neighbours."""
    most = np.ptp(frames.astype(np.int16), axis=0).max(-1)  # h w
    cells = SIZE // CELL
    moves = most.reshape(cells, CELL, cells, CELL).max((1, 3)) > FAINT
    around = np.pad(moves, 1)
    wide = np.logical_or.reduce(
        [around[y : y + cells, x : x + cells] for y in range(3) for x in range(3)],
    )
    return wide.repeat(CELL, 0).repeat(CELL, 1)


def box_around(covered):
    """Returns the bounding box of a subject's whole path, in whole latent cells with a margin of one cell.

    Args:
        covered: float `t h w`, above 0 inside the subject.

    Returns:
        bool `h w`.
    """
    seen, box = covered.max(0) > 0, np.ones((SIZE, SIZE), bool)
    for axis in (0, 1):
        first, *_, last = np.flatnonzero(seen.any(1 - axis)) // CELL
        cells = np.arange(SIZE) // CELL
        box &= np.expand_dims((cells >= first - 1) & (cells <= last + 1), 1 - axis)
    return box


def flicker(frames):
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


def outline_sharpness(frames, truth):
    """Returns the mean gradient at the outlines of `truth`, relative to that of `truth`; 1 if as sharp."""
    made, real = (np.hypot(*np.gradient(x.mean(-1, dtype=np.float32), axis=(1, 2))) for x in (frames, truth))
    outlines = real > OUTLINE
    return float(made[outlines].mean() / real[outlines].mean())


def opening(frames, verdict):
    """Measures how a clip begins and how fast it moves: position, radius, direction, pace.

    Args:
        frames: uint8 `t h w c`.
        verdict: the judge's Verdict.

    Returns:
        x, y and radius in pixels, the direction of the first movement in radians, and the log of frames per
        cycle; None for a clip without a subject or without a cycle.
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


def spread(openings, name):
    """Returns the spread of one measure of `opening`: the circular variance of angles, else the deviation."""
    values = np.array([opening[name] for opening in openings])
    if name == "direction":
        return float(1 - np.abs(np.exp(1j * values).mean()))
    return float(values.std())


def _around(distance):
    """Wraps a distance to the nearest copy; the world is a torus."""
    return (distance + SIZE / 2) % SIZE - SIZE / 2
