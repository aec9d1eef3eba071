"""Previews by a tiny autoencoder in place of the linear map."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import AutoencoderTiny

from lumiere import models
from lumiere.folder import locate_tiny
from lumiere.pipeline import LumierePipeline
from lumiere.preview import TinyPreview
from lumiere.request import Request
from lumiere.table import Model

REQUEST = Request("a red ball", frames=8, height=64, width=64, steps=2, seed=1)


def save_tiny(folder: Path, latents: int = 4) -> Path:
    """Random and small, in the layout of madebyollin/taesd."""
    torch.manual_seed(0)
    narrow = {"block_out_channels": (8, 8, 8, 8)}
    AutoencoderTiny(
        latent_channels=latents,
        **{f"{way}_{name}": value for way in ("encoder", "decoder") for name, value in narrow.items()},
        num_encoder_blocks=(1, 1, 1, 1),
        num_decoder_blocks=(1, 1, 1, 1),
    ).save_pretrained(folder)
    return folder


@pytest.fixture
def model(tiny_model, tmp_path) -> Model:
    return Model(str(tiny_model), preview=str(save_tiny(tmp_path / "taesd")))


def test_the_clip_in_the_making_is_what_the_tiny_autoencoder_decodes(model):
    pipeline = LumierePipeline.from_pretrained(model, device="cpu")
    step, *_, result = pipeline.generate(REQUEST)
    (latents,) = step.preview.args
    tiny = AutoencoderTiny.from_pretrained(model.preview)
    with torch.no_grad():
        pictures = torch.stack([tiny.decode(latents[:, :, frame]).sample[0] for frame in range(8)])
    expected = (pictures / 2 + 0.5).clamp(0, 1).mul(255).round().permute(0, 2, 3, 1).numpy()
    shown = step.preview()
    assert shown.shape == (8, 64, 64, 3) and shown.dtype == np.uint8 and shown.std() > 0
    assert np.abs(shown - expected).max() <= 1
    plain = LumierePipeline.from_pretrained(replace(model, preview=None), device="cpu")
    assert not isinstance(plain.preview, TinyPreview)
    *_, same = plain.generate(REQUEST)
    assert np.array_equal(same.frames, result.frames)  # previews change nothing


def test_pictures_are_few_and_small(model):
    preview = LumierePipeline.from_pretrained(model, device="cpu").preview
    assert preview(torch.randn(1, 4, 40, 8, 16), max_frames=10, max_side=64).shape == (10, 32, 64, 3)


def test_one_for_other_latents_or_a_damaged_one_is_refused(model, tmp_path):
    with pytest.raises(ValueError, match="takes 16 channels where latents have 4"):
        other = replace(model, preview=str(save_tiny(tmp_path / "other", 16)))
        LumierePipeline.from_pretrained(other, device="cpu")
    (Path(model.preview) / "diffusion_pytorch_model.safetensors").write_bytes(b"\xff" * 100)
    with pytest.raises(OSError, match="cannot read the preview in"):
        LumierePipeline.from_pretrained(model, device="cpu")
    with pytest.raises(OSError, match="cannot find the preview nowhere"):
        locate_tiny("nowhere")


def test_the_option_names_the_published_ones_and_any_other(monkeypatch):
    monkeypatch.delenv(models.VARIABLE, raising=False)

    def chosen(*given: str) -> Model:
        return models.allowed(models.options("").parse_args([*given]))["paper-world"]

    assert chosen("--preview", "taesdxl").preview == "madebyollin/taesdxl"
    assert chosen("--preview", "my/folder").preview == "my/folder"
    assert chosen().preview is None
