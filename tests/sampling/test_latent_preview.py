"""Previews: the linear map, on an autoencoder whose truth is known, and the sprite sheet."""

import base64
import io
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image

from lumiere.pipeline import LumierePipeline
from lumiere.sampling.latent_preview import LatentPreview, Sheet, sprite_sheet, synthetic_pictures


class BlockEncoder(torch.nn.Module):
    """A linear encoder: four mixtures of a block's mean colour and of how much brighter its right half is."""

    config = SimpleNamespace(scaling_factor=0.3)

    def __init__(self):
        super().__init__()
        mixture = torch.randn(4, 4, 1, 1, generator=torch.Generator().manual_seed(0))
        self.mixture = torch.nn.Parameter(mixture, requires_grad=False)

    def encode(self, images):
        halves = F.avg_pool2d(images.mean(1, keepdim=True), (8, 4))  # n 3 h w -> n 1 h/8 w/4
        features = torch.cat([F.avg_pool2d(images, 8), halves[..., 1::2] - halves[..., ::2]], 1)
        return SimpleNamespace(latent_dist=SimpleNamespace(mean=F.conv2d(features, self.mixture)))


def latents_of(vae, images):
    """(n 3 h w) in -1..1 -> scaled latents of a clip (1 c n h w)."""
    return (vae.encode(images).latent_dist.mean * vae.config.scaling_factor).transpose(0, 1)[None]


@pytest.fixture(scope="module")
def vae():
    return BlockEncoder()


@pytest.fixture(scope="module")
def preview(vae):
    return LatentPreview.fit(vae, synthetic_pictures(24, 64))


def test_a_preview_beats_the_mean_colour_by_far(vae, preview):
    images = synthetic_pictures(32, 64)[24:]  # pictures the fit has not seen
    truth = F.interpolate(images / 2 + 0.5, scale_factor=0.5, mode="area").permute(0, 2, 3, 1).numpy()
    shown = preview(latents_of(vae, images)) / 255
    assert shown.shape == truth.shape
    mean = truth.mean((1, 2), keepdims=True)
    assert np.square(shown - truth).mean() < 0.35 * np.square(mean - truth).mean()


@pytest.mark.parametrize("colour", [(0.9, 0.1, 0.1), (0.1, 0.8, 0.3), (0.2, 0.2, 0.9), (0.5, 0.5, 0.5)])
def test_the_colour_of_a_flat_picture_comes_out(vae, preview, colour):
    image = (torch.tensor(colour) * 2 - 1).view(1, 3, 1, 1).expand(-1, -1, 64, 64)
    shown = preview(latents_of(vae, image)) / 255
    assert np.abs(shown - np.array(colour)).max() < 0.03


def test_a_map_that_is_linear_is_found_exactly():
    class Colours(BlockEncoder):
        def encode(self, images):
            means = F.avg_pool2d(images, 2)
            return SimpleNamespace(latent_dist=SimpleNamespace(mean=torch.cat([means, -means[:, :1]], 1)))

    vae = Colours()
    fitted = LatentPreview.fit(vae, synthetic_pictures(4, 64))
    images = synthetic_pictures(5, 64)[4:]
    truth = F.avg_pool2d(images / 2 + 0.5, 2).permute(0, 2, 3, 1).numpy() * 255
    assert fitted.patch == 1 and np.abs(fitted(latents_of(vae, images)) - truth).max() < 3


def test_a_long_clip_is_thinned_evenly_and_a_large_one_shrunk(preview):
    ramp = torch.linspace(-1, 1, 80).view(1, 1, 80, 1, 1).expand(1, 4, 80, 48, 80)
    shown = preview(ramp, max_frames=24, max_side=256)
    assert shown.shape == (24, 153, 256, 3) and shown.dtype == np.uint8
    every = preview(ramp, max_frames=80, max_side=256)
    assert np.array_equal(shown, every[[i * 80 // 24 for i in range(24)]])
    assert preview(ramp[:, :, :5, :8, :8]).shape == (5, 32, 32, 3)


def test_what_is_not_a_number_is_shown_as_black_rather_than_raised(preview):
    shown = preview(torch.full((1, 4, 2, 8, 8), torch.nan))
    assert shown.shape == (2, 32, 32, 3) and not shown.any()


def test_same_map_for_same_model(tiny_model):
    first, second = (LumierePipeline.from_pretrained(tiny_model, device="cpu").preview for _ in range(2))
    assert first.patch == 4 and torch.equal(first.weight, second.weight)


@pytest.mark.parametrize(
    "count, height, width",
    [(1, 64, 64), (16, 64, 64), (24, 256, 256), (23, 256, 144), (5, 7, 300), (24, 256, 8)],
)
def test_every_frame_is_where_the_sheet_says(count, height, width):
    # Each frame has a grey of its own.
    frames = np.zeros((count, height, width, 3), np.uint8)
    frames += np.arange(count, dtype=np.uint8)[:, None, None, None] * 10
    sheet = sprite_sheet(frames)
    picture = np.asarray(Image.open(io.BytesIO(sheet.jpeg)))
    assert picture.shape == (sheet.rows * height, sheet.columns * width, 3) and max(picture.shape) <= 4096
    assert (sheet.count, sheet.width, sheet.height) == (count, width, height)
    assert sheet.columns * (sheet.rows - 1) < count <= sheet.columns * sheet.rows
    for index in range(count):
        row, column = divmod(index, sheet.columns)
        tile = picture[row * height : (row + 1) * height, column * width : (column + 1) * width]
        assert abs(tile.mean() - 10 * index) < 4


def test_a_sheet_is_small_and_its_uri_is_a_jpeg():
    frames = synthetic_pictures(24, 64).add(1).mul(127).byte().permute(0, 2, 3, 1).numpy()
    sheet = sprite_sheet(frames)
    assert isinstance(sheet, Sheet) and len(sheet.jpeg) < 60_000
    head, data = sheet.data_uri.split(",")
    assert head == "data:image/jpeg;base64" and base64.b64decode(data) == sheet.jpeg


def test_frames_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match="4 frames of 2048 x 2048: received 5"):
        sprite_sheet(np.zeros((5, 2048, 2048, 3), np.uint8))
