"""Detects background, subject colour and silhouette, and names the subject by template matching.

Colours are compared in RGB, because the paper world's colours are well separated there. Distances for each
background and colour are tabulated once over a coarse RGB cube, so that a frame costs only a look-up.
"""

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import ArrayLike, NDArray

from lumiere.paperworld.world.backgrounds import PALETTES
from lumiere.paperworld.world.scene import COLOURS, CREAM, SIZE
from lumiere.paperworld.world.shapes import DETAILS, SUBJECTS, Floats

SHADES = (1.0, 0.92, 0.84)  # a paper layer darkens the layer behind its edge by up to 16 %
SHADOWS = (0.0, 0.15, 0.3)  # the subject's shadow mixes in up to 30 % dark blue
SHADOW = (40, 36, 60)
LIGHTS = (0.85, 0.92, 1.0, 1.06, 1.12)  # the subject is lit from above
SKY_EXTRAS = ((228, 224, 236), (255, 248, 214), (255, 232, 190), (250, 252, 252))  # stars, suns, clouds
TINT = 0.72  # position of a subject's light detail between its colour and cream
BITS = 5  # bits per channel of the RGB cube: steps of 8 levels, far below the distances between colours
SOFT = 20.0  # levels over which a pixel's weight fades out: keeps the antialiased edge, suppresses noise
BANDS = (
    (0, 0.76),
    (0.33, 0.85),
    (0.5, 0.97),
    (0.66, 1),
)  # vertical range of the sky and of each layer in any background, as fractions of the height
CAST = 16.0  # levels per channel; a colour cast up to this is removed before backgrounds are compared
FAR = 48.0  # levels; distances to the background are truncated here
REACH = 70.0  # levels; pixels farther from a colour have another colour or none
LEAST_AREA = 60.0  # pixels; the smallest silhouette (a star) has about 300
SEARCH, WINDOW = (
    4,
    42,
)  # pixels per cell of the coarse search; half the window, which fits a pulsing star at its largest
GRID, SPAN = 32, 1.9  # samples across a normalised silhouette; its half width in equivalent radii
ANGLES = 48  # steps of 7.5 degrees
SQUASHES = ((1.12, 0.88), (1.24, 0.76))  # (width, height) scales of a bounce at the ground
UPRIGHT = [0, *range(ANGLES, ANGLES + len(SQUASHES))]  # indices of the unrotated templates


@dataclass(frozen=True)
class Silhouettes:
    """The unnamed subject in each frame of a clip.

    Attributes:
        x, y: centre of mass of the coloured area, `(t,)` in pixels on the torus (0 to 128).
        radius: radius of the disc of equal area, `(t,)` in pixels. 0 without a subject.
        patches: silhouettes in units of that radius, `(t, 32 * 32)`, 0 to 1.
    """

    x: Floats
    y: Floats
    radius: Floats
    patches: Floats


def see_background(frames: NDArray[np.uint8]) -> tuple[str, float]:
    """Detects the background by its palette.

    The median over time removes moving subjects; a still subject is far from all palettes.

    Args:
        frames: `t h w 3`.

    Returns:
        The background with the nearest palette and the mean distance to it in levels (truncated at 48).
    """
    some = frames[np.linspace(0, len(frames) - 1, min(len(frames), 9)).astype(int)]
    small = some.reshape(len(some), SIZE // 2, 2, SIZE // 2, 2, 3).mean(
        (2, 4), dtype=np.float32
    )  # t h/2 w/2 3
    picture = np.median(small, axis=0)
    distances = {}
    for kind in PALETTES:
        papers = _papers(kind)
        _, cast = _residual(picture, papers)
        cast = np.clip(np.median(cast.reshape(-1, 3), axis=0), -CAST, CAST)
        nearest, _ = _residual(picture - cast, papers)
        distances[kind] = float(np.minimum(nearest, FAR).mean())
    best = min(distances, key=distances.__getitem__)
    return best, distances[best]


@lru_cache(maxsize=len(PALETTES))
def _papers(kind: str) -> list[NDArray[np.float32]]:
    """Returns the colours of sky and layers at each shade, `h/2 1 3`, out of range where they never occur."""
    height = ((np.arange(SIZE // 2, dtype=np.float32) + 0.5) / (SIZE // 2))[:, None, None]
    top, horizon, *layers = np.array(PALETTES[kind], np.float32)
    sky = top + (horizon - top) * np.clip(height / 0.65, 0, 1)
    papers = []
    for (first, last), colour in zip(BANDS, (sky, *layers), strict=True):
        there = (first <= height) & (height <= last)
        papers += [np.where(there, shade * colour, np.float32(1e4)) for shade in SHADES]
    return papers


def _residual(picture: Floats, papers: list[NDArray[np.float32]]) -> tuple[Floats, Floats]:
    """Returns the distance `h w` of each pixel to the nearest paper colour and the difference `h w 3`."""
    nearest, difference = np.full(picture.shape[:2], np.inf, np.float32), np.zeros_like(picture)
    for colour in papers:
        from_it = picture - colour
        distance = np.sqrt(np.einsum("hwc,hwc->hw", from_it, from_it))
        closer = distance < nearest
        nearest[closer], difference[closer] = distance[closer], from_it[closer]
    return nearest, difference


def see_colour(frames: NDArray[np.uint8], kind: str) -> str | None:
    """Returns the colour that covers the most solid pixels (the subject's), or None.

    Args:
        frames: `t h w 3`.
        kind: background.
    """
    names = _names(kind)[_cells(frames)]  # t h w, 0 for none of the colours
    same = (names[:, 1:-1, 1:-1] == names[:, :-2, 1:-1]) & (names[:, 1:-1, 1:-1] == names[:, 2:, 1:-1])
    same &= (names[:, 1:-1, 1:-1] == names[:, 1:-1, :-2]) & (names[:, 1:-1, 1:-1] == names[:, 1:-1, 2:])
    solid = np.where(same, names[:, 1:-1, 1:-1], 0)  # red on cream has a pink edge, one pixel wide
    counts = np.bincount(solid.ravel(), minlength=len(COLOURS) + 1)[1:]
    if counts.max() < LEAST_AREA * len(frames) / 2:
        return None
    return list(COLOURS)[int(counts.argmax())]


def see_silhouettes(frames: NDArray[np.uint8], kind: str, colour: str) -> Silhouettes:
    """Returns the densest region of a colour in each frame.

    Args:
        frames: `t h w 3`.
        kind: background.
        colour: key of `COLOURS`.
    """
    share = _shares(kind, colour)[_cells(frames)]  # t h w
    x, y = _densest(share)
    offsets = np.arange(-WINDOW, WINDOW + 1)
    inside = (np.hypot(offsets[:, None], offsets[None]) <= WINDOW).astype(np.float32)
    for _ in range(3):
        rows = (np.round(y).astype(int)[:, None] + offsets) % SIZE  # t n, wrapped: the world is a torus
        columns = (np.round(x).astype(int)[:, None] + offsets) % SIZE
        window = (
            share[np.arange(len(share))[:, None, None], rows[:, :, None], columns[:, None]] * inside
        )  # t n n
        area = window.sum((1, 2), dtype=np.float64)
        weight = np.maximum(area, 1e-6)
        x = np.round(x) + (window.sum(1) @ offsets) / weight
        y = np.round(y) + (window.sum(2) @ offsets) / weight
    radius = np.where(area >= LEAST_AREA, np.sqrt(area / np.pi), 0)
    patches = _sample(share, x, y, np.maximum(radius, 1))
    return Silhouettes((x + 0.5) % SIZE, (y + 0.5) % SIZE, radius, patches * (radius > 0)[:, None])


def match(patches: Floats) -> dict[str, Floats]:
    """Computes the agreement (soft IoU) with every subject at every rotation.

    Args:
        patches: `(t, 32 * 32)`.

    Returns:
        name -> `(t, 48 + 2)`: rotations in steps of 7.5 degrees, then the two squashes.
    """
    templates = _templates()
    size = np.square(patches).sum(1)[:, None]
    agreement = {}
    for name, template in templates.items():
        both = patches @ template.masks.T  # t 50
        agreement[name] = both / np.maximum(size + np.square(template.masks).sum(1) - both, 1e-6)
    return agreement


def true_centres(silhouettes: Silhouettes, name: str, angle: Floats) -> tuple[Floats, Floats, Floats]:
    """Converts the centre and radius of the coloured area to the centre and radius of the subject.

    The two centres differ by a vector that rotates with the subject.

    Args:
        silhouettes: the detected areas.
        name: subject.
        angle: rotation of the subject in radians, `(t,)`.

    Returns:
        x, y and radius in pixels, `(t,)` each.
    """
    template = _templates()[name]
    radius = silhouettes.radius / template.radius
    u, v = template.centre
    cos, sin = np.cos(angle), np.sin(angle)
    return silhouettes.x - radius * (cos * u - sin * v), silhouettes.y - radius * (sin * u + cos * v), radius


@dataclass(frozen=True)
class _Template:
    """Coloured area of a subject: masks `(50, 32 * 32)`; centre of mass and radius in subject radii."""

    masks: NDArray[np.float32]
    centre: tuple[float, float]
    radius: float


@lru_cache(maxsize=1)
def _templates() -> dict[str, _Template]:
    return {name: _template(name) for name in SUBJECTS}


def _template(name: str) -> _Template:
    def cover(u: Floats, v: Floats, edge: float) -> Floats:
        shape = SUBJECTS[name](u, v)
        detail = np.maximum(DETAILS[name](u, v), shape + 0.045)  # keeps one pixel of colour around the detail
        return np.clip(0.5 - np.maximum(shape, -detail) / edge, 0, 1)

    v, u = np.mgrid[-1.5:1.5:241j, -1.5:1.5:241j]
    mask = cover(u, v, 0.02)
    centre = np.array([(mask * u).sum(), (mask * v).sum()]) / mask.sum()
    radius = np.sqrt(mask.mean() * 9 / np.pi)
    q, p = np.mgrid[-SPAN : SPAN : GRID * 1j, -SPAN : SPAN : GRID * 1j] * radius
    turns = [(2 * np.pi * k / ANGLES, 1, 1) for k in range(ANGLES)] + [(0, *squash) for squash in SQUASHES]
    masks = []
    for angle, wide, tall in turns:
        cos, sin = np.cos(angle), np.sin(angle)
        area = np.sqrt(wide * tall)
        u, v = (cos * p + sin * q) * area / wide + centre[0], (cos * q - sin * p) * area / tall + centre[1]
        masks.append(cover(u, v, 0.12).ravel())
    return _Template(np.array(masks, np.float32), (centre[0], centre[1]), float(radius))


def _cells(frames: NDArray[np.uint8]) -> NDArray[np.int32]:
    """Maps pixels `t h w 3` to indices into the RGB cube, `t h w`."""
    r, g, b = np.moveaxis(frames >> (8 - BITS), -1, 0).astype(np.int32)
    return (r << 2 * BITS) | (g << BITS) | b


def _distance(colours: ArrayLike) -> Floats:
    """Returns the distance of every cell of the RGB cube to the nearest of `colours`, `n 3`."""
    steps = (np.arange(2**BITS, dtype=np.float32) + 0.5) * 2 ** (8 - BITS)
    cube = np.stack(np.meshgrid(steps, steps, steps, indexing="ij"), -1).reshape(-1, 3)
    colours = np.asarray(colours, np.float32)
    squared = np.square(cube).sum(1)[:, None] - 2 * cube @ colours.T + np.square(colours).sum(1)
    return np.sqrt(np.maximum(squared.min(1), 0))


@lru_cache(maxsize=len(PALETTES))
def _to_background(kind: str) -> Floats:
    top, horizon, *layers = np.array(PALETTES[kind], np.float32)
    paper = np.array([*(top + (horizon - top) * k for k in np.linspace(0, 1, 5)), *layers])
    shaded = [paper * shade * (1 - s) + s * np.array(SHADOW) for shade in SHADES for s in SHADOWS]
    return _distance(np.concatenate([*shaded, SKY_EXTRAS, [CREAM]]))


@lru_cache(maxsize=len(COLOURS))
def _to_colour(colour: str) -> Floats:
    return _distance(np.minimum(np.outer(LIGHTS, COLOURS[colour]), 255))


@lru_cache(maxsize=len(PALETTES))
def _names(kind: str) -> NDArray[np.uint8]:
    """Returns a table: cube cell -> 1 + index of its colour, or 0 for background and other colours."""
    distances = np.stack([_to_background(kind), *(_to_colour(colour) for colour in COLOURS)])
    names = distances.argmin(0)
    return np.where(distances.min(0) < REACH, names, 0).astype(np.uint8)


@lru_cache(maxsize=len(PALETTES) * len(COLOURS))
def _shares(kind: str, colour: str) -> NDArray[np.float32]:
    """Returns a table: cube cell -> weight of the colour (0 to 1) against background, border and detail."""
    tint = np.array(COLOURS[colour]) + TINT * (np.array(CREAM) - np.array(COLOURS[colour]))
    other = np.minimum(_to_background(kind), _distance([tint]))
    return np.clip(0.5 + (other - _to_colour(colour)) / (2 * SOFT), 0, 1).astype(np.float32)


def _densest(share: NDArray[np.float32]) -> tuple[Floats, Floats]:
    """Returns the centre x, y (pixel indices, `t` each) of the densest subject-sized disc on the torus."""
    cells = SIZE // SEARCH
    coarse = share.reshape(len(share), cells, SEARCH, cells, SEARCH).mean((2, 4))  # t h/4 w/4
    at = np.minimum(np.arange(cells), cells - np.arange(cells)) * SEARCH
    disc = np.hypot(at[:, None], at[None]) < WINDOW / 2
    density = np.fft.irfft2(np.fft.rfft2(coarse) * np.fft.rfft2(disc), s=coarse.shape[1:])
    row, column = np.divmod(density.reshape(len(share), -1).argmax(1), cells)
    return (column + 0.5) * SEARCH - 0.5, (row + 0.5) * SEARCH - 0.5


def _sample(share: NDArray[np.float32], x: Floats, y: Floats, radius: Floats) -> NDArray[np.float32]:
    """Samples patches `(t, 32 * 32)` of ±1.9 radii around each centre, bilinear and wrapped."""
    reach = np.linspace(-SPAN, SPAN, GRID) * radius[:, None]  # t n
    rows, columns = y[:, None] + reach, x[:, None] + reach
    top, left = np.floor(rows).astype(int), np.floor(columns).astype(int)
    down, across = (rows - top)[:, :, None], (columns - left)[:, None]
    frame = np.arange(len(share))[:, None, None]

    def corner(dy: int, dx: int) -> NDArray[np.float32]:
        return share[frame, ((top + dy) % SIZE)[:, :, None], ((left + dx) % SIZE)[:, None]]

    upper = corner(0, 0) * (1 - across) + corner(0, 1) * across
    lower = corner(1, 0) * (1 - across) + corner(1, 1) * across
    return (upper * (1 - down) + lower * down).reshape(len(share), -1).astype(np.float32)
