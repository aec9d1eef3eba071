"""The parts of the embedded model: each is trained, or fitted, and put into the folder of the model."""

from pathlib import Path

from ..data import CAPTIONS
from ..folder import FORECASTER, OPENER
from .autoencoder import encode_dataset, train_autoencoder
from .base import BATCH, train_base
from .dataset import PIXELS, render_dataset
from .forecaster import train_forecaster
from .model_folder import (
    load_base,
    load_begun_forecaster,
    load_begun_opener,
    load_text,
    load_vae,
    save_component,
    save_net,
    save_preview,
)
from .opener import train_opener
from .text import train_text_encoder
from .tiny_decoder import train_tiny_autoencoder

STILLS_SEED, CLIPS_SEED, PACED_SEED, REST_SEED = 11, 12, 13, 14  # evaluation draws its scenes from another
PACES = 0.7, 1.45  # as a model moves things that knows a slow and a fast pace, one twice the other
OPENED = 17  # frames of a clip from rest: a still and what an opener tells
STEPS = {
    "autoencoder": 2800,
    "text": 400,
    "base": 6400,
    "preview": 20_000,
    "forecaster": 8000,
    "opener": 6000,
}


def autoencoder(model, data, run, steps=STEPS["autoencoder"]):
    """On the stills in `data`, as `render_dataset` makes them; `run` is for the checkpoint and metrics."""
    save_component(model, "vae", train_autoencoder(data, run, steps))


def text(model, run, steps=STEPS["text"]):
    """Encoder and tokenizer, on captions alone."""
    encoder, tokenizer = train_text_encoder(run, steps)
    save_component(model, "text_encoder", encoder)
    save_component(model, "tokenizer", tokenizer)


def latents(model, data):
    """Written beside rendered scenes, with their captions: what base and motion are trained on."""
    encode_dataset(data, load_vae(model))


def base(model, data, run, steps=STEPS["base"], further=False, batch=BATCH):
    """On the stills in `data` and their latents; `further`, beginning with the base that is there."""
    unet = load_base(model) if further else None
    save_component(model, "unet", train_base(data, *load_text(model), run, steps, unet, batch))


def forecaster(model, data, run, steps=STEPS["forecaster"], further=False):
    """On latents of clips, in several folders, with the text encoder that is there.

    further: beginning with the forecaster that is there.
    """
    begun = load_begun_forecaster(model) if further else None
    save_net(model, FORECASTER, train_forecaster(data, *load_text(model), run, steps, begun))


def opener(model, data, run, steps=STEPS["opener"], further=False):
    """As `forecaster`."""
    begun = load_begun_opener(model) if further else None
    save_net(model, OPENER, train_opener(data, *load_text(model), run, steps, begun))


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
