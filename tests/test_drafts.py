"""Which draft is finished, without a model."""

import pytest
import torch

from lumiere.drafts import LEVEL, LOOKS, Draft, generators, unrest
from lumiere.sampling import Sampler

CONFIG = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}


def draft(clean: torch.Tensor) -> Draft:
    sampler = Sampler("euler a", CONFIG | {"prediction_type": "v_prediction"}, 4, torch.Generator())
    return Draft(sampler, torch.zeros_like(clean), clean)


def test_the_first_draft_has_the_noise_of_the_seed_and_no_two_seeds_share_one():
    draws = [[torch.randn(4, generator=draw) for draw in generators(seed, 3)] for seed in (7, 8)]
    assert torch.equal(draws[0][0], torch.randn(4, generator=torch.Generator().manual_seed(7)))
    numbers = {tuple(draw.tolist()) for several in draws for draw in several}
    assert len(numbers) == 6
    assert len(list(generators(2**32 - 1, 1))) == 1


def test_what_the_model_would_not_change_has_no_unrest_and_how_frames_differ_counts_twice():
    clean = torch.randn(1, 4, 8, 4, 4, generator=torch.Generator().manual_seed(1))
    assert unrest(draft(clean), lambda noisy, timestep: clean, 1000) == 0
    assert unrest(draft(clean), lambda noisy, timestep: clean + 0.5, 1000) == pytest.approx(LOOKS * 0.25)
    wavering = 0.5 * torch.tensor([1.0, -1.0]).repeat(4).view(8, 1, 1)
    found = unrest(draft(clean), lambda noisy, timestep: clean + wavering, 1000)
    assert found == pytest.approx(LOOKS * 0.5)


def test_all_drafts_are_seen_under_the_same_noise_at_the_same_timestep():
    shown = []
    for value in (0.0, 1.0):
        clean = torch.full((1, 4, 8, 4, 4), value)
        unrest(draft(clean), lambda noisy, timestep: shown.append((noisy, int(timestep))) or noisy, 1000)
    (first, _), (second, _), (third, _), (fourth, _) = shown
    alpha = (third - first).mean()
    assert {timestep for _, timestep in shown} == {int(LEVEL * 1000)} and 0 < alpha < 1
    torch.testing.assert_close(third - first, alpha.expand(first.shape), atol=1e-5, rtol=0)
    torch.testing.assert_close(fourth - second, alpha.expand(first.shape), atol=1e-5, rtol=0)
    assert first.square().mean().sqrt() == pytest.approx((1 - alpha**2).sqrt().item(), rel=0.1)
    assert not torch.equal(first, second)
