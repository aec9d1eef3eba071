"""Rendered scenes on disk; trainings read only these."""

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
    """Render ``count`` scenes of ``frames`` frames into ``folder``, which move in one of these ways.

    Writes pixels.npy uint8 (n t h w c), weights.npy uint8 (n t h/8 w/8), the share of each latent cell that
    shows the subject or its marks, and scenes.jsonl. With ``from_rest`` the first frame shows it standing
    still, and those after it how it moves from there. Scene ``i`` depends on ``seed``, ``i``, ``held_out``,
    ``motions`` and ``from_rest`` only.
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
