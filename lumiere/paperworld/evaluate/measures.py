"""What is measured of a clip beside the judge's verdict: how much of it changes, where, and when.

Clips are uint8 (t h w c); changes are in levels, 0 to 255.
"""

import math

import numpy as np
from PIL import Image

from lumiere.paperworld.judge.sight import see_background, see_colour, see_silhouettes
from lumiere.paperworld.world.scene import SIZE

MOST = 99.0  # dB, of pictures that are alike in every bit
REACH = 60.0  # pixels from the middle of a subject to where its marks and its shadow end, at the most
LEAST_SHARE = 0.02  # of the picture: less of a background says nothing about it
FAINT = 8.0  # levels: what changes less is not where a thing moves
CELL = 8  # pixels per latent
Z = 1.959964  # standard deviations to either side of the mean that hold 95 % of a normal distribution
GRID, LOOKS = 8, 4  # of a digest: cells per side, and frames
ALIKE = 0.5  # levels: mean difference of digests up to which clips are of the same sampling


def changes(frames):
    """Mean change of each pixel's channels from frame to frame: float32 (t - 1, h, w)."""
    return np.abs(np.diff(frames.astype(np.int16), axis=0)).mean(-1, dtype=np.float32)


def psnr(picture, other):
    """Likeness of two pictures in dB."""
    error = np.square(picture.astype(np.float64) - other).mean()
    return min(MOST, 20 * math.log10(255) - 10 * math.log10(max(error, 1e-12)))


def preview_psnr(preview, frames):
    """Likeness in dB of a preview, some frames evenly spaced, to those of the clip at the preview's size."""
    count, height, width = preview.shape[:3]
    matched = frames[np.arange(count) * len(frames) // count]
    small = [np.asarray(Image.fromarray(x).resize((width, height), Image.BOX)) for x in matched]
    return psnr(preview, np.stack(small))


def wilson(right, count):
    """The 95 % interval of a share (Wilson 1927), 0 to 1, of `right` out of `count` tries."""
    share, z = right / count, Z * Z / count
    middle, half = share + z / 2, math.sqrt(z * share * (1 - share) + z * z / 4)
    return max(0.0, (middle - half) / (1 + z)), min(1.0, (middle + half) / (1 + z))


def digest(frames):
    """Mean colours of an 8 x 8 grid in four frames evenly spaced, as whole levels."""
    height, width = frames.shape[1:3]
    some = frames[np.linspace(0, len(frames) - 1, LOOKS).astype(int)]
    cells = some.reshape(LOOKS, GRID, height // GRID, GRID, width // GRID, 3).mean((2, 4))
    return cells.round().astype(int).ravel().tolist()


def alike(digests, others):
    """Whether clips with these digests are of the same sampling, on whichever processors they were made."""
    pairs = zip(digests, others, strict=True)
    return all(np.abs(np.subtract(one, other)).mean() <= ALIKE for one, other in pairs)


def seam_ratio(frames, seams):
    """Change into the frames of these numbers (1 to t - 1), relative to the change into all others."""
    change = changes(frames).mean((1, 2), dtype=np.float64)
    there = np.zeros(len(change), bool)
    there[np.asarray(seams) - 1] = True
    return float(change[there].mean() / max(change[~there].mean(), 1e-9))


def inside_and_outside(frames, moving):
    """Mean change where the picture may move, bool (h w), and elsewhere."""
    change = changes(frames).mean(0, dtype=np.float64)
    return float(change[moving].mean()), float(change[~moving].mean())


def moving_region(frames):
    """Where something moves, bool (h w): the cells of latents in which pixels change, and those around."""
    most = np.ptp(frames.astype(np.int16), axis=0).max(-1)  # h w
    cells = SIZE // CELL
    moves = most.reshape(cells, CELL, cells, CELL).max((1, 3)) > FAINT
    around = np.pad(moves, 1)
    wide = np.logical_or.reduce(
        [around[y : y + cells, x : x + cells] for y in range(3) for x in range(3)],
    )
    return wide.repeat(CELL, 0).repeat(CELL, 1)


def box_around(covered):
    """The box around a subject's whole way, bool (h w), of whole latents and with one more at each side.

    covered: float (t h w), above 0 where the subject is.
    """
    seen, box = covered.max(0) > 0, np.ones((SIZE, SIZE), bool)
    for axis in (0, 1):
        first, *_, last = np.flatnonzero(seen.any(1 - axis)) // CELL
        cells = np.arange(SIZE) // CELL
        box &= np.expand_dims((cells >= first - 1) & (cells <= last + 1), 1 - axis)
    return box


def flicker(frames):
    """Mean change of the background, away from the subject wherever it is; None where too little is left."""
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


def _around(distance):
    """The world is a torus: the nearest copy counts."""
    return (distance + SIZE / 2) % SIZE - SIZE / 2
