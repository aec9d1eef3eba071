"""The rows of the evaluation: how each record is measured, and its figures and thresholds.

A record is JSON data about one prompt or one timing round. The scene and the noise of prompt `i` depend only
on the seed and `i`. No training draws scenes from these seeds. Settings are chosen with CHOOSING_SEED, never
with SEED.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from lumiere.model import conditioning
from lumiere.paperworld.evaluate import costs, figures
from lumiere.paperworld.evaluate.measures import (
    box_around,
    flicker,
    inside_and_outside,
    moving_region,
    opening,
    outline_sharpness,
    preview_psnr,
    psnr,
    seam_ratio,
)
from lumiere.paperworld.evaluate.records import Record
from lumiere.paperworld.evaluate.studio import ClipSource
from lumiere.paperworld.judge.judge import COLUMNS, frozen, judge, shuffled
from lumiere.paperworld.world.captions import Truth, canonical, paraphrase
from lumiere.paperworld.world.scene import COLOURS, HELD_OUT, Scene, begin_at_rest, render, sample_scene
from lumiere.paperworld.world.shapes import SUBJECTS

SEED, CHOOSING_SEED = 4_000_037, 5_000_011
LONG, WINDOW, EVERY = 480, 80, 40  # frames of a long clip, of a judged window, between window starts
LAST = 16  # frames at the end of a clip that are judged for a kept subject
READ = tuple(name for name in COLUMNS if name != "all")  # attributes in records


@dataclass(frozen=True)
class Row:
    """One row of the table.

    Attributes:
        title: printed label.
        record: `record(studio, index)` measures a prompt.
        figures: `figures(records)` computes the figures.
        prompts: maximum number of prompts.
        part: fraction of prompts, below 1 for long clips.
        kept_as: row whose records are reused. Defaults to the row itself.
    """

    title: str
    record: Callable[[ClipSource, int], Record]
    figures: Callable[[Sequence[Record]], list[figures.Figure]]
    prompts: int = 10**6
    part: float = 1.0
    kept_as: str | None = None


def scene_of(
    seed: int, index: int, held_out: bool = False, moves: bool | None = None
) -> tuple[Scene, Generator]:
    """Returns the scene of a prompt and its random generator for further draws.

    Args:
        seed: base seed.
        index: prompt number.
        held_out: draw a held-out combination.
        moves: True for the first moving scene, False for the first still scene. Defaults to any scene.
    """
    rng = np.random.default_rng((seed, index))
    while True:
        scene = sample_scene(rng, held_out)
        if moves is None or moves == (scene.motion != "still"):
            return scene, rng


def _seen(clip: NDArray[np.uint8]) -> Record:
    verdict = judge(clip)
    return {name: getattr(verdict, name) for name in READ}


def _truth(scene: Scene) -> Truth:
    return {name: getattr(scene, name) for name in READ}


def _judged(scene: Scene, clip: NDArray[np.uint8]) -> Record:
    return {"truth": _truth(scene), "verdict": _seen(clip)}


def _ceiling(studio: ClipSource, index: int) -> Record:
    scene, _ = scene_of(studio.seed, index)
    return _judged(scene, studio.through_autoencoder(render(scene, 16)[0]))


def _text16(studio: ClipSource, index: int) -> Record:
    """Measures one clip for the rows `text16`, `controls` and `preview`."""
    scene, rng = scene_of(studio.seed, index)
    clip, preview = studio.make(canonical(scene), 16, index)
    spoilt = {"frozen": _seen(frozen(clip)), "shuffled": _seen(shuffled(clip, rng))}
    return _judged(scene, clip) | spoilt | {"preview": preview_psnr(preview, clip)}


def _text(
    studio: ClipSource,
    index: int,
    frames: int = 16,
    held_out: bool = False,
    paraphrased: bool = False,
    **settings: Any,
) -> Record:
    """Measures one clip; `settings` are keywords of `ClipSource.clip`."""
    scene, rng = scene_of(studio.seed, index, held_out)
    prompt = paraphrase(scene, rng) if paraphrased else canonical(scene)
    return _judged(scene, studio.clip(prompt, frames, index, **settings))


def _segments(studio: ClipSource, index: int) -> Record:
    scene, _ = scene_of(studio.seed, index)
    clip = studio.clip(canonical(scene), LONG, index)
    windows = [clip[start : start + WINDOW] for start in range(0, LONG - WINDOW + 1, EVERY)]
    seams = seam_ratio(clip, studio.pipeline.seams(LONG))
    return {"truth": _truth(scene), "verdicts": [_seen(window) for window in windows], "seams": seams}


def _first_frame(studio: ClipSource, index: int) -> Record:
    """Conditions on a first frame: at rest for even prompt numbers, in motion for odd numbers."""
    scene, rng = scene_of(studio.seed, index)
    at_rest = index % 2 == 0
    first = render(begin_at_rest(scene, rng)[0] if at_rest else scene, 1)[0]
    clip = studio.clip(canonical(scene), 80, index, conditioning.images(first[0], None, 80))
    likeness = psnr(clip[0], studio.through_autoencoder(first)[0])
    return _judged(scene, clip) | {"end": _seen(clip[-LAST:]), "at_rest": at_rest, "psnr": likeness}


def _first_last(studio: ClipSource, index: int) -> Record:
    scene, _ = scene_of(studio.seed, index)
    real = render(scene, 16)[0]
    clip = studio.clip(canonical(scene), 16, index, conditioning.images(real[0], real[-1], 16))
    return _judged(scene, clip) | {"psnr": psnr(clip[-1], studio.through_autoencoder(real[-1:])[0])}


def _inpaint(studio: ClipSource, index: int) -> Record:
    """Inpaints another colour for even prompt numbers, another subject for odd numbers."""
    scene, rng = scene_of(studio.seed, index)
    real, covered = render(scene, 16)
    wanted, other = box_around(covered), scene
    name, values = (("colour", COLOURS), ("subject", SUBJECTS))[index % 2]
    while other == scene or other.combination in HELD_OUT:
        changed: dict[str, Any] = {name: str(rng.choice(list(values)))}
        other = replace(scene, **changed)
    clip = studio.clip(canonical(other), 16, index, conditioning.inpainting(real, wanted))
    return _judged(other, clip) | {"psnr": psnr(clip[:, ~wanted], real[:, ~wanted])}


def _cinemagraph(studio: ClipSource, index: int) -> Record:
    scene, _ = scene_of(studio.seed, index, moves=True)
    real, _ = render(scene, 32)  # one slow cycle
    moving = moving_region(real)
    clip = studio.clip(canonical(scene), 16, index, conditioning.moving_picture(real[0], moving, 16))
    inside, outside = inside_and_outside(clip, moving)
    return _judged(scene, clip) | {"inside": inside, "outside": outside}


def _still(studio: ClipSource, index: int) -> Record:
    """Compares with the flicker of real moving clips, because real still clips do not flicker at all."""
    scene, _ = scene_of(studio.seed, index, moves=False)
    moving, _ = scene_of(studio.seed, index, moves=True)
    real = studio.through_autoencoder(render(moving, 16)[0])
    return {"generated": flicker(studio.clip(canonical(scene), 16, index)), "real": flicker(real)}


def _decoder(studio: ClipSource, index: int) -> Record:
    """Noises a real clip to a fifth of the timesteps and denoises it."""
    scene, _ = scene_of(studio.seed, index)
    real = render(scene, 16)[0]
    nothing = conditioning.Given(real, np.zeros(real.shape[:3], bool))
    clip = studio.clip(canonical(scene), 16, index, nothing, mode="video", strength=0.2)
    return {"psnr": psnr(clip, real), "outlines": outline_sharpness(clip, real)}


def _diversity(studio: ClipSource, index: int) -> Record:
    """Compares the seeds of one prompt with real scenes of the same words."""
    rng = np.random.default_rng((studio.seed, index))
    any_scene = sample_scene(rng, motions=("circling",))
    scene = replace(any_scene, colour="red", subject="ball", background="hills", motion="circling")
    still, moving = begin_at_rest(scene, rng)
    real = np.concatenate([render(still, 1)[0], render(moving, 31)[0]])
    clips = {"generated": studio.clip(canonical(scene), 32, index), "real": real}
    return {name: opening(clip, judge(clip)) for name, clip in clips.items()}


ROWS: dict[str, Row] = {
    "ceiling": Row("real clips through the autoencoder", _ceiling, partial(figures.of_text, bar=0.95)),
    "text16": Row("16 frames", _text16, partial(figures.of_text, bar=0.93)),
    "controls": Row("controls, of the same clips", _text16, figures.of_controls, kept_as="text16"),
    "preview": Row(
        "preview of the last step, same clips", _text16, figures.of_preview, prompts=50, kept_as="text16"
    ),
    "text80": Row("80 frames", partial(_text, frames=80), partial(figures.of_text, bar=0.80)),
    "whole80": Row(
        "80 frames, denoised at once", partial(_text, frames=80, whole=True), figures.of_text, part=0.2
    ),
    "held-out16": Row("16 frames, held-out combinations", partial(_text, held_out=True), figures.of_text),
    "paraphrased80": Row(
        "80 frames, paraphrased", partial(_text, frames=80, paraphrased=True), figures.of_text
    ),
    "segments480": Row(
        "480 frames in segments, windows of 80", _segments, figures.of_segments, prompts=20, part=0.1
    ),
    "first-frame80": Row("first frame given, 80 frames", _first_frame, figures.of_first_frame),
    "first-last16": Row("first and last frame given", _first_last, figures.of_first_last),
    "inpaint16": Row("another colour or subject in a box", _inpaint, figures.of_inpaint),
    "cinemagraph16": Row("cinemagraph", _cinemagraph, figures.of_cinemagraph),
    "still16": Row("background flicker where nothing moves", _still, figures.of_still),
    "base-first16": Row(
        "16 frames, the first drawn by the base", partial(_text, first_frame="base"), figures.of_text
    ),
    "decoder16": Row("real clips noised to 0.2 and denoised", _decoder, figures.of_decoder),
    "diversity32": Row("spread over seeds / of real scenes", _diversity, figures.of_diversity, prompts=100),
    "parameters": Row(
        "modules besides base and motion weights", costs.parameters, figures.of_parameters, prompts=1
    ),
    "seconds": Row("seconds on two idle cores", costs.seconds, figures.of_seconds, prompts=3),
    "animatediff80": Row(
        "80 frames, against AnimateDiff",
        costs.against_animatediff,
        partial(figures.of_ratio, name="ours", other="animatediff", bar=0.65),
        prompts=3,
    ),
    "page80": Row(
        "80 frames through the page, with preview",
        costs.with_preview,
        partial(figures.of_ratio, name="preview", other="without", bar=1.10),
        prompts=3,
    ),
    "size": Row("size of the model", costs.size, figures.of_size, prompts=1),
}
