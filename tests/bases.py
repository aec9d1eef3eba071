"""Small random models in the layouts of Stable Diffusion 1.5 and XL and of motion adapters for them.

File names, config fields and schedulers are those of the published ones; channels and words are few.
"""

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch
from diffusers import MotionAdapter, UNet2DConditionModel
from safetensors.torch import load_file, save_file
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

from lumiere import models
from tests.conftest import tiny_vae
from tests.model.test_animatediff import original_keys, shaken_adapter, small_unet
from tests.model.test_motion_lora import factors

LETTERS = "abcdefghijklmnopqrstuvwxyz"
TOKENS = 16  # that a text encoder takes, 77 in the published ones
WIDTH = {"sd": 16, "xl": 40}  # of the text: of one encoder, or of two beside each other
SCHEDULERS = {
    "sd": {
        "_class_name": "PNDMScheduler",
        "_diffusers_version": "0.6.0",
        "beta_end": 0.012,
        "beta_schedule": "scaled_linear",
        "beta_start": 0.00085,
        "num_train_timesteps": 1000,
        "set_alpha_to_one": False,
        "skip_prk_steps": True,
        "steps_offset": 1,
        "trained_betas": None,
        "clip_sample": False,
    },
    "xl": {
        "_class_name": "EulerDiscreteScheduler",
        "_diffusers_version": "0.19.0.dev0",
        "beta_end": 0.012,
        "beta_schedule": "scaled_linear",
        "beta_start": 0.00085,
        "clip_sample": False,
        "interpolation_type": "linear",
        "num_train_timesteps": 1000,
        "prediction_type": "epsilon",
        "sample_max_value": 1.0,
        "set_alpha_to_one": False,
        "skip_prk_steps": True,
        "steps_offset": 1,
        "timestep_spacing": "leading",
        "trained_betas": None,
        "use_karras_sigmas": False,
    },
}
INDEX = {
    "sd": {
        "_class_name": "StableDiffusionPipeline",
        "feature_extractor": [None, None],
        "safety_checker": [None, None],
        "scheduler": ["diffusers", "PNDMScheduler"],
        "text_encoder": ["transformers", "CLIPTextModel"],
        "tokenizer": ["transformers", "CLIPTokenizer"],
        "unet": ["diffusers", "UNet2DConditionModel"],
        "vae": ["diffusers", "AutoencoderKL"],
    },
    "xl": {
        "_class_name": "StableDiffusionXLPipeline",
        "force_zeros_for_empty_prompt": True,
        "add_watermarker": None,
        "scheduler": ["diffusers", "EulerDiscreteScheduler"],
        "text_encoder": ["transformers", "CLIPTextModel"],
        "text_encoder_2": ["transformers", "CLIPTextModelWithProjection"],
        "tokenizer": ["transformers", "CLIPTokenizer"],
        "tokenizer_2": ["transformers", "CLIPTokenizer"],
        "unet": ["diffusers", "UNet2DConditionModel"],
        "vae": ["diffusers", "AutoencoderKL"],
    },
}


def save_base(folder: Path, family: str, seed: int = 0, half: bool = False, **unet) -> Path:
    """A model of the family, "sd" or "xl": 64 x 64 pixels, latents 4 x 8 x 8. half: as its fp16 variant."""
    folder.mkdir(parents=True)
    form = {"variant": "fp16"} if half else {}
    for name, part in components(family, seed, **unet).items():
        (part.half() if half else part).save_pretrained(folder / name, **form)
    save_tokenizer(folder / "tokenizer", "<|endoftext|>")
    if family == "xl":
        save_tokenizer(folder / "tokenizer_2", "!")
    (folder / "scheduler").mkdir()
    (folder / "scheduler" / "scheduler_config.json").write_text(json.dumps(SCHEDULERS[family]))
    (folder / "model_index.json").write_text(json.dumps(INDEX[family]))
    return folder


def components(family: str, seed: int = 0, **unet) -> dict:
    """The modules of a model, in evaluation mode."""
    options = {"cross_attention_dim": WIDTH[family]}
    if family == "xl":
        options["projection_class_embeddings_input_dim"] = 6 * 8 + 24
    made = {"unet": small_unet(family, seed, **options | unet)}
    torch.manual_seed(seed)
    made["vae"] = tiny_vae(
        block_out_channels=(8, 8, 16, 16),
        scaling_factor=0.18215 if family == "sd" else 0.13025,
        mid_block_add_attention=True,
    )
    made["text_encoder"] = CLIPTextModel(text_config(16, 16))
    if family == "xl":
        made["text_encoder_2"] = CLIPTextModelWithProjection(text_config(24, 24))
    return {name: part.eval() for name, part in made.items()}


def text_config(width: int, projected: int) -> CLIPTextConfig:
    return CLIPTextConfig(
        vocab_size=2 * len(LETTERS) + 3,
        hidden_size=width,
        intermediate_size=2 * width,
        projection_dim=projected,
        num_hidden_layers=3,
        num_attention_heads=2,
        max_position_embeddings=TOKENS,
        bos_token_id=2 * len(LETTERS) + 1,
        eos_token_id=2 * len(LETTERS) + 2,
    )


def save_tokenizer(folder: Path, padding: str) -> None:
    """Every letter a token, in the files of CLIP's; the second tokenizer of XL pads with another one."""
    folder.mkdir()
    names = ["!", *LETTERS, *(f"{letter}</w>" for letter in LETTERS), "<|startoftext|>", "<|endoftext|>"]
    (folder / "vocab.json").write_text(json.dumps({name: index for index, name in enumerate(names)}))
    (folder / "merges.txt").write_text("#version: 0.2\n")
    special = {"bos_token": names[-2], "eos_token": names[-1], "unk_token": names[-1], "pad_token": padding}
    config = {"tokenizer_class": "CLIPTokenizer", "model_max_length": TOKENS, "do_lower_case": True}
    (folder / "tokenizer_config.json").write_text(json.dumps(config | special))
    (folder / "special_tokens_map.json").write_text(json.dumps(special))


def camera_model(folder: Path, moves: Sequence[str], positions: int = 8) -> models.Model:
    """Stable Diffusion 1.5 with an adapter and a MotionLoRA for each move, all of them off."""
    save_base(folder / "base", "sd")
    adapter = save_adapter(folder / "motion", components("sd")["unet"], positions=positions)
    files = [folder / f"{move}.safetensors" for move in moves]
    for seed, file in enumerate(files):
        save_file(factors(adapter, seed), file)
    entry = models.entry(str(folder / "base"), str(folder / "motion"))
    return replace(entry, cameras=tuple((str(file), 0.0) for file in files))


def save_adapter(
    folder: Path, unet: UNet2DConditionModel, middle: bool = False, positions: int = 24, **options
) -> MotionAdapter:
    """The folder that diffusers writes, and beside it a file with the keys of AnimateDiff's own code."""
    adapter = shaken_adapter(unet, middle, motion_max_seq_length=positions, **options)
    adapter.save_pretrained(folder)
    weights = load_file(folder / "diffusion_pytorch_model.safetensors")
    save_file(original_keys(weights), folder.with_suffix(".safetensors"))
    return adapter
