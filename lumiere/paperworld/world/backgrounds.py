"""Seven backgrounds of layered paper, pale enough for the saturated subject to stand out."""

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from lumiere.paperworld.world.shapes import Floats

Colour = tuple[int, int, int]  # RGB, 0 to 255

# Sky at the top, sky at the horizon, then the layers from back to front. The judge uses them too.
PALETTES: dict[str, tuple[Colour, ...]] = {
    "hills": ((196, 226, 240), (240, 246, 226), (186, 214, 150), (158, 196, 126), (132, 176, 108)),
    "sea": ((172, 218, 226), (232, 242, 230), (158, 208, 218), (126, 188, 204), (98, 166, 188)),
    "night": ((50, 56, 110), (92, 88, 148), (80, 84, 140), (64, 68, 122), (54, 58, 106)),
    "city": ((226, 206, 222), (246, 228, 222), (196, 178, 200), (170, 154, 182), (142, 130, 162)),
    "desert": ((246, 198, 166), (252, 226, 190), (240, 208, 160), (228, 188, 138), (212, 168, 120)),
    "snow": ((176, 200, 224), (214, 228, 240), (222, 232, 242), (236, 242, 248), (248, 250, 252)),
    "forest": ((206, 226, 214), (228, 238, 222), (142, 178, 160), (108, 150, 132), (80, 122, 108)),
}


def _waves(x: Floats, rng: Generator, amplitude: float, wavelength: float) -> Floats:
    """Returns a smooth horizon, a sum of sines with random phases: in frame heights, shaped like x."""
    total = np.zeros_like(x)
    for harmonic, share in ((1, 1.0), (2, 0.35), (3.3, 0.15)):
        total += share * np.sin(2 * np.pi * (x * harmonic / wavelength + rng.random()))
    return amplitude * total


def _skyline(x: Floats, rng: Generator, height: float) -> Floats:
    tops, at = np.zeros_like(x), -rng.random() * 0.1
    while at < 1:
        width = rng.uniform(0.09, 0.17)
        tops[(x >= at) & (x < at + width)] = rng.uniform(-height, height)
        at += width
    return tops


def _pines(x: Floats, rng: Generator, height: float) -> Floats:
    spacing = rng.uniform(0.12, 0.16)
    position = x / spacing + rng.random()
    tree = np.floor(position)
    lean = height * (0.75 + 0.25 * np.sin(tree * 2.4 + rng.random() * 6))
    return -lean * (1 - np.abs(2 * (position - tree) - 1))


def _peaks(x: Floats, rng: Generator, height: float) -> Floats:
    position = x / rng.uniform(0.42, 0.55) + rng.random()
    fold = np.abs(2 * (position - np.floor(position)) - 1)
    return height * (fold - 0.5) * 2


def _horizon(kind: str, layer: int, x: Floats, rng: Generator) -> Floats:
    base = (0.60, 0.73, 0.86)[layer] + rng.uniform(-0.02, 0.02)
    if kind == "hills" or kind == "night":
        return base + _waves(x, rng, 0.045, rng.uniform(0.7, 1.0))
    if kind == "sea":
        return base + _waves(x, rng, 0.014, rng.uniform(0.18, 0.24))
    if kind == "desert":
        return base + _waves(x, rng, 0.035, rng.uniform(1.0, 1.5))
    if kind == "city":
        return base - 0.06 + _skyline(x, rng, (0.16, 0.11, 0.07)[layer])
    if kind == "snow":
        return base - 0.04 + _peaks(x, rng, (0.17, 0.12, 0.06)[layer])
    return base + 0.02 + _pines(x, rng, (0.26, 0.22, 0.16)[layer])


def _sky_extras(kind: str, picture: NDArray[np.float32], x: Floats, y: Floats, rng: Generator) -> None:
    """Draws stars at night, a sun over sea and desert, clouds over hills; none is mistaken for a subject."""
    if kind == "night":
        for _ in range(14):
            cx, cy = rng.random(), rng.random() * 0.55
            blend(picture, (228, 224, 236), np.hypot(x - cx, y - cy) * 128 - rng.uniform(0.7, 1.5))
    elif kind in ("sea", "desert"):
        cx, cy = rng.uniform(0.15, 0.85), rng.uniform(0.14, 0.3)
        blend(
            picture,
            (255, 248, 214) if kind == "sea" else (255, 232, 190),
            np.hypot(x - cx, y - cy) * 128 - 13,
        )
    elif kind == "hills":
        for _ in range(2):
            cx, cy = rng.random(), rng.uniform(0.08, 0.3)
            for dx, r in ((-0.07, 5), (0, 8), (0.08, 6)):
                blend(picture, (250, 252, 252), np.hypot(x - cx - dx, (y - cy) * 1.3) * 128 - r)


def blend(
    picture: NDArray[np.float32],
    colour: Colour | Floats,
    distance: Floats,
    opacity: float = 1.0,
    softness: float = 0.5,
) -> None:
    """Blends a colour into a picture where a distance is negative, in place.

    Args:
        picture: `… h w 3`, 0 to 255.
        colour: one colour, or colours `… h w 3`; 0 to 255.
        distance: `… h w` in pixels.
        opacity: 0 to 1.
        softness: half the width of the edge in pixels.
    """
    alpha = opacity * np.clip(0.5 - distance / (2 * softness), 0, 1)[..., None]
    picture += alpha * (np.asarray(colour, np.float32) - picture)


def background(kind: str, rng: Generator, size: int = 128) -> NDArray[np.float32]:
    """Renders a background with random details.

    Args:
        kind: key of `PALETTES`.
        rng: random generator of the details.
        size: height and width in pixels.

    Returns:
        `h w 3`, 0 to 255.
    """
    y, x = (np.mgrid[:size, :size].astype(np.float32) + 0.5) / size
    top, horizon, *layers = (np.array(c, np.float32) for c in PALETTES[kind])
    picture = top + (horizon - top) * np.clip(y / 0.65, 0, 1)[..., None]
    _sky_extras(kind, picture, x, y, rng)
    for layer, colour in enumerate(layers):
        edge = _horizon(kind, layer, x[0], rng)
        distance = (edge[None] - y) * size
        shade = 0.16 * np.clip(1 - distance / 7, 0, 1) ** 2 * (distance > -1)
        picture *= 1 - shade[..., None]
        blend(picture, colour, distance)
    return np.clip(picture, 0, 255)
