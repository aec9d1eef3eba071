import pytest
import torch

from lumiere.training.loss import noise_levels, scale_common, weighted_error

UNIFORM = (torch.arange(10_000) + 0.5) / 10_000


@pytest.mark.parametrize("shift, spread", [(1.0, 1.0), (4.0, 1.0), (5.0, 0.5)])
def test_noise_levels_lie_about_the_median_that_shift_gives(shift, spread):
    levels = noise_levels(UNIFORM, shift, spread)
    assert levels.min() >= 0 and levels.max() < 1 and (levels.diff() > 0).all()
    assert levels.median().item() == pytest.approx(shift / (1 + shift), abs=1e-3)


def test_without_spread_they_are_shifted_and_with_less_they_are_nearer_to_the_median():
    torch.testing.assert_close(noise_levels(UNIFORM, 1, 1), UNIFORM.double())
    torch.testing.assert_close(noise_levels(UNIFORM, 4, 1), (4 * UNIFORM / (1 + 3 * UNIFORM)).double())
    wide, narrow = (noise_levels(UNIFORM, 4, spread).quantile(0.1).item() for spread in (1, 0.5))
    assert 0.3 < wide < 0.32 and 0.57 < narrow < 0.58


def test_the_ends_of_the_range_are_timesteps():
    ends = noise_levels(torch.tensor([0.0, 1 - 1e-7]), 5, 1)
    assert ends[0] == 0 and ends[1] < 1


def test_what_all_frames_have_in_common_counts_as_much_as_is_said():
    still = torch.randn(2, 4, 1, 3, 3).expand(-1, -1, 6, -1, -1)
    moving = torch.randn(2, 4, 6, 3, 3)
    moving = moving - moving.mean(2, keepdim=True)
    right, everywhere = torch.zeros_like(moving), torch.ones(2, 1, 6, 3, 3)

    def error(x, weight):
        return weighted_error(*(scale_common(each, weight) for each in (x, right)), everywhere)

    for weight in (0.0, 0.1, 1.0, 4.0):
        torch.testing.assert_close(error(still, weight), weight * error(still, 1.0))
        torch.testing.assert_close(error(moving, weight), moving.square().mean())
        torch.testing.assert_close(
            error(still + moving, weight), weight * still.square().mean() + moving.square().mean()
        )
