"""The parts of the embedded model: each is trained, or fitted, and put into the folder of the model."""

from pathlib import Path

from lumiere.paperworld.training.autoencoder import encode_dataset, train_autoencoder
from lumiere.paperworld.training.base import BATCH, train_base
from lumiere.paperworld.training.model_folder import (
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

STILLS_SEED, CLIPS_SEED = 11, 12  # evaluation draws its scenes from another
STEPS = {"autoencoder": 2800, "text": 400, "base": 6400, "preview": 20_000}


def autoencoder(model, data, run, steps=STEPS["autoencoder"]):
    """On the stills in `data`, as `render_dataset` makes them; `run` is for the checkpoint and metrics."""
    save_component(model, "vae", train_autoencoder(data, run, steps))


def text(model, run, steps=STEPS["text"]):
    """Encoder and tokenizer, on captions alone, and the files that tell its language."""
    encoder, tokenizer = train_text_encoder(run, steps)
    save_component(model, "text_encoder", encoder)
    save_component(model, "tokenizer", tokenizer)
    save_language(model)


def latents(model, data):
    """Written beside rendered scenes, with their captions: what base and motion are trained on."""
    encode_dataset(data, load_vae(model))


def base(model, data, run, steps=STEPS["base"], further=False, batch=BATCH):
    """On the stills in `data` and their latents; `further`, beginning with the base that is there."""
    unet = load_base(model) if further else None
    save_component(model, "unet", train_base(data, *load_text(model), run, steps, unet, batch))


def preview(model, data, run, steps=STEPS["preview"]):
    """The tiny autoencoder of the previews, taught by the autoencoder on the stills in `data`."""
    save_preview(model, train_tiny_autoencoder(data, load_vae(model), run, steps))


def draw_clips(folder, count, frames, load, workers=2):
    """Clips for a training of motion, as latents by the autoencoder `load()`, unless they are there."""
    folder = Path(folder)
    if not (folder / CAPTIONS).exists():
        render_dataset(folder, count, frames, CLIPS_SEED, workers=workers)
        encode_dataset(folder, load())
        (folder / PIXELS).unlink()
