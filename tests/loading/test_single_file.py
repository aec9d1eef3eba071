"""Single-file checkpoints against the model folders that they were made from."""

import shutil

import pytest
import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from safetensors.torch import load_file, save_file
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

from lumiere import models
from lumiere.loading import layout
from lumiere.loading.components import load_base
from lumiere.loading.registry import Model
from lumiere.pipeline import LumierePipeline
from tests.bases import components, save_adapter, save_base
from tests.checkpoints import save_checkpoint
from tests.test_bases import SEEN, frames_of

FAMILY = {"sd": "sd15", "xl": "sdxl"}
SIZES = {  # numbers of parameters of the published models
    "sd15": {"unet": 859_520_964, "vae": 83_653_863, "text_encoder": 123_060_480},
    "sdxl": {"unet": 2_567_463_684, "vae": 83_653_863, "text_encoder_2": 694_659_840},
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """`sd` and `xl` with a checkpoint of each, and the configs that stand for the shipped ones."""
    folder = tmp_path_factory.mktemp("checkpoints")
    for family, name in FAMILY.items():
        save_base(folder / family, family)
        save_checkpoint(folder / family, folder / f"{family}.safetensors")
        no_weights = shutil.ignore_patterns("*.safetensors", "tokenizer*")
        shutil.copytree(folder / family, folder / "configs" / name, ignore=no_weights)
    return folder


@pytest.fixture(autouse=True)
def small_configs(folder, monkeypatch):
    monkeypatch.setattr(layout, "CONFIGS", folder / "configs")


def same(one, other) -> bool:
    """Whether all weights of two base pipelines are the same bits, and their tokens the same."""
    for name, part in one.components.items():
        twin = other.components[name]
        if isinstance(part, torch.nn.Module):
            state, expected = part.state_dict(), twin.state_dict()
            if state.keys() != expected.keys() or not all(torch.equal(state[k], expected[k]) for k in state):
                return False
        if name.startswith("tokenizer"):
            texts = {"text": "the quick fox", "padding": "max_length", "truncation": True}
            if part(**texts).input_ids != twin(**texts).input_ids:
                return False
    return one.components.keys() == other.components.keys()


@pytest.mark.parametrize("family", FAMILY)
def test_weights_are_those_of_the_folder(folder, tmp_path, family):
    expected = load_base(folder / family, torch.float32)
    assert same(load_base(folder / f"{family}.safetensors", torch.float32), expected)
    save_checkpoint(folder / family, tmp_path / "ema.safetensors", ema=True)
    assert same(load_base(tmp_path / "ema.safetensors", torch.float32), expected)
    save_checkpoint(folder / family, tmp_path / "half.safetensors", half=True)
    half = load_base(tmp_path / "half.safetensors", torch.float16)
    assert same(half, load_base(folder / family, torch.float16))


@pytest.mark.slow
@pytest.mark.parametrize("family", FAMILY)
def test_frames_are_those_of_the_folder(folder, family):
    save_adapter(folder / f"{family}-adapter", components(family)["unet"])
    motion = str(folder / f"{family}-adapter")
    whole = LumierePipeline.from_pretrained(folder / family, motion, device="cpu")
    model = Model(str(folder / f"{family}.safetensors"), motion)
    single = LumierePipeline.from_pretrained(model, device="cpu")
    assert frames_of(single, SEEN).tobytes() == frames_of(whole, SEEN).tobytes()
    assert models.limits(model) == single.limits


@pytest.mark.parametrize("family", FAMILY)
def test_a_missing_key_is_named(folder, tmp_path, family):
    weights = load_file(folder / f"{family}.safetensors")
    shutil.copytree(folder / "tokenizer", tmp_path / "tokenizer")
    lost = {
        "model.diffusion_model.middle_block.0.in_layers.2.bias": "unet.mid_block.resnets.0.conv1.bias",
        "first_stage_model.decoder.conv_out.bias": "vae.decoder.conv_out.bias",
    }
    where = "cond_stage_model" if family == "sd" else "conditioner.embedders.0"
    lost[f"{where}.transformer.text_model.final_layer_norm.bias"] = "final_layer_norm.bias"
    if family == "xl":
        lost["conditioner.embedders.1.model.ln_final.bias"] = "final_layer_norm.bias"
    for key, told in lost.items():
        save_file({name: x for name, x in weights.items() if name != key}, tmp_path / "torn.safetensors")
        with pytest.raises(OSError, match=rf"torn.safetensors lacks 1 weights, among them .*{told}"):
            load_base(tmp_path / "torn.safetensors", torch.float32)


def test_other_files_are_refused_in_words(folder, tmp_path, monkeypatch):
    save_file({"x": torch.zeros(1)}, tmp_path / "other.safetensors")
    with pytest.raises(OSError, match="of another family: supported are Stable Diffusion 1.x and XL"):
        load_base(tmp_path / "other.safetensors", torch.float32)
    (tmp_path / "torn.safetensors").write_bytes(b"no checkpoint")
    with pytest.raises(OSError, match="it is damaged, or no safetensors file"):
        load_base(tmp_path / "torn.safetensors", torch.float32)
    shutil.copy(folder / "sd.safetensors", tmp_path / "sd.safetensors")

    def offline(*_):
        raise OSError("there is no network")

    monkeypatch.setattr("lumiere.loading.components.fetch", offline)
    with pytest.raises(OSError, match="put vocab.json and merges.txt of openai/clip-vit-large-patch14 into"):
        load_base(tmp_path / "sd.safetensors", torch.float32)
    with pytest.raises(FileNotFoundError, match="holds no motion weights: name some with --motion"):
        LumierePipeline.from_pretrained(folder / "sd.safetensors", device="cpu")


@pytest.mark.parametrize("family", SIZES)
def test_shipped_configs_have_the_published_sizes(monkeypatch, family):
    monkeypatch.undo()
    folder = layout.CONFIGS / family
    with torch.device("meta"):
        made = {
            "unet": UNet2DConditionModel.from_config(UNet2DConditionModel.load_config(folder / "unet")),
            "vae": AutoencoderKL.from_config(AutoencoderKL.load_config(folder / "vae")),
            "text_encoder": CLIPTextModel(CLIPTextConfig.from_pretrained(folder / "text_encoder")),
        }
        if family == "sdxl":
            config = CLIPTextConfig.from_pretrained(folder / "text_encoder_2")
            made["text_encoder_2"] = CLIPTextModelWithProjection(config)
    for name, size in SIZES[family].items():
        assert sum(weight.numel() for weight in made[name].parameters()) == size, name
    limits = layout.read_limits(folder, 1)
    assert (limits.default_height, limits.size_multiple) == ((512, 64) if family == "sd15" else (1024, 32))
