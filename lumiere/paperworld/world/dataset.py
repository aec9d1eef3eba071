"""Rendered scenes on disk, the only training data."""

import contextlib
import dataclasses
import json
import multiprocessing
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from lumiere.paperworld.world.scene import MOTIONS, SIZE, Scene, begin_at_rest, render, sample_scene

CELL = 8  # pixels per latent cell
PIXELS = "pixels.npy"


def render_dataset(
    folder: str | Path,
    count: int,
    frames: int,
    seed: int,
    held_out: bool = False,
    workers: int = 2,
    motions: Sequence[str] = MOTIONS,
    from_rest: bool = False,
) -> None:
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
    jobs = [_Job(seed, index, frames, held_out, motions, from_rest) for index in range(count)]
    with contextlib.ExitStack() as stack:
        lines = stack.enter_context(open(folder / "scenes.jsonl", "w"))
        rendered: Iterable[_Rendered] = map(_render_one, jobs)
        if workers > 1:
            pool = stack.enter_context(multiprocessing.get_context("spawn").Pool(workers))
            rendered = pool.imap(_render_one, jobs, chunksize=16)
        for index, (scene, clip, weight) in enumerate(rendered):
            pixels[index], weights[index] = clip, weight
            lines.write(json.dumps(dataclasses.asdict(scene)) + "\n")


def read_scenes(folder: str | Path) -> list[Scene]:
    """Returns the scenes of a folder that `render_dataset` wrote."""
    return [Scene(**json.loads(line)) for line in (Path(folder) / "scenes.jsonl").read_text().splitlines()]


def _create(path: Path, shape: tuple[int, ...]) -> NDArray[np.uint8]:
    return np.lib.format.open_memmap(path, "w+", np.uint8, shape)


class _Job(NamedTuple):
    seed: int
    number: int
    frames: int
    held_out: bool
    motions: Sequence[str]
    from_rest: bool


_Rendered = tuple[Scene, NDArray[np.uint8], NDArray[np.uint8]]  # scene, clip t h w c, weights t h/8 w/8


def _render_one(job: _Job) -> _Rendered:
    seed, number, frames, held_out, motions, from_rest = job
    rng = np.random.default_rng((seed, number))
    scene = sample_scene(rng, held_out, motions)
    if from_rest:
        still, scene = begin_at_rest(scene, rng)
        first, others = render(still, 1), render(scene, frames - 1)
        clip, covered = (np.concatenate([first[0], others[0]]), np.concatenate([first[1], others[1]]))
    else:
        clip, covered = render(scene, frames)
    cells = SIZE // CELL
    share = covered.reshape(frames, cells, CELL, cells, CELL).mean((2, 4))  # t h w -> t h/8 w/8
    return scene, clip, np.round(share * 255).astype(np.uint8)
