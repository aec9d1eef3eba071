"""Reads and writes the embedded model's folder: diffusers' Stable Diffusion layout, no file over 10 MB."""

import copy
import json
from pathlib import Path

import torch
from diffusers import AutoencoderKL, AutoencoderTiny, UNet2DConditionModel
from transformers import AutoTokenizer, CLIPTextModel, PreTrainedTokenizerBase

from lumiere.loading.components import load_model
from lumiere.loading.layout import ASSETS, FIRST_FRAME, PREVIEW, VOCABULARY
from lumiere.model.motion_files import read_json
from lumiere.model.motion_weights import load_motion, read_facts, save_motion
from lumiere.paperworld.training.base import new_scheduler, new_unet
from lumiere.paperworld.world.captions import first_frame_rule, vocabulary

EMBEDDED = ASSETS / "models" / "paper-world"
SHARD_BYTES, MOTION = 9_000_000, "motion"
INDEX = {
    "_class_name": "StableDiffusionPipeline",
    "_diffusers_version": "0.38.0",
    "feature_extractor": [None, None],
    "image_encoder": [None, None],
    "requires_safety_checker": False,
    "safety_checker": [None, None],
    "scheduler": ["diffusers", "DDIMScheduler"],
    "text_encoder": ["transformers", "CLIPTextModel"],
    "tokenizer": ["transformers", "PreTrainedTokenizerFast"],
    "unet": ["diffusers", "UNet2DConditionModel"],
    "vae": ["diffusers", "AutoencoderKL"],
}


def save_component(
    folder: str | Path,
    name: str,
    component: AutoencoderKL | UNet2DConditionModel | CLIPTextModel | PreTrainedTokenizerBase,
) -> None:
    """Writes one component and `model_index.json`; UNet and VAE are saved in half precision.

    Args:
        folder: model folder, created if missing.
        name: subfolder.
        component: the component.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    if name in ("unet", "vae"):
        component = copy.deepcopy(component).half()
    if name == "unet":
        component.save_pretrained(folder / name, max_shard_size=SHARD_BYTES)
    else:
        component.save_pretrained(folder / name)
    file = folder / name / "config.json"
    if file.exists():  # diffusers records the folder that a component was loaded from
        config = {key: value for key, value in read_json(file).items() if key != "_name_or_path"}
        file.write_text(json.dumps(config, indent=2) + "\n")
    new_scheduler().save_pretrained(folder / "scheduler")
    (folder / "model_index.json").write_text(json.dumps(INDEX, indent=2) + "\n")


def load_vae(folder: str | Path) -> AutoencoderKL:
    """Loads the frozen VAE."""
    vae = AutoencoderKL.from_pretrained(Path(folder) / "vae", local_files_only=True)
    return vae.eval().requires_grad_(False).to(memory_format=torch.channels_last)


def load_base(folder: str | Path) -> UNet2DConditionModel:
    """Loads the UNet in single precision for training, without `from_pretrained`, which records the path."""
    unet = new_unet()
    unet.load_state_dict(load_model(Path(folder), "unet", torch.float32).state_dict())
    return unet


def load_text(folder: str | Path) -> tuple[CLIPTextModel, PreTrainedTokenizerBase]:
    """Loads the frozen text encoder and the tokenizer."""
    encoder = CLIPTextModel.from_pretrained(Path(folder) / "text_encoder", local_files_only=True)
    tokenizer = AutoTokenizer.from_pretrained(Path(folder) / "tokenizer", local_files_only=True)
    return encoder.eval().requires_grad_(False), tokenizer


def save_motion_of(folder: str | Path, run: str | Path) -> None:
    """Saves the motion weights of a `lumiere.train` run into the model folder, in half precision.

    Args:
        folder: model folder.
        run: folder of the run.

    Raises:
        OSError: motion weights are missing or damaged.
        ValueError: the motion weights belong to another UNet.
    """
    base, motion = load_model(Path(folder), "unet", torch.float32), Path(run) / MOTION
    lumiere = load_motion(base, motion)
    save_motion(lumiere, Path(folder) / MOTION, read_facts(motion), torch.float16, SHARD_BYTES)


def save_language(folder: str | Path) -> None:
    """Writes the vocabulary that the page shows and the rule for prompts of first frames."""
    for name, rule in ((VOCABULARY, vocabulary()), (FIRST_FRAME, first_frame_rule())):
        (Path(folder) / name).write_text(json.dumps(rule, indent=1) + "\n")


def save_preview(folder: str | Path, tiny: AutoencoderTiny) -> None:
    """Saves the tiny autoencoder of the previews into the model folder, in half precision.

    Args:
        folder: model folder.
        tiny: the autoencoder.
    """
    copy.deepcopy(tiny).half().save_pretrained(Path(folder) / PREVIEW)
    file = Path(folder) / PREVIEW / "config.json"
    config = read_json(file)
    config.pop("block_out_channels", None)  # diffusers writes it but warns when reading it
    file.write_text(json.dumps(config, indent=2) + "\n")
