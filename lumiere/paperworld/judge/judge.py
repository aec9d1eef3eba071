"""The judge: colour, subject, background and motion of a clip, measured from its pixels, without a network.

sight.py detects the background and the subject in each frame, tracks.py fits its motion. This module combines
both into a verdict and computes accuracy, chance and controls from verdicts. `python -m lumiere.paperworld
judge` prints that table for real renders and judges MP4 files.
"""

import argparse
import dataclasses
import io
import math
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.random import Generator
from numpy.typing import ArrayLike, NDArray
from PIL import Image, ImageFilter

from lumiere.media.video import read_clip, read_settings
from lumiere.paperworld.judge.sight import UPRIGHT, match, see_background, see_colour, see_silhouettes
from lumiere.paperworld.judge.tracks import Explanation, explain
from lumiere.paperworld.world.captions import ATTRIBUTES, Truth
from lumiere.paperworld.world.scene import DRIFT, DRIFT_SPEED, PERIODS, SIZE, Scene, render, sample_scene
from lumiere.paperworld.world.shapes import Floats
from lumiere.request import Request

LEAST_FRAMES = 8  # with fewer frames a bounce looks like a drift
NAMED = 0.55  # minimum agreement for a subject; real silhouettes reach 0.9, the second best subject 0.8
UPRIGHT_BONUS = 0.06  # prior for upright subjects; blur favours a tilted heart over half a box by less
COLOUR_FRAMES = 12  # the colour is constant: more frames would only cost time
SEEN = 0.5  # minimum fraction of frames with a detected subject
JUDGED = ("colour", "subject", "background", "motion")  # attributes of "all"; speed is scored separately
COLUMNS = (*JUDGED, "all", "speed")
SHIFTS = 20  # pairings of each verdict with another clip's truth: estimates chance to within one point
MAX_FRAMES = 1024  # 50 MB of pixels; the judge needs about 300 MB for them
Change = Callable[[NDArray[np.uint8], Generator], NDArray[np.uint8]]  # changes the frames of a clip


@dataclass(frozen=True)
class Verdict:
    """The measured content of a clip; None for an attribute that cannot be determined.

    Attributes:
        colour: key of `COLOURS`.
        subject: key of `SUBJECTS`.
        background: key of `PALETTES`.
        motion: one of `MOTIONS`.
        speed: "slow" or "fast". None for a still subject.
        velocity: mean drift in pixels per frame (right, down).
        turning: radians per frame, clockwise.
        period: frames per cycle (circling, spinning, pulsing, bouncing). None for other motions.
        amplitude: pixels. Orbit radius, bounce height, change of the subject's radius or drift distance.
        radius: subject radius in pixels.
        agreement: IoU with the subject's silhouette.
        explained: fraction of the track's variance. It is 1 for "still".
        distance: mean distance in levels to the background's palette. Truncated at 48 per pixel.
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


Pair = tuple[Scene | Truth, Verdict]


def judge(frames: NDArray[np.uint8]) -> Verdict:
    """Measures the content of a clip.

    Args:
        frames: `t 128 128 3` with 8 frames or more.

    Raises:
        ValueError: wrong shape or dtype, or too few frames.
    """
    if frames.dtype != np.uint8 or frames.ndim != 4 or frames.shape[1:] != (SIZE, SIZE, 3):
        wanted = f"uint8 frames of shape (t {SIZE} {SIZE} 3)"
        raise ValueError(f"the judge takes {wanted}: received {frames.dtype} of shape {frames.shape}.")
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
    subject = max(agreement, key=lambda name: _likeness(agreement[name][seen]))
    agreed = float(agreement[subject][seen].max(1).mean())
    best, radius = explain(silhouettes, subject, agreement[subject], seen)
    return Verdict(
        colour=colour,
        subject=subject if agreed >= NAMED else None,
        background=background,
        motion=best.motion,
        speed=_speed(best),
        velocity=best.velocity,
        turning=best.turning,
        period=best.period,
        amplitude=best.amplitude,
        radius=radius,
        agreement=agreed,
        explained=best.explained,
        distance=distance,
    )


def _likeness(agreement: Floats) -> float:
    """Returns the mean of an agreement `(t, turns)` over frames: the best turn, or upright plus a bonus."""
    return max(agreement.max(1).mean(), agreement[:, UPRIGHT].max(1).mean() + UPRIGHT_BONUS)


def _speed(best: Explanation) -> str | None:
    """Returns the speed with the smallest ratio to the measured pace, or None for a still subject."""
    paces: Mapping[str, float]
    if best.motion in PERIODS:
        assert best.period is not None, "motions in PERIODS are cycles"
        paces, pace = PERIODS[best.motion], best.period
    elif best.motion in DRIFT:
        paces, pace = DRIFT_SPEED, max(map(abs, best.velocity))
    else:
        return None
    return min(paces, key=lambda speed: abs(math.log(pace / paces[speed])))


def score(truth: Scene | Truth, verdict: Verdict) -> dict[str, bool]:
    """Compares a verdict with the truth.

    Args:
        truth: the scene, or attribute -> value with None for attributes that the caption omits.
        verdict: the measured content.

    Returns:
        attribute -> whether it is right, for the named attributes. "all" is the conjunction of the named ones
        among colour, subject, background and motion, absent if there are none. "speed" is scored separately.
    """
    if isinstance(truth, Scene):
        truth = dataclasses.asdict(truth)
    named = [name for name in JUDGED if truth.get(name) is not None]
    right = {name: getattr(verdict, name) == truth[name] for name in named}
    if named:
        right["all"] = all(right.values())
    if truth.get("speed") is not None and truth.get("motion") != "still":
        right["speed"] = verdict.speed == truth["speed"]
    return right


def accuracy(pairs: Sequence[Pair]) -> dict[str, float]:
    """Returns the fraction of right (truth, verdict) pairs for each named attribute: attribute -> 0 to 1."""
    scores = [score(truth, verdict) for truth, verdict in pairs]
    table = {name: [s[name] for s in scores if name in s] for name in COLUMNS}
    return {name: float(np.mean(values)) for name, values in table.items() if values}


def chance(pairs: Sequence[Pair], seed: int = 0) -> dict[str, float]:
    """Returns the accuracy of the verdicts against the truths of other clips: attribute -> 0 to 1.

    Args:
        pairs: (truth, verdict) of each clip.
        seed: seed of the clip order.
    """
    order = np.random.default_rng(seed).permutation(len(pairs))
    shifts = range(1, min(len(pairs), SHIFTS + 1))
    others = [np.roll(order, shift) for shift in shifts]
    return accuracy(
        [(pairs[a][0], pairs[b][1]) for other in others for a, b in zip(other, order, strict=True)]
    )


def frozen(frames: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Control: repeats the first frame. All attributes but motion must be right; motion must be "still"."""
    return np.repeat(frames[:1], len(frames), axis=0)


def shuffled(frames: NDArray[np.uint8], rng: Generator) -> NDArray[np.uint8]:
    """Control: shuffles the frames. All attributes but motion must be right; a still clip stays right."""
    return frames[rng.permutation(len(frames))]


def _each(frames: NDArray[np.uint8], change: Callable[[Image.Image], Image.Image]) -> NDArray[np.uint8]:
    return np.stack([np.asarray(change(Image.fromarray(frame))) for frame in frames])


def _jpeg(image: Image.Image) -> Image.Image:
    file = io.BytesIO()
    image.save(file, "JPEG", quality=40)
    return Image.open(file).convert("RGB")


def _lift(frames: NDArray[np.uint8], levels: ArrayLike) -> NDArray[np.uint8]:
    return np.clip(frames + np.asarray(levels), 0, 255).round().astype(np.uint8)


def _halved(image: Image.Image) -> Image.Image:
    small = image.resize((SIZE // 2, SIZE // 2), Image.Resampling.BOX)
    return small.resize((SIZE, SIZE), Image.Resampling.BILINEAR)


# Artefacts of autoencoders and diffusion, each stronger than a good model's.
DEGRADATIONS: dict[str, Change] = {
    "blurred, sigma 1.5": lambda frames, rng: _each(
        frames, lambda image: image.filter(ImageFilter.GaussianBlur(1.5))
    ),
    "noise, sigma 6": lambda frames, rng: _lift(frames, rng.normal(0, 6, frames.shape)),
    "halved and back": lambda frames, rng: _each(frames, _halved),
    "JPEG, quality 40": lambda frames, rng: _each(frames, _jpeg),
    "8 levels brighter": lambda frames, rng: _lift(frames, 8),
    "8 levels darker": lambda frames, rng: _lift(frames, -8),
    "colours shifted by 12": lambda frames, rng: _lift(frames, rng.choice((-12, 12), 3)),
}


def caption_truth(text: str) -> Truth:
    """Parses a caption of the paper world: attribute -> value, None for omitted attributes.

    The longest wordings match first and consume their words: "over green hills" does not name the colour
    green, and "jumping up and down" does not match "jumping". The longer of two wordings for one attribute
    wins.
    """
    rest = " ".join(re.findall(r"[a-z]+", text.lower()))
    truth: Truth = dict.fromkeys(ATTRIBUTES)
    for words, attribute, value in _wordings():
        found = re.search(rf"\b{words}\b", rest)
        if found:
            rest = f"{rest[: found.start()]}|{rest[found.end() :]}"  # prevents matches across the gap
            truth[attribute] = truth[attribute] or value
    return truth


@lru_cache(maxsize=1)
def _wordings() -> list[tuple[str, str, str]]:
    """Returns all wordings as (words, attribute, value), longest first."""
    flat: list[tuple[str, str, str]] = []
    for attribute, table in ATTRIBUTES.items():
        for value, wordings in table.items():
            alike = [wording if isinstance(wording, tuple) else (wording,) for wording in wordings]
            flat += [(words, attribute, value) for wording in alike for words in wording]
    return sorted(flat, key=lambda wording: (-len(wording[0].split()), -len(wording[0])))


def judge_renders(
    count: int,
    frames: int,
    seed: int = 0,
    change: Change = lambda frames, rng: frames,
    held_out: bool = False,
) -> list[Pair]:
    """Judges real renders. Scene i depends only on `seed`, `held_out` and i.

    Args:
        count: number of clips.
        frames: frames of each clip, 8 or more.
        seed: seed of scenes and changes.
        change: applied to each clip before it is judged.
        held_out: only held-out combinations.

    Returns:
        (truth, verdict) of each clip.

    Raises:
        ValueError: too few frames.
    """
    pairs: list[Pair] = []
    for index in range(count):
        rng = np.random.default_rng((seed, index))
        scene = sample_scene(rng, held_out)
        pairs.append((scene, judge(change(render(scene, frames)[0], rng))))
    return pairs


def add_judge_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments of `judge` to a parser."""
    parser.add_argument("paths", nargs="*", metavar="CLIP", help="MP4 files that this project made")
    parser.add_argument(
        "--renders", type=int, default=0, metavar="N", help="judge N real renders and print a table"
    )
    parser.add_argument(
        "--frames", type=int, default=16, metavar="T", help="frames of each render (default 16)"
    )
    parser.add_argument("--seed", type=int, default=0, metavar="S", help="of the renders (default 0)")
    parser.add_argument(
        "--degraded", action="store_true", help="also judge them blurred, noisy, compressed, shifted"
    )


def run_judge(args: argparse.Namespace) -> int:
    """Runs `judge` and prints its tables and verdicts.

    Args:
        args: parsed arguments of `add_judge_arguments`.

    Returns:
        Exit status: 0, 1 if a clip could not be judged, or 2 for invalid arguments.
    """
    if not args.paths and args.renders < 1:
        print("name clips to judge, or ask for --renders of 1 or more: received neither.", file=sys.stderr)
        return 2
    if not LEAST_FRAMES <= args.frames <= MAX_FRAMES:
        limits = f"from {LEAST_FRAMES} to {MAX_FRAMES}"
        print(f"--frames must be {limits}: received {args.frames}.", file=sys.stderr)
        return 2
    if args.renders > 0:
        _print_table(args)
    return max([_print_verdict(path) for path in args.paths], default=0)


def _print_table(args: argparse.Namespace) -> None:
    pairs = judge_renders(args.renders, args.frames, args.seed)
    print(f"{args.renders} real renders of {args.frames} frames, seed {args.seed}\n")
    print("| | " + " | ".join(COLUMNS) + " |\n|---|" + "---|" * len(COLUMNS))
    _print_row("as rendered (the ceiling)", accuracy(pairs))
    _print_row("captions shuffled (chance)", chance(pairs) if len(pairs) > 1 else {})
    changes: dict[str, Change] = {
        "first frame frozen": lambda frames, rng: frozen(frames),
        "frames shuffled in time": shuffled,
    }
    for name, change in (changes | (DEGRADATIONS if args.degraded else {})).items():
        _print_row(name, accuracy(judge_renders(args.renders, args.frames, args.seed, change)))


def _print_row(name: str, table: Mapping[str, float]) -> None:
    cells = [f"{table[column]:.3f}" if column in table else "" for column in COLUMNS]
    print(f"| {name} | " + " | ".join(cells) + " |", flush=True)


def _print_verdict(path: str) -> int:
    try:
        frames, _ = read_clip(path, MAX_FRAMES, SIZE)
        verdict = judge(frames)
        settings = read_settings(path)
        prompt = Request.from_json(settings).prompt if settings else None
    except ValueError as error:
        print(f"{path}: {error}", file=sys.stderr)
        return 1
    print(f"{path}: {_in_words(verdict)}")
    if prompt is not None:
        right = score(caption_truth(prompt), verdict)
        wrong = ", ".join(name for name in (*JUDGED, "speed") if not right.get(name, True))
        result = f"wrong: {wrong}" if wrong else "as asked" if right else "names nothing to judge"
        print(f"  asked for {prompt!r}: {result}")
    return 0


def _in_words(verdict: Verdict) -> str:
    seen = [getattr(verdict, name) or f"{name} unknown" for name in JUDGED]
    return " · ".join(seen if verdict.speed is None else [*seen, verdict.speed])
