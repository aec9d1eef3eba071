"""The rows of the evaluation: what is recorded of each prompt, and which figures and bars come of it.

A record is JSON data about one prompt, or one round of a timing. Prompts are those of scenes that no training
drew: scene `i` depends on SEED and i alone, and so does the noise of its clip.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np

from .. import conditioning
from . import costs
from .captions import canonical, paraphrase
from .judge import COLUMNS, Verdict, accuracy, chance, frozen, judge, shuffled
from .measures import flicker, inside_and_outside, moving_region, psnr, seam_ratio
from .scene import MOTIONS, render, sample_scene

SEED = 2_000_003  # trainings draw their scenes from other seeds
LONG, JUDGED_AT_ONCE, EVERY = 480, 80, 40  # frames: of a long clip, of windows judged, between their starts
LAST = 16  # frames at the end of a clip, in which its subject is looked for
NEAR = 0.1  # of chance, is near it


@dataclass(frozen=True)
class Figure:
    """A value and its bar: the least that it should be, or the most."""

    name: str
    value: float
    bar: float
    at_most: bool = False

    @property
    def met(self) -> bool:
        return self.value <= self.bar if self.at_most else self.value >= self.bar

    def __str__(self) -> str:
        return f"{self.name} {self.value:.3g} {'≤' if self.at_most else '≥'} {self.bar:g}".strip()


@dataclass(frozen=True)
class Row:
    """record(studio, index): what is kept of a prompt. figures(records): what they come to.

    prompts: how many there are at most. kept_as: where records are kept; rows of the same clips share it.
    """

    title: str
    record: Callable[[object, int], dict]
    figures: Callable[[list[dict]], list[Figure]]
    prompts: int = 10**6
    kept_as: str | None = None


def scene_of(index, held_out=False, moves=None):
    """The scene of a prompt, and the generator that drew it, for what else is to be drawn.

    moves: True or False for the first one drawn in which something moves, or stands still.
    """
    rng = np.random.default_rng((SEED, index))
    while True:
        scene = sample_scene(rng, held_out)
        if moves is None or moves == (scene.motion != "still"):
            return scene, rng


def pairs(records, verdict="verdict"):
    """(truth, verdict) of each record, as the judge takes them."""
    return [(record["truth"], Verdict(**record[verdict])) for record in records]


def _told(scene):
    """What a canonical caption says of a scene, and its speed, which is told apart."""
    return {name: getattr(scene, name) for name in COLUMNS if name != "all"}


def _seen(frames):
    verdict = judge(frames)
    return {name: getattr(verdict, name) for name in COLUMNS if name != "all"}


def _ceiling(studio, index):
    scene, _ = scene_of(index)
    return {"truth": _told(scene), "verdict": _seen(studio.through_autoencoder(render(scene, 16)[0]))}


def _generated(frames, studio, index, held_out=False, paraphrased=False, controls=False):
    scene, rng = scene_of(index, held_out)
    clip = studio.clip(paraphrase(scene, rng) if paraphrased else canonical(scene), frames, index)
    record = {"truth": _told(scene), "verdict": _seen(clip)}
    if controls:
        record |= {"frozen": _seen(frozen(clip)), "shuffled": _seen(shuffled(clip, rng))}
    return record


def _long(studio, index):
    scene, _ = scene_of(index)
    clip = studio.clip(canonical(scene), LONG, index)
    starts = range(0, LONG - JUDGED_AT_ONCE + 1, EVERY)
    return {
        "truth": _told(scene),
        "verdicts": [_seen(clip[start : start + JUDGED_AT_ONCE]) for start in starts],
        "seams": seam_ratio(clip, studio.pipeline.seams(LONG)),
    }


def _first_frame(studio, index):
    scene, _ = scene_of(index)
    first = render(scene, 1)[0]
    clip = studio.clip(canonical(scene), 80, index, conditioning.images(first[0], None, 80))
    likeness = psnr(clip[0], studio.through_autoencoder(first)[0])
    return {"truth": _told(scene), "verdict": _seen(clip[-LAST:]), "psnr": likeness}


def _cinemagraph(studio, index):
    scene, _ = scene_of(index, moves=True)
    real, _ = render(scene, 32)  # a slow cycle
    moving = moving_region(real)
    clip = studio.clip(canonical(scene), 16, index, conditioning.moving_picture(real[0], moving, 16))
    inside, outside = inside_and_outside(clip, moving)
    return {"truth": _told(scene), "verdict": _seen(clip), "inside": inside, "outside": outside}


def _still(studio, index):
    """Real clips that stand still do not flicker at all: those in which something moves do, a little."""
    scene, _ = scene_of(index, moves=False)
    real = studio.through_autoencoder(render(scene_of(index, moves=True)[0], 16)[0])
    return {"generated": flicker(studio.clip(canonical(scene), 16, index)), "real": flicker(real)}


def _right(records, **bars):
    """Shares of clips that are right in all, or in one attribute, with their bars."""
    found = accuracy(pairs(records))
    return [Figure(name, found[name], bar) for name, bar in bars.items()]


def _figures_of_long(records):
    flat = [{"truth": r["truth"], "verdict": verdict} for r in records for verdict in r["verdicts"]]
    seams = float(np.mean([record["seams"] for record in records]))
    return [*_right(flat, all=0.75), Figure("seams", seams, 1.2, at_most=True)]


def _figures_of_first_frame(records):
    kept = ("subject", "colour", "background")
    share = np.mean([all(r["verdict"][k] == r["truth"][k] for k in kept) for r in records])
    likeness = min(record["psnr"] for record in records)
    return [Figure("dB at least:", likeness, 30.0), Figure("kept", float(share), 0.85)]


def _figures_of_cinemagraph(records):
    inside, outside = (np.mean([record[name] for record in records]) for name in ("inside", "outside"))
    ratio = float(outside / inside) if inside > 0 else float("inf")  # a picture that stands still is none
    return [Figure("outside / inside", ratio, 0.05, at_most=True)]


def _figures_of_still(records):
    """Those of which hardly any background is seen say nothing."""
    generated, real = (
        float(np.mean([record[name] for record in records if record[name] is not None] or [np.nan]))
        for name in ("generated", "real")
    )
    return [Figure("generated / real", generated / max(real, 1e-9), 1.5, at_most=True)]


def _figures_of_controls(records):
    """Clips that were spoilt may be right in motion by chance, or where nothing was to move."""
    still = float(np.mean([record["truth"]["motion"] == "still" for record in records]))
    bars = {"frozen": still + NEAR, "shuffled": still + NEAR}
    found = {name: accuracy(pairs(records, name))["motion"] for name in bars}
    figures = [Figure(f"motion {name}", found[name], bar, at_most=True) for name, bar in bars.items()]
    if len(records) > 1:
        strangers = chance(pairs(records))
        even = 1 / len(MOTIONS)
        figures += [
            Figure("captions shuffled: all", strangers["all"], NEAR, at_most=True),
            Figure("motion", strangers["motion"], even + NEAR, at_most=True),
        ]
    return figures


def _figures_of_animatediff(records):
    return [
        Figure("seconds / AnimateDiff's", costs.ratio(records, "ours", "animatediff"), 0.65, at_most=True)
    ]


def _figures_of_page(records):
    ratio = costs.ratio(records, "preview", "without")
    return [Figure("seconds / without preview", ratio, 1.10, at_most=True)]


def _figures_of_size(records):
    total, largest = (records[0][name] / 1e6 for name in ("total", "largest"))
    return [
        Figure("MB in all", total, 60, at_most=True),
        Figure("MB the largest file", largest, 10, at_most=True),
    ]


ROWS = {
    "ceiling": Row("real clips through the autoencoder", _ceiling, partial(_right, all=0.95)),
    "seen16": Row(
        "16 frames, combinations seen",
        partial(_generated, 16, controls=True),
        partial(_right, all=0.90, motion=0.95),
    ),
    "controls": Row(
        "controls, of the same clips",
        partial(_generated, 16, controls=True),
        _figures_of_controls,
        kept_as="seen16",
    ),
    "seen80": Row(
        "80 frames, combinations seen", partial(_generated, 80), partial(_right, all=0.85, motion=0.92)
    ),
    "held-out16": Row(
        "16 frames, combinations held out", partial(_generated, 16, held_out=True), partial(_right, all=0.80)
    ),
    "paraphrased80": Row(
        "80 frames, paraphrased", partial(_generated, 80, paraphrased=True), partial(_right, all=0.80)
    ),
    "windows480": Row("480 frames by windows", _long, _figures_of_long, prompts=20),
    "first-frame80": Row("first frame given, 80 frames", _first_frame, _figures_of_first_frame),
    "cinemagraph16": Row("cinemagraph", _cinemagraph, _figures_of_cinemagraph),
    "still16": Row("background flicker where nothing moves", _still, _figures_of_still),
    "animatediff80": Row(
        "seconds for 80 frames", costs.against_animatediff, _figures_of_animatediff, prompts=3
    ),
    "page80": Row(
        "80 frames through the page, with preview", costs.with_preview, _figures_of_page, prompts=3
    ),
    "size": Row("size of the model", costs.size, _figures_of_size, prompts=1),
}
