"""The path from a request to frames, on a tiny random model."""

import copy
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import pytest
import torch

from lumiere.errors import GenerationError
from lumiere.events import Progress, Result
from lumiere.loading.text_encoder import TextEncoder
from lumiere.model.conditioning import Given
from lumiere.pipeline import LumierePipeline
from lumiere.request import SCHEDULERS, Request
from lumiere.sampling.denoiser import Denoiser, Looped
from lumiere.sampling.settings import Sampling
from tests.clips import REQUEST, last, with_unet


def test_progress_after_every_step_then_the_clip(pipeline):
    items = list(pipeline.generate(REQUEST))
    assert [type(item) for item in items] == [Progress] * 4 + [Result]
    assert [(item.step, item.steps) for item in items[:4]] == [(1, 4), (2, 4), (3, 4), (4, 4)]
    assert sorted(item.seconds for item in items) == [item.seconds for item in items]
    result = items[-1]
    assert result.frames.shape == (8, 64, 64, 3) and result.frames.dtype == np.uint8
    assert result.frames.std() > 5 and (result.frames[0] != result.frames[-1]).any()
    assert result.request == pipeline.check(REQUEST) and result.steps_done == 4 and not result.stopped


@pytest.mark.parametrize("scheduler", SCHEDULERS)
def test_every_scheduler_ends_in_what_its_last_preview_shows(pipeline, scheduler, monkeypatch):
    decoded = []
    monkeypatch.setattr(pipeline, "decode", lambda latents: decoded.append(latents) or latents)
    items = list(pipeline.generate(replace(REQUEST, scheduler=scheduler, steps=3)))
    shown = items[-2].preview()
    assert shown.shape == (8, 32, 32, 3) and shown.dtype == np.uint8
    assert np.abs(shown - pipeline.preview(decoded[0]).astype(int)).max() <= 1


@pytest.mark.parametrize("scheduler", ["dpm++ 2m", "euler a"])
def test_a_seed_gives_the_same_bits_whatever_happened_before(pipeline, scheduler):
    request = replace(REQUEST, scheduler=scheduler)
    expected = last(pipeline, request).frames
    list(pipeline.generate(request, stop=lambda: True))
    abandoned = pipeline.generate(request)
    next(abandoned)
    abandoned.close()
    torch.manual_seed(123)
    assert np.array_equal(last(pipeline, request).frames, expected)
    assert not np.array_equal(last(pipeline, replace(request, seed=8)).frames, expected)


def test_a_loop_is_made_in_one_part(pipeline, monkeypatch):
    looped = copy.copy(pipeline)
    looped.sampling = replace(pipeline.sampling, segment=8)
    starts = []
    call = Looped.__call__
    monkeypatch.setattr(Looped, "__call__", lambda self, x, t: starts.append(x.shape[2]) or call(self, x, t))
    request = replace(REQUEST, frames=16, loop=True)
    clip = last(looped, request).frames
    assert len(clip) == 16 and starts == [16] * REQUEST.steps  # in one part
    assert not np.array_equal(clip, last(pipeline, replace(REQUEST, frames=16)).frames)
    assert looped.check(replace(request, first_frame="base")).first_frame == "none"
    looped.sampling = replace(pipeline.sampling, segment=8, loop=True)  # the operator's own
    assert np.array_equal(last(looped, replace(request, loop=False)).frames, clip)
    assert looped.frames_shown(replace(request, loop=False)) == looped.frames_shown(request)
    with pytest.raises(ValueError, match="a loop cannot continue a clip"):
        looped.check(replace(REQUEST, mode="continue"))


def test_two_runs_at_once_do_not_touch_each_other(pipeline):
    requests = [REQUEST, replace(REQUEST, seed=8, prompt="a blue star", scheduler="euler a", frames=4)]
    alone = [last(pipeline, request).frames for request in requests]
    with ThreadPoolExecutor(2) as threads:
        together = list(threads.map(lambda request: last(pipeline, request).frames, requests))
    turns = [pipeline.generate(request) for request in requests]
    for step in range(4):  # and step by step in turns, each on a thread of its own
        with ThreadPoolExecutor(1) as thread:
            assert [thread.submit(next, turn).result().step for turn in turns] == [step + 1] * 2
    for expected, frames, turn in zip(alone, together, turns, strict=True):
        assert np.array_equal(frames, expected) and np.array_equal(next(turn).frames, expected)


def test_no_inference_mode_leaks_out_of_a_paused_run(pipeline):
    run = pipeline.generate(REQUEST)
    next(run)
    assert not torch.is_inference_mode_enabled() and torch.ones(1, requires_grad=True).mul(2).requires_grad


def test_a_missing_seed_is_drawn_and_told(pipeline):
    request = last(pipeline, replace(REQUEST, seed=None, steps=1, frames=4)).request
    assert 0 <= request.seed < 2**32 and request == replace(request, seed=request.seed)


def test_what_the_model_cannot_do_is_refused_before_the_first_step(pipeline):
    with pytest.raises(ValueError, match="16 and 20"):
        pipeline.generate(replace(REQUEST, frames=18))


def test_stopping_keeps_the_predicted_clip(pipeline):
    stop, items = threading.Event(), []
    for item in pipeline.generate(REQUEST, stop):
        items.append(item)
        if len(items) == 2:
            stop.set()
    result = items[-1]
    assert [type(item) for item in items] == [Progress, Progress, Result]
    assert result.stopped and result.steps_done == 2 and result.frames.shape == (8, 64, 64, 3)
    assert not np.array_equal(result.frames, last(pipeline, REQUEST).frames)


def test_stopping_before_the_first_step_gives_nothing(pipeline):
    assert list(pipeline.generate(REQUEST, lambda: True)) == []


def test_stopping_after_the_last_step_is_too_late(pipeline):
    done = []
    items = list(pipeline.generate(REQUEST, lambda: len(done) >= 4 or done.append(1)))
    assert not items[-1].stopped


@pytest.mark.parametrize("scheduler", SCHEDULERS)
def test_given_pixels_come_out_as_the_autoencoder_has_them(pipeline, picture, scheduler, monkeypatch):
    mask = np.zeros((8, 64, 64), bool)
    mask[0], mask[:, :, :24] = True, True
    latents, known = pipeline.encode_given(Given(picture, mask))
    assert known[0].all() and known[1:, :, :3].all() and not known[1:, :, 3:].any()
    decoded, decode = [], pipeline.decode
    monkeypatch.setattr(pipeline, "decode", lambda latents: decoded.append(latents) or decode(latents))
    request = replace(REQUEST, scheduler=scheduler)
    last_given = list(pipeline.generate(request, given=Given(picture, mask)))[-1]
    list(pipeline.generate(request))
    with_, without = decoded
    torch.testing.assert_close(with_[:, :, known], latents[:, :, known], atol=2e-3, rtol=0)
    assert not torch.allclose(with_[:, :, ~known], without[:, :, ~known], atol=1e-2)  # the rest heeds them
    assert last_given.steps_done == request.steps
    assert np.array_equal(last_given.frames[:, :, :24], picture[:, :, :24])


def test_given_frames_of_another_shape_are_refused(pipeline, picture):
    with pytest.raises(
        ValueError, match="given frames must be those asked for, 4 x 64 x 64: received 8 x 64"
    ):
        pipeline.generate(replace(REQUEST, frames=4), given=Given(picture, np.ones((8, 64, 64), bool)))
    with pytest.raises(ValueError, match="given masks must be .*, 8 x 64 x 64: received 8 x 64 x 32"):
        pipeline.generate(replace(REQUEST, frames=8), given=Given(picture, np.ones((8, 64, 32), bool)))


def test_a_unet_without_memory_says_what_to_lower(pipeline):
    def full(*_, **__):
        raise torch.OutOfMemoryError("CUDA out of memory")

    other = with_unet(pipeline, full)
    with pytest.raises(GenerationError, match="frames, height or width"):
        last(other, REQUEST)
    assert last(pipeline, REQUEST).steps_done == 4


def test_a_fresh_model_makes_a_still_clip_and_the_stored_one_a_moving_one(tiny_model, pipeline):
    fresh = LumierePipeline.from_pretrained(tiny_model, device="cpu", fresh=True)
    text = fresh.encode_prompt(replace(REQUEST, guidance=1.0))
    still = torch.randn(1, 4, 1, 8, 8, generator=torch.Generator().manual_seed(0)).expand(-1, -1, 8, -1, -1)
    with torch.inference_mode():
        outputs = [p.lumiere(still, torch.tensor(500), **text.arguments).sample for p in (fresh, pipeline)]
    spread = [output.std(dim=2).max() for output in outputs]
    assert spread[0] < 1e-5 < 1e-3 < spread[1]


@pytest.mark.parametrize(
    "prompt, words",
    [
        ("A RED ball, over the hills!", []),
        ("a red dragon", ["dragon"]),
        ("a red Dragon and a blue Wyvern, a Dragon", ["Dragon", "Wyvern"]),
        ("a ball it's", ["it's"]),
        ("a \N{DRAGON} ball --- ...", ["\N{DRAGON}"]),
        ("ball " * 79 + "over hills in", ["hills", "in"]),
        ("a (dragon:1.3) and a (ball)", ["dragon"]),
        ("0: a dragon | 8: a ball | 16: a wyvern", ["dragon", "wyvern"]),
        ("0: a ball | wyvern", ["0", "wyvern"]),
        ("", []),
        ("\u0645\u0631\u062d\u0628\u0627 ball", ["\u0645\u0631\u062d\u0628\u0627"]),
    ],
)
def test_unknown_words(pipeline, prompt, words):
    # The text encoder takes 8 chunks of 12 tokens, two of which are the start and the end.
    assert pipeline.unknown_words(prompt) == words


def test_the_tokenizer_is_asked_one_thing_at_a_time(pipeline):
    inside, met = threading.Lock(), []
    tokenizer = pipeline.base.tokenizer

    class Tokenizer:  # of two threads within a call, one would have the padding of the other
        def __call__(self, *args, **kwargs):
            met.append(not inside.acquire(blocking=False))
            time.sleep(0.01)
            try:
                return tokenizer(*args, **kwargs)
            finally:
                inside.release()

        def __getattr__(self, name: str):
            return getattr(tokenizer, name)

    watched = copy.copy(pipeline)
    watched.base = copy.copy(pipeline.base)
    watched.base.tokenizer = Tokenizer()
    watched.text_encoder = TextEncoder(watched.base)
    with ThreadPoolExecutor(4) as threads:
        asked = [threads.submit(watched.unknown_words, "a dragon") for _ in range(8)]
        asked += [threads.submit(watched.encode_prompt, Request("a cat")) for _ in range(8)]
        for future in asked:
            future.result()
    assert len(met) >= 16 and not any(met)


def test_limits_follow_from_the_configs(pipeline):
    limits = pipeline.limits
    assert (limits.downsample_factor, limits.size_multiple, limits.min_frames) == (4, 32, 4)
    assert (limits.default_height, limits.default_width) == (64, 64)


def test_a_device_that_is_not_there_is_refused_in_words(tiny_model):
    for name in ("tpu", "cuda:99"):
        with pytest.raises(ValueError, match=f"no device {name}"):
            LumierePipeline.from_pretrained(tiny_model, device=name)


def test_the_base_is_an_ordinary_model_of_diffusers(tiny_model):
    from diffusers import StableDiffusionPipeline

    stills = StableDiffusionPipeline.from_pretrained(tiny_model, local_files_only=True)
    stills.set_progress_bar_config(disable=True)
    image = stills("a red ball", num_inference_steps=2, output_type="np").images[0]
    assert image.shape == (64, 64, 3)


@pytest.fixture
def segmented(pipeline) -> LumierePipeline:
    other = copy.copy(pipeline)
    other.sampling = Sampling(segment=12, context=4, guidance_interval=(0.6, 1.0))
    return other


@pytest.fixture
def still_first(segmented) -> LumierePipeline:
    """With random weights for given pixels, so that text to video begins with a still."""
    segmented.lumiere = copy.deepcopy(segmented.lumiere)
    segmented.lumiere.add_cond_channels(5)
    torch.nn.init.normal_(segmented.lumiere.conv_in.weight, std=0.1)
    return segmented


def test_long_clips_are_continued_segment_by_segment(segmented):
    seen, request = [], replace(REQUEST, frames=28)
    handle = segmented.lumiere.register_forward_pre_hook(lambda m, args: seen.append(args[0].shape[2]))
    *steps, result = segmented.generate(request)
    handle.remove()
    assert set(seen) == {12} and result.steps == result.steps_done == 3 * 4
    assert [item.length for item in steps] == [12] * 4 + [20] * 4 + [28] * 4
    assert steps[-1].preview().shape[0] == 24 and segmented.seams(28) == [12, 20]
    shares = [item.share for item in steps]
    assert shares == sorted(shares) and shares[-1] == 1 and 0 < shares[0] < 0.2
    for fewer in (12, 20):  # so what comes later changes nothing of what was
        alone = last(segmented, replace(request, frames=fewer)).frames.astype(int)
        assert np.abs(alone - result.frames[:fewer]).max() <= 1  # decoded in other slices, which round


def test_a_stopped_clip_ends_with_its_segment(segmented):
    for asked, frames in ((4, 12), (5, 20)):
        calls = []
        stop = lambda calls=calls, asked=asked: len(calls) >= asked or calls.append(1)  # noqa: E731
        result = list(segmented.generate(replace(REQUEST, frames=28), stop))[-1]
        assert result.stopped and (result.steps_done, result.steps) == (asked, 12)
        assert result.frames.shape == (frames, 64, 64, 3)


def test_text_begins_with_a_still_by_the_base(still_first, monkeypatch):
    latents, decode = [], still_first.decode
    monkeypatch.setattr(still_first, "decode", lambda x: latents.append(x) or decode(x))
    drawn = replace(REQUEST, first_frame="base")
    *steps, result = still_first.generate(drawn)
    assert [item.length for item in steps] == [1] * 4 + [8] * 4 and result.steps == 8
    stopped = list(still_first.generate(drawn, iter([False] * 4 + [True]).__next__))[-1]
    assert stopped.stopped and stopped.frames.shape[0] == 1
    clip, still = latents
    torch.testing.assert_close(clip[:, :, :1], still)
    *steps, result = still_first.generate(REQUEST)
    assert [item.length for item in steps] == [8] * 4


def test_the_still_has_a_prompt_of_its_own(still_first):
    prompts, encode = [], still_first.text_encoder
    watched = lambda texts, *size, **skip: prompts.append(texts[-1]) or encode(texts, *size, **skip)  # noqa: E731
    still_first.text_encoder = watched
    watched.max_clip_skip = 0
    still_first.first_frame_prompt = lambda prompt: f"{prompt} resting"
    last(still_first, replace(REQUEST, first_frame="base"))
    assert prompts == [f"{REQUEST.prompt} resting", REQUEST.prompt]


def test_flicker_is_taken_out_of_what_is_made_and_not_of_what_is_given(pipeline, picture, monkeypatch):
    request, mask = replace(REQUEST, frames=8, steps=2), np.zeros((8, 64, 64), bool)
    mask[:2] = True
    given = Given(picture, mask)
    latents, decode = [], pipeline.decode
    monkeypatch.setattr(pipeline, "decode", lambda clip: latents.append(clip) or decode(clip))
    for flicker in (0.0, 1e9):
        monkeypatch.setattr(pipeline, "sampling", Sampling(flicker=flicker))
        *_, result = pipeline.generate(request, given=given)
    made, calm = latents
    own = pipeline.encode_given(given)[0][:, :, :2]
    assert torch.equal(made[:, :, :2], own) and torch.equal(calm[:, :, :2], own)
    assert calm[:, :, 2:].diff(dim=2).abs().mean() < 0.3 * made[:, :, 2:].diff(dim=2).abs().mean()
    model = replace(pipeline.model, sampling=Sampling(flicker=0.5))
    assert LumierePipeline.from_pretrained(model).sampling.flicker == 0.5


def test_frames_shown_are_those_of_all_steps_and_texts(still_first):
    shown = []
    count = lambda m, args: shown.append(args[0].shape[0] * (args[0].shape[2] if args[0].ndim == 5 else 1))  # noqa: E731
    handles = [still_first.lumiere.register_forward_pre_hook(count)]
    for frames in (8, 20):
        for guidance in (1.0, 4.0):
            request = replace(REQUEST, frames=frames, steps=6, guidance=guidance, first_frame="base")
            shown.clear()
            list(still_first.generate(request))
            still = 6 if guidance == 1 else 6 + len([t for t in (999, 832, 666) if t >= 600])
            assert sum(shown) + still == still_first.frames_shown(request)
    for handle in handles:
        handle.remove()


def test_given_frames_are_continued_unless_they_end_the_clip(pipeline, picture, monkeypatch):
    monkeypatch.setattr(pipeline, "sampling", Sampling(segment=4, context=0))
    request = replace(REQUEST, frames=8, steps=2)
    beginning, end = (np.zeros((8, 64, 64), bool) for _ in range(2))
    beginning[:5], end[-1] = True, True
    *steps, result = pipeline.generate(request, given=Given(picture, beginning))
    assert [item.length for item in steps] == [4, 4, 8, 8] and len(result.frames) == 8
    latents = pipeline.encode_given(Given(picture, beginning)).latents
    assert np.abs(result.frames[:5].astype(int) - pipeline.decode(latents)[:5]).max() <= 2
    *steps, result = pipeline.generate(request, given=Given(picture, end))
    assert [item.length for item in steps] == [8, 8] and result.steps == 2
    *steps, result = pipeline.generate(replace(request, strength=0.5), given=Given(picture, end))
    assert [item.length for item in steps] == [8]
    assert list(pipeline.generate(request, lambda: True, Given(picture, beginning))) == []


def test_windows_bound_what_the_model_sees(pipeline, monkeypatch):
    monkeypatch.setattr(pipeline, "sampling", Sampling(window=8))
    request, seen = replace(REQUEST, frames=24, guidance=1.0), []
    handle = pipeline.lumiere.register_forward_pre_hook(lambda m, args: seen.append(args[0].shape[2]))
    long = last(pipeline, request).frames
    handle.remove()
    assert seen == [8] * len(seen) and len(seen) > 3 * 4 and long.shape == (24, 64, 64, 3)
    monkeypatch.setattr(pipeline, "sampling", Sampling(window=24))
    assert not np.array_equal(last(pipeline, request).frames, long)


def test_strength_says_how_far_a_clip_is_made_anew(pipeline, picture, monkeypatch):
    given = Given(picture, np.zeros((8, 64, 64), bool))
    request = replace(REQUEST, steps=10)
    plain = last(pipeline, request).frames.astype(int)
    assert np.abs(list(pipeline.generate(request, given=given))[-1].frames - plain).max() <= 1  # rounding
    latents, _ = pipeline.encode_given(given, whole=True)
    # Without velocity the noise of the beginning is still there at the end, and tells how much it was.
    monkeypatch.setattr(Denoiser, "_guided", lambda _, x, *__: torch.zeros_like(x))
    monkeypatch.setattr(pipeline, "decode", lambda sample: sample)
    distances = []
    for strength in (0.1, 0.5, 0.9):
        items = list(pipeline.generate(replace(request, strength=strength), given=given))
        steps = round(10 * strength)
        assert len(items) == steps + 1 and items[0].steps == items[-1].steps_done == steps
        assert not items[-1].stopped
        distances.append((items[-1].frames - latents).square().mean().sqrt().item())
    assert 0.1 < distances[0] < 0.5 * distances[1] < 0.45 * distances[2], distances


def test_strength_needs_a_clip(pipeline):
    with pytest.raises(ValueError, match="strength 0.5 needs a clip to begin with"):
        pipeline.generate(replace(REQUEST, strength=0.5))
