"""A studio that draws what it is asked for, as no model could: real clips of the paper world."""

from dataclasses import replace
from functools import lru_cache
from types import SimpleNamespace

import numpy as np

from lumiere.paperworld.evaluate.rows import SEED, scene_of
from lumiere.paperworld.judge.judge import caption_truth
from lumiere.paperworld.world.scene import render

ASKED = ("colour", "subject", "background", "motion")


@lru_cache(maxsize=64)
def real(prompt, frames, index=0):
    """The scene of this number, as the prompt says."""
    truth = caption_truth(prompt)
    return render(replace(scene_of(SEED, index)[0], **{name: truth[name] for name in ASKED}), frames)[0]


def halved(clip, count=24):
    """24 frames at most, of half the size: a perfect preview."""
    count = min(count, len(clip))
    some = clip[np.arange(count) * len(clip) // count]
    small = some.reshape(count, some.shape[1] // 2, 2, some.shape[2] // 2, 2, 3).mean((2, 4))
    return small.round().astype(np.uint8)


def noisy(frames, levels=2.0):
    noise = np.random.default_rng(1).normal(0, levels, frames.shape)
    return np.clip(frames + noise, 0, 255).round().astype(np.uint8)


class Puppet:
    """spoil: changes each clip, and sees what was given. asked: prompt, frames, index, given and settings."""

    seed, name = SEED, "puppet"

    def __init__(self, spoil=lambda clip, given: clip, autoencoder=lambda frames: frames, preview=halved):
        self.spoil, self.through_autoencoder, self.preview, self.asked = spoil, autoencoder, preview, []
        self.pipeline = SimpleNamespace(seams=lambda frames: list(range(96, frames, 32)))

    def make(self, prompt, frames, index, given=None, **settings):
        self.asked.append((prompt, frames, index, given, settings))
        clip = real(prompt, frames, index)
        if given is not None:
            clip = np.where(given.mask[..., None], given.frames, clip)
        clip = self.spoil(clip, given)
        return clip, self.preview(clip)

    def clip(self, *args, **settings):
        return self.make(*args, **settings)[0]
