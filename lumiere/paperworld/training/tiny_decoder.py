"""The tiny autoencoder of the previews, distilled from the shipped one. No clip is made with it."""

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

WIDTH, BLOCKS = 16, (3, 3, 3, 0)  # of the decoder; residual blocks from 16 x 16 to 128 x 128
ENCODER_WIDTH, ENCODER_BLOCKS = 8, (0, 1, 1, 1)  # from 128 x 128 to 16 x 16
BATCH, DECODED = 2, 16  # samples per step; decoded by the teacher at once
SAMPLES = 4000
CLEAN = 0.5  # share of the samples with latents as encoded
SEED = 18
ENCODER_WEIGHT = 0.01  # its error is in variances of the latents, that of the decoder in those of pixels


def new_tiny_autoencoder() -> AutoencoderTiny:
    """An untrained `AutoencoderTiny` whose latents are the scaled latents of the embedded model."""
    return AutoencoderTiny(
        encoder_block_out_channels=(ENCODER_WIDTH,) * 4,
        decoder_block_out_channels=(WIDTH,) * 4,
        num_encoder_blocks=ENCODER_BLOCKS,
        num_decoder_blocks=BLOCKS,
    )


def train_tiny_autoencoder(
    data: str | Path, vae: AutoencoderKL, run: str | Path, steps: int
) -> AutoencoderTiny:
    """Distils the decoder, and beside it the encoder.

    Args:
        data: folder of rendered and encoded stills.
        vae: the teacher.
        run: folder for the teacher's pictures, checkpoint and metrics, to resume from.
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
    """Latents as a preview meets them, and what the teacher decodes from them; kept in `run`, once made.

    Args:
        encoded: scaled latents of stills `n c h w`.

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
    """Scaled latents `n c h w` -> uint8 `n h w c`."""
    pictures = vae.decode(latents / vae.config.scaling_factor).sample
    return (pictures / 2 + 0.5).clamp(0, 1).mul(255).round().byte().permute(0, 2, 3, 1).numpy()


def draw_latents(encoded: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Latents `c h w` of one of the stills, or such as the model predicts early in sampling.

    Early predictions are means over many clips: motion blur, overlaid scenes, low contrast, noise.
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
