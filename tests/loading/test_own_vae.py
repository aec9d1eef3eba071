"""A VAE of one's own in the place of the base's: from a folder or a file, and refused if it does not fit."""

import pytest
import torch
from diffusers import AutoencoderKL, AutoencoderTiny
from safetensors.torch import load_file, save_file

from lumiere import models
from lumiere.loading import layout
from lumiere.loading.registry import Model
from lumiere.pipeline import LumierePipeline
from tests.bases import components, save_adapter, save_base
from tests.checkpoints import save_checkpoint, vae_keys
from tests.conftest import tiny_vae
from tests.test_bases import SEEN, difference, frames_of

VAE = dict(block_out_channels=(8, 8, 16, 16), scaling_factor=0.18215, mid_block_add_attention=True)
WEIGHTS = "diffusion_pytorch_model.safetensors"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """`sd` with `adapter`; `vae` as a folder, and the same weights as files of three kinds."""
    folder = tmp_path_factory.mktemp("vae")
    save_base(folder / "sd", "sd")
    save_adapter(folder / "adapter", components("sd")["unet"])
    save_checkpoint(folder / "sd", folder / "sd.safetensors")
    torch.manual_seed(5)
    tiny_vae(**VAE).save_pretrained(folder / "vae")
    weights = load_file(folder / "vae" / WEIGHTS)
    original = vae_keys(weights)
    save_file({k: w.contiguous() for k, w in original.items()}, folder / "checkpoint.safetensors")
    bare = {k.removeprefix("first_stage_model."): w.contiguous() for k, w in original.items()}
    save_file(bare, folder / "original.safetensors")
    save_file(weights, folder / "diffusers.safetensors")
    return folder


def loaded(folder, source, base="sd") -> LumierePipeline:
    motion = folder / "adapter"
    return LumierePipeline.from_pretrained(folder / base, motion, device="cpu", vae=source)


FORMS = ["vae", "checkpoint.safetensors", "original.safetensors", "diffusers.safetensors"]


@pytest.mark.parametrize("form", FORMS)
def test_weights_are_those_of_the_source(folder, form):
    expected = AutoencoderKL.from_pretrained(folder / "vae").state_dict()
    found = loaded(folder, folder / form).vae.state_dict()
    assert found.keys() == expected.keys() and all(torch.equal(found[k], expected[k]) for k in found)


def test_a_checkpoint_takes_one_too(folder, monkeypatch):
    (folder / "configs").mkdir()
    (folder / "configs" / "sd15").symlink_to(folder / "sd")
    monkeypatch.setattr(layout, "CONFIGS", folder / "configs")
    expected = AutoencoderKL.from_pretrained(folder / "vae").state_dict()
    found = loaded(folder, folder / "vae", "sd.safetensors").vae.state_dict()
    assert all(torch.equal(found[k], expected[k]) for k in found)


def test_it_decodes_the_clip(folder):
    own, other = loaded(folder, None), loaded(folder, folder / "vae")
    assert difference(frames_of(own, SEEN), frames_of(other, SEEN)) > 1
    own.base.vae = other.base.vae
    assert difference(frames_of(own, SEEN), frames_of(other, SEEN)) == 0


def test_is_an_option_of_commands(folder):
    options = ["--model", "a", "--motion", "b", "--vae", "c"]
    assert models.allowed(models.options("").parse_args(options))["a"] == Model("a", "b", vae="c")
    with pytest.raises(ValueError, match="--vae must be given with one model: received 2"):
        models.allowed(models.options("").parse_args([*options[:2], "--model", "d", "--vae", "c"]))


def of_other_channels(folder):
    tiny_vae(**VAE, latent_channels=8).save_pretrained(folder)
    return folder


def of_other_size(folder):
    tiny_vae(
        block_out_channels=(8, 8, 16),
        down_block_types=("DownEncoderBlock2D",) * 3,
        up_block_types=("UpDecoderBlock2D",) * 3,
        scaling_factor=0.18215,
    ).save_pretrained(folder)
    return folder


def of_other_scale(folder):
    tiny_vae(**VAE | {"scaling_factor": 0.13025}).save_pretrained(folder)
    return folder


def tiny(folder):
    AutoencoderTiny(encoder_block_out_channels=(8,) * 4, decoder_block_out_channels=(8,) * 4).save_pretrained(
        folder
    )
    return folder


def file_of(weights):
    def make(folder):
        folder.mkdir()
        save_file(weights(folder), folder / "some.safetensors")
        return folder / "some.safetensors"

    return make


def garbage(folder):
    folder.write_bytes(b"\xff" * 100)
    return folder


def lacking(folder):
    weights = tiny_vae(**VAE).state_dict()
    del weights["decoder.mid_block.resnets.0.conv1.weight"]
    return weights


def not_a_number(folder):
    weights = tiny_vae(**VAE).state_dict()
    weights["decoder.conv_in.bias"].fill_(torch.nan)
    return weights


CASES = {
    "channels": (of_other_channels, "another family: its number of latent channels is 8, that of the base 4"),
    "size": (of_other_size, "another family: its downsampling factor is 4, that of the base 8"),
    "scale": (of_other_scale, "another family: its scaling factor is 0.13025, that of the base 0.18215"),
    "tiny": (tiny, "is of class AutoencoderTiny: supported is AutoencoderKL"),
    "lora": (
        file_of(lambda _: {"unet.down_blocks.0.to_q.lora_A.weight": torch.ones(2, 2)}),
        "some.safetensors is a LoRA; it is not supported as a VAE",
    ),
    "unet": (
        file_of(lambda _: {"conv_in.weight": torch.ones(2, 2)}),
        "some.safetensors is of a kind that is not known",
    ),
    "other widths": (
        file_of(lambda _: tiny_vae(**VAE | {"block_out_channels": (8, 8, 16, 32)}).state_dict()),
        "cannot read the VAE .*some.safetensors",
    ),
    "missing weights": (file_of(lacking), "the (VAE|vae) .*lacks 1 weights, among them .*decoder.mid_block"),
    "not a number": (file_of(not_a_number), "holds values that are not numbers, in decoder.conv_in.bias"),
    "garbage": (garbage, "cannot read the VAE .*: it is damaged, or no safetensors file"),
    "nowhere": (lambda folder: folder, "cannot find the VAE .*one"),
}


@pytest.mark.parametrize("case", CASES)
def test_refuses_in_words(folder, tmp_path, case):
    make, words = CASES[case]
    with pytest.raises((OSError, ValueError), match=words) as caught:
        loaded(folder, make(tmp_path / "one"))
    assert "\n" not in str(caught.value)
