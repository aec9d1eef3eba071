"""How often clips show what was asked: truths against verdicts, with what the figures mean (ceiling, chance, controls).

`python -m lumiere.paperworld judge` prints the table for real renders, and the verdict on clips made by this project.
"""

import dataclasses
import io
import re

import numpy as np
from PIL import Image, ImageFilter

from ..request import Request
from ..video import read_clip, read_settings
from .captions import ATTRIBUTES
from .judge import judge
from .scene import SIZE, Scene, render, sample_scene

JUDGED = ("colour", "subject", "background", "motion")  # what "all" means; speed is told apart
COLUMNS = (*JUDGED, "all", "speed")
SHIFTS = 20  # pairings of each verdict with a stranger's truth: enough for chance to within a point
MAX_FRAMES = 1024


def score(truth, verdict):
    """What of the truth the verdict confirms: attribute -> bool, only for what the truth names.

    truth: a Scene, or attribute -> value with None where a caption is silent. "all" is there unless none of colour,
    subject, background and motion is named, and is true when those named are right; "speed" is not part of it.
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


def accuracy(pairs):
    """Share of (truth, verdict) pairs that are right: attribute -> 0 to 1, for every attribute that any truth names."""
    scores = [score(truth, verdict) for truth, verdict in pairs]
    table = {name: [s[name] for s in scores if name in s] for name in COLUMNS}
    return {name: float(np.mean(values)) for name, values in table.items() if values}


def chance(pairs, seed=0):
    """Accuracy of the same verdicts when every one is held against other clips' truths."""
    order = np.random.default_rng(seed).permutation(len(pairs))
    shifts = range(1, min(len(pairs), SHIFTS + 1))
    return accuracy([(pairs[order[i - shift]][0], pairs[order[i]][1]) for shift in shifts for i in range(len(pairs))])


def frozen(frames):
    """Control: the first frame for the whole length. Must be right on all but motion, where it is still."""
    return np.repeat(frames[:1], len(frames), axis=0)


def shuffled(frames, rng):
    """Control: the frames in random order. Must be right on all but motion, unless the clip stands still."""
    return frames[rng.permutation(len(frames))]


def _each(frames, change):
    return np.stack([np.asarray(change(Image.fromarray(frame))) for frame in frames])


def _jpeg(image):
    file = io.BytesIO()
    image.save(file, "JPEG", quality=40)
    return Image.open(file).convert("RGB")


def _lift(frames, levels):
    return np.clip(frames + np.asarray(levels), 0, 255).round().astype(np.uint8)


# What autoencoders and diffusion do to a clip, each stronger than a good model does it; frames, rng -> frames.
DEGRADATIONS = {
    "blurred, sigma 1.5": lambda frames, rng: _each(frames, lambda image: image.filter(ImageFilter.GaussianBlur(1.5))),
    "noise, sigma 6": lambda frames, rng: _lift(frames, rng.normal(0, 6, frames.shape)),
    "halved and back": lambda frames, rng: _each(
        frames, lambda image: image.resize((SIZE // 2,) * 2, Image.BOX).resize((SIZE,) * 2, Image.BILINEAR)
    ),
    "JPEG, quality 40": lambda frames, rng: _each(frames, _jpeg),
    "8 levels brighter": lambda frames, rng: _lift(frames, 8),
    "8 levels darker": lambda frames, rng: _lift(frames, -8),
    "colours shifted by 12": lambda frames, rng: _lift(frames, rng.choice((-12, 12), 3)),
}


def caption_truth(text):
    """What a caption in the world's own language says: attribute -> value, None where it is silent.

    The longest wording is read first and its words are used up, so "over green hills" is no green and "jumping up and
    down" no "jumping". Of two wordings of one attribute the longer counts, of two of equal length the earlier.
    """
    rest = " ".join(re.findall(r"[a-z]+", text.lower()))
    truth = dict.fromkeys(ATTRIBUTES)
    for words, attribute, value in _wordings():
        found = re.search(rf"\b{words}\b", rest)
        if found:
            rest = f"{rest[:found.start()]}|{rest[found.end():]}"  # nothing may match across the gap
            truth[attribute] = truth[attribute] or value
    return truth


def _wordings():
    """Every wording as (words, attribute, value), the longest first."""
    flat = []
    for attribute, table in ATTRIBUTES.items():
        for value, wordings in table.items():
            for wording in wordings:
                flat += [(words, attribute, value) for words in ((wording,) if isinstance(wording, str) else wording)]
    return sorted(flat, key=lambda wording: (-len(wording[0].split()), -len(wording[0])))


def judge_renders(count, frames, seed=0, change=lambda frames, rng: frames, held_out=False):
    """(truth, verdict) of ``count`` real renders after ``change(frames, rng)``. Scene ``i`` depends on seed and i."""
    pairs = []
    for index in range(count):
        rng = np.random.default_rng((seed, index))
        scene = sample_scene(rng, held_out)
        pairs.append((scene, judge(change(render(scene, frames)[0], rng))))
    return pairs


def add_judge_arguments(parser):
    parser.add_argument("paths", nargs="*", metavar="CLIP", help="MP4 files that this project made")
    parser.add_argument("--renders", type=int, default=0, metavar="N", help="judge N real renders and print a table")
    parser.add_argument("--frames", type=int, default=16, metavar="T", help="frames of each render (default 16)")
    parser.add_argument("--seed", type=int, default=0, metavar="S", help="of the renders (default 0)")
    parser.add_argument("--degraded", action="store_true", help="also judge them blurred, noisy, compressed, shifted")


def run_judge(args):
    """Runs the command; returns its exit status: 0, or 1 when some clip could not be judged."""
    if not args.paths and args.renders < 1:
        raise ValueError("name clips to judge, or ask for --renders of 1 or more: received neither.")
    if not 8 <= args.frames <= MAX_FRAMES:
        raise ValueError(f"--frames must be from 8 to {MAX_FRAMES}: received {args.frames}.")
    if args.renders > 0:
        _print_table(args)
    return max([_print_verdict(path) for path in args.paths], default=0)


def _print_table(args):
    pairs = judge_renders(args.renders, args.frames, args.seed)
    print(f"{args.renders} real renders of {args.frames} frames, seed {args.seed}\n")
    print("| | " + " | ".join(COLUMNS) + " |\n|---|" + "---|" * len(COLUMNS))
    _print_row("as rendered (the ceiling)", accuracy(pairs))
    _print_row("captions shuffled (chance)", chance(pairs) if len(pairs) > 1 else {})
    changes = {"first frame frozen": lambda frames, rng: frozen(frames), "frames shuffled in time": shuffled}
    for name, change in (changes | (DEGRADATIONS if args.degraded else {})).items():
        _print_row(name, accuracy(judge_renders(args.renders, args.frames, args.seed, change)))


def _print_row(name, table):
    print(f"| {name} | " + " | ".join(f"{table[c]:.3f}" if c in table else "" for c in COLUMNS) + " |", flush=True)


def _print_verdict(path):
    try:
        frames, _ = read_clip(path, MAX_FRAMES, SIZE)
        verdict = judge(frames)
        settings = read_settings(path)
        prompt = Request.from_json(settings).prompt if settings else None
    except ValueError as error:
        print(f"{path}: {error}")
        return 1
    seen = " · ".join(str(getattr(verdict, name) or "unknown") for name in JUDGED)
    print(f"{path}: {seen}" + (f" · {verdict.speed}" if verdict.speed else ""))
    if prompt is not None:
        right = score(caption_truth(prompt), verdict)
        wrong = [name for name in (*JUDGED, "speed") if not right.get(name, True)]
        print(f"  asked: {prompt!r}: " + ("names nothing to judge" if not right else f"wrong: {', '.join(wrong)}" if wrong else "as asked"))
    return 0
