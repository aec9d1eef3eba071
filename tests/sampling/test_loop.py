"""The sampling loop."""

import torch

from lumiere.sampling.loop import sample
from lumiere.sampling.schedulers import Schedule

CONFIG = {"num_train_timesteps": 1000, "prediction_type": "epsilon"}


def test_an_oracle_leads_to_its_clip():
    clean = torch.randn(1, 4, 2, 3, 3, generator=torch.Generator().manual_seed(0))
    schedule = Schedule("ddim", CONFIG, 5, torch.Generator())

    def oracle(x, timestep):
        return schedule.prediction(clean, x, timestep), clean

    steps = list(sample(oracle, schedule, schedule.start(torch.randn(clean.shape))))
    assert [int(step.timestep) for step in steps] == schedule.timesteps.tolist()
    assert all(torch.equal(step.pred_x0, clean) for step in steps)
    torch.testing.assert_close(steps[-1].x, clean, atol=1e-4, rtol=1e-4)


def test_steps_are_made_when_they_are_asked_for():
    schedule = Schedule("ddim", CONFIG, 5, torch.Generator())
    calls = []

    def denoise(x, timestep):
        assert torch.is_inference_mode_enabled()
        calls.append(int(timestep))
        return x, x

    steps = sample(denoise, schedule, torch.zeros(1, 4, 1, 2, 2))
    next(steps)
    assert len(calls) == 1 and not torch.is_inference_mode_enabled()
