"""The opener of the embedded model: its first second from what it shows before it moves, or at first."""

from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F

from ..data import LatentClips
from ..opener import Opener
from ..optimizer import faster_autocast
from .captions import at_rest, caption_with_truth
from .fit import Schedule, fit
from .scene import sample_scene
from .text import WIDTH, means_of, states_of

BATCH, CAPTIONS = 64, 128  # clips and captions a step
SUBJECT_WEIGHT = 3.0
NOISE = 0.2  # at most, standard deviation: the still is drawn by the base, and not as clean as a render
CAPTION_DROPOUT = 0.05
OTHERS, LIKELY = 0.05, 0.02  # how much versions count that are not the nearest, and which is told likeliest
CAPTIONS_SEED = 5
RESTS = 0.4  # steps on captions for one on clips


def train_opener(data, text_encoder, tokenizer, run, steps, model=None):
    """Train on captions first, then on clips.

    data: folders as `LatentClips` reads them, each as often as another: of clips that begin at rest, and of
    others for clips whose first frame is given. model: one that was trained before, which begins at half the
    rate; a new one unless given.
    """
    torch.manual_seed(0)
    share, model = (1, Opener(text_width=WIDTH)) if model is None else (0.5, model)

    def read(texts):
        return states_of(texts, text_encoder, tokenizer)

    schedule = Schedule(max(1, round(RESTS * steps)), share * 2e-3, decay=0.5, ema=0.98)
    model.rest = fit(model.rest, _rest_loss(read), schedule, Path(run) / "rest").requires_grad_(False)
    schedule = Schedule(steps, share * 0.02, decay=0.5, ema=0.995, muon=True)
    folders, means = [LatentClips(folder) for folder in data], means_of(text_encoder, tokenizer)
    return fit(model, _clip_loss(folders, means), schedule, run).eval()


def _rest_loss(read):
    def loss(rest, generator):
        rng = np.random.default_rng((CAPTIONS_SEED, generator.initial_seed()))
        drawn = [caption_with_truth(sample_scene(rng), rng) for _ in range(CAPTIONS)]
        error = rest(read([text for text, _ in drawn])) - read([at_rest(truth) for _, truth in drawn])
        return error.square().mean(), {}

    return loss


def _clip_loss(folders, means):
    def loss(model, generator):
        step, told = generator.initial_seed(), model.config.frames
        rng = np.random.default_rng(step)
        clips = folders[rng.choice(len(folders))]
        drawn = clips.draw(step, range(BATCH), BATCH, 1 + told, seed=5, caption_dropout=CAPTION_DROPOUT)
        level = torch.from_numpy(NOISE * rng.random(BATCH, np.float32))[:, None, None, None, None]
        still = (drawn.latents + level * drawn.noise)[:, :, :1]
        with faster_autocast(torch.device("cpu")):
            versions, likely = model(still, means(drawn.texts))
        weight = (1 + SUBJECT_WEIGHT * drawn.subject[:, :, 1:])[:, None]  # b 1 1 t h w
        errors = weight * (versions.float() - drawn.latents[:, None, :, 1:]).square()
        errors = errors.flatten(2).mean(2) / weight.flatten(2).mean(2)  # b k
        error, nearest = errors.min(1)
        error, choice = error.mean(), F.cross_entropy(likely.float(), nearest)
        facts = {"nearest": error.item(), "choice": choice.item()}
        return error + OTHERS * errors.mean() + LIKELY * choice, facts

    return loss
