"""MotionLoRAs in three key layouts, compared with diffusers' own motion model."""

import pytest
import torch
from diffusers import UNetMotionModel
from safetensors.torch import save_file

from lumiere.loading.registry import CAMERAS
from lumiere.model.adapter_options import adapter_weights, check_fit, merge_motion_loras, read_motion_lora
from lumiere.model.lumiere import Lumiere
from tests.model.test_animatediff import inputs

RANK = 2


def factors(adapter, seed: int) -> dict[str, torch.Tensor]:
    """Random low-rank matrices for all attentions, with diffusers' keys."""
    generator = torch.Generator().manual_seed(seed)
    made = {}
    for key, weight in adapter.state_dict().items():
        if ".attn" in key and key.endswith("weight"):
            name = f"unet.{key.removesuffix('.weight').removesuffix('.0')}.lora"
            made[f"{name}.down.weight"] = 0.3 * torch.randn(RANK, weight.shape[1], generator=generator)
            made[f"{name}.up.weight"] = 0.3 * torch.randn(weight.shape[0], RANK, generator=generator)
    return made


def original(key: str) -> str:
    """The key in AnimateDiff's own code."""
    key = key.removeprefix("unet.").replace(".transformer", ".temporal_transformer.transformer", 1)
    for number in (1, 2):
        key = key.replace(f".attn{number}.", f".attention_blocks.{number - 1}.processor.")
    return key.replace(".lora.", "_lora.")


def peft(key: str) -> str:
    key = key.replace(".lora.down.", ".lora_A.").replace(".lora.up.", ".lora_B.")
    return key.replace("to_out.", "to_out.0.")


LAYOUTS = {"diffusers": str, "original": original, "peft": peft}


@pytest.fixture(scope="module")
def file(adapter, tmp_path_factory):
    """The file of a seed, in a layout of keys."""
    folder = tmp_path_factory.mktemp("loras")

    def write(seed: int, layout: str = "diffusers"):
        path = folder / f"{seed}-{layout}.safetensors"
        save_file({LAYOUTS[layout](k): w for k, w in factors(adapter, seed).items()}, path)
        return path

    return write


@torch.no_grad()
@pytest.mark.parametrize("layout", LAYOUTS)
def test_two_loras_give_what_diffusers_gives(unet, adapter, lumiere, file, layout):
    (video, time, text), _ = inputs("sd", clips=1)
    their = UNetMotionModel.from_unet2d(unet, adapter).eval()
    for seed in (1, 2):
        weights = {peft(k).removeprefix("unet."): w for k, w in factors(adapter, seed).items()}
        their.load_lora_adapter(weights, prefix=None, adapter_name=f"lora{seed}")
    their.set_adapters(["lora1", "lora2"], [0.8, -0.5])
    expected = their(video, time, text.expand(video.shape[2], -1, -1)).sample
    usual = lumiere(video, time, text).sample
    loras = [(read_motion_lora(file(seed, layout)), scale) for seed, scale in ((1, 0.8), (2, -0.5))]
    merge_motion_loras(lumiere, loras)
    found = lumiere(video, time, text).sample
    assert (found - expected).abs().max() <= 1e-5
    assert (found - usual).abs().max() > 1e-2


def test_alpha_scales_the_change(adapter, tmp_path):
    weights = factors(adapter, 1)
    name = next(iter(weights)).split(".lora.")[0]
    save_file(weights, tmp_path / "plain.safetensors")
    save_file(weights | {f"{name}.alpha": torch.tensor(1.0)}, tmp_path / "alpha.safetensors")
    plain, scaled = (read_motion_lora(tmp_path / f"{kind}.safetensors") for kind in ("plain", "alpha"))
    key = f"{name.removeprefix('unet.')}.weight"
    assert torch.allclose(scaled[key], plain[key] / RANK)


def broken(weights: dict, how: str) -> dict:
    first = next(iter(weights))
    if how == "base":
        return {"unet.down_blocks.0.attentions.0.to_q.lora.down.weight": torch.ones(2, 2)}
    if how == "unknown":
        return weights | {f"{first}.more": torch.ones(1)}
    return {key: weight for key, weight in weights.items() if key != first}


@pytest.mark.parametrize(
    "how, words",
    [
        ("base", "is no MotionLoRA: it has no keys of motion modules"),
        ("unknown", r"unknown key unet\..*\.more"),
        ("pair", "no matching pair of low-rank matrices for"),
    ],
)
def test_refuses_other_files_in_words(adapter, tmp_path, how, words):
    save_file(broken(factors(adapter, 1), how), tmp_path / "lora.safetensors")
    with pytest.raises(ValueError, match=words):
        read_motion_lora(tmp_path / "lora.safetensors")


def test_refuses_missing_and_damaged_files(tmp_path):
    with pytest.raises(FileNotFoundError, match="there is no MotionLoRA"):
        read_motion_lora(tmp_path / "none.safetensors")
    (tmp_path / "cut.safetensors").write_bytes(b"\x10")
    with pytest.raises(OSError, match="damaged"):
        read_motion_lora(tmp_path / "cut.safetensors")


def test_refuses_another_adapter(unet, lumiere, file):
    changes = read_motion_lora(file(1))
    key = next(iter(changes))
    for wrong, words in (
        ({key: changes[key][:8]}, "is 32 x 32, not 8 x 32"),
        ({f"down_blocks.9.{key}": changes[key]}, "this one has no down_blocks.9"),
        ({key: changes[key] / 0}, "not finite"),
    ):
        with pytest.raises(ValueError, match=words):
            check_fit(wrong, adapter_weights(lumiere))
    with pytest.raises(ValueError, match="needs motion weights of AnimateDiff"):
        merge_motion_loras(Lumiere.from_unet(unet), [(changes, 1.0)])


def test_camera_moves_are_eight():
    assert len(CAMERAS) == 8 and CAMERAS["zoom-in"] == "guoyww/animatediff-motion-lora-zoom-in"
