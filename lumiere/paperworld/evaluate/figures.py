"""Computes the figures of the evaluation from the records of a row, each with its threshold."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from lumiere.paperworld.evaluate import costs
from lumiere.paperworld.evaluate.measures import spread, wilson
from lumiere.paperworld.evaluate.records import Record
from lumiere.paperworld.judge.judge import Pair, Verdict, accuracy, chance, score
from lumiere.paperworld.world.scene import MOTIONS

KEPT, KEPT_DB = ("colour", "subject", "background"), 30.0  # PSNR in dB above which given pixels count as kept
DECODER_DB = 25.9  # 1 dB above the decoder before it was trained on predictions, 30 prompts
NEAR = 0.1  # tolerance above chance


@dataclass(frozen=True)
class Figure:
    """A measured value.

    Attributes:
        name: printed label.
        value: measured value.
        bar: threshold; None if the value is only printed.
        at_most: the threshold is a maximum instead of a minimum.
        interval: 95 % Wilson interval of a proportion.
    """

    name: str
    value: float
    bar: float | None = None
    at_most: bool = False
    interval: tuple[float, float] | None = None

    @property
    def met(self) -> bool:
        """Whether the value meets its threshold; True without one."""
        if self.bar is None:
            return True
        return self.value <= self.bar if self.at_most else self.value >= self.bar

    def __str__(self) -> str:
        value = f"{self.value:.3f}".rstrip("0").rstrip(".")
        interval = " [{:.2f}, {:.2f}]".format(*self.interval) if self.interval else ""
        bar = f" {'<=' if self.at_most else '>='} {self.bar:g}" if self.bar is not None else ""
        return f"{self.name} {value}{interval}{bar}"


def pairs(records: Sequence[Record], verdict: str = "verdict") -> list[Pair]:
    """Returns the (truth, verdict) pairs for the judge: one per record, or one per judged window.

    Args:
        records: records of a row.
        verdict: key of the verdict in a record.
    """
    return [
        (record["truth"], Verdict(**seen))
        for record in records
        for seen in (record["verdicts"] if "verdicts" in record else [record[verdict]])
    ]


def per_motion(records: Sequence[Record]) -> dict[str, tuple[int, int]]:
    """Counts the clips or windows with all attributes right: motion -> (right, count)."""
    judged = ((record["truth"], pair) for record in records for pair in pairs([record]))
    scores = [(truth["motion"], score(*pair)["all"]) for truth, pair in judged]
    found = {motion: [right for name, right in scores if name == motion] for motion in MOTIONS}
    return {motion: (sum(right), len(right)) for motion, right in found.items() if right}


def _share(name: str, right: Sequence[bool], bar: float | None = None, clips: int | None = None) -> Figure:
    """Returns the proportion of true values in `clips` independent trials, by default one per value."""
    share, count = float(np.mean(right)), clips or len(right)
    return Figure(name, share, bar, interval=wilson(share * count, count))


def _right(records: Sequence[Record], name: str = "all", bar: float | None = None) -> Figure:
    found = [score(truth, verdict)[name] for truth, verdict in pairs(records)]
    return _share(name, found, bar, clips=len(records))  # the windows of a clip are not independent


def _kept(
    records: Sequence[Record], name: str = "kept", verdict: str = "verdict", bar: float | None = None
) -> Figure:
    return _share(name, [all(r[verdict][k] == r["truth"][k] for k in KEPT) for r in records], bar)


def _mean(records: Sequence[Record], name: str) -> float:
    return float(np.mean([record[name] for record in records]))


def _least(records: Sequence[Record], name: str) -> float:
    return min(record[name] for record in records)


def of_text(records: Sequence[Record], bar: float | None = None) -> list[Figure]:
    """Figures of text-to-video rows: the fraction of clips with all attributes right.

    Args:
        records: records of the row.
        bar: threshold. Defaults to none.
    """
    return [_right(records, bar=bar)]


def of_controls(records: Sequence[Record]) -> list[Figure]:
    """Figures of the corrupted clips: motion may be right only by chance or for "still"."""
    still = float(np.mean([record["truth"]["motion"] == "still" for record in records]))
    figures = [
        Figure(f"motion {name}", accuracy(pairs(records, name))["motion"], still + NEAR, at_most=True)
        for name in ("frozen", "shuffled")
    ]
    if len(records) > 1:
        strangers = chance(pairs(records))
        even = 1 / len(MOTIONS)
        figures += [
            Figure("captions shuffled: all", strangers["all"], NEAR, at_most=True),
            Figure("motion", strangers["motion"], even + NEAR, at_most=True),
        ]
    return figures


def of_preview(records: Sequence[Record]) -> list[Figure]:
    """Figures of the previews: mean and minimum PSNR in dB."""
    mean, least = _mean(records, "preview"), _least(records, "preview")
    return [Figure("dB mean", mean, 28), Figure("dB least", least, 24)]


def of_segments(records: Sequence[Record]) -> list[Figure]:
    """Figures of long clips: the fraction of right windows and the relative change at seams."""
    return [_right(records, bar=0.75), Figure("seams", _mean(records, "seams"), 1.2, at_most=True)]


def of_first_frame(records: Sequence[Record]) -> list[Figure]:
    """Figures of image-to-video: first-frame PSNR, kept attributes and motion, at rest and in motion."""
    figures = [Figure("dB least", _least(records, "psnr"), KEPT_DB)]
    for name, at_rest in (("at rest", True), ("in motion", False)):
        some = [record for record in records if record["at_rest"] == at_rest]
        if some:
            figures += [_kept(some, f"{name}: kept", "end", bar=0.85), _right(some, "motion")]
    return figures


def of_first_last(records: Sequence[Record]) -> list[Figure]:
    """Figures of first and last frame: kept attributes, right motion, PSNR of the last frame."""
    likeness = [Figure("last frame: dB mean", _mean(records, "psnr"))]
    likeness += [Figure("dB least", _least(records, "psnr"))]
    return [_kept(records), _right(records, "motion"), *likeness]


def of_inpaint(records: Sequence[Record]) -> list[Figure]:
    """Figures of inpainting: right clips, and the PSNR outside the region."""
    return [_right(records), Figure("outside: dB least", _least(records, "psnr"), KEPT_DB)]


def of_cinemagraph(records: Sequence[Record]) -> list[Figure]:
    """Figures of cinemagraphs: the change outside the region relative to inside, and right clips."""
    inside, outside = _mean(records, "inside"), _mean(records, "outside")
    ratio = outside / inside if inside > 0 else float("inf")  # a still clip is no cinemagraph
    return [Figure("outside / inside", ratio, 0.05, at_most=True), _right(records)]


def of_still(records: Sequence[Record]) -> list[Figure]:
    """Figures of the background flicker, without clips that show too little background."""
    generated, real = (
        float(np.mean([record[name] for record in records if record[name] is not None] or [np.nan]))
        for name in ("generated", "real")
    )
    return [Figure("generated / real", generated / max(real, 1e-9), 1.5, at_most=True)]


def of_decoder(records: Sequence[Record]) -> list[Figure]:
    """Figures of the decoder on predicted latents: PSNR against the true clip, sharpness of outlines."""
    sharpness = Figure("outlines / true", _mean(records, "outlines"), 0.85)
    return [Figure("dB mean", _mean(records, "psnr"), DECODER_DB), sharpness]


def of_diversity(records: Sequence[Record]) -> list[Figure]:
    """Figures of the diversity over seeds: each spread, relative to that of real scenes."""
    sides = [[r[side] for r in records if r[side] is not None] for side in ("generated", "real")]
    if min(map(len, sides)) < 2:
        return [Figure("clips", min(map(len, sides)), 2)]
    ratios = {name: spread(sides[0], name) / max(spread(sides[1], name), 1e-9) for name in sides[0][0]}
    return [Figure(name, value, 0.7) for name, value in ratios.items()]


def of_parameters(records: Sequence[Record]) -> list[Figure]:
    """Figure of the parameters besides base, motion and preview."""
    return [Figure("parameters", records[0]["parameters"], 0, at_most=True)]


def of_seconds(records: Sequence[Record]) -> list[Figure]:
    """Figures of the time per clip: minimum and median seconds for 16 and 80 frames."""
    figures = []
    for frames, bar in (("16", 3), ("80", 12)):
        median = float(np.median([record[frames] for record in records]))
        best = Figure(f"{frames} frames: best", _least(records, frames), bar, at_most=True)
        figures += [best, Figure("median", median)]
    return figures


def of_ratio(records: Sequence[Record], name: str, other: str, bar: float) -> list[Figure]:
    """Figure of the minimum of one time relative to the minimum of another.

    Args:
        records: records of the row.
        name: key of the time.
        other: key of the other time.
        bar: maximum.
    """
    return [Figure(f"seconds / {other}", costs.ratio(records, name, other), bar, at_most=True)]


def of_size(records: Sequence[Record]) -> list[Figure]:
    """Figures of the model folder: total size and largest file in MB."""
    total, largest = (records[0][name] / 1e6 for name in ("total", "largest"))
    return [
        Figure("MB in all", total, 40, at_most=True),
        Figure("MB of the largest file", largest, 10, at_most=True),
    ]
