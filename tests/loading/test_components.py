"""Components of a base pipeline: each is checked by itself, for diffusers accepts files that lack weights."""

import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

from lumiere.loading.components import load_base
from tests.bases import save_base

CASES = [(family, name) for family in ("sd", "xl") for name in ("unet", "vae", "text_encoder")]
CASES.append(("xl", "text_encoder_2"))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("components")
    for family in ("sd", "xl"):
        save_base(folder / family, family)
    return folder


@pytest.mark.parametrize("family, name", CASES)
def test_a_missing_key_is_an_error_that_names_it(folder, tmp_path, family, name):
    shutil.copytree(folder / family, tmp_path / "base")
    (file,) = (tmp_path / "base" / name).glob("*.safetensors")
    weights = load_file(file)
    key = sorted(key for key in weights if key.endswith(".weight"))[len(weights) // 3]
    save_file({k: x for k, x in weights.items() if k != key}, file, metadata={"format": "pt"})
    told = key.removeprefix("text_model.")
    with pytest.raises(OSError, match=f"the {name} in .* lacks 1 weights, among them .*{told}"):
        load_base(tmp_path / "base", torch.float32)


@pytest.mark.parametrize("family", ["sd", "xl"])
def test_base_is_a_pipeline_of_diffusers_without_a_safety_checker(folder, family):
    base = load_base(folder / family, torch.float32)
    assert type(base).__name__ == {"sd": "StableDiffusionPipeline", "xl": "StableDiffusionXLPipeline"}[family]
    assert getattr(base, "safety_checker", None) is None
    base.set_progress_bar_config(disable=True)
    assert base("a ball", num_inference_steps=1, output_type="np").images.shape == (1, 64, 64, 3)
