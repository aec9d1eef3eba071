"""Signed distance functions of the subjects and their light details, in subject coordinates.

Coordinates are in units of the subject's radius, u to the right, v downwards; a subject about fills the unit
disc. Distances are negative inside, and accurate enough near the edge for one-pixel antialiasing and soft
shadows.
"""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.floating]
Shape = Callable[[Floats, Floats], Floats]  # distance at the coordinates u and v, arrays of the same shape


def disc(u: Floats, v: Floats, cu: float = 0.0, cv: float = 0.0, radius: float = 1.0) -> Floats:
    """Returns the exact distance to a disc.

    Args:
        u: horizontal coordinates.
        v: vertical coordinates.
        cu: horizontal centre.
        cv: vertical centre.
        radius: radius of the disc.
    """
    return np.hypot(u - cu, v - cv) - radius


def rounded_box(
    u: Floats, v: Floats, half_u: float, half_v: float, radius: float, cu: float = 0.0, cv: float = 0.0
) -> Floats:
    """Returns the exact distance to a box with rounded corners.

    Args:
        u: horizontal coordinates.
        v: vertical coordinates.
        half_u: half the width, corners included.
        half_v: half the height, corners included.
        radius: radius of the corners.
        cu: horizontal centre.
        cv: vertical centre.
    """
    qu, qv = np.abs(u - cu) - half_u + radius, np.abs(v - cv) - half_v + radius
    return np.hypot(np.maximum(qu, 0), np.maximum(qv, 0)) + np.minimum(np.maximum(qu, qv), 0) - radius


def ellipse(u: Floats, v: Floats, half_u: float, half_v: float, cu: float = 0.0, cv: float = 0.0) -> Floats:
    """Returns the first-order distance to an ellipse: the implicit function over the norm of its gradient.

    Args:
        u: horizontal coordinates.
        v: vertical coordinates.
        half_u: horizontal semi-axis.
        half_v: vertical semi-axis.
        cu: horizontal centre.
        cv: vertical centre.
    """
    pu, pv = (u - cu) / half_u, (v - cv) / half_v
    value = np.hypot(pu, pv)
    gradient = np.hypot(pu / half_u, pv / half_v)
    return value * (value - 1) / np.maximum(gradient, 1e-6)


def polygon(u: Floats, v: Floats, corners: Floats) -> Floats:
    """Returns the exact distance to a closed polygon.

    Args:
        u: horizontal coordinates.
        v: vertical coordinates.
        corners: coordinates `(n, 2)` of the corners in order.
    """
    nearest = np.full_like(u, np.inf)
    inside = np.zeros(u.shape, bool)
    for (au, av), (bu, bv) in zip(corners, np.roll(corners, -1, axis=0), strict=True):
        eu, ev = bu - au, bv - av
        along = np.clip(((u - au) * eu + (v - av) * ev) / (eu * eu + ev * ev), 0, 1)
        nearest = np.minimum(nearest, (u - au - along * eu) ** 2 + (v - av - along * ev) ** 2)
        if ev:
            inside ^= ((av > v) != (bv > v)) & (u < au + (v - av) * eu / ev)
    return np.where(inside, -1, 1) * np.sqrt(nearest)


_ANGLES = np.arange(10) * np.pi / 5
_STAR = np.stack([np.sin(_ANGLES), -np.cos(_ANGLES)], 1) * np.where(np.arange(10) % 2, 0.46, 1.0)[:, None]
_HEART = np.array([(-0.90, 0.02), (0, -0.45), (0.90, 0.02), (0, 0.98)])
_TAIL = np.array([(-0.42, 0.0), (-1.05, -0.58), (-0.88, 0.0), (-1.05, 0.58)])


def _heart(u: Floats, v: Floats) -> Floats:
    lobes = np.minimum(disc(u, v, -0.47, -0.32, 0.53), disc(u, v, 0.47, -0.32, 0.53))
    return np.minimum(lobes, polygon(u, v, _HEART))


def _moon(u: Floats, v: Floats) -> Floats:
    return np.maximum(disc(u, v), -disc(u, v, 0.50, -0.14, 0.74))


def _fish(u: Floats, v: Floats) -> Floats:
    return np.minimum(ellipse(u, v, 0.80, 0.58, 0.22), polygon(u, v, _TAIL) - 0.05)


def _mushroom(u: Floats, v: Floats) -> Floats:
    cap = np.maximum(disc(u, v, 0, 0.02, 0.98), v - 0.10)
    return np.minimum(cap, rounded_box(u, v, 0.33, 0.50, 0.14, 0, 0.45))


SUBJECTS: dict[str, Shape] = {
    "ball": disc,
    "star": lambda u, v: polygon(u, v, _STAR) - 0.06,
    "heart": _heart,
    "ring": lambda u, v: np.abs(np.hypot(u, v) - 0.71) - 0.27,
    "box": lambda u, v: rounded_box(u, v, 0.84, 0.84, 0.14),
    "moon": _moon,
    "fish": _fish,
    "mushroom": _mushroom,
}

# Each subject has one lighter patch off its centre, so that rotation is visible even on a ball.
DETAILS: dict[str, Shape] = {
    "ball": lambda u, v: disc(u, v, -0.36, -0.36, 0.34),
    "star": lambda u, v: disc(u, v, 0.0, -0.42, 0.27),
    "heart": lambda u, v: disc(u, v, -0.44, -0.34, 0.27),
    "ring": lambda u, v: np.maximum(
        np.abs(np.hypot(u, v) - 0.71) - 0.27, rounded_box(u, v, 0.30, 0.5, 0.05, 0, -0.75)
    ),
    "box": lambda u, v: rounded_box(u, v, 0.20, 0.84, 0.02, -0.36),
    "moon": lambda u, v: disc(u, v, -0.62, 0.14, 0.22),
    "fish": lambda u, v: disc(u, v, 0.56, -0.14, 0.20),
    "mushroom": lambda u, v: np.minimum(disc(u, v, -0.46, -0.30, 0.24), disc(u, v, 0.22, -0.52, 0.20)),
}
