"""Files given as a LoRA are called what they are."""

from pathlib import Path

import pytest
import torch
from safetensors import safe_open

from lumiere.loading.file_kinds import LORA, kind_of, lora_tensors

CASES = Path(__file__).resolve().parents[3] / "shared" / "cases"
ATTENTION = "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn1_to_q"
KOHYA = [f"{ATTENTION}.{part}" for part in ("alpha", "lora_down.weight", "lora_up.weight")]
PEFT = ["unet.mid_block.attentions.0.to_q.lora_A.weight", "unet.mid_block.attentions.0.to_q.lora_B.weight"]


@pytest.mark.parametrize("name", ["motion_lora_diffusers", "motion_lora_original"])
def test_a_motion_lora_is_called_one(name):
    file = CASES / f"{name}.safetensors"
    if not file.is_file():
        pytest.skip("the shared inputs are not here")
    with safe_open(file, "pt") as opened:
        keys = list(opened.keys())
    with pytest.raises(
        ValueError, match="^x.safetensors is a motion LoRA of AnimateDiff, .* not supported as a LoRA"
    ):
        lora_tensors(dict.fromkeys(keys), "x.safetensors")


@pytest.mark.parametrize(
    "keys, name",
    [
        (["down_blocks.0.motion_modules.0.norm.weight"], "a motion adapter of AnimateDiff"),
        ([f"{ATTENTION}.hada_w1_a", f"{ATTENTION}.hada_w1_b", f"{ATTENTION}.alpha"], "a LoHa"),
        ([f"{ATTENTION}.lokr_w1", f"{ATTENTION}.lokr_w2"], "a LoKr"),
        ([*KOHYA, f"{ATTENTION}.lora_mid.weight"], "a LoCon with a CP decomposition"),
        ([*KOHYA, f"{ATTENTION}.dora_scale"], "a DoRA"),
        ([f"{ATTENTION}.oft_blocks"], "an OFT"),
        ([f"{ATTENTION}.diff", *KOHYA], "a full difference of weights"),
        ([f"{ATTENTION}.a1.weight", f"{ATTENTION}.b1.weight"], "a GLoRA"),
        (["model.diffusion_model.input_blocks.0.0.weight"], "a whole checkpoint"),
        (["control_model.input_hint_block.0.weight"], "a ControlNet"),
        (["image_proj.proj.weight", "ip_adapter.1.to_k_ip.weight"], "an IP-Adapter"),
        (["string_to_param.*"], "a textual inversion embedding"),
        (["emb_params"], "a textual inversion embedding"),
        (["lora_unet_double_blocks_0_img_attn_qkv.lora_down.weight"], "a LoRA for a diffusion transformer"),
        (["transformer.transformer_blocks.0.attn.to_q.lora_A.weight"], "a LoRA for a diffusion transformer"),
        (["encoder.conv_in.weight", "decoder.conv_in.weight"], "an autoencoder"),
    ],
)
def test_other_kinds_are_named(keys, name):
    assert kind_of(keys).startswith(name)


@pytest.mark.parametrize("keys", [KOHYA, PEFT])
def test_a_lora_is_supported_also_with_a_bundled_embedding(keys):
    weights = {key: torch.zeros(1) for key in [*keys, "bundle_emb.style.string_to_param.*", "emb_params"]}
    assert kind_of(weights) == LORA and lora_tensors(weights, "x").keys() == weights.keys()


@pytest.mark.parametrize("prefix", ["", "module."])
def test_the_domain_adapter_gets_the_unet_before_its_keys(prefix):
    key = "down_blocks.0.attentions.0.transformer_blocks.0.attn1.processor.to_q_lora.down.weight"
    assert list(lora_tensors({prefix + key: torch.zeros(1)}, "v3_sd15_adapter")) == [f"unet.{key}"]
