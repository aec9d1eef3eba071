"""Classifies the motion of a subject from its track through a clip.

Every motion is a small family of curves. Each family is fitted by least squares in windows of about two
seconds (one cycle of the slowest motion). The family with the smallest residual, summed over the windows,
wins if it explains enough variance. A track that fits no family has motion None, which differs from "still".
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from lumiere.paperworld.judge.sight import ANGLES, UPRIGHT, Silhouettes, true_centres
from lumiere.paperworld.world.scene import BOUNCE, SIZE
from lumiere.paperworld.world.shapes import Floats

WINDOW = 32  # frames, one slow cycle; the pace may change between the windows of a long clip
CYCLES = np.geomspace(7, 44, 48)  # candidate frames per cycle; the paper world uses 10 to 32
RATES = np.concatenate([2 * np.pi / CYCLES, -2 * np.pi / CYCLES])  # radians per frame, clockwise first
PHASES = np.arange(24) / 24
# Minimum motions, each about a third of the paper world's weakest motion or less (given after "of").
LEAST_DRIFT = 0.6  # pixels per frame, of 2
LEAST_ORBIT = 6.0  # pixels, of 19
LEAST_BOUNCE = 9.0  # pixels, of 34
LEAST_PULSE = 0.07  # share of the radius, of 0.22
LEAST_TURN = 0.03  # agreement gained by rotating the silhouette, of 0.1 (a blurred ball) or more
# Maximum deviations of "still"; above them, a track that fits no motion is unknown.
STILL_SHIFT = 1.8  # pixels, root mean square: soft edges cost less than one
STILL_SIZE = 0.06  # share of the radius, root mean square
STILL_TURN = 0.12  # agreement lost by holding the silhouette upright
EXPLAINED = 0.7  # share of the track's variance; 16 frames in random order stay below it
PULSED = 0.8  # the same for the radius, which has one value per frame where the position has two
SPUN = 0.6  # minimum gain of steady rotation relative to free rotation; shuffled frames stay near 0.3
Windows = Sequence[NDArray[np.integer]]  # frame indices of each window
AXIS = math.tan(math.radians(35))  # maximum slope between a drift and its axis


@dataclass(frozen=True)
class Explanation:
    """A motion (None if none fits) with its measurements; see Verdict."""

    motion: str | None
    explained: float = 0.0
    amplitude: float = 0.0
    period: float | None = None
    turning: float = 0.0
    velocity: tuple[float, float] = (0.0, 0.0)


def explain(
    silhouettes: Silhouettes, subject: str, agreement: Floats, seen: NDArray[np.integer]
) -> tuple[Explanation, float]:
    """Classifies the motion of a named subject.

    As for a human viewer, travelling takes precedence over rotation, and rotation over changes of size: a
    subject that circles and rotates is "circling".

    Args:
        silhouettes: the detected areas.
        subject: name of the subject.
        agreement: agreement with that subject, `(t, turns)`.
        seen: indices of the frames that show the subject; the track is interpolated in other frames.

    Returns:
        The Explanation and the median radius in pixels.
    """
    times = np.arange(len(agreement))
    windows = np.array_split(times, max(1, round(len(times) / WINDOW)))
    turned = _turning(agreement[:, :ANGLES], windows)
    upright = agreement[:, UPRIGHT].max(1)
    held = max(upright.mean(), turned.fixed)
    gained, freely = turned.agreement - held, float(agreement.max(1).mean()) - held
    spins = turned.rate != 0 and gained > max(LEAST_TURN, SPUN * freely)
    x, y, radius = true_centres(silhouettes, subject, turned.angle if spins else np.zeros(len(times)))
    x, y = (np.unwrap(np.interp(times, seen, np.unwrap(a[seen], period=SIZE)), period=SIZE) for a in (x, y))
    radius = np.interp(times, seen, radius[seen])
    middle = float(np.median(radius))

    place, shift = _travelling(x, y, windows)
    pulse, change = _pulsing(np.log(np.maximum(radius, 1)), windows)
    if place is not None:
        best = place
    elif spins:
        period = 2 * np.pi / abs(turned.rate)
        best = Explanation("spinning", min(gained / freely, 1.0), 0.0, period, turned.rate)
    elif pulse is not None:
        best = pulse
    else:
        still = shift < STILL_SHIFT and change < STILL_SIZE and freely < STILL_TURN
        best = Explanation("still", 1.0) if still else Explanation(None)
    return best, middle


@dataclass(frozen=True)
class _Turning:
    """The best steady rate (radians per frame), the angle per frame, the mean agreement with and without."""

    rate: float
    angle: Floats
    agreement: float
    fixed: float


def _turning(agreement: Floats, windows: Windows) -> _Turning:
    """Finds the rotation rate whose angles have the highest agreement.

    Shifting a frame's row by its rotation is a phase in the Fourier domain, so one inverse transform yields
    all starting angles of a rate.

    Args:
        agreement: `(t, 48)`.
        windows: frame indices of each window.
    """
    rates = np.concatenate([[0.0], RATES])
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
    return _Turning(_middle_rate(found), angles, total / len(agreement), fixed / len(agreement))


def _middle_rate(rates: Sequence[float]) -> float:
    """Returns the median pace in the predominant direction; the plain median of opposite rates would be 0."""
    return math.copysign(float(np.median(np.abs(rates))), sum(rates))


def _travelling(x: Floats, y: Floats, windows: Windows) -> tuple[Explanation | None, float]:
    """Returns the drift, bounce or circle with the least residual, or None; and the RMS shift in pixels."""
    total, left = 0.0, {"drift": 0.0, "bouncing": 0.0, "circling": 0.0}
    steps, bounces, circles = [], [], []
    for window in windows:
        place = (x[window] - x[window].mean()) + 1j * (y[window] - y[window].mean())
        squares = float(np.sum(np.abs(place) ** 2))
        ramp, arcs, orbits, reach = _curves(len(window))
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
        circles.append((along[orbit] * reach[orbit], RATES[orbit]))
    shift = math.sqrt(total / len(x))
    motion = min(left, key=left.__getitem__)
    explained = 1 - left[motion] / max(total, 1e-9)
    if shift < STILL_SHIFT or explained < EXPLAINED:
        return None, shift
    if motion == "drift":
        return _drift(complex(np.mean(steps)), explained, len(x)), shift
    if motion == "bouncing":
        height, period = (float(np.median(a)) for a in zip(*bounces, strict=True))
        return (Explanation(motion, explained, height, period) if height >= LEAST_BOUNCE else None), shift
    sizes, rates = zip(*circles, strict=True)
    size, rate = float(np.median(sizes)), _middle_rate(rates)
    fits = size >= LEAST_ORBIT
    return (Explanation(motion, explained, size, 2 * np.pi / abs(rate), rate) if fits else None), shift


def _drift(velocity: complex, explained: float, frames: int) -> Explanation | None:
    along, across = max(abs(velocity.real), abs(velocity.imag)), min(abs(velocity.real), abs(velocity.imag))
    if along < LEAST_DRIFT or across > AXIS * along:
        return None
    if abs(velocity.real) > abs(velocity.imag):
        motion = "right" if velocity.real > 0 else "left"
    else:
        motion = "falling" if velocity.imag > 0 else "rising"
    return Explanation(motion, explained, along * frames, None, 0.0, (velocity.real, velocity.imag))


def _pulsing(size: Floats, windows: Windows) -> tuple[Explanation | None, float]:
    """Fits a sine to the log radius `size`, `(t,)`; returns it or None, and the RMS relative change."""
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
    if amplitude < LEAST_PULSE or explained < PULSED:
        return None, change
    return Explanation("pulsing", explained, amplitude * float(np.exp(size.mean())), period), change


@lru_cache(maxsize=16)
def _curves(frames: int) -> tuple[Floats, Floats, NDArray[np.complexfloating], Floats]:
    """Returns centred curves over a window of t frames.

    Returns:
        A ramp `(t,)`, unit-norm bounces `(cycles * phases, t)`, unit-norm orbits `(rates, t)` and the orbits'
        radii `(rates,)`.
    """
    n = np.arange(frames)
    arcs = np.abs(np.sin(np.pi * (n / CYCLES[:, None, None] + PHASES[:, None]))).reshape(-1, frames)
    arcs -= 0.15 * np.exp(-((BOUNCE * arcs / 6) ** 2))  # the squash at the ground lowers the centre
    orbits = np.exp(1j * RATES[:, None] * n)
    arcs, orbits = (a - a.mean(-1, keepdims=True) for a in (arcs, orbits))
    reach = 1 / np.linalg.norm(orbits, axis=-1)
    return n - n.mean(), arcs / np.linalg.norm(arcs, axis=-1, keepdims=True), orbits * reach[:, None], reach


@lru_cache(maxsize=16)
def _waves(frames: int) -> Floats:
    """Returns an orthonormal basis of the centred sines of each cycle over a window: `(cycles, 2, t)`."""
    turn = 2 * np.pi * np.arange(frames) / CYCLES[:, None]
    waves = np.stack([np.cos(turn), np.sin(turn)], -1)
    basis, _ = np.linalg.qr(waves - waves.mean(1, keepdims=True))
    return np.swapaxes(basis, 1, 2)
