"""One call of the denoiser: guidance, windows, given pixels."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from lumiere.model.conditioning import Cond
from lumiere.model.text import Text
from lumiere.sampling import denoiser
from lumiere.sampling.denoiser import Denoiser, Looped, on_one_frame, rows_at_once
from lumiere.sampling.schedulers import Schedule
from tests.clips import REQUEST, last

TIMESTEP = torch.tensor(500)


@pytest.fixture
def denoise(pipeline) -> Denoiser:
    return Denoiser(
        model=pipeline.lumiere,
        schedule=Schedule("ddim", pipeline.scheduler_config, 4, torch.Generator()),
        text=pipeline.encode_prompt(replace(REQUEST, negative_prompt="a blue fish")),
        guidance=4.0,
        interval=(0, 1000),
        windows=[slice(0, 8)],
        cond=None,
        cond_channels=False,
        device=pipeline.device,
        dtype=pipeline.lumiere.dtype,
    )


def noise(frames=8):
    return torch.randn(1, 4, frames, 8, 8, generator=torch.Generator().manual_seed(0))


@torch.inference_mode()
def test_guidance_steps_from_the_negative_prompt_to_the_prompt(denoise):
    negative, positive = (replace(denoise, text=text)(noise(), TIMESTEP)[0] for text in denoise.text.split(1))
    assert (negative - positive).abs().max() > 1e-4
    for guidance, expected in ((0.0, negative), (1.0, positive), (4.0, negative + 4 * (positive - negative))):
        prediction, _ = replace(denoise, guidance=guidance)(noise(), TIMESTEP)
        torch.testing.assert_close(prediction, expected, atol=1e-5, rtol=1e-4)


@torch.inference_mode()
def test_guidance_counts_within_its_interval(denoise):
    inside, alone = (d(noise(), TIMESTEP)[0] for d in (denoise, replace(denoise, text=denoise.text.last())))
    for interval, expected in (((500, 500), inside), ((501, 1000), alone), ((0, 499), alone)):
        torch.testing.assert_close(replace(denoise, interval=interval)(noise(), TIMESTEP)[0], expected)


@torch.inference_mode()
def test_clean_latents_are_what_the_prediction_stands_for(denoise):
    prediction, pred_x0 = denoise(noise(), TIMESTEP)
    torch.testing.assert_close(denoise.schedule.prediction(pred_x0, noise(), TIMESTEP), prediction)


@torch.inference_mode()
def test_given_latents_are_put_in_and_seen(denoise):
    mask = torch.zeros(8, 8, 8, dtype=torch.bool)
    mask[0] = True
    cond, seen = Cond(torch.ones(1, 4, 8, 8, 8), mask), []

    def model(clips, timestep, **_):
        seen.append(clips)
        return (clips[:, :4],)

    for channels in (False, True):
        given = replace(denoise, model=model, cond=cond, cond_channels=channels)
        prediction, pred_x0 = given(noise(), TIMESTEP)
        assert torch.equal(pred_x0[:, :, 0], cond.latents[:, :, 0])
        assert not torch.equal(pred_x0[:, :, 1], cond.latents[:, :, 1])
        torch.testing.assert_close(given.schedule.pred_x0(prediction, noise(), TIMESTEP), pred_x0)
    assert [clips.shape[1] for clips in seen] == [4, 9]
    assert torch.equal(seen[1][0, 4:8], (cond.latents * mask)[0]) and torch.equal(seen[1][0, 8] > 0, mask)


@torch.inference_mode()
def test_long_clips_are_guided_in_two_calls(denoise, monkeypatch):
    expected, _ = denoise(noise(), TIMESTEP)
    monkeypatch.setattr(denoiser, "BATCH_LATENTS", 0)
    torch.testing.assert_close(denoise(noise(), TIMESTEP)[0], expected, atol=1e-5, rtol=1e-4)


def test_up_to_16_frames_of_512_pixels_are_guided_in_one_call():
    assert [rows_at_once(2, frames * 64 * 64) for frames in (1, 16, 17)] == [2, 2, 1]
    assert rows_at_once(1, 17 * 64 * 64) == 1


@torch.inference_mode()
def test_autocast_is_bfloat16_and_close(denoise):
    denoise = replace(denoise, guidance=1.0)  # guidance multiplies the rounding
    prediction, _ = denoise(noise(), TIMESTEP)
    fast, _ = replace(denoise, autocast=True)(noise(), TIMESTEP)
    assert fast.dtype == torch.float32 and not torch.equal(fast, prediction)
    assert (fast - prediction).square().mean().sqrt() <= 0.02 * prediction.std()


@torch.inference_mode()
def test_the_base_sees_one_frame(denoise, pipeline):
    unet = pipeline.lumiere.model
    x, text = noise(1), denoise.text.last()
    prediction, _ = replace(denoise, model=on_one_frame(unet), text=text, windows=[slice(0, 1)])(x, TIMESTEP)
    expected = unet(x[:, :, 0], TIMESTEP, **text.arguments).sample
    torch.testing.assert_close(prediction[:, :, 0], expected)


def test_without_guidance_the_negative_prompt_is_moot(pipeline):
    request = replace(REQUEST, guidance=1.0)
    assert pipeline.encode_prompt(request).states.shape == (1, 12, 16)
    other = replace(request, negative_prompt="a blue fish")
    assert np.array_equal(last(pipeline, request).frames, last(pipeline, other).frames)
    guided = replace(other, guidance=4.0)
    assert not np.array_equal(last(pipeline, guided).frames, last(pipeline, replace(REQUEST)).frames)


@torch.inference_mode()
def test_a_loop_starts_each_step_at_another_frame(denoise):
    """Given pixels roll with the clip, and the prediction is rolled back."""
    cond, seen = Cond(noise(16), torch.zeros(16, 8, 8, dtype=torch.bool)), []
    cond.mask[0] = True

    def model(clip, timestep, return_dict, **text):
        seen.append((int(clip[0, 0, :, 0, 0].argmax()), int(clip[0, -1, :, 0, 0].argmax())))
        return (clip[:, :4],)

    x = noise(16)
    x[0, 0, 5] = 9.0
    one = replace(
        denoise, model=model, text=denoise.text.last(), cond=cond, cond_channels=True, windows=[slice(0, 16)]
    )
    looped = Looped(one, frames=16, factor=4)
    expected = one(x, TIMESTEP)
    seen.clear()
    for _ in range(5):
        for found, same in zip(looped(x, TIMESTEP), expected, strict=True):
            torch.testing.assert_close(found, same)
    marks, given = zip(*seen, strict=True)
    assert {mark % 4 for mark in marks} == {5 % 4} and len(set(marks)) == 4
    assert [(5 - mark) % 16 for mark in marks] == [-place % 16 for place in given]


def test_prompts_in_time_roll_with_a_loop():
    states = torch.arange(8.0).view(1, 8, 1, 1)
    assert torch.equal(Text(states).rolled(-3).states, states.roll(-3, 1))
    still = Text(states[:, 0])
    assert still.rolled(-3) is still
