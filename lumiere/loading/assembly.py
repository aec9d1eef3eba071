"""Loads base pipeline, motion weights and preview of a model, and applies the options of an adapter."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from diffusers import SchedulerMixin
from huggingface_hub import cached_assets_path
from torch import Tensor

from lumiere.loading.components import BasePipeline, load_base, load_tiny
from lumiere.loading.layout import PREVIEW, locate, locate_autoencoder, locate_motion
from lumiere.loading.registry import Model, camera_file, published
from lumiere.loading.text_encoder import load_embedding
from lumiere.model.adapter_options import (
    adapter_layers,
    adapter_weights,
    check_fit,
    merge_motion_loras,
    read_motion_lora,
    restore,
    set_motion_scale,
    window_attention,
)
from lumiere.model.animatediff import convert, load_weights
from lumiere.model.lumiere import Lumiere
from lumiere.model.motion_files import ADAPTER
from lumiere.sampling.latent_preview import TinyPreview
from lumiere.sampling.settings import Sampling
from lumiere.sampling.temporal_windows import window_and_stride

# s1, s2, b1, b2 as FreeU's authors recommend for each family
FREE_U = {"sd15": (0.9, 0.2, 1.5, 1.6), "sdxl": (0.9, 0.2, 1.3, 1.4)}


def load(model: Model, dtype: torch.dtype, fresh: bool = False) -> tuple[BasePipeline, Lumiere, Path | None]:
    """Loads the base pipeline and the motion weights of a model onto the CPU, from safetensors.

    Args:
        model: registry entry.
        dtype: dtype of the weights.
        fresh: initializes new motion layers instead of loading motion weights.

    Returns:
        The base pipeline, its inflated UNet, and the model folder, or None for a single-file checkpoint.

    Raises:
        OSError: a file is missing, damaged or not supported.
        ValueError: components belong to different model families, or an embedding does not fit.
    """
    folder = locate(model.source, model.revision, half=model.half)
    if folder.is_file() and model.motion is None:
        raise FileNotFoundError(f"the checkpoint {folder} holds no motion weights: name some with --motion.")
    base = load_base(folder, dtype, vae=locate_autoencoder(model.vae, "VAE") if model.vae else None)
    unet, latents = base.unet, base.vae.config.latent_channels
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
    for source, token in model.embeddings:
        load_embedding(base, source, token)
    lumiere = Lumiere.from_unet(unet) if fresh else load_weights(unet, _motion(model, folder))
    if model.sampling.free_u:
        xl = unet.config.addition_embed_type == "text_time"
        unet.enable_freeu(*FREE_U["sdxl" if xl else "sd15"])
    return base, lumiere.to(dtype), folder if folder.is_dir() else None


def domain_adapter(model: Model) -> tuple[tuple[str, float], ...]:
    """Returns the file and the weight of a model's domain adapter, or nothing at weight 0.

    Args:
        model: registry entry.

    Raises:
        OSError: the file does not exist or the download failed.
        ValueError: a .ckpt file is damaged.
    """
    if model.domain_adapter is None or model.domain_adapter[1] == 0:
        return ()
    source, weight = model.domain_adapter
    return ((str(_as_safetensors(source, None)) if source.endswith(".ckpt") else source, weight),)


def _motion(model: Model, folder: Path) -> Path:
    """Returns local motion weights."""
    if model.motion is None:
        return folder / "motion"
    if Path(model.motion).suffix != ".ckpt" or published(model.motion) is None:
        return locate_motion(model.motion, model.motion_revision)
    return _as_safetensors(model.motion, model.motion_revision)


def _as_safetensors(source: str, revision: str | None) -> Path:
    """Returns a .ckpt file of the hub, converted to safetensors once. A local one must be converted."""
    if Path(source).exists():
        return Path(source)
    cache = cached_assets_path("lumiere", source.replace("/", "--"))
    file = cache / f"{revision or 'newest'}.safetensors"
    if not file.is_file():
        convert(locate_motion(source, revision), file)
    return file


def find_preview(
    source: str | None, folder: Path | None, latents: int, dtype: torch.dtype
) -> tuple[TinyPreview | None, tuple[str, ...]]:
    """Loads the named preview autoencoder. Defaults to the one in the model folder.

    Args:
        source: folder or hub id of a tiny autoencoder.
        folder: folder of the base model, if there is one.
        latents: number of latent channels.
        dtype: dtype of the weights.

    Returns:
        The preview and notes for the user. The preview is None if the model has none or if it cannot be
        read. In the second case a note gives the reason. The model still loads; previews use a linear map.
    """
    if source is None and folder is not None and (folder / PREVIEW / ADAPTER[0]).is_file():
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
    tiny = load_tiny(locate_autoencoder(source, "preview"), dtype)
    if tiny.config.latent_channels != latents:
        raise ValueError(
            f"the preview {source} takes {tiny.config.latent_channels} channels where latents have {latents}."
        )
    return TinyPreview(tiny)


def own_config(scheduler: SchedulerMixin) -> dict:
    """Returns the config entries of a scheduler that were set, without the defaults of its class.

    Args:
        scheduler: a diffusers scheduler.
    """
    defaults = scheduler.config.get("_use_default_values", ())
    return {k: v for k, v in scheduler.config.items() if k not in defaults and k != "_use_default_values"}


def replaced(config: Mapping, needed: Mapping) -> tuple[str, ...]:
    """Describes the entries of a scheduler config that the motion weights override.

    Args:
        config: scheduler config of the base model.
        needed: entries that the motion weights need.

    Returns:
        One sentence, or an empty tuple if nothing changes.
    """
    names = [name for name in ("beta_start", "beta_end", "beta_schedule") if name in needed]
    names += ["timestep_spacing"] if "timestep_spacing" in needed and "timestep_spacing" in config else []
    changes = [f"{n} {config.get(n)} -> {needed[n]}" for n in names if config.get(n) != needed[n]]
    if not changes:
        return ()
    return (f"The motion weights need another schedule than the base has: {', '.join(changes)}.",)


class Adapter:
    """Motion scale, FreeNoise and camera moves of an inflated UNet. No clip may be running when they change.

    Attributes:
        cameras: pairs of a MotionLoRA and its weight that are merged into the motion weights.

    Args:
        lumiere: inflated UNet. Options other than the defaults need an AnimateDiff adapter.
    """

    def __init__(self, lumiere: Lumiere):
        self.cameras: tuple[tuple[str, float], ...] = ()
        self._lumiere = lumiere
        self._trained: dict[str, Tensor] = {}  # weights that the cameras changed, as they were
        self._motion_scale = 1.0
        self._window: tuple[int, int] | None = None

    @property
    def exists(self) -> bool:
        """Whether the motion weights are an AnimateDiff adapter."""
        return bool(adapter_layers(self._lumiere))

    def apply(self, cameras: Sequence[tuple[str, float]], sampling: Sampling, frames: int) -> None:
        """Replaces all options; results do not depend on the options before.

        Args:
            cameras: pairs of a MotionLoRA (file, hub id or name of a camera move) and its weight.
            sampling: `motion_scale`, `free_noise` and `window`.
            frames: length of the clip. FreeNoise has no effect within one window.

        Raises:
            OSError: a MotionLoRA is missing or damaged.
            ValueError: the motion weights are not an AnimateDiff adapter, or a MotionLoRA does not fit.
        """
        if tuple(cameras) != self.cameras:
            self._merge(tuple(cameras))
        if sampling.motion_scale != self._motion_scale:
            set_motion_scale(self._lumiere, sampling.motion_scale)
            self._motion_scale = sampling.motion_scale
        length, stride = window_and_stride(sampling, self._lumiere.positions)
        window = (length, stride) if sampling.free_noise and frames > length else None
        if window != self._window:
            window_attention(self._lumiere, window)
            self._window = window

    def _merge(self, cameras: tuple[tuple[str, float], ...]) -> None:
        loras = []
        try:
            named = adapter_weights(self._lumiere)  # before any download
        except ValueError as error:
            raise ValueError(f"{cameras[0][0]} does not fit: {error}") from error
        for name, weight in cameras:
            file = camera_file(name)
            changes = read_motion_lora(file)
            try:
                check_fit(changes, named)
            except ValueError as error:
                raise ValueError(f"{file} does not fit: {error}") from error
            loras.append((changes, weight))
        restore(self._lumiere, self._trained)
        self._trained, self.cameras = {}, ()
        self._trained = merge_motion_loras(self._lumiere, loras)
        self.cameras = cameras
