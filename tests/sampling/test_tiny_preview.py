"""Previews by a tiny autoencoder, and the linear map where it cannot be had."""

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import AutoencoderTiny

from lumiere import models
from lumiere.loading.assembly import tiny_preview
from lumiere.loading.layout import locate_autoencoder
from lumiere.loading.registry import MODELS, PREVIEWS, Model
from lumiere.paperworld.__main__ import main
from lumiere.paperworld.training.autoencoder import encode_dataset
from lumiere.paperworld.training.model_folder import EMBEDDED, load_vae
from lumiere.paperworld.world.dataset import render_dataset
from lumiere.pipeline import LumierePipeline
from lumiere.request import Request
from lumiere.sampling.latent_preview import LatentPreview, TinyPreview
from lumiere.sampling.vae import decode

REQUEST = Request("a red ball", frames=8, height=64, width=64, steps=2, seed=1)


def save_tiny(folder: Path, latents: int = 4, seed: int = 0) -> Path:
    """Random and small, in the layout of madebyollin/taesd."""
    torch.manual_seed(seed)
    narrow = {"block_out_channels": (8, 8, 8, 8)}
    AutoencoderTiny(
        latent_channels=latents,
        **{f"{way}_{name}": value for way in ("encoder", "decoder") for name, value in narrow.items()},
        num_encoder_blocks=(1, 1, 1, 1),
        num_decoder_blocks=(1, 1, 1, 1),
    ).save_pretrained(folder)
    return folder


def same_weights(one: torch.nn.Module, other: torch.nn.Module) -> bool:
    return all(torch.equal(x, y) for x, y in zip(one.parameters(), other.parameters(), strict=True))


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
    assert preview(torch.randn(1, 4, 40, 8, 16)).shape == (24, 64, 128, 3)


def test_folder_brings_its_own(tiny_model, tmp_path, model):
    folder = shutil.copytree(tiny_model, tmp_path / "with")
    own = AutoencoderTiny.from_pretrained(save_tiny(folder / "preview", seed=1))
    preview = LumierePipeline.from_pretrained(folder, device="cpu").preview
    assert same_weights(preview.vae, own)
    named = LumierePipeline.from_pretrained(replace(model, source=str(folder)), device="cpu").preview
    assert same_weights(named.vae, AutoencoderTiny.from_pretrained(model.preview))


def for_other_latents(model: Model, folder: Path) -> str:
    return str(save_tiny(folder / "other", 16))


def damaged(model: Model, folder: Path) -> str:
    (Path(model.preview) / "diffusion_pytorch_model.safetensors").write_bytes(b"\xff" * 100)
    return model.preview


def not_cached(model: Model, folder: Path) -> str:
    return PREVIEWS["taesd"]


@pytest.mark.parametrize(
    "kind, reason",
    [
        (for_other_latents, "takes 16 channels where latents have 4"),
        (damaged, "cannot read the preview in"),
        (not_cached, "cannot fetch the preview madebyollin/taesd"),
    ],
)
def test_falls_back_to_linear_map(kind, reason, model, tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "cache"))
    pipeline = LumierePipeline.from_pretrained(replace(model, preview=kind(model, tmp_path)), device="cpu")
    assert isinstance(pipeline.preview, LatentPreview)
    (note,) = pipeline.notes
    assert "linear map" in note and reason in note


def test_refuses_preview_that_is_no_place():
    with pytest.raises(OSError, match="cannot find the preview nowhere"):
        locate_autoencoder("nowhere", "preview")


def test_stable_diffusion_has_taesd():
    for name, model in MODELS.items():
        expected = {"paper": None, "sd15-": "madebyollin/taesd", "sdxl-": "madebyollin/taesdxl"}
        assert model.preview == expected[name[:5]]


def test_option_names_published_ones_and_any_other(monkeypatch):
    monkeypatch.delenv(models.VARIABLE, raising=False)

    def chosen(*given: str) -> Model:
        return models.allowed(models.options("").parse_args([*given]))["paper-world"]

    assert chosen("--preview", "taesdxl").preview == "madebyollin/taesdxl"
    assert chosen("--preview", "my/folder").preview == "my/folder"
    assert chosen().preview is None


def test_shipped_one_is_near_the_shipped_decoder(tmp_path):
    render_dataset(tmp_path, 4, 2, seed=992, workers=1)
    encode_dataset(tmp_path, vae := load_vae(EMBEDDED))
    latents = torch.from_numpy(np.load(tmp_path / "latents.npy").astype(np.float32))
    preview = tiny_preview(str(EMBEDDED / "preview"), 4, torch.float32)
    clips = [clip[None] for clip in latents.transpose(1, 2)]  # n t c h w -> 1 c t h w each
    errors = [preview(clip) / 255 - decode(vae, clip) / 255 for clip in clips]
    decibels = [-10 * np.log10(np.square(error).mean()) for error in errors]
    assert min(decibels) >= 20 and np.mean(decibels) >= 26


def test_command_trains_one(tmp_path):
    data, model = tmp_path / "stills", tmp_path / "model"
    render_dataset(data, 4, 1, seed=993, workers=1)
    shutil.copytree(EMBEDDED / "vae", model / "vae")
    encode_dataset(data, load_vae(model))
    command = ["preview", "--model", str(model), "--data", str(data), "--run", str(tmp_path / "run")]
    main([*command, "--steps", "2"])
    trained = tiny_preview(str(model / "preview"), 4, torch.float32)
    assert trained(torch.randn(1, 4, 2, 16, 16)).shape == (2, 128, 128, 3)
    main([*command, "--steps", "2"])  # there is nothing left to do
    assert same_weights(tiny_preview(str(model / "preview"), 4, torch.float32), trained)
