"""Evaluation: the pictures it writes and the ceiling it measures."""

import numpy as np
import torch
from PIL import Image

from lumiere.paperworld.evaluate import _through_autoencoder, write_grid
from lumiere.pipeline import LumierePipeline


def test_grid_plays_every_clip_in_its_place(tmp_path):
    clips = [
        np.full((5, 16, 16, 3), 10 * i, np.uint8) + np.arange(0, 60, 12, dtype=np.uint8)[:, None, None, None]
        for i in range(20)
    ]
    write_grid(tmp_path / "grid.webp", clips)
    with Image.open(tmp_path / "grid.webp") as grid:
        assert grid.n_frames == 5 and grid.size == (6 * 16, 3 * 16)
        grid.seek(3)
        frame = np.asarray(grid.convert("RGB"), int)
    for index in range(18):
        row, column = divmod(index, 6)
        cell = frame[row * 16 + 4 : row * 16 + 12, column * 16 + 4 : column * 16 + 12]
        assert abs(cell.mean() - (10 * index + 36)) < 4, index


def test_the_ceiling_is_encode_then_decode(tiny_model):
    pipeline = LumierePipeline.from_pretrained(tiny_model, device="cpu")
    factor = 2 ** (len(pipeline.vae.config.block_out_channels) - 1)
    frames = np.random.default_rng(0).integers(0, 256, (3, 8 * factor, 8 * factor, 3), np.uint8)
    images = torch.from_numpy(frames).permute(0, 3, 1, 2).float() / 127.5 - 1
    with torch.no_grad():
        expected = pipeline.vae.decode(pipeline.vae.encode(images).latent_dist.mean).sample
    expected = (expected / 2 + 0.5).clamp(0, 1).permute(0, 2, 3, 1).numpy() * 255
    assert np.abs(_through_autoencoder(pipeline, frames) - expected).max() <= 1
