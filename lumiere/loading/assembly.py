"""The parts of a pipeline, loaded and checked against each other."""

from dataclasses import dataclass, replace
from pathlib import Path

import torch
from accelerate import cpu_offload_with_hook
from diffusers import AutoencoderKL
from torch import nn

from lumiere.loading import components
from lumiere.loading.components import best_dtype, find_device, load_model, load_tiny
from lumiere.loading.first_frame import FirstFramePrompt
from lumiere.loading.layout import (
    PREVIEW,
    check,
    locate,
    locate_motion,
    locate_tiny,
    read_limits,
)
from lumiere.loading.lora import Styler
from lumiere.loading.registry import Model
from lumiere.loading.text_encoder import TextReader
from lumiere.model.animatediff import load_weights, schedule_for
from lumiere.model.lumiere import Lumiere
from lumiere.model.motion_files import ADAPTER, read_json
from lumiere.request import Limits
from lumiere.sampling import memory
from lumiere.sampling.latent_preview import Preview, TinyPreview
from lumiere.sampling.settings import Sampling
from lumiere.sampling.vae import pixels_of


@dataclass(frozen=True)
class Parts:
    """What `LumierePipeline` is made of."""

    lumiere: Lumiere
    vae: AutoencoderKL
    reader: TextReader
    scheduler_config: dict
    limits: Limits
    preview: Preview | None
    sampling: Sampling
    notes: tuple[str, ...]
    device: torch.device
    styler: Styler
    first_frame_prompt: FirstFramePrompt
    autocast: bool = False
    cost: memory.Cost | None = None  # of parts that take turns on the device, which cannot be measured later


def assemble(
    model: Model,
    device: str | torch.device | None = None,
    dtype: torch.dtype | None = None,
    fresh: bool = False,
) -> Parts:
    """Loads a model part by part, from safetensors. See `LumierePipeline.from_pretrained`, which calls it."""
    device = find_device(device)
    autocast = dtype is None and device.type == "cpu" and components.multiplies_in_bf16()
    dtype = dtype or best_dtype(device)
    folder = locate(model.source, model.revision, half=model.half)
    check(folder)
    where = folder / "motion" if model.motion is None else locate_motion(model.motion, model.motion_revision)
    styler = Styler(folder, model.style)
    unet = styler.load("unet", dtype)
    latents = read_json(folder / "vae" / "config.json").get("latent_channels")
    if unet.config.in_channels != latents:
        raise ValueError(
            f"the unet in {folder} takes {unet.config.in_channels} channels where latents have "
            f"{latents}: bases for inpainting and the like are not supported."
        )
    if model.text_width not in (None, unet.config.cross_attention_dim):
        raise ValueError(
            f"the motion weights {model.motion} are for another family: their bases take text that is "
            f"{model.text_width} wide; {folder} takes {unet.config.cross_attention_dim}."
        )
    rest = torch.device("cpu") if model.offload else device
    unet.to(rest)
    lumiere = (Lumiere.from_unet(unet) if fresh else load_weights(unet, where)).to(rest, dtype)
    parts = complete(lumiere, styler, dict(model.schedule), model.sampling, model.preview)
    if model.offload:
        moved = memory.weight_bytes(lumiere, unet)
        parts = replace(parts, cost=cost_of(lumiere, parts.vae, parts.reader, parts.limits, moved))
        take_turns([*parts.reader.encoders, lumiere, parts.vae], device)
    return replace(parts, device=device, autocast=autocast)


def find_preview(
    source: str | None, folder: Path, latents: int, dtype: torch.dtype
) -> tuple[TinyPreview | None, tuple[str, ...]]:
    """The preview that is named, or else that of the model's folder.

    Args:
        source: folder or hub id of a tiny autoencoder.
        folder: of the base model.
        latents: number of latent channels.

    Returns:
        The preview, and notes. It is None where there is none, or none that can be read, which the notes
        explain: a linear map takes its place, and the model loads all the same.
    """
    if source is None and (folder / PREVIEW / ADAPTER[0]).is_file():
        source = str(folder / PREVIEW)
    if source is None:
        return None, ()
    try:
        return tiny_preview(source, latents, dtype), ()
    except (OSError, ValueError) as error:
        return None, (f"Previews have approximate colours, by a linear map: {error}",)


def tiny_preview(source: str, latents: int, dtype: torch.dtype) -> TinyPreview:
    """source: folder or hub id. latents: their channels. Raises OSError or ValueError in words."""
    tiny = load_tiny(locate_tiny(source), dtype)
    if tiny.config.latent_channels != latents:
        raise ValueError(
            f"the preview {source} takes {tiny.config.latent_channels} channels where latents have {latents}."
        )
    return TinyPreview(tiny)


def complete(
    lumiere: Lumiere,
    styler: Styler,
    schedule: dict | None = None,
    sampling: Sampling = Sampling(),  # noqa: B008, it is frozen
    preview: str | None = None,
) -> Parts:
    """Adds to a space-time model what else the folder of its base holds, on its device and in its dtype.

    preview: see `find_preview`.
    """
    folder, device = styler.folder, lumiere.device
    config = read_json(folder / "scheduler" / "scheduler_config.json")
    needed = schedule_for(lumiere) | (schedule or {})
    vae = load_model(folder, "vae", lumiere.dtype).to(device)
    shown, notes = find_preview(preview, folder, vae.config.latent_channels, lumiere.dtype)
    return Parts(
        lumiere.eval(),
        vae,
        TextReader.load(styler, lumiere.dtype).to(device),
        config | needed,
        read_limits(folder, lumiere.downsample_factor),
        shown,
        sampling,
        replaced(config, needed) + notes,
        device,
        styler,
        FirstFramePrompt.load(folder),
    )


@torch.inference_mode()
def cost_of(
    lumiere: Lumiere, vae: AutoencoderKL, reader: TextReader, limits: Limits, moved: int = 0
) -> memory.Cost:
    """What a step and decoding take, found without taking it.

    moved: bytes of weights that come to the device only for a step. Of parts without hooks: what moves a part
    to the device would put tensors without numbers in the place of its weights.
    """
    height, width = limits.default_height, limits.default_width
    pixels = pixels_of(vae)
    text = reader(["a"], height, width)
    return memory.measure(lumiere, vae, text, 1, (height // pixels, width // pixels), moved)


def take_turns(modules: list[nn.Module], device: torch.device) -> None:
    """Each comes to the device when it is called, and leaves it when the next in the list is."""
    hook = None
    for module in modules:
        _, hook = cpu_offload_with_hook(module, device, hook)


def replaced(config: dict, needed: dict) -> tuple[str, ...]:
    """A sentence about what motion weights change in a scheduler's config, or none when nothing is."""
    names = [name for name in ("beta_start", "beta_end", "beta_schedule") if name in needed]
    names += [name for name in ("prediction_type", "timestep_spacing") if name in needed and name in config]
    changes = [f"{n} {config.get(n)} -> {needed[n]}" for n in names if config.get(n) != needed[n]]
    if not changes:
        return ()
    return (f"The motion weights need another schedule than the base has: {', '.join(changes)}.",)
