"""Encodes pixels to scaled latents and decodes them with the VAE of a base; output types of a clip."""

import copy
from dataclasses import dataclass

import numpy as np
import torch
from diffusers import AutoencoderKL
from einops import rearrange
from PIL import Image
from torch import Tensor

from lumiere.errors import GenerationError
from lumiere.model.conditioning import Cond, Given, to_latents
from lumiere.sampling import memory
from lumiere.sampling.allocator import give_back

SLICE_PIXELS = 2**18  # pixels per decoder call: 16 frames of 128 x 128, or one of 512 x 512
OUTPUT_TYPES = ("pil", "np", "pt")


def pixels_of(vae: AutoencoderKL) -> int:
    """Returns the spatial downsampling factor of a VAE, in pixels per latent."""
    return 2 ** (len(vae.config.block_out_channels) - 1)


@torch.inference_mode()
def encode(vae: AutoencoderKL, given: Given, device: torch.device, whole: bool) -> Cond:
    """Encodes conditioning frames.

    Args:
        vae: the autoencoder.
        given: conditioning frames and mask.
        device: device of the autoencoder during the call.
        whole: whether to encode all frames, including frames without conditioning pixels.

    Returns:
        Scaled conditioning latents and mask.
    """
    mask = to_latents(torch.from_numpy(given.mask), pixels_of(vae))
    shape = (len(mask), vae.config.latent_channels, *mask.shape[1:])
    latents, dtype = torch.zeros(shape, device=device), next(vae.parameters()).dtype
    for frame in range(len(mask)) if whole else mask.flatten(1).any(1).nonzero().flatten().tolist():
        pixels = torch.from_numpy(given.frames[frame]).permute(2, 0, 1)[None]  # h w c -> 1 c h w
        mean = vae.encode((pixels / 127.5 - 1).to(device, dtype)).latent_dist.mean.float()
        latents[frame] = mean[0] * vae.config.scaling_factor
    return Cond(latents.transpose(0, 1)[None], mask.to(device))  # t c h w -> 1 c t h w


def decode(vae: AutoencoderKL, latents: Tensor) -> np.ndarray:
    """Decodes latents a few frames at a time, fewer if memory is short.

    Args:
        vae: the autoencoder.
        latents: scaled latents `1 c t h w`.

    Returns:
        uint8 `t h w c`.

    Raises:
        GenerationError: latents or frames contain NaN or inf, or memory is too short for one frame.
    """
    if not latents.isfinite().all():
        raise GenerationError("the model's output is not a number: try less guidance or another scheduler.")
    stack = rearrange(latents, "1 c t h w -> t c h w") / vae.config.scaling_factor
    most = SLICE_PIXELS // (stack.shape[-2] * stack.shape[-1] * pixels_of(vae) ** 2)
    count = min(max(1, most), len(stack))
    slices, begin = [], 0
    while begin < len(stack):
        frames = _decode_slice(vae, stack[begin : begin + count])
        if frames is not None:
            slices.append(frames)
            begin += len(frames)
        elif count == 1:
            raise GenerationError("the device ran out of memory for a single frame: lower height or width.")
        else:
            count = (count + 1) // 2
            give_back_memory()
    return np.concatenate(slices)


@torch.inference_mode()
def _decode_slice(vae: AutoencoderKL, latents: Tensor) -> np.ndarray | None:
    """Decodes latents `n c h w` to uint8 `n h w c`; returns None when memory ran out."""
    dtype = next(vae.parameters()).dtype
    try:
        images = vae.decode(latents.to(dtype), return_dict=False)[0].float()
        if dtype != torch.float32 and not images.isfinite().all():
            # Some autoencoders overflow in half precision. Convert a copy: other runs share this one.
            images = copy.deepcopy(vae).float().decode(latents.float(), return_dict=False)[0]
    except (RuntimeError, MemoryError) as error:
        if not memory.is_out_of_memory(error):
            raise
        return None
    if not images.isfinite().all():
        raise GenerationError("the decoder's output is not a number: try another seed.")
    images = (images / 2 + 0.5).clamp(0, 1).mul(255).round().byte()
    return rearrange(images, "n c h w -> n h w c").cpu().numpy()


def give_back_memory() -> None:
    """Returns freed memory to the device and the system, because fragments may not fit later tensors."""
    if torch.accelerator.is_available():
        torch.accelerator.empty_cache()
    give_back()


@dataclass(frozen=True)
class LumiereOutput:
    """Clips of a call with the argument names of diffusers.

    Attributes:
        frames: a list of images per clip ("pil"), float32 `b t h w c` from 0 to 1 ("np"), or a tensor
            `b t c h w` of the same values ("pt").
    """

    frames: list[list[Image.Image]] | np.ndarray | Tensor

    @classmethod
    def of(cls, clips: list[np.ndarray], output_type: str) -> "LumiereOutput":
        """Converts clips to one of `OUTPUT_TYPES`.

        Args:
            clips: clips of one size, uint8 `t h w c`.
            output_type: the type of `frames`.
        """
        if output_type == "pil":
            return cls([[Image.fromarray(frame) for frame in clip] for clip in clips])
        stack = np.stack(clips).astype(np.float32) / 255
        return cls(stack if output_type == "np" else torch.from_numpy(stack).permute(0, 1, 4, 2, 3))
