"""The forecaster of the embedded model: the next second of a clip from the one before."""

import numpy as np
import torch

from ..data import LatentClips
from ..forecaster import Forecaster
from ..loss import weighted_error
from ..optimizer import faster_autocast
from .fit import Schedule, fit

BATCH = 64  # clips a step
SUBJECT_WEIGHT = 3.0
NOISE = 0.2  # at most, standard deviation: what is gone on from is made, and not as clean as a render


def train_forecaster(data, run, steps, model=None):
    """Train on windows of clips, forward and backward. data: folders as `LatentClips` reads them.

    model: one that was trained before, which begins at half the rate; a new one unless given.
    """
    folders = [LatentClips(folder) for folder in data]
    frames = np.array([len(clips) * clips.frames for clips in folders])
    torch.manual_seed(0)
    rate, model = (0.02, Forecaster()) if model is None else (0.01, model)
    seen = model.config.frames

    def loss(model, generator):
        step = generator.initial_seed()
        rng = np.random.default_rng(step)
        clips = folders[rng.choice(len(folders), p=frames / frames.sum())]
        drawn = clips.draw(step, range(BATCH), BATCH, 2 * seen, seed=0, caption_dropout=0)
        backward = torch.from_numpy(rng.random(BATCH) < 0.5)[:, None, None, None, None]
        clip, noise, subject = (
            torch.where(backward, x.flip(2), x) for x in (drawn.latents, drawn.noise, drawn.subject)
        )
        level = torch.from_numpy(NOISE * rng.random(BATCH, np.float32))[:, None, None, None, None]
        with faster_autocast(torch.device("cpu")):
            told = model((clip + level * noise)[:, :, :seen])
        weight = 1 + SUBJECT_WEIGHT * subject[:, :, seen:]
        return weighted_error(told, clip[:, :, seen:], weight), {}

    schedule = Schedule(steps, rate, decay=0.5, ema=0.995, muon=True)
    return fit(model, loss, schedule, run).eval()
