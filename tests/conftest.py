"""A tiny random model in the diffusers Stable-Diffusion layout, for all tests that need a whole model."""

import json
import os
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import AutoencoderKL, DDIMScheduler, UNet2DConditionModel
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from transformers import CLIPTextConfig, CLIPTextModel, PreTrainedTokenizerFast

from lumiere.model.lumiere import Lumiere
from lumiere.model.motion_weights import save_motion
from lumiere.pipeline import LumierePipeline

WORDS = """a an the red blue green yellow ball star fish rocket over under in at on hills sea night snow
bouncing drifting spinning circling still left right up down fast slowly big small and with paper""".split()
CLASSES = {
    "unet": ["diffusers", "UNet2DConditionModel"],
    "vae": ["diffusers", "AutoencoderKL"],
    "text_encoder": ["transformers", "CLIPTextModel"],
    "tokenizer": ["transformers", "PreTrainedTokenizerFast"],
    "scheduler": ["diffusers", "DDIMScheduler"],
}

if "PYTEST_XDIST_WORKER" in os.environ:  # a core for each worker, and for the programs that it starts
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    torch.set_num_threads(1)


def pytest_collection_modifyitems(items):
    """Skips tests that need an accelerator where there is none."""
    for item in items:
        if item.get_closest_marker("gpu") and not torch.accelerator.is_available():
            item.add_marker(pytest.mark.skip(reason="there is no accelerator"))


@pytest.fixture(scope="session", autouse=True)
def float32_on_any_processor():
    """So that two ways of computing one thing agree, whatever the processor multiplies in."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("lumiere.loading.components.multiplies_in_bf16", lambda: False)
        yield


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory) -> Path:
    """The folder: 64 x 64 pixels, latents 4 x 8 x 8, temporal factor 4, 12 tokens of text, random weights.

    The motion weights are random too, those of the projections included, so that every layer matters.
    """
    folder = tmp_path_factory.mktemp("model")
    torch.manual_seed(0)
    unet, tokenizer = tiny_unet(), tiny_tokenizer()
    unet.save_pretrained(folder / "unet")
    tiny_vae().save_pretrained(folder / "vae")
    tiny_text_encoder(len(tokenizer)).save_pretrained(folder / "text_encoder")
    tokenizer.save_pretrained(folder / "tokenizer")
    DDIMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        prediction_type="v_prediction",
        rescale_betas_zero_snr=True,
        timestep_spacing="trailing",
        clip_sample=False,
        steps_offset=1,
    ).save_pretrained(folder / "scheduler")
    index = {"_class_name": "StableDiffusionPipeline", **CLASSES}
    index |= {
        "safety_checker": [None, None],
        "feature_extractor": [None, None],
        "requires_safety_checker": False,
    }
    (folder / "model_index.json").write_text(json.dumps(index))
    lumiere = Lumiere.from_unet(unet, 4, attn_inflation_kwargs={"heads": 2, "dim_head": 8})
    with torch.no_grad():
        for weight in lumiere.parameters():
            weight += 0.05 * torch.randn_like(weight)
    save_motion(lumiere, folder / "motion")
    return folder


@pytest.fixture(scope="module")
def pipeline(tiny_model) -> LumierePipeline:
    """Of the tiny model, for one file of tests."""
    return LumierePipeline.from_pretrained(tiny_model, device="cpu")


@pytest.fixture(scope="module")
def picture() -> np.ndarray:
    """Given frames, 8 x 64 x 64, smooth."""
    ramp = np.linspace(0, 255, 64).astype(np.uint8)
    return np.broadcast_to(ramp[:, None], (8, 64, 64, 3)).copy()


def tiny_unet() -> UNet2DConditionModel:
    return UNet2DConditionModel(
        sample_size=8,
        in_channels=4,
        out_channels=4,
        block_out_channels=(8, 16, 16),
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        layers_per_block=1,
        norm_num_groups=4,
        attention_head_dim=2,
        cross_attention_dim=16,
        addition_embed_type="text",
        addition_embed_type_num_heads=2,
    )


def tiny_vae(**options) -> AutoencoderKL:
    config = dict(
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        block_out_channels=(4, 4, 8, 8),
        layers_per_block=1,
        latent_channels=4,
        norm_num_groups=4,
        sample_size=64,
        scaling_factor=0.5,
        mid_block_add_attention=False,
    )
    return AutoencoderKL(**config | options)


def tiny_tokenizer() -> PreTrainedTokenizerFast:
    """One token per word and one for all other words, as in the embedded model."""
    start, end, unknown = specials = ("<|startoftext|>", "<|endoftext|>", "<|unknown|>")
    vocabulary = {word: index for index, word in enumerate((*specials, *WORDS))}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token=unknown))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Punctuation("removed")]
    )
    tokenizer.post_processor = processors.TemplateProcessing(
        f"{start} $A {end}", special_tokens=[(start, 0), (end, 1)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        model_max_length=12,
        bos_token=start,
        eos_token=end,
        pad_token=end,
        unk_token=unknown,
    )


def tiny_text_encoder(words: int) -> CLIPTextModel:
    return CLIPTextModel(
        CLIPTextConfig(
            vocab_size=words,
            hidden_size=16,
            intermediate_size=32,
            num_hidden_layers=1,
            num_attention_heads=2,
            max_position_embeddings=12,
            bos_token_id=0,
            eos_token_id=1,
            pad_token_id=1,
        )
    )


@pytest.fixture(autouse=True)
def fresh_accelerator():
    """Accelerate keeps the precision of its first use in a process: forget it after every test."""
    yield
    if state := sys.modules.get("accelerate.state"):
        state.AcceleratorState._reset_state(reset_partial_state=True)
