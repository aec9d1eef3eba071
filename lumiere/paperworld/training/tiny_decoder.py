"""The tiny autoencoder for previews, distilled from the model's VAE. Clips are never decoded with it."""

import os
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL, AutoencoderTiny
from torch import Tensor

from lumiere.paperworld.training.autoencoder import to_tensor
from lumiere.paperworld.training.fit import Schedule, fit
from lumiere.paperworld.world.dataset import PIXELS

WIDTH, BLOCKS = 16, (3, 3, 3, 0)  # decoder: channels; residual blocks per level from 16 x 16 to 128 x 128
ENCODER_WIDTH, ENCODER_BLOCKS = 8, (0, 1, 1, 1)  # encoder: levels from 128 x 128 to 16 x 16
BATCH, DECODED = 2, 16  # samples per training step; samples per teacher batch
SAMPLES = 4000
CLEAN = 0.5  # fraction of samples with unmodified encoder latents
SEED = 18
ENCODER_WEIGHT = 0.01  # balances latent variance (encoder loss) against pixel variance (decoder loss)


def new_tiny_autoencoder() -> AutoencoderTiny:
    """Returns an untrained `AutoencoderTiny` for the scaled latents of the embedded model."""
    return AutoencoderTiny(
        encoder_block_out_channels=(ENCODER_WIDTH,) * 4,
        decoder_block_out_channels=(WIDTH,) * 4,
        num_encoder_blocks=ENCODER_BLOCKS,
        num_decoder_blocks=BLOCKS,
    )


def train_tiny_autoencoder(
    data: str | Path, vae: AutoencoderKL, run: str | Path, steps: int
) -> AutoencoderTiny:
    """Distils the decoder and the encoder jointly.

    Args:
        data: folder of rendered and encoded stills.
        vae: the teacher.
        run: folder for the teacher's pictures, checkpoint and metrics; a run resumes from it.
        steps: training steps of `BATCH` samples.

    Returns:
        The moving average of the trained autoencoder, single precision.
    """
    stills, encoded = (np.load(Path(data) / name, mmap_mode="r")[:, 0] for name in (PIXELS, "latents.npy"))
    latents, pictures = decode_samples(encoded, vae, Path(run), min(SAMPLES, BATCH * steps))
    torch.manual_seed(0)
    model = new_tiny_autoencoder()

    def loss(model: AutoencoderTiny, generator: torch.Generator) -> tuple[Tensor, dict[str, float]]:
        rng = np.random.default_rng(generator.initial_seed())
        rows = np.sort(rng.integers(len(latents), size=BATCH))
        target = to_tensor(pictures[rows])
        error = model.decode(_tensor(latents[rows])).sample - target
        rows = rng.integers(len(stills), size=1)
        missed = model.encode(to_tensor(stills[rows])).latents - _tensor(encoded[rows])
        squared, encoder = error.square().mean(), missed.square().mean()
        facts = {"psnr": -10 * torch.log10(squared.detach() / 4).item(), "encoder": encoder.item()}
        return squared + 0.1 * error.abs().mean() + ENCODER_WEIGHT * encoder, facts

    return fit(model, loss, Schedule(steps, 4e-3, decay=0.5, ema=0.99), run).eval()


def decode_samples(
    encoded: np.ndarray, vae: AutoencoderKL, run: Path, samples: int
) -> tuple[np.ndarray, np.ndarray]:
    """Draws latents that resemble preview latents and decodes them with the teacher; caches both in `run`.

    Args:
        encoded: scaled latents of stills `n c h w`.
        vae: the teacher.
        run: folder of the cache.
        samples: number of latents to draw.

    Returns:
        Scaled latents float16 `n c h w`, pictures uint8 `n h w c`.
    """
    run.mkdir(parents=True, exist_ok=True)
    files, part = (run / "sampled.npy", run / "decoded.npy"), run / "decoded.part"
    if not files[1].exists():
        drawn = [draw_latents(encoded, np.random.default_rng((SEED, row))) for row in range(samples)]
        latents = np.stack(drawn).astype(np.float16)
        slices = torch.from_numpy(latents).float().split(DECODED)
        np.save(files[0], latents)
        with open(part, "wb") as file:
            np.save(file, np.concatenate([decode(vae, each) for each in slices]))
        os.replace(part, files[1])
    return np.load(files[0], mmap_mode="r"), np.load(files[1], mmap_mode="r")


@torch.inference_mode()
def decode(vae: AutoencoderKL, latents: Tensor) -> np.ndarray:
    """Decodes scaled latents `n c h w` to uint8 `n h w c`."""
    pictures = vae.decode(latents / vae.config.scaling_factor).sample
    return (pictures / 2 + 0.5).clamp(0, 1).mul(255).round().byte().permute(0, 2, 3, 1).numpy()


def draw_latents(encoded: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Returns the latents `c h w` of a random still, half of them degraded like early predictions.

    Early predictions in sampling are means over many clips, with motion blur, overlaid scenes, low contrast
    and noise.
    """
    latents = encoded[rng.integers(len(encoded))].astype(np.float32)
    if rng.random() < CLEAN:
        return latents
    if rng.random() < 0.5:  # a mean over positions
        for _ in range(rng.integers(1, 4)):
            shift = tuple(rng.integers(-3, 4, size=2))
            share = rng.uniform(0, 0.5)
            latents = (1 - share) * latents + share * np.roll(latents, shift, (1, 2))
    if rng.random() < 0.5:  # a mean over scenes
        share = rng.uniform(0, 0.6)
        latents = (1 - share) * latents + share * encoded[rng.integers(len(encoded))]
    if rng.random() < 0.5:
        share = rng.uniform(0, 1)
        blurred = F.avg_pool2d(F.pad(torch.from_numpy(latents)[None], (1,) * 4, "replicate"), 3, 1)[0]
        latents = (1 - share) * latents + share * blurred.numpy()
    if rng.random() < 0.3:
        mean = latents.mean((1, 2), keepdims=True)
        latents = mean + rng.uniform(0.4, 1) * (latents - mean)
    return latents + rng.uniform(0, 0.2) * rng.standard_normal(latents.shape, np.float32)


def _tensor(latents: np.ndarray) -> Tensor:
    return torch.from_numpy(latents.astype(np.float32)).contiguous(memory_format=torch.channels_last)
