"""The VAE: 128 × 128 pixels to 4 × 16 × 16 latents, with few channels at high resolutions."""

from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL
from numpy.typing import NDArray
from torch import Tensor

from lumiere.paperworld.training.fit import Schedule, fit
from lumiere.paperworld.world.captions import wordings
from lumiere.paperworld.world.dataset import CELL, read_scenes
from lumiere.training.latent_dataset import write_captions
from lumiere.training.optimizer import faster_autocast

CHANNELS = (16, 32, 64, 96)
KL_WEIGHT = 5e-4  # smooths the latents, so that small denoising errors stay small in pixels
SUBJECT_WEIGHT = 2.0
CROP, CROP_SHARE = 64, 0.6  # starts on crops: more scenes for the same number of pixels


def new_autoencoder() -> AutoencoderKL:
    """Returns an untrained AutoencoderKL."""
    return AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        block_out_channels=CHANNELS,
        layers_per_block=1,
        latent_channels=4,
        norm_num_groups=8,
        sample_size=128,
        mid_block_add_attention=False,
    )


def to_tensor(pixels: NDArray[np.uint8]) -> Tensor:
    """Converts pixels `n h w c` to float32 `n c h w` in [-1, 1], in channels-last memory format."""
    images = torch.from_numpy(np.array(pixels)).permute(0, 3, 1, 2)
    return images.float().div(127.5).sub(1).contiguous(memory_format=torch.channels_last)


def train_autoencoder(
    data: str | Path, run: str | Path, steps: int = 4000, batch: int = 4, learning_rate: float = 1.5e-3
) -> AutoencoderKL:
    """Trains the VAE, first on crops, then on whole frames.

    It must end on whole frames: group norm has other statistics on crops, which would shift the colours.

    Args:
        data: folder written by `render_dataset`.
        run: folder for checkpoint and metrics.
        steps: training steps.
        batch: whole frames per step, or crops with as many pixels.
        learning_rate: peak learning rate.

    Returns:
        The moving average of the model, with its scaling factor.
    """
    pixels = np.load(Path(data) / "pixels.npy", mmap_mode="r")
    weights = np.load(Path(data) / "weights.npy", mmap_mode="r")
    torch.manual_seed(0)
    model = new_autoencoder().to(memory_format=torch.channels_last)

    def loss(model: AutoencoderKL, generator: torch.Generator) -> tuple[Tensor, dict[str, float]]:
        rng = np.random.default_rng(generator.initial_seed())
        side = CROP if generator.initial_seed() < CROP_SHARE * steps else pixels.shape[2]
        count = batch * (pixels.shape[2] // side) ** 2
        rows = np.sort(rng.integers(len(pixels), size=count))
        corners = CELL * rng.integers((pixels.shape[2] - side) // CELL + 1, size=(count, 2))
        places = list(zip(rows, corners // CELL, strict=True))
        images = to_tensor(
            np.stack([_window(pixels[r, 0], y * CELL, x * CELL, side) for r, (y, x) in places])
        )
        cells = [_window(weights[r, 0], y, x, side // CELL)[None] for r, (y, x) in places]
        weight = torch.from_numpy(np.stack(cells).astype(np.float32) / 255)  # b 1 h/8 w/8
        weight = 1 + SUBJECT_WEIGHT * torch.nn.functional.interpolate(weight, scale_factor=float(CELL))
        with faster_autocast(torch.device("cpu")):
            posterior = model.encode(images).latent_dist
            noise = torch.randn(posterior.mean.shape, generator=generator)
            decoded = model.decode(posterior.mean + posterior.std * noise).sample.float()
        error = (weight * (decoded - images).abs()).mean() / weight.mean()
        divergence = posterior.kl().mean() / posterior.mean[0].numel()
        psnr = -10 * torch.log10((decoded.detach() - images).square().mean() / 4)
        return error + KL_WEIGHT * divergence, {"psnr": psnr.item(), "kl": divergence.item()}

    averaged = fit(model, loss, Schedule(steps, learning_rate, ema=0.995), run)
    averaged.register_to_config(scaling_factor=1 / latent_deviation(averaged, pixels[:512, 0]))
    return averaged.eval()


@torch.inference_mode()
def encode(autoencoder: AutoencoderKL, pixels: NDArray[np.uint8], batch: int = 16) -> NDArray[np.float16]:
    """Encodes frames to scaled latents.

    Args:
        autoencoder: the VAE.
        pixels: frames `n h w c`.
        batch: frames at once.

    Returns:
        `n 4 h/8 w/8`.
    """
    with faster_autocast(torch.device("cpu")):
        slices = [to_tensor(pixels[i : i + batch]) for i in range(0, len(pixels), batch)]
        means = torch.cat([autoencoder.encode(images).latent_dist.mean.float() for images in slices])
    return (means * autoencoder.config.scaling_factor).half().numpy()


def latent_deviation(autoencoder: AutoencoderKL, pixels: NDArray[np.uint8]) -> float:
    """Returns the standard deviation of unscaled latents.

    Args:
        autoencoder: the VAE.
        pixels: frames `n h w c`.
    """
    return float(encode(autoencoder, pixels).astype(np.float32).std() / autoencoder.config.scaling_factor)


def _window(picture: NDArray[np.uint8], y: int, x: int, side: int) -> NDArray[np.uint8]:
    return picture[y : y + side, x : x + side]


def encode_dataset(folder: str | Path, autoencoder: AutoencoderKL) -> None:
    """Writes scaled latents (latents.npy, float16 `n t 4 h/8 w/8`) and captions.jsonl beside the pixels.

    Args:
        folder: written by `render_dataset`.
        autoencoder: the VAE.
    """
    folder = Path(folder)
    pixels = np.load(folder / "pixels.npy", mmap_mode="r")
    count, frames, height, width, _ = pixels.shape
    shape = (count, frames, autoencoder.config.latent_channels, height // CELL, width // CELL)
    latents = np.lib.format.open_memmap(folder / "latents.npy", "w+", np.float16, shape)
    per_batch = max(1, 64 // frames)
    for begin in range(0, count, per_batch):
        part = pixels[begin : begin + per_batch]
        encoded = encode(autoencoder, part.reshape(-1, height, width, 3))
        latents[begin : begin + per_batch] = encoded.reshape(len(part), *shape[1:])
    write_captions(folder, (wordings(scene) for scene in read_scenes(folder)))
