"""Trains each part of the embedded model and saves it into the model folder."""

from collections.abc import Callable
from pathlib import Path

from diffusers import AutoencoderKL

from lumiere.model.motion_weights import load_motion
from lumiere.paperworld.training.autoencoder import encode_dataset, train_autoencoder
from lumiere.paperworld.training.base import BATCH, train_base
from lumiere.paperworld.training.decoder import train_decoder
from lumiere.paperworld.training.model_folder import (
    MOTION,
    load_base,
    load_text,
    load_vae,
    save_component,
    save_language,
    save_preview,
)
from lumiere.paperworld.training.text_encoder import train_text_encoder
from lumiere.paperworld.training.tiny_decoder import train_tiny_autoencoder
from lumiere.paperworld.world.dataset import PIXELS, render_dataset
from lumiere.training.latent_dataset import CAPTIONS

STILLS_SEED, CLIPS_SEED = 11, 12  # the evaluation uses other seeds
STEPS = {"autoencoder": 2800, "text": 400, "base": 6400, "decoder": 6000, "preview": 20_000}
DECODER_CLIPS = 1000  # predictions to train the decoder on


def autoencoder(
    model: str | Path, data: str | Path, run: str | Path, steps: int = STEPS["autoencoder"]
) -> None:
    """Trains the VAE on rendered stills.

    Args:
        model: model folder.
        data: stills, written by `render_dataset`.
        run: folder for checkpoint and metrics.
        steps: training steps.
    """
    save_component(model, "vae", train_autoencoder(data, run, steps))


def text(model: str | Path, run: str | Path, steps: int = STEPS["text"]) -> None:
    """Trains the text encoder and tokenizer on captions and writes the vocabulary files.

    Args:
        model: model folder.
        run: folder for checkpoint and metrics.
        steps: training steps.
    """
    encoder, tokenizer = train_text_encoder(run, steps)
    save_component(model, "text_encoder", encoder)
    save_component(model, "tokenizer", tokenizer)
    save_language(model)


def latents(model: str | Path, data: str | Path) -> None:
    """Encodes rendered scenes and writes their latents and captions, the training data of base and motion.

    Args:
        model: model folder with a VAE.
        data: scenes, written by `render_dataset`.
    """
    encode_dataset(data, load_vae(model))


def base(
    model: str | Path,
    data: str | Path,
    run: str | Path,
    steps: int = STEPS["base"],
    further: bool = False,
    batch: int = BATCH,
) -> None:
    """Trains the base UNet on encoded stills.

    Args:
        model: model folder with a text encoder.
        data: stills, encoded by `latents`.
        run: folder for checkpoint and metrics.
        steps: training steps.
        further: start from the UNet in the model folder.
        batch: stills per step.
    """
    unet = load_base(model) if further else None
    encoder, tokenizer = load_text(model)
    save_component(model, "unet", train_base(data, encoder, tokenizer, run, steps, unet, batch))


def decoder(model: str | Path, data: str | Path, run: str | Path, steps: int = STEPS["decoder"]) -> None:
    """Trains the VAE's decoder further on predictions of the motion weights for encoded clips.

    Args:
        model: model folder with all other parts.
        data: clips, encoded by `latents`.
        run: folder for predictions, checkpoint and metrics.
        steps: training steps.
    """
    lumiere = load_motion(load_base(model), Path(model) / MOTION).eval()
    vae, clips = load_vae(model), min(DECODER_CLIPS, steps)
    save_component(model, "vae", train_decoder(data, vae, lumiere, load_text(model), run, steps, clips))


def preview(model: str | Path, data: str | Path, run: str | Path, steps: int = STEPS["preview"]) -> None:
    """Distils the tiny autoencoder of the previews from the VAE.

    Args:
        model: model folder with a VAE.
        data: stills, encoded by `latents`.
        run: folder for the teacher's pictures, checkpoint and metrics.
        steps: training steps.
    """
    save_preview(model, train_tiny_autoencoder(data, load_vae(model), run, steps))


def draw_clips(
    folder: str | Path, count: int, frames: int, load: Callable[[], AutoencoderKL], workers: int = 2
) -> None:
    """Renders clips for motion training and encodes them. An existing dataset is kept.

    Args:
        folder: output folder, created if missing.
        count: number of clips.
        frames: frames per clip.
        load: returns the VAE.
        workers: rendering processes.
    """
    folder = Path(folder)
    if not (folder / CAPTIONS).exists():
        render_dataset(folder, count, frames, CLIPS_SEED, workers=workers)
        encode_dataset(folder, load())
        (folder / PIXELS).unlink()
