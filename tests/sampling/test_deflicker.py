"""Flicker is taken out where nothing moves, and nothing else is."""

import pytest
import torch

from lumiere.sampling.noise import REACH, steady

FLICKER = 0.01


def noise(*shape: int, variance: float = FLICKER, seed: int = 0) -> torch.Tensor:
    return variance**0.5 * torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def test_noise_on_what_stands_still_is_averaged_over_the_frames_around():
    picture = noise(1, 4, 1, 16, 16, variance=1, seed=1)
    left = steady(picture + noise(1, 4, 40, 16, 16, variance=FLICKER / 2), FLICKER) - picture
    assert left.diff(dim=2).square().mean() < 0.02 * FLICKER  # a fiftieth of what independent frames have
    middle, expected = left[:, :, REACH:-REACH].square().mean(), FLICKER / 2 / (2 * REACH + 1)
    assert middle == pytest.approx(expected, rel=0.1)


def test_what_moves_stays_as_it_is():
    clip = noise(1, 4, 16, 8, 8, variance=1)
    assert (steady(clip, 0.001) - clip).square().mean() < 1e-5


def test_what_is_next_to_something_that_moves_stays_too():
    clip = noise(1, 1, 20, 8, 8, variance=1e-4)
    clip[..., 4, 4] += 10 * (torch.arange(20) % 2).view(1, 1, -1)
    change = (steady(clip, 0.001) - clip).abs().amax((0, 1, 2))
    assert change[3:6, 3:6].max() < 5e-4 < 5e-3 < change[:3].min()


def test_what_moves_later_is_still_until_then():
    clip = noise(1, 1, 60, 4, 4, variance=1e-4)
    clip[:, :, 40:] += 10
    made = steady(clip, 0.001)
    assert made[:, :, : 40 - 2 * REACH].diff(dim=2).abs().max() < 0.01
    assert (made[:, :, 36:44] - clip[:, :, 36:44]).abs().max() < 1e-3


@pytest.mark.parametrize("frames", [1, 2])
def test_short_clips_and_exact_stillness(frames):
    still = torch.ones(2, 4, frames, 3, 5)
    assert torch.equal(steady(still, FLICKER), still)


def test_nothing_is_done_unless_asked_for():
    clip = noise(1, 4, 16, 8, 8)
    assert steady(clip, 0) is clip


@pytest.mark.parametrize("frames", [6, 16, 40])
def test_a_loop_has_no_first_frame(frames):
    clip = noise(1, 4, frames, 4, 4)
    rolled = steady(clip.roll(3, 2), FLICKER, loop=True).roll(-3, 2)
    torch.testing.assert_close(rolled, steady(clip, FLICKER, loop=True))
    assert frames <= REACH or not torch.allclose(steady(clip.roll(3, 2), FLICKER).roll(-3, 2), rolled)
