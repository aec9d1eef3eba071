"""Scenes of the paper world: content, motion and rendering."""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from lumiere.paperworld.world.backgrounds import PALETTES, Colour, background, blend
from lumiere.paperworld.world.shapes import DETAILS, SUBJECTS, Floats, disc, rounded_box

SIZE, FPS = 128, 16
COLOURS: dict[str, Colour] = {
    "red": (212, 38, 42),
    "orange": (246, 128, 24),
    "yellow": (250, 206, 36),
    "green": (34, 150, 66),
    "blue": (32, 96, 214),
    "purple": (128, 56, 172),
    "pink": (246, 124, 178),
    "black": (38, 35, 40),
}
MOTIONS = ("still", "left", "right", "rising", "falling", "bouncing", "circling", "spinning", "pulsing")
SPEEDS = ("slow", "fast")
CREAM = (255, 252, 242)
DRIFT = {"left": (-1, 0), "right": (1, 0), "rising": (0, -1), "falling": (0, 1)}
DRIFT_SPEED = {"slow": 2.0, "fast": 4.0}  # pixels per frame
PERIODS = {  # frames per cycle; a bounce is half a sine
    "bouncing": {"slow": 20, "fast": 12},
    "circling": {"slow": 32, "fast": 16},
    "spinning": {"slow": 32, "fast": 16},
    "pulsing": {"slow": 20, "fast": 10},
}
ORBIT, BOUNCE, PULSE = 19.0, 34.0, 0.22  # pixels, pixels, share of the radius
HELD_OUT = frozenset(
    tuple(line.split()) for line in (Path(__file__).parent / "held_out.txt").read_text().splitlines() if line
)


@dataclass(frozen=True)
class Scene:
    """Ground truth of a clip: `x, y` (pixels) is the rest position, `phase` (0–1) the start of the cycle."""

    colour: str
    subject: str
    background: str
    motion: str
    speed: str
    x: float
    y: float
    radius: float
    phase: float
    seed: int

    @property
    def combination(self) -> tuple[str, str, str]:
        """(colour, subject, motion), the key of `HELD_OUT`."""
        return self.colour, self.subject, self.motion


def sample_scene(rng: Generator, held_out: bool = False, motions: Sequence[str] = MOTIONS) -> Scene:
    """Draws a random scene.

    Args:
        rng: random generator.
        held_out: draw a held-out (colour, subject, motion) if True, else any other.
        motions: motions to draw from; a repeated motion is more likely.
    """
    while True:
        colour, subject = rng.choice(list(COLOURS)), rng.choice(list(SUBJECTS))
        motion = rng.choice(motions)
        if ((colour, subject, motion) in HELD_OUT) == held_out:
            break
    radius = rng.uniform(19, 26)
    around = (
        radius + 9 if motion != "pulsing" else (radius + 13) * (1 + PULSE) + 2
    )  # room for border and marks
    low, high = np.array([around, around]), np.array([SIZE - around, SIZE - around])
    if motion == "circling":
        low, high = low + ORBIT - 4, high - ORBIT + 4
    if motion == "bouncing":
        low = low + (0, BOUNCE - 4)
    x, y = rng.uniform(low, np.maximum(high, low + 1e-3))
    kind, speed = rng.choice(list(PALETTES)), rng.choice(SPEEDS)
    return Scene(
        colour=str(colour),
        subject=str(subject),
        background=str(kind),
        motion=str(motion),
        speed=str(speed),
        x=float(x),
        y=float(y),
        radius=float(radius),
        phase=float(rng.random()),
        seed=int(rng.integers(2**31)),
    )


def begin_at_rest(scene: Scene, rng: Generator) -> tuple[Scene, Scene]:
    """Returns the scene at rest at a random position, and moving from that position in frame 0.

    A circling subject starts at the point of its orbit farthest from the centre. A bouncing subject starts on
    the ground, or at the top of the bounce if it would otherwise leave the picture.
    """
    around, middle = scene.radius + 9, SIZE / 2
    x, y = rng.uniform(around, SIZE - around, 2).tolist()
    still = replace(scene, motion="still", x=x, y=y, phase=0.0)
    moving = replace(still, motion=scene.motion)
    if scene.motion == "circling":
        turn = np.arctan2(y - middle, x - middle).item()
        x, y = x - ORBIT * np.cos(turn).item(), y - ORBIT * np.sin(turn).item()
        moving = replace(moving, x=x, y=y, phase=turn / (2 * np.pi))
    elif scene.motion == "bouncing" and y < around + BOUNCE - 4:
        moving = replace(moving, y=y + BOUNCE, phase=0.5)
    return still, moving


def choose_held_out(seed: int = 0, share: float = 0.1) -> list[tuple[str, str, str]]:
    """Draws (colour, subject, motion) combinations, equally many of each motion; see held_out.txt.

    Args:
        seed: seed of the draw.
        share: fraction of all combinations, 0 to 1.
    """
    rng = np.random.default_rng(seed)
    pairs = list(itertools.product(COLOURS, SUBJECTS))
    count = round(share * len(pairs))
    chosen = [(*pairs[i], m) for m in MOTIONS for i in rng.permutation(len(pairs))[:count]]
    return sorted(chosen)


def motion_state(scene: Scene, frames: int, start: int = 0) -> tuple[Floats, Floats, Floats, Floats, Floats]:
    """Computes the place and shape of the subject in each frame.

    Args:
        scene: the scene.
        frames: clip length t.
        start: number of the first frame.

    Returns:
        Centre x and y (pixels), angle (radians), horizontal and vertical scale, `(t,)` each.
    """
    n = np.arange(start, start + frames, dtype=np.float64)
    x: Floats = np.full(frames, scene.x)
    y: Floats = np.full(frames, scene.y)
    angle: Floats = np.zeros(frames)
    wide: Floats = np.ones(frames)
    tall: Floats = np.ones(frames)
    if scene.motion in DRIFT:
        dx, dy = DRIFT[scene.motion]
        travelled = DRIFT_SPEED[scene.speed] * n + scene.phase * SIZE
        x, y = x + dx * travelled, y + dy * travelled
    elif scene.motion != "still":
        turn = 2 * np.pi * (n / PERIODS[scene.motion][scene.speed] + scene.phase)
        if scene.motion == "bouncing":
            height = BOUNCE * np.abs(np.sin(turn / 2))
            y = y - height
            squash = 0.24 * np.exp(-((height / 6) ** 2))
            wide, tall = 1 + squash, 1 - squash
            y = y + scene.radius * squash
        elif scene.motion == "circling":
            x, y = x + ORBIT * np.cos(turn), y + ORBIT * np.sin(turn)
        elif scene.motion == "spinning":
            angle = turn
        else:
            wide = tall = 1 + PULSE * np.sin(turn)
    return x, y, angle, wide, tall


def _marks(
    scene: Scene, dx: Floats, dy: Floats, rest_dx: Floats, rest_dy: Floats, angle: Floats, scale: Floats
) -> Floats | None:
    """Returns the distance `t h w` in pixels to the paper strips that mark the motion in a still, or None."""
    r, fast = scene.radius, scene.speed == "fast"
    if scene.motion in DRIFT:  # speed lines behind the subject
        mx, my = DRIFT[scene.motion]
        along, across = dx * mx + dy * my, dx * -my + dy * mx
        half = 9.0 if fast else 5.0
        lines = [rounded_box(along, across, half, 1.7, 1.7, -r - 7 - half, o * r) for o in (-0.6, 0.0, 0.6)]
        return np.minimum.reduce(lines)
    if scene.motion == "bouncing":  # dust on the ground at both sides
        ground = rest_dy - r - 2
        tilt = 0.45 * np.abs(rest_dx)
        strips = rounded_box(np.abs(rest_dx), ground + tilt, 6.0, 1.7, 1.7, r + 6, 2)
        more = rounded_box(np.abs(rest_dx), ground + tilt, 4.0, 1.7, 1.7, r + 2, -5)
        return np.minimum(strips, more) if fast else strips
    if scene.motion == "circling":  # dotted path
        count = 16 if fast else 10
        turn: Floats = np.arctan2(rest_dy, rest_dx) * count / (2 * np.pi)
        arc = (turn - np.round(turn)) * 2 * np.pi * (ORBIT + r) / count
        return np.hypot(arc, np.hypot(rest_dx, rest_dy) - ORBIT - r + 2) - 2.2
    if scene.motion == "spinning":  # arcs that rotate with the subject
        count, away = (3 if fast else 2), r + 7
        turn = (np.arctan2(dy, dx) - angle) * count / (2 * np.pi)
        gap = (np.abs(turn - np.round(turn)) - 0.26) * 2 * np.pi * away / count
        return np.hypot(np.maximum(gap, 0), np.hypot(dx, dy) - away) - 1.7
    if scene.motion == "pulsing":  # rings around the subject
        ring = np.abs(disc(dx, dy) + 1 - (r + 7) * scale) - 1.6
        return np.minimum(ring, np.abs(disc(dx, dy) + 1 - (r + 13) * scale) - 1.6) if fast else ring
    return None


def _wrap(distance: Floats) -> Floats:
    """Wraps a distance to the nearest copy of the subject, which moves on a torus."""
    return (distance + SIZE / 2) % SIZE - SIZE / 2


def render(scene: Scene, frames: int = 16, start: int = 0) -> tuple[NDArray[np.uint8], Floats]:
    """Renders a clip.

    Args:
        scene: the scene to render.
        frames: clip length.
        start: number of the first frame.

    Returns:
        The clip `t h w c`, and the coverage of each pixel by subject or marks, float32 `t h w`, 0 to 1.
    """
    rng = np.random.default_rng(scene.seed)
    x, y, angle, wide, tall = (
        a.astype(np.float32)[:, None, None] for a in motion_state(scene, frames, start)
    )
    py, px = np.mgrid[:SIZE, :SIZE].astype(np.float32) + 0.5
    dx, dy = _wrap(px - x), _wrap(py - y)  # t h w
    cos, sin = np.cos(angle), np.sin(angle)
    u = (cos * dx + sin * dy) / (scene.radius * wide)
    v = (cos * dy - sin * dx) / (scene.radius * tall)
    unit = scene.radius * np.minimum(wide, tall)
    shape = SUBJECTS[scene.subject](u, v) * unit
    detail = DETAILS[scene.subject](u, v) * unit

    clip = np.repeat(background(scene.background, rng)[None], frames, 0)
    covered = np.clip(3.2 - shape, 0, 1)
    marks = _marks(scene, dx, dy, _wrap(px - scene.x), _wrap(py - scene.y), angle, wide)
    if marks is not None:
        _shadow(clip, marks, (1, 2), 0.30, 2)
        blend(clip, CREAM, marks)
        covered = np.maximum(covered, np.clip(0.5 - marks, 0, 1))
    _shadow(clip, shape - 2, (3, 4), 0.30, 5)
    blend(clip, CREAM, shape - 2.7)  # the white border of a cut-out
    colour = np.array(COLOURS[scene.colour], np.float32)
    light = np.clip(1.03 - 0.10 * v, 0.85, 1.12)[..., None]  # light from above
    blend(clip, np.clip(colour * light, 0, 255), shape)
    blend(clip, colour + 0.72 * (np.array(CREAM, np.float32) - colour), np.maximum(detail, shape + 1))
    return np.round(clip).astype(np.uint8), covered


def _shadow(
    clip: NDArray[np.float32], distance: Floats, offset: tuple[int, int], opacity: float, softness: float
) -> None:
    moved = np.roll(distance, (offset[1], offset[0]), axis=(-2, -1))
    blend(clip, (40, 36, 60), moved, opacity, softness)
