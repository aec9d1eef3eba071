"""Rendered scenes on disk, the only training data."""

import contextlib
import dataclasses
import json
import multiprocessing
from pathlib import Path

import numpy as np

from lumiere.paperworld.world.scene import MOTIONS, SIZE, Scene, begin_at_rest, render, sample_scene

CELL = 8  # pixels per latent cell
PIXELS = "pixels.npy"


def render_dataset(
    folder,
    count,
    frames,
    seed,
    held_out=False,
    workers=2,
    motions=MOTIONS,
    from_rest=False,
):
    """Renders random scenes into a folder.

    Writes pixels.npy (uint8 `n t h w c`), weights.npy (uint8 `n t h/8 w/8`, the fraction of each latent cell
    covered by the subject or its marks) and scenes.jsonl. With `from_rest`, the first frame shows the subject
    at rest, and it moves from there. Scene `i` depends only on `seed`, `i`, `held_out`, `motions` and
    `from_rest`.

    Args:
        folder: created if missing.
        count: number of scenes.
        frames: frames per scene.
        seed: base seed.
        held_out: only held-out combinations.
        workers: number of processes.
        motions: motions to draw from. A repeated motion is drawn more often.
        from_rest: start at rest.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    cells = SIZE // CELL
    pixels = _create(folder / PIXELS, (count, frames, SIZE, SIZE, 3))
    weights = _create(folder / "weights.npy", (count, frames, cells, cells))
    jobs = [(seed, index, frames, held_out, motions, from_rest) for index in range(count)]
    with contextlib.ExitStack() as stack:
        lines = stack.enter_context(open(folder / "scenes.jsonl", "w"))
        rendered = map(_render_one, jobs)
        if workers > 1:
            pool = stack.enter_context(multiprocessing.get_context("spawn").Pool(workers))
            rendered = pool.imap(_render_one, jobs, chunksize=16)
        for index, (scene, clip, weight) in enumerate(rendered):
            pixels[index], weights[index] = clip, weight
            lines.write(json.dumps(dataclasses.asdict(scene)) + "\n")


def read_scenes(folder):
    """Returns the scenes of a folder that `render_dataset` wrote."""
    return [Scene(**json.loads(line)) for line in (Path(folder) / "scenes.jsonl").read_text().splitlines()]


def _create(path, shape):
    return np.lib.format.open_memmap(path, "w+", np.uint8, shape)


def _render_one(job):
    seed, index, frames, held_out, motions, from_rest = job
    rng = np.random.default_rng((seed, index))
    scene = sample_scene(rng, held_out, motions)
    if from_rest:
        still, scene = begin_at_rest(scene, rng)
        parts = render(still, 1), render(scene, frames - 1)
        clip, covered = (np.concatenate(part) for part in zip(*parts, strict=True))
    else:
        clip, covered = render(scene, frames)
    cells = SIZE // CELL
    share = covered.reshape(frames, cells, CELL, cells, CELL).mean((2, 4))  # t h w -> t h/8 w/8
    return scene, clip, np.round(share * 255).astype(np.uint8)
