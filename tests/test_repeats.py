"""Clips that have been where they are: how they go on."""

import pytest
import torch

from lumiere.forecaster import Forecaster
from lumiere.repeats import repeated


def turning(frames: int, period: float, noise: float = 0.0) -> torch.Tensor:
    """A clip (1 2 t 4 6) of which each latent comes round once in a period, in its own phase."""
    generator = torch.Generator().manual_seed(0)
    phase = torch.rand(1, 2, 1, 4, 6, generator=generator)
    time = torch.arange(frames)[:, None, None] / period
    clip = torch.sin(2 * torch.pi * (time + phase))
    return clip + noise * torch.randn(clip.shape, generator=generator)


@pytest.mark.parametrize("period", [5, 8, 11, 16])
def test_a_clip_goes_on_as_it_did_when_it_looked_like_that(period):
    clip = turning(40, period)
    told = repeated(clip[:, :, :32], 8)
    assert torch.allclose(told, clip[:, :, 32:], atol=1e-4)


def test_it_may_look_a_little_different_and_then_is_like_the_first_time():
    told = repeated(turning(64, 12, noise=0.1), 8)
    assert torch.equal(told, turning(64, 12, noise=0.1)[:, :, 16:24]), (
        "frame 8 comes round at 56 = 8 + 4 * 12"
    )
    late = turning(64, 12, noise=0.1)
    late[:, :, :40] += 0.4 * torch.randn(late[:, :, :40].shape, generator=torch.Generator().manual_seed(1))
    assert torch.equal(repeated(late, 8), late[:, :, 52:60]), "one that is much more alike counts"


def test_what_has_not_been_there_is_not_told():
    clip = turning(64, 70)
    assert repeated(clip, 8) is None, "not yet once round"
    assert repeated(torch.randn(1, 2, 64, 4, 6, generator=torch.Generator().manual_seed(0)), 8) is None
    assert repeated(turning(15, 4), 8) is None, "too short to have been followed by as many"
    assert repeated(torch.zeros(1, 2, 64, 4, 6), 8) is None, (
        "nothing moves, and there is nothing to divide by"
    )
    assert repeated(torch.full((1, 2, 64, 4, 6), torch.nan), 8) is None


def test_a_forecast_is_of_what_came_then():
    forecaster = Forecaster(2, 8, text_width=3, embedding=8, widths=(16, 16), depths=(1, 1), groups=4).eval()
    clip = turning(40, 11)
    text, window = torch.zeros(1, 2, 3), slice(24, 40)
    assert torch.allclose(forecaster.window(clip[:, :, :32], window, text), clip[:, :, window], atol=1e-4)
    with torch.no_grad():
        told = forecaster.window(clip[:, :, :10], slice(2, 18), text)
        assert torch.equal(told[:, :, 8:], forecaster(clip[:, :, 2:10], text)), "has not been there"
