"""Rendered scenes on disk: pixels once, then their latents; trainings read only these."""

import dataclasses
import json
import multiprocessing
from pathlib import Path

import numpy as np

from .autoencoder import encode
from .scene import SIZE, Scene, render, sample_scene

CELL = 8  # pixels per latent cell


def render_dataset(folder, count, frames, seed, held_out=False, workers=2):
    """Render ``count`` scenes of ``frames`` frames into ``folder``.

    Writes pixels.npy uint8 (n t h w c), weights.npy uint8 (n t h/8 w/8), the share of each latent cell that shows the
    subject or its marks, and scenes.jsonl. Scene ``i`` depends on ``seed`` and ``i`` only.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    cells = SIZE // CELL
    pixels = _create(folder / "pixels.npy", (count, frames, SIZE, SIZE, 3))
    weights = _create(folder / "weights.npy", (count, frames, cells, cells))
    jobs = [(seed, index, frames, held_out) for index in range(count)]
    with multiprocessing.get_context("spawn").Pool(workers) as pool, open(folder / "scenes.jsonl", "w") as lines:
        for index, (scene, clip, weight) in enumerate(pool.imap(_render_one, jobs, chunksize=16)):
            pixels[index], weights[index] = clip, weight
            lines.write(json.dumps(dataclasses.asdict(scene)) + "\n")


def read_scenes(folder):
    return [Scene(**json.loads(line)) for line in (Path(folder) / "scenes.jsonl").read_text().splitlines()]


def encode_dataset(folder, autoencoder):
    """Write latents.npy float16 (n t 4 h/8 w/8), scaled, beside the pixels they come from."""
    folder = Path(folder)
    pixels = np.load(folder / "pixels.npy", mmap_mode="r")
    count, frames, height, width, _ = pixels.shape
    shape = (count, frames, autoencoder.config.latent_channels, height // CELL, width // CELL)
    latents = np.lib.format.open_memmap(folder / "latents.npy", "w+", np.float16, shape)
    per_batch = max(1, 64 // frames)
    for begin in range(0, count, per_batch):
        part = pixels[begin : begin + per_batch]
        encoded = encode(autoencoder, part.reshape(-1, height, width, 3))
        latents[begin : begin + per_batch] = encoded.reshape(len(part), *shape[1:])


def _create(path, shape):
    return np.lib.format.open_memmap(path, "w+", np.uint8, shape)


def _render_one(job):
    seed, index, frames, held_out = job
    scene = sample_scene(np.random.default_rng((seed, index)), held_out)
    clip, covered = render(scene, frames)
    cells = SIZE // CELL
    share = covered.reshape(frames, cells, CELL, cells, CELL).mean((2, 4))  # t h w -> t h/8 w/8
    return scene, clip, np.round(share * 255).astype(np.uint8)
