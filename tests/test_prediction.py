"""What the space-time model is shown in one call, on a tiny random model."""

from dataclasses import replace

import numpy as np
import torch

from lumiere import prediction
from lumiere.conditioning import Given
from lumiere.denoising import Denoising
from lumiere.prediction import Predictor
from tests.clips import REQUEST, last


def test_guidance_is_the_step_from_the_negative_prompt_to_the_prompt(pipeline):
    text = pipeline.encode_prompt(replace(REQUEST, negative_prompt="a blue fish"))
    x = torch.randn(1, 4, 8, 8, 8, generator=torch.Generator().manual_seed(0))
    timestep = torch.tensor(500)
    with torch.inference_mode():
        output = pipeline.predictor.output
        negative, positive = (output(x, timestep, states, 1.0) for states in text.split(1))
        torch.testing.assert_close(output(x, timestep, text, 0.0), negative, atol=1e-5, rtol=1e-4)
        expected = negative + 4 * (positive - negative)
        torch.testing.assert_close(output(x, timestep, text, 4.0), expected, atol=1e-5, rtol=1e-4)
    assert (negative - positive).abs().max() > 1e-4


def test_without_guidance_the_model_is_asked_once_and_the_negative_prompt_is_moot(pipeline):
    request = replace(REQUEST, guidance=1.0)
    assert pipeline.encode_prompt(request).states.shape == (1, 12, 16)
    other = replace(request, negative_prompt="a blue fish")
    assert np.array_equal(last(pipeline, request).frames, last(pipeline, other).frames)
    guided = replace(other, guidance=4.0)
    assert not np.array_equal(last(pipeline, guided).frames, last(pipeline, replace(REQUEST)).frames)


def test_a_long_clip_is_guided_in_two_calls_with_the_same_result(pipeline, monkeypatch):
    expected = last(pipeline, REQUEST).frames.astype(int)
    monkeypatch.setattr(prediction, "BATCH_LATENTS", 0)
    assert np.abs(last(pipeline, REQUEST).frames - expected).max() <= 1


def test_weights_that_take_given_pixels_are_shown_them(pipeline, picture, monkeypatch):
    shown, given = [], Given(picture, np.ones((8, 64, 64), bool))
    monkeypatch.setattr(Predictor, "output", lambda _, clip, *__: shown.append(clip) or clip[:, :4])
    next(pipeline.generate(REQUEST, given=given))
    monkeypatch.setattr(pipeline.lumiere, "given_channels", 5)
    next(pipeline.generate(REQUEST, given=given))
    next(pipeline.generate(REQUEST))
    assert [clip.shape[1] for clip in shown] == [4, 9, 4]
    assert torch.equal(shown[1][:, 4:8], pipeline.encode_given(given)[0]) and (shown[1][:, 8] == 1).all()


def test_weights_that_are_self_conditioned_are_shown_what_they_made(pipeline, picture, monkeypatch):
    monkeypatch.setattr(pipeline.lumiere, "given_channels", 5)
    monkeypatch.setattr(pipeline.lumiere, "self_conditioned", True)
    shown, made, step = [], [], Denoising._step
    monkeypatch.setattr(
        Predictor, "output", lambda _, clip, *__: shown.append(clip) or clip[:, :4] + len(shown)
    )
    monkeypatch.setattr(
        Denoising, "_step", lambda run, draft, *told: step(run, draft, *told) or made.append(draft.clean)
    )
    mask = np.zeros((8, 64, 64), bool)
    mask[0] = True
    for given in (None, Given(picture, mask)):
        shown.clear(), made.clear()
        list(pipeline.generate(REQUEST, given=given))
        first, *later = shown
        assert first.shape[1] == (4 if given is None else 9)
        known = slice(1 if given else 0, None)
        for seen, before in zip(later, made, strict=False):
            assert torch.equal(seen[:, 4:8, known], before[:, :, known])
            assert (seen[:, 8, known] == 0).all()
            if given:
                assert torch.equal(seen[:, 4:8, 0], pipeline.encode_given(given)[0][:, :, 0])
                assert (seen[:, 8, 0] == 1).all()


def test_a_long_clip_is_denoised_in_windows_of_bounded_length(pipeline, monkeypatch):
    monkeypatch.setattr(prediction, "WINDOW", 8)
    monkeypatch.setattr(prediction, "OVERLAP", 0.5)
    request, seen = replace(REQUEST, frames=24, guidance=1.0), []
    handle = pipeline.lumiere.register_forward_pre_hook(lambda m, args: seen.append(args[0].shape[2]))
    long = last(pipeline, request).frames
    handle.remove()
    assert seen == [8] * 5 * 4  # five windows in each of four steps
    assert long.shape == (24, 64, 64, 3) and long.std() > 5
    assert np.array_equal(last(pipeline, request).frames, long)
    monkeypatch.setattr(prediction, "WINDOW", 24)
    assert not np.array_equal(last(pipeline, request).frames, long)
