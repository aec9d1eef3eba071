"""The forecaster of the embedded model: the next second of a clip from the one before."""

import numpy as np
import torch

from ..data import LatentClips
from ..forecaster import Forecaster
from ..loss import weighted_error
from ..optimizer import faster_autocast
from .fit import Schedule, fit
from .text import WIDTH, means_of

BATCH = 64  # clips a step
SUBJECT_WEIGHT = 3.0
NOISE = 0.2  # at most, standard deviation: what is gone on from is made, and not as clean as a render
BACKWARD = 0.25  # share of clips, told without their captions, which say how they go forward
CAPTION_DROPOUT = 0.05
AHEAD = 0.4, 0.25, 0.2, 0.15  # how often it goes on from none, one, two, three forecasts of its own


def train_forecaster(data, text_encoder, tokenizer, run, steps, model=None):
    """Train on windows of clips, forward and backward, and on what it told itself of what was before.

    It goes on from its own forecasts as it does where a clip has many parts (the pushforward trick of
    Brandstetter et al. 2022, arXiv 2202.03376), as far as the clips have frames for it.

    data: folders as `LatentClips` reads them. model: one that was trained before, which begins at half the
    rate; a new one unless given.
    """
    folders, read = [LatentClips(folder) for folder in data], means_of(text_encoder, tokenizer)
    frames = np.array([len(clips) * clips.frames for clips in folders])
    torch.manual_seed(0)
    rate, model = (0.02, Forecaster(text_width=WIDTH)) if model is None else (0.01, model)
    seen = model.config.frames

    def loss(model, generator):
        step = generator.initial_seed()
        rng = np.random.default_rng(step)
        clips = folders[rng.choice(len(folders), p=frames / frames.sum())]
        ahead = min(rng.choice(len(AHEAD), p=AHEAD), max(0, clips.frames // seen - 2))
        drawn = clips.draw(step, range(BATCH), BATCH, (2 + ahead) * seen, 0, CAPTION_DROPOUT)
        backward = rng.random(BATCH) < BACKWARD
        text = read(["" if back else text for back, text in zip(backward, drawn.texts, strict=True)])
        backward = torch.from_numpy(backward)[:, None, None, None, None]
        clip, subject = (torch.where(backward, x.flip(2), x) for x in (drawn.latents, drawn.subject))
        level = torch.from_numpy(NOISE * rng.random(BATCH, np.float32))[:, None, None, None, None]
        told = (clip + level * drawn.noise)[:, :, :seen]
        with faster_autocast(torch.device("cpu")):
            with torch.no_grad():
                for _ in range(ahead):
                    told = model(told, text)
            told = model(told, text)
        weight = 1 + SUBJECT_WEIGHT * subject[:, :, -seen:]
        return weighted_error(told, clip[:, :, -seen:], weight), {"ahead": float(ahead)}

    schedule = Schedule(steps, rate, decay=0.5, ema=0.995, muon=True)
    return fit(model, loss, schedule, run).eval()
