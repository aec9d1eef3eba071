"""What tells how a clip begins: what it learns, how it is kept, and what the pipeline makes of it."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from lumiere.assembly import take_turns
from lumiere.conditioning import Given
from lumiere.denoising import Denoising
from lumiere.drafts import LOOKS
from lumiere.loading import load_opener
from lumiere.opener import Opener
from lumiere.pipeline import LumierePipeline
from lumiere.request import Request

SMALL = {"versions": 2, "hidden": 16, "embedding": 8, "widths": (16, 16), "depths": (1, 1), "groups": 4}
REQUEST = Request("a red ball", frames=8, height=64, width=64, steps=10, seed=3, guidance=4.0)


@pytest.fixture
def opener(tiny_model) -> Opener:
    torch.manual_seed(0)
    width = LumierePipeline.from_pretrained(tiny_model, device="cpu").lumiere.config.cross_attention_dim
    opener = Opener(frames=8, text_width=width, **SMALL)
    torch.nn.init.normal_(opener.conv_out.weight, std=0.1)
    return opener.eval()


@pytest.fixture
def pipeline(tiny_model, opener) -> LumierePipeline:
    pipeline = LumierePipeline.from_pretrained(tiny_model, device="cpu")
    pipeline.growth, pipeline.opener = (8, 8), opener
    return pipeline


def drifting(count: int, generator: torch.Generator) -> tuple[torch.Tensor, torch.Tensor]:
    """Clips (n 2 5 8 8) of a bright row that moves a cell a frame, and texts (n 3 4) that tell half of them
    that it goes up; of the other half nobody knows."""
    start = torch.randint(8, (count,), generator=generator)
    told = torch.arange(count) % 2
    way = torch.where(told == 1, -1, 2 * torch.randint(2, (count,), generator=generator) - 1)
    rows = (start[:, None] + way[:, None] * torch.arange(5)) % 8  # n t
    clips = torch.nn.functional.one_hot(rows, 8).float()[:, None, :, :, None].repeat(1, 2, 1, 1, 8)
    return clips, told.float()[:, None, None].repeat(1, 3, 4)


def test_a_fresh_one_stays_as_the_still():
    still = torch.randn(2, 4, 1, 8, 6)
    versions, likely = Opener(frames=8, text_width=4, **SMALL)(still, torch.randn(2, 3, 4))
    assert versions.shape == (2, 2, 4, 8, 8, 6) and torch.equal(likely, torch.zeros(2, 2))
    assert (versions - still[:, None]).abs().max() < 0.2


@pytest.mark.slow
def test_it_learns_what_the_text_tells_and_has_a_version_for_each_way_that_is_left_open():
    generator = torch.Generator().manual_seed(0)
    torch.manual_seed(0)
    opener = Opener(channels=2, frames=4, text_width=4, **SMALL)
    optimizer = torch.optim.Adam(opener.parameters(), 3e-3)
    for _ in range(200):
        clip, text = drifting(32, generator)
        versions, likely = opener(clip[:, :, :1], text)
        errors, nearest = (versions - clip[:, None, :, 1:]).square().flatten(2).mean(2).min(1)
        loss = errors.mean() + 0.1 * torch.nn.functional.cross_entropy(likely, nearest)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    clip, text = drifting(64, generator)
    versions, likely = opener(clip[:, :, :1], text)
    rows, after = versions.mean((2, 5)).argmax(-1), clip[:, :, 1:].mean((1, 4)).argmax(-1)  # n k t, n t
    right = (rows == after[:, None]).all(2)
    assert right.any(1).float().mean() > 0.9
    told = text[:, 0, 0] == 1
    chosen = right.gather(1, likely.argmax(1, keepdim=True))[:, 0].float()
    assert chosen[told].mean() > 0.9 and 0.2 < chosen[~told].mean() < 0.8


def test_the_likeliest_version_is_taken(opener):
    still, text = torch.randn(1, 4, 1, 8, 8), torch.randn(1, 3, opener.config.text_width)
    for number in range(2):
        opener.likely.bias.data = torch.nn.functional.one_hot(torch.tensor(number), 2).float()
        assert torch.equal(opener.likeliest(still, text), opener(still, text)[0][:, number])


def test_it_is_kept_in_the_folder_of_a_model(opener, tmp_path):
    assert load_opener(tmp_path, torch.float32) is None
    opener.save_pretrained(tmp_path / "opener")
    again = load_opener(tmp_path, torch.float32)
    told = torch.randn(1, 4, 1, 8, 8), torch.randn(1, 3, opener.config.text_width)
    assert torch.equal(again(*told)[0], opener(*told)[0]) and not again.training
    (tmp_path / "opener" / "diffusion_pytorch_model.safetensors").write_bytes(b"no weights")
    with pytest.raises(OSError, match="cannot read the opener in"):
        load_opener(tmp_path, torch.float32)


@pytest.mark.slow
def test_a_clip_begins_as_what_is_told_of_a_still_of_the_base(pipeline, opener, monkeypatch):
    pipeline.drafts = 2
    began, begin, told, stills = [], Denoising._begin, [], []
    monkeypatch.setattr(Denoising, "_begin", lambda *args: began.append(args[1:]) or begin(*args))
    read = opener.rest.register_forward_hook(lambda module, given, made: told.append((given[0], made)))
    base = pipeline.lumiere.model.register_forward_pre_hook(
        lambda module, args, kwargs: stills.append((args[0], kwargs["encoder_hidden_states"])),
        with_kwargs=True,
    )
    *steps, result = pipeline.generate(REQUEST)
    read.remove(), base.remove()
    assert [(step.step, step.steps, step.length) for step in steps] == [(n, 3, 8) for n in range(1, 4)]
    assert [step.stills for step in steps] == [True, False, False]
    text = pipeline.encode_prompt(REQUEST)
    for draft in range(2):  # both texts at once, the prompt as the opener says it of what is at rest
        shown = stills[10 * draft : 10 * draft + 10]
        assert all(image.shape == (2, 4, 8, 8) for image, _ in shown)
        assert torch.equal(told[draft][0], text.states[1:])
        assert all(torch.equal(states[0], text.states[0]) for _, states in shown)
        assert all(torch.equal(states[1:], told[draft][1]) for _, states in shown)
    assert not torch.equal(began[0][3], began[1][3]), "each draft has a still of its own"
    assert [part.start for _, part, *_ in began] == [8, 8], "of 10 steps eight are above 200"
    assert np.array_equal(steps[0].preview(), pipeline.preview(began[0][3])), "it is seen how it will move"
    assert result.frames.shape == (8, 64, 64, 3) and not result.stopped


def test_the_base_comes_to_the_device_for_stills_where_parts_take_turns(pipeline, monkeypatch):
    take_turns([*pipeline.reader.encoders, pipeline.lumiere, pipeline.vae], pipeline.device)
    came, hook = [], pipeline.lumiere._hf_hook
    arrive = hook.pre_forward
    monkeypatch.setattr(hook, "pre_forward", lambda *a, **told: came.append("all") or arrive(*a, **told))
    seen = pipeline.lumiere.model.register_forward_pre_hook(lambda module, args: came.append("base"))
    list(pipeline.generate(REQUEST))
    seen.remove()
    assert came[:2] == ["all", "base"]


@pytest.mark.slow
def test_frames_shown_are_those_of_stills_too(pipeline):
    pipeline.drafts = 2
    shown = []
    hook = pipeline.lumiere.model.register_forward_pre_hook(lambda module, args: shown.append(len(args[0])))
    list(pipeline.generate(REQUEST))
    hook.remove()
    assert pipeline.frames_shown(REQUEST) == sum(shown) == 2 * 2 * 10 + 8 * (2 * 2 * 2 + 2 * LOOKS)


def test_stopped_while_stills_are_drawn_there_is_no_clip_and_after_them_what_is_told(pipeline):
    assert list(pipeline.generate(REQUEST, iter([False] * 5 + [True]).__next__)) == []
    *_, result = pipeline.generate(REQUEST, iter([False] * 10 + [True]).__next__)
    assert result.stopped and (result.steps_done, result.steps) == (1, 3)
    assert len(result.frames) == 8


def test_a_shorter_clip_is_the_beginning_of_what_is_told(pipeline, monkeypatch):
    began, begin = [], Denoising._begin
    monkeypatch.setattr(Denoising, "_begin", lambda *args: began.append(args[4]) or begin(*args))
    for frames in (4, 8):
        assert len(list(pipeline.generate(replace(REQUEST, frames=frames)))[-1].frames) == frames
    assert torch.equal(began[0], began[1][:, :, :4])


def test_a_clip_whose_first_frame_is_given_begins_as_what_is_told_of_that(pipeline, opener, monkeypatch):
    pipeline.drafts = 2
    began, begin, told = [], Denoising._begin, []
    monkeypatch.setattr(Denoising, "_begin", lambda *args: began.append(args[1:]) or begin(*args))
    hook = opener.register_forward_hook(lambda module, given, made: told.append((given, made)))
    frames = np.random.default_rng(0).integers(0, 255, (8, 64, 64, 3), np.uint8)
    given = Given(frames, np.zeros((8, 64, 64), bool))
    given.mask[0] = True
    *steps, result = pipeline.generate(REQUEST, given=given)
    hook.remove()
    assert [(step.step, step.steps) for step in steps] == [(n, 2) for n in range(1, 3)], "no still is drawn"
    first = pipeline.encode_given(given)[0][:, :, :1]
    for (_, _, _, begins_as, known), ((still, text), (versions, _)) in zip(began, told, strict=True):
        assert torch.equal(still, first) and torch.equal(text, pipeline.encode_prompt(REQUEST).states[1:])
        assert torch.equal(begins_as, torch.cat([first, versions[:, 0, :, :7]], dim=2))
        assert known[1][0].all() and torch.equal(known[0][:, :, :1], first)


def test_a_clip_of_which_something_else_is_given_begins_as_noise(pipeline, opener):
    given = Given(np.full((8, 64, 64, 3), 90, np.uint8), np.zeros((8, 64, 64), bool))
    given.mask[1] = True
    *_, with_it = pipeline.generate(REQUEST, given=given)
    pipeline.opener = None
    *_, without = pipeline.generate(REQUEST, given=given)
    assert np.array_equal(with_it.frames, without.frames)
