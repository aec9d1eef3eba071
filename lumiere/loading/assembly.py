"""Loads the components of a pipeline and checks that they fit each other."""

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
    """Components and settings of a `LumierePipeline`.

    Attributes:
        lumiere: space-time UNet.
        vae: autoencoder of the base model.
        reader: text encoders with their tokenizers.
        scheduler_config: scheduler config of the base, with the entries that the motion weights override.
        limits: valid ranges of a request.
        preview: tiny autoencoder for previews; None selects a linear map from latents to RGB.
        sampling: sampling settings of the model.
        notes: sentences for the user, such as overridden scheduler entries.
        device: execution device.
        styler: loader of the components, reused to change LoRAs.
        first_frame_prompt: prompt rewriter for the first frame.
        autocast: whether the UNet runs in bfloat16 autocast while its weights keep their dtype.
        cost: memory estimate, computed at load time with `Model.offload`. Defaults to None, measured later.
    """

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
    cost: memory.Cost | None = None  # set with CPU offload: offloaded components cannot be measured later


def assemble(
    model: Model,
    device: str | torch.device | None = None,
    dtype: torch.dtype | None = None,
    fresh: bool = False,
) -> Parts:
    """Loads all components of a model from safetensors, for `LumierePipeline.from_pretrained`.

    Args:
        model: registry entry.
        device: execution device. Defaults to the first available of cuda, mps and cpu.
        dtype: dtype of the weights. Defaults to float32 on the CPU, with bfloat16 autocast on processors that
            support it, else to bfloat16 or float16.
        fresh: initializes new motion layers instead of loading motion weights.

    Returns:
        The components on `device`, or with CPU offload hooks if `model.offload`.

    Raises:
        OSError: a file is missing, damaged or not supported.
        ValueError: the device does not exist, or components belong to different model families.
    """
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
    """Loads the named preview autoencoder. Defaults to the one in the model folder.

    Args:
        source: folder or hub id of a tiny autoencoder.
        folder: folder of the base model.
        latents: number of latent channels.
        dtype: dtype of the weights.

    Returns:
        The preview and notes for the user. The preview is None if the model has none or if it cannot be
        read. In the second case a note gives the reason. The model still loads; previews use a linear map.
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
    """Loads a tiny autoencoder for previews.

    Args:
        source: folder or hub id.
        latents: number of latent channels of the base model.
        dtype: dtype of the weights.

    Raises:
        OSError: the files are missing or damaged.
        ValueError: the autoencoder has another number of latent channels.
    """
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
    """Adds the other components of the base model to a space-time UNet, on its device and in its dtype.

    Args:
        lumiere: space-time UNet.
        styler: loader of the base model's components.
        schedule: scheduler entries that override the base's config.
        sampling: sampling settings of the model.
        preview: folder or hub id of a tiny autoencoder. Defaults to the one in the model folder.

    Raises:
        OSError: a file is missing or damaged.
        ValueError: the operator's limits are too low for this model.
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
    """Estimates the memory of a denoising step and of decoding at the default size, without allocating it.

    Call it before adding CPU offload hooks: under `FakeTensorMode` a hook that moves a component to the
    device would replace its weights with fake tensors.

    Args:
        lumiere: space-time UNet.
        vae: autoencoder.
        reader: text encoders.
        limits: limits of the model, with the default size.
        moved: bytes of weights that are on the device only during a denoising step.
    """
    height, width = limits.default_height, limits.default_width
    pixels = pixels_of(vae)
    text = reader(["a"], height, width)
    return memory.measure(lumiere, vae, text, 1, (height // pixels, width // pixels), moved)


def take_turns(modules: list[nn.Module], device: torch.device) -> None:
    """Adds CPU offload hooks: calling a module moves it to `device` and the one before it back to the CPU.

    Args:
        modules: modules in the order of their calls.
        device: execution device.
    """
    hook = None
    for module in modules:
        _, hook = cpu_offload_with_hook(module, device, hook)


def replaced(config: dict, needed: dict) -> tuple[str, ...]:
    """Describes the entries of a scheduler config that the motion weights override.

    Args:
        config: scheduler config of the base model.
        needed: entries that the motion weights need.

    Returns:
        One sentence, or an empty tuple if nothing changes.
    """
    names = [name for name in ("beta_start", "beta_end", "beta_schedule") if name in needed]
    names += [name for name in ("prediction_type", "timestep_spacing") if name in needed and name in config]
    changes = [f"{n} {config.get(n)} -> {needed[n]}" for n in names if config.get(n) != needed[n]]
    if not changes:
        return ()
    return (f"The motion weights need another schedule than the base has: {', '.join(changes)}.",)
