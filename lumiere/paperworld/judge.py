"""The judge: colour, subject, background and motion of a clip, measured from its pixels alone, without a network.

What stands in each frame is in sight.py; here the subject gets its name, and its track is explained by one of the
motions. Every motion is a small family of curves; within windows of about a second and a half (a little more than
one cycle of the slowest motion), each family is fitted by least squares, and the one that leaves least unexplained
wins, if it explains enough. A clip that moves in no known way has no motion (None), which is not the same as "still".
"""

import math
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from .scene import DRIFT_SPEED, PERIODS, SIZE
from .sight import ANGLES, match, see_background, see_colour, see_silhouettes, true_centres

LEAST_FRAMES = 8  # fewer cannot tell a bounce from a drift
WINDOW = 32  # frames: one slow cycle; a cycle that speeds up or slows down over a long clip still fits in each window
CYCLES = np.geomspace(7, 44, 48)  # frames per cycle that are tried; the world's own are 10 to 32
PHASES = np.arange(24) / 24
NAMED = 0.55  # agreement below which a silhouette has no name; real ones reach 0.9, the next best subject 0.8
COLOUR_FRAMES = 12  # frames are alike in colour: more would only cost time
SEEN = 0.5  # share of frames in which the subject must be found
# What counts as motion at all, each about a third or less of the slightest that the world shows.
LEAST_DRIFT = 0.6  # pixels per frame, of 2
LEAST_ORBIT = 6.0  # pixels, of 19
LEAST_BOUNCE = 9.0  # pixels, of 34
LEAST_PULSE = 0.07  # share of the radius, of 0.22
LEAST_TURN = 0.03  # agreement gained by letting the silhouette turn, of 0.1 (a blurred ball) and more
# What may still be called standing still; above it and without a motion that fits, the motion is unknown.
STILL_SHIFT = 1.8  # pixels, root mean square: soft edges cost less than one
STILL_SIZE = 0.06  # share of the radius, root mean square
STILL_TURN = 0.12  # agreement lost by holding the silhouette upright
EXPLAINED = 0.7  # share of the track's variance; 16 frames in random order stay below it
AXIS = math.tan(math.radians(35))  # a drift farther than this from its axis is neither of two directions


@dataclass(frozen=True)
class Verdict:
    """What a clip shows; None where it cannot be told.

    speed: "slow" or "fast", None for what does not move. velocity: mean, pixels per frame, to the right and down.
    turning: radians per frame, clockwise. period: frames per cycle (circling, spinning, pulsing, bouncing), else None.
    amplitude: of the motion, in pixels: orbit, height of the bounce, change of the radius, distance drifted.
    radius: of the subject, in pixels. agreement: intersection over union with the subject's silhouette, 0 to 1.
    explained: share of the track's variance that the motion accounts for, 0 to 1; 1 for what stands still.
    distance: mean distance of the picture to its background's palette, in levels (truncated at 48).
    """

    colour: str | None
    subject: str | None
    background: str
    motion: str | None
    speed: str | None
    velocity: tuple[float, float] = (0.0, 0.0)
    turning: float = 0.0
    period: float | None = None
    amplitude: float = 0.0
    radius: float = 0.0
    agreement: float = 0.0
    explained: float = 0.0
    distance: float = 0.0


@dataclass(frozen=True)
class _Explanation:
    motion: str | None
    explained: float = 0.0
    amplitude: float = 0.0
    period: float | None = None
    turning: float = 0.0
    velocity: tuple[float, float] = (0.0, 0.0)


def judge(frames):
    """Verdict on a clip of the paper world: uint8 (t h w c), 8 frames or more of 128 x 128; ValueError for others."""
    if frames.dtype != np.uint8 or frames.ndim != 4 or frames.shape[1:] != (SIZE, SIZE, 3):
        raise ValueError(
            f"the judge takes uint8 frames of shape (t {SIZE} {SIZE} 3): received {frames.dtype} of {frames.shape}."
        )
    if len(frames) < LEAST_FRAMES:
        raise ValueError(f"the judge needs at least {LEAST_FRAMES} frames: received {len(frames)}.")
    background, distance = see_background(frames)
    some = np.linspace(0, len(frames) - 1, min(len(frames), COLOUR_FRAMES)).astype(int)
    colour = see_colour(frames[some], background)
    nothing = Verdict(colour, None, background, None, None, distance=distance)
    if colour is None:
        return nothing
    silhouettes = see_silhouettes(frames, background, colour)
    seen = np.flatnonzero(silhouettes.radius > 0)
    if len(seen) < SEEN * len(frames):
        return nothing
    agreement = match(silhouettes.patches)  # name -> t turns
    means = {name: float(a[seen].max(1).mean()) for name, a in agreement.items()}
    subject = max(means, key=means.get)
    best, radius = explain(silhouettes, subject, agreement[subject], seen)
    return Verdict(
        colour=colour,
        subject=subject if means[subject] >= NAMED else None,
        background=background,
        motion=best.motion,
        speed=_speed(best),
        velocity=best.velocity,
        turning=best.turning,
        period=best.period,
        amplitude=best.amplitude,
        radius=radius,
        agreement=means[subject],
        explained=best.explained,
        distance=distance,
    )


def explain(silhouettes, subject, agreement, seen):
    """The motion of a named subject, as _Explanation, and its median radius in pixels.

    agreement: (t, turns) with that subject. seen: the frames that show it; the others are filled in between.
    What travels is what one sees first, then what turns, then what changes its size: a motion is looked for in this
    order, so a subject that circles and turns is circling.
    """
    times = np.arange(len(agreement))
    windows = np.array_split(times, max(1, round(len(times) / WINDOW)))
    turned = _turning(agreement[:, :ANGLES], windows)
    upright = agreement[:, [0, *range(ANGLES, agreement.shape[1])]].max(1)
    held = max(upright.mean(), turned.fixed)
    spins = turned.agreement - held > LEAST_TURN
    x, y, radius = true_centres(silhouettes, subject, turned.angle if spins else np.zeros(len(times)))
    x, y = (np.unwrap(np.interp(times, seen, np.unwrap(a[seen], period=SIZE)), period=SIZE) for a in (x, y))
    radius = np.interp(times, seen, radius[seen])
    middle = float(np.median(radius))

    place, shift = _travelling(x, y, windows)
    pulse, change = _pulsing(np.log(np.maximum(radius, 1)), windows)
    if place is not None:
        best = place
    elif spins:
        share = (turned.agreement - held) / max(float(agreement[:, :ANGLES].max(1).mean()) - held, 1e-6)
        best = _Explanation("spinning", min(share, 1.0), 0.0, 2 * np.pi / abs(turned.rate), turned.rate)
    elif pulse is not None:
        best = pulse
    else:
        lost = float(agreement.max(1).mean()) - held
        still = shift < STILL_SHIFT and change < STILL_SIZE and lost < STILL_TURN
        best = _Explanation("still", 1.0) if still else _Explanation(None)
    return best, middle


@dataclass(frozen=True)
class _Turning:
    """The best constant rate (radians per frame), the angle in each frame, the mean agreement at it and at no rate."""

    rate: float
    angle: np.ndarray
    agreement: float
    fixed: float


def _turning(agreement, windows):
    """Search over rates of turning: for each, the agreement along the angles it would go through.

    agreement: (t, 48). Shifting every frame's row back by its turn is a phase in the Fourier domain, so all starts
    of a rate come out of one inverse transform.
    """
    rates = np.concatenate([[0.0], 2 * np.pi / CYCLES, -2 * np.pi / CYCLES])
    spectrum = np.fft.rfft(agreement, axis=1)
    angles, found, total, fixed = np.zeros(len(agreement)), [], 0.0, 0.0
    for window in windows:
        n = np.arange(len(window))
        phase = np.exp(1j * rates[:, None, None] * n[:, None] * np.arange(spectrum.shape[1]))  # rates t k
        along = np.fft.irfft((spectrum[window] * phase).sum(1), n=ANGLES, axis=1)  # rates starts
        rate, start = np.unravel_index(along.argmax(), along.shape)
        angles[window] = start * 2 * np.pi / ANGLES + rates[rate] * n
        found.append(rates[rate])
        total += along.max()
        fixed += along[0].max()
    return _Turning(float(np.median(found)), angles, total / len(agreement), fixed / len(agreement))


def _travelling(x, y, windows):
    """Drift, bounce or circle, whichever leaves least; None where nothing fits. Also the shift (rms, pixels)."""
    total, left = 0.0, {"drift": 0.0, "bouncing": 0.0, "circling": 0.0}
    steps, bounces, circles = [], [], []
    for window in windows:
        place = (x[window] - x[window].mean()) + 1j * (y[window] - y[window].mean())
        squares = float(np.sum(np.abs(place) ** 2))
        ramp, arcs, orbits = _curves(len(window))
        velocity = (ramp @ place) / (ramp @ ramp)
        left["drift"] += squares - abs(velocity) ** 2 * (ramp @ ramp)
        up = np.maximum(-(arcs @ place.imag), 0)  # y points down
        arc = int(np.argmax(up))
        left["bouncing"] += squares - up[arc] ** 2
        along = np.abs(orbits.conj() @ place)
        orbit = int(np.argmax(along))
        left["circling"] += squares - along[orbit] ** 2
        total += squares
        steps.append(velocity)
        bounces.append((up[arc] * np.ptp(arcs[arc]), CYCLES[arc // len(PHASES)]))
        circles.append((along[orbit] * np.abs(np.diff(orbits[orbit])).mean(), orbit))
    shift = math.sqrt(total / len(x))
    motion = min(left, key=left.get)
    explained = 1 - left[motion] / max(total, 1e-9)
    if shift < STILL_SHIFT or explained < EXPLAINED:
        return None, shift
    if motion == "drift":
        return _drift(complex(np.mean(steps)), explained, len(x)), shift
    if motion == "bouncing":
        height, period = (float(np.median(a)) for a in zip(*bounces, strict=True))
        return (_Explanation(motion, explained, height, period) if height >= LEAST_BOUNCE else None), shift
    rates = np.concatenate([2 * np.pi / CYCLES, -2 * np.pi / CYCLES])[[orbit for _, orbit in circles]]
    rate = float(np.median(rates))
    size = float(np.median([step / (2 * abs(math.sin(r / 2))) for (step, _), r in zip(circles, rates, strict=True)]))
    fits = size >= LEAST_ORBIT
    return (_Explanation(motion, explained, size, 2 * np.pi / abs(rate), rate) if fits else None), shift


def _drift(velocity, explained, frames):
    along, across = max(abs(velocity.real), abs(velocity.imag)), min(abs(velocity.real), abs(velocity.imag))
    if along < LEAST_DRIFT or across > AXIS * along:
        return None
    if abs(velocity.real) > abs(velocity.imag):
        motion = "right" if velocity.real > 0 else "left"
    else:
        motion = "falling" if velocity.imag > 0 else "rising"
    return _Explanation(motion, explained, along * frames, None, 0.0, (velocity.real, velocity.imag))


def _pulsing(size, windows):
    """A sine in the logarithm of the radius (t); None where none fits. Also its change (rms, share of the radius)."""
    total, gained, found = 0.0, 0.0, []
    for window in windows:
        curve = size[window] - size[window].mean()
        waves = _waves(len(window))
        power = np.square(waves @ curve).sum(1)  # cycles
        best = int(power.argmax())
        total += float(curve @ curve)
        gained += float(power[best])
        fitted = waves[best].T @ (waves[best] @ curve)
        found.append((np.ptp(fitted) / 2, CYCLES[best]))
    change = math.sqrt(total / len(size))
    amplitude, period = (float(np.median(a)) for a in zip(*found, strict=True))
    explained = gained / max(total, 1e-9)
    if amplitude < LEAST_PULSE or explained < EXPLAINED:
        return None, change
    return _Explanation("pulsing", explained, amplitude * float(np.exp(size.mean())), period), change


def _speed(best):
    """Slow or fast, whichever the measured pace is nearer to, as a ratio."""
    if best.motion in PERIODS:
        paces, pace = PERIODS[best.motion], best.period
    elif best.motion in ("left", "right", "rising", "falling"):
        paces, pace = DRIFT_SPEED, max(map(abs, best.velocity))
    else:
        return None
    return min(paces, key=lambda speed: abs(math.log(pace / paces[speed])))


@lru_cache(maxsize=16)
def _curves(frames):
    """Centred curves over a window: a ramp (t); bounces (cycles * phases, t) and orbits (2 * cycles, t) of unit norm."""
    n = np.arange(frames)
    ramp = n - n.mean()
    arcs = np.abs(np.sin(np.pi * (n / CYCLES[:, None, None] + PHASES[:, None])))  # cycles phases t
    orbits = np.exp(2j * np.pi * n / np.concatenate([CYCLES, -CYCLES])[:, None])  # 2 * cycles, t
    arcs, orbits = (a - a.mean(-1, keepdims=True) for a in (arcs.reshape(-1, frames), orbits))
    return ramp, *(a / np.linalg.norm(a, axis=-1, keepdims=True) for a in (arcs, orbits))


@lru_cache(maxsize=16)
def _waves(frames):
    """An orthonormal basis of the centred sines of each cycle over a window: (cycles, 2, t)."""
    turn = 2 * np.pi * np.arange(frames) / CYCLES[:, None]
    waves = np.stack([np.cos(turn), np.sin(turn)], -1)
    basis, _ = np.linalg.qr(waves - waves.mean(1, keepdims=True))
    return np.swapaxes(basis, 1, 2)
