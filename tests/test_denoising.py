"""What the turns of a clip begin as and become, on a tiny random model."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler

from lumiere import denoising
from lumiere.conditioning import Given
from lumiere.denoising import Denoising
from lumiere.drafts import LOOKS
from lumiere.pipeline import LumierePipeline
from lumiere.prediction import Predictor
from lumiere.table import Model
from tests.clips import REQUEST, last


def test_guidance_counts_above_its_share_of_the_timesteps_alone(pipeline, monkeypatch):
    """Four steps are at 999, 749, 499 and 249."""
    shown = []
    usual = Predictor.output
    monkeypatch.setattr(
        Predictor, "output", lambda *told: shown.append((len(told[3]), told[4])) or usual(*told)
    )
    monkeypatch.setattr(pipeline, "guided_above", 0.6)
    guided, alone = (2, 4.0), (1, 1.0)
    last(pipeline, replace(REQUEST, guidance=4.0))
    assert shown == [guided, guided, alone, alone]
    shown.clear()
    frames = np.zeros((8, 64, 64, 3), np.uint8)
    again = Given(frames, np.zeros(frames.shape[:3], bool))
    list(pipeline.generate(replace(REQUEST, guidance=4.0, strength=0.5), given=again))
    assert shown == [guided, guided], "a clip that begins as another is told by all of its steps"
    shown.clear()
    monkeypatch.setattr(pipeline, "growth", (4, 4))
    last(pipeline, replace(REQUEST, guidance=4.0))
    assert shown == [guided, guided, alone, alone, guided, alone, alone], "what goes on needs it less"
    monkeypatch.setattr(pipeline, "growth", None)
    shown.clear()
    last(pipeline, replace(REQUEST, guidance=0.0))
    assert shown == [(2, 0.0)] * 4
    loaded = LumierePipeline.from_pretrained(replace(Model(str(pipeline.styler.folder)), guided_above=0.5))
    assert loaded.guided_above == 0.5


def test_what_is_told_without_guidance_is_the_prompt(pipeline):
    request = replace(REQUEST, negative_prompt="a blue fish", guidance=4.0)
    text = pipeline.encode_prompt(request)
    alone = pipeline.encode_prompt(replace(request, guidance=1.0))
    torch.testing.assert_close(text.last().states, alone.states, atol=1e-5, rtol=1e-4)


def test_frames_share_as_much_of_their_noise_as_the_motion_weights_say(pipeline, monkeypatch):
    shown = []
    monkeypatch.setattr(
        Predictor, "output", lambda _, clip, *__: shown.append(clip) or torch.zeros_like(clip)
    )
    for correlation in (0.0, 0.9):
        monkeypatch.setattr(pipeline.lumiere, "noise_correlation", correlation)
        next(pipeline.generate(replace(REQUEST, height=128, width=128)))
        common = torch.corrcoef(shown.pop()[0, :, :2].transpose(0, 1).flatten(1))[0, 1]
        assert abs(common - correlation) < 0.1


def test_noise_is_that_of_one_generator_in_the_layout_of_the_clip(pipeline, monkeypatch):
    drawn, draw = [], Denoising._noise
    monkeypatch.setattr(Denoising, "_noise", lambda *told: drawn.append(draw(*told)) or drawn[-1])
    next(pipeline.generate(REQUEST))
    (noise,) = drawn
    assert torch.equal(noise, torch.randn(1, 4, 8, 8, 8, generator=torch.Generator().manual_seed(7)))


def test_a_clip_is_denoised_again_where_motion_is_decided(pipeline, monkeypatch):
    """Six steps are at 999, 832, 666, 499, 332 and 166: guided down to 600, again from 850."""
    request = replace(REQUEST, steps=6, guidance=4.0)
    monkeypatch.setattr(pipeline, "guided_above", 0.6)
    monkeypatch.setattr(pipeline, "revisions", 2)
    shown, cleans, step = [], [], Denoising._step

    def watched(run, draft, timestep, *told):
        shown.append((int(timestep), told[1], draft.sampler.model_input(draft.sample, timestep)))
        step(run, draft, timestep, *told)
        cleans.append(draft.clean)

    monkeypatch.setattr(Denoising, "_step", watched)
    *steps, result = pipeline.generate(request)
    again = [(832, 4.0), (666, 4.0), (499, 1.0)]
    assert [told[:2] for told in shown] == [(999, 4.0), *again, *again, *again, (332, 1.0), (166, 1.0)]
    assert [(each.step, each.steps) for each in steps] == [(number, 12) for number in range(1, 13)]
    assert result.steps == result.steps_done == 12
    alpha = DDIMScheduler.from_config(pipeline.scheduler_config).alphas_cumprod[832].sqrt().item()
    for begin in (4, 7):  # the noise left after the clip predicted last is taken away has its variance
        noise = (shown[begin][2] - alpha * cleans[begin - 1]) / (1 - alpha**2) ** 0.5
        assert noise.square().mean() == pytest.approx(1, rel=0.1)
    stopped = list(pipeline.generate(request, iter([False] * 4 + [True]).__next__))[-1]
    assert stopped.stopped and stopped.steps_done == 4
    loaded = LumierePipeline.from_pretrained(replace(Model(str(pipeline.styler.folder)), revisions=2))
    assert loaded.revisions == 2


@pytest.mark.slow
def test_the_draft_that_would_change_least_is_revised_and_finished(pipeline, monkeypatch):
    request = replace(REQUEST, steps=6, guidance=4.0)
    for name, value in {"guided_above": 0.6, "revisions": 1, "drafts": 3}.items():
        monkeypatch.setattr(pipeline, name, value)
    made, began, predict, begin = [], [], Predictor.__call__, Denoising._begin
    monkeypatch.setattr(Predictor, "__call__", lambda *told: made.append(int(told[3])) or predict(*told))
    gone_on_from = []

    def beginning(*told):
        gone_on_from.append(told[4])
        began.append(begin(*told))
        return began[-1]

    monkeypatch.setattr(Denoising, "_begin", beginning)
    for wanted in range(3):
        order, judged = iter(range(3)), []

        def judge(draft, *_, order=order, judged=judged, wanted=wanted):
            judged.append(draft)
            return abs(next(order) - wanted)

        monkeypatch.setattr(denoising, "unrest", judge)
        made.clear(), began.clear()
        *steps, result = pipeline.generate(request)
        assert made == [999] * 3 + [832] * 3 + [666] * 3 + [499] * 3 + [832, 666, 499, 332, 166]
        assert result.steps == len(steps) == 9 and judged == began[:3]
        assert len(began) == 4 and gone_on_from[-1] is judged[wanted].clean
    stopped = list(pipeline.generate(request, iter([False, True]).__next__))[-1]
    assert stopped.stopped and stopped.steps_done == 1
    loaded = LumierePipeline.from_pretrained(replace(Model(str(pipeline.styler.folder)), drafts=2))
    assert loaded.drafts == 2


def test_only_what_begins_as_noise_is_revised_and_drafted(pipeline, picture, monkeypatch):
    for name, value in {"guided_above": 0.6, "revisions": 1, "drafts": 2, "growth": (8, 4)}.items():
        monkeypatch.setattr(pipeline, name, value)
    shown = []
    handle = pipeline.lumiere.register_forward_pre_hook(lambda m, args: shown.append(args[0].shape[2]))
    list(pipeline.generate(replace(REQUEST, frames=8, steps=6)))
    assert shown == [8] * (2 * 4 + 2 * LOOKS + 5)
    shown.clear()
    list(pipeline.generate(replace(REQUEST, frames=16, steps=6)))
    assert shown == [8] * (2 * 4 + 2 * LOOKS + 5) + [12] * 4
    shown.clear()
    nothing = Given(picture, np.zeros(picture.shape[:3], bool))
    list(pipeline.generate(replace(REQUEST, steps=6, strength=0.5), given=nothing))
    assert shown == [8] * 3, "what begins as another clip is one already"
    handle.remove()
