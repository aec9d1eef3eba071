"""FreeNoise and FreeInit, compared with the mixins of diffusers' pipelines."""

import torch
from diffusers import DDIMScheduler
from diffusers.pipelines.free_init_utils import FreeInitMixin
from diffusers.pipelines.free_noise_utils import AnimateDiffFreeNoiseMixin

from lumiere.sampling.noise import low_pass, reinitialized, rescheduled


def test_noise_is_that_of_free_noise():
    theirs = AnimateDiffFreeNoiseMixin()
    theirs.vae_scale_factor = 8
    theirs._free_noise_noise_type = "shuffle_context"
    for frames, length, stride in ((16, 16, 4), (21, 8, 4), (30, 16, 5)):
        theirs._free_noise_context_length, theirs._free_noise_context_stride = length, stride
        like = {"device": torch.device("cpu"), "dtype": torch.float32}
        generator = torch.Generator().manual_seed(frames)
        expected = theirs._prepare_latents_free_noise(1, 4, frames, 32, 32, generator=generator, **like)
        generator = torch.Generator().manual_seed(frames)
        noise = torch.randn(1, 4, frames, 4, 4, generator=generator)
        found = rescheduled(noise, length, stride, generator)
        assert torch.equal(found, expected)
        assert torch.equal(found[:, :, :length], noise[:, :, :length])
        assert torch.equal(found, noise) == (frames <= length)


def test_reinitialized_noise_is_that_of_free_init():
    theirs = FreeInitMixin()
    theirs.enable_free_init(num_iters=2)
    theirs.scheduler = DDIMScheduler()
    clip, first, fresh = torch.randn(3, 2, 4, 6, 8, 4, generator=torch.Generator().manual_seed(1))
    args = (4, torch.device("cpu"), torch.float32, torch.Generator().manual_seed(2))
    theirs._apply_free_init(first, 0, *args)
    expected, _ = theirs._apply_free_init(clip, 1, *args)
    fresh = torch.randn(clip.shape, generator=torch.Generator().manual_seed(2))
    noisy = theirs.scheduler.add_noise(clip, first, torch.tensor([999, 999]))
    assert torch.allclose(reinitialized(noisy, fresh), expected, atol=1e-5)


def test_low_frequencies_pass():
    kept = low_pass((8, 4, 4))
    assert kept[0, 0, 0] == 1 and kept[4, 2, 2] < 1e-3
    assert torch.equal(kept[1:], kept[1:].flip(0))  # both signs of a frequency are one
