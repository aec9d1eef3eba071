"""Trains the VAE's decoder further on latents that the motion weights predict; the latents do not change."""

import os
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL
from torch import Tensor
from transformers import CLIPTextModel, PreTrainedTokenizerBase

from lumiere.model.conditioning import channels, first_frame
from lumiere.model.lumiere import Lumiere
from lumiere.paperworld.training.autoencoder import to_tensor
from lumiere.paperworld.training.base import new_scheduler
from lumiere.paperworld.training.fit import Schedule, fit
from lumiere.paperworld.training.text_encoder import tokenize
from lumiere.paperworld.world.dataset import CELL, PIXELS
from lumiere.sampling.noise import correlated
from lumiere.sampling.schedulers import predict_x0
from lumiere.training.latent_dataset import read_captions
from lumiere.training.loss import noise_and_target
from lumiere.training.optimizer import faster_autocast

FRAMES = 16  # per predicted clip
TIMESTEPS = 50, 500  # range of the noise before a prediction
BATCH = 6  # pictures per step
PREDICTED = 0.75  # share of predicted latents; the others are the encoder's
SUBJECT_WEIGHT = 2.0
EDGE_WEIGHT = 0.5  # of the loss on gradient magnitudes, which an L1 loss alone leaves too small
SEED = 19
TextEncoder = tuple[CLIPTextModel, PreTrainedTokenizerBase]


def train_decoder(
    data: str | Path,
    vae: AutoencoderKL,
    lumiere: Lumiere,
    text: TextEncoder,
    run: str | Path,
    steps: int,
    clips: int,
) -> AutoencoderKL:
    """Trains the decoder on pairs of predicted latents and true pictures.

    Args:
        data: folder of rendered and encoded clips.
        vae: the trained VAE; its encoder is frozen.
        lumiere: base with motion weights.
        text: text encoder and tokenizer.
        run: folder for the predicted latents, checkpoint and metrics; a run resumes from it.
        steps: training steps of `BATCH` pictures.
        clips: number of predicted clips of `FRAMES` frames.

    Returns:
        The VAE with the moving average of the trained decoder.
    """
    run, data = Path(run), Path(data)
    pixels, weights, encoded = (
        np.load(data / name, mmap_mode="r") for name in (PIXELS, "weights.npy", "latents.npy")
    )
    predicted = predict_clips(encoded, read_captions(data), lumiere, text, run, clips)
    vae.requires_grad_(False)
    for part in (vae.decoder, vae.post_quant_conv):
        part.requires_grad_(True)

    def loss(model: AutoencoderKL, generator: torch.Generator) -> tuple[Tensor, dict[str, float]]:
        rng = np.random.default_rng((SEED, generator.initial_seed()))
        places = [(int(rng.integers(clips)), int(rng.integers(FRAMES))) for _ in range(BATCH)]
        own = [rng.random() < PREDICTED for _ in places]
        at = [(clip % len(encoded), start_of(clip, encoded.shape[1]) + frame) for clip, frame in places]
        latents = np.stack(
            [predicted[p] if mine else encoded[a] for p, a, mine in zip(places, at, own, strict=True)]
        )
        target = to_tensor(np.stack([pixels[a] for a in at]))
        weight = torch.from_numpy(np.stack([weights[a] for a in at]).astype(np.float32) / 255)[:, None]
        weight = 1 + SUBJECT_WEIGHT * torch.nn.functional.interpolate(weight, scale_factor=float(CELL))
        with faster_autocast(torch.device("cpu")):
            scaled = torch.from_numpy(latents.astype(np.float32)) / model.config.scaling_factor
            decoded = model.decode(scaled.contiguous(memory_format=torch.channels_last)).sample
        decoded = decoded.float()
        error = (weight * (decoded - target).abs()).mean() / weight.mean()
        edges = (edge_strength(decoded) - edge_strength(target)).abs().mean()
        psnr = -10 * torch.log10((decoded.detach() - target).square().mean() / 4)
        return error + EDGE_WEIGHT * edges, {"psnr": psnr.item(), "edges": edges.item()}

    return fit(vae, loss, Schedule(steps, 4e-4, decay=0.5, ema=0.995), run).eval()


def edge_strength(pictures: Tensor) -> Tensor:
    """Returns the gradient magnitude of pictures `n c h w`: `n c h-1 w-1`."""
    down = pictures[..., 1:, :-1] - pictures[..., :-1, :-1]
    right = pictures[..., :-1, 1:] - pictures[..., :-1, :-1]
    return (down.square() + right.square() + 1e-4).sqrt()


def start_of(clip: int, stored: int) -> int:
    """Returns the first frame of a predicted clip in its stored clip of `stored` frames."""
    return int(np.random.default_rng((SEED, clip)).integers(stored - FRAMES + 1))


@torch.inference_mode()
def predict_clips(
    encoded: np.ndarray, captions: list[list[str]], lumiere: Lumiere, text: TextEncoder, run: Path, clips: int
) -> np.ndarray:
    """Predicts the clean latents of noised clips, with their first frame given; cached in `run`.

    Args:
        encoded: scaled latents `n t c h w`.
        captions: captions of each clip.
        lumiere: base with motion weights.
        text: text encoder and tokenizer.
        run: folder of the cache.
        clips: number of predictions; clip i shows stored clip i modulo n.

    Returns:
        Scaled latents float16 `clips FRAMES c h w`.
    """
    run.mkdir(parents=True, exist_ok=True)
    file, part = run / "predicted.npy", run / "predicted.part"
    if not file.exists():
        scheduler, (encoder, tokenizer) = new_scheduler(), text
        mask = first_frame(FRAMES, *encoded.shape[-2:])
        found = np.empty((clips, FRAMES, *encoded.shape[2:]), np.float16)
        for clip in range(clips):
            generator = torch.Generator().manual_seed(clip)
            start, row = start_of(clip, encoded.shape[1]), clip % len(encoded)
            clean = torch.from_numpy(encoded[row, start : start + FRAMES].astype(np.float32))
            clean = clean.transpose(0, 1)[None]  # t c h w -> 1 c t h w
            noise = correlated(torch.randn(clean.shape, generator=generator), lumiere.noise_correlation)
            timestep = torch.randint(*TIMESTEPS, (1,), generator=generator)
            noisy, _ = noise_and_target(scheduler, clean, noise, timestep)
            states = encoder(tokenize(tokenizer, captions[row][:1])).last_hidden_state
            with faster_autocast(torch.device("cpu")):
                shown = torch.cat([noisy, channels(clean, mask)], dim=1)
                output = lumiere(shown, timestep, states, return_dict=False)[0].float()
            found[clip] = predict_x0(scheduler, output, noisy, timestep)[0].transpose(0, 1).numpy()
        with open(part, "wb") as written:
            np.save(written, found)
        os.replace(part, file)
    return np.load(file, mmap_mode="r")
