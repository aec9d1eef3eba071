"""Trains each part of the embedded model and saves it into the model folder."""

from pathlib import Path

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


def autoencoder(model, data, run, steps=STEPS["autoencoder"]):
    """Trains the VAE on stills of `render_dataset` in `data`; `run` holds checkpoint and metrics."""
    save_component(model, "vae", train_autoencoder(data, run, steps))


def text(model, run, steps=STEPS["text"]):
    """Trains the text encoder and tokenizer on captions and writes the vocabulary files."""
    encoder, tokenizer = train_text_encoder(run, steps)
    save_component(model, "text_encoder", encoder)
    save_component(model, "tokenizer", tokenizer)
    save_language(model)


def latents(model, data):
    """Encodes rendered scenes and writes their latents and captions, the training data of base and motion."""
    encode_dataset(data, load_vae(model))


def base(model, data, run, steps=STEPS["base"], further=False, batch=BATCH):
    """Trains the base UNet on the encoded stills in `data`; `further` continues from the saved UNet."""
    unet = load_base(model) if further else None
    save_component(model, "unet", train_base(data, *load_text(model), run, steps, unet, batch))


def decoder(model, data, run, steps=STEPS["decoder"]):
    """Trains the decoder further on predictions of the motion weights for the encoded clips in `data`."""
    lumiere = load_motion(load_base(model), Path(model) / MOTION).eval()
    vae, clips = load_vae(model), min(DECODER_CLIPS, steps)
    save_component(model, "vae", train_decoder(data, vae, lumiere, load_text(model), run, steps, clips))


def preview(model, data, run, steps=STEPS["preview"]):
    """Distils the tiny autoencoder of the previews from the VAE on the stills in `data`."""
    save_preview(model, train_tiny_autoencoder(data, load_vae(model), run, steps))


def draw_clips(folder, count, frames, load, workers=2):
    """Renders clips for motion training and encodes them with the VAE `load()`; skips an existing dataset."""
    folder = Path(folder)
    if not (folder / CAPTIONS).exists():
        render_dataset(folder, count, frames, CLIPS_SEED, workers=workers)
        encode_dataset(folder, load())
        (folder / PIXELS).unlink()
