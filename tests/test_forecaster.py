"""What tells how a clip goes on: what it learns, how it is kept, and what the pipeline makes of it."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from lumiere.conditioning import Given
from lumiere.denoising import Denoising
from lumiere.forecaster import Forecaster, most_shown, with_what_stands_still
from lumiere.loading import load_forecaster
from lumiere.pipeline import LumierePipeline
from lumiere.request import Request

SMALL = {"embedding": 8, "widths": (16, 16), "depths": (1, 1), "groups": 4}
TEXT = torch.zeros(1, 3, 5)
REQUEST = Request("a red ball", frames=12, height=64, width=64, steps=10, seed=3, guidance=1.0)


@pytest.fixture
def width(tiny_model) -> int:
    """Of the text that the base is told."""
    return LumierePipeline.from_pretrained(tiny_model, device="cpu").lumiere.config.cross_attention_dim


@pytest.fixture
def forecaster(width) -> Forecaster:
    torch.manual_seed(0)
    forecaster = Forecaster(frames=4, text_width=width, **SMALL)
    torch.nn.init.normal_(forecaster.conv_out.weight, std=0.1)
    return forecaster.eval()


@pytest.fixture
def pipeline(tiny_model) -> LumierePipeline:
    pipeline = LumierePipeline.from_pretrained(tiny_model, device="cpu")
    pipeline.growth = (4, 4)
    return pipeline


def drifting(count: int, generator: torch.Generator) -> torch.Tensor:
    """Clips (n 2 8 8 8) of a bright row that moves by a cell a frame, up or down, and beyond the edge."""
    start = torch.randint(8, (count,), generator=generator)
    way = 2 * torch.randint(2, (count,), generator=generator) - 1
    rows = (start[:, None] + way[:, None] * torch.arange(8)) % 8  # n t
    clips = torch.zeros(count, 2, 8, 8, 8)
    clips[:] = torch.nn.functional.one_hot(rows, 8)[:, None, :, :, None]
    return clips


def test_a_fresh_one_tells_the_mean_of_what_was():
    clip = torch.randn(2, 4, 4, 8, 6)
    told = Forecaster(frames=4, text_width=5, **SMALL)(clip, torch.randn(2, 3, 5))
    assert torch.allclose(told, clip.mean(2, keepdim=True).expand_as(clip))


@pytest.mark.slow
def test_it_learns_where_a_thing_goes_and_that_it_comes_in_again_at_the_other_edge():
    generator = torch.Generator().manual_seed(0)
    torch.manual_seed(0)
    forecaster = Forecaster(channels=2, frames=4, text_width=5, **SMALL)
    optimizer = torch.optim.Adam(forecaster.parameters(), 3e-3)
    for _ in range(150):
        clip = drifting(16, generator)
        error = (forecaster(clip[:, :, :4], TEXT.expand(16, -1, -1)) - clip[:, :, 4:]).square().mean()
        optimizer.zero_grad()
        error.backward()
        optimizer.step()
    clip = drifting(64, generator)
    before, after = clip[:, :, :4], clip[:, :, 4:]
    told = forecaster(before, TEXT.expand(64, -1, -1))
    assert (told.mean((1, 4)).argmax(-1) == after.mean((1, 4)).argmax(-1)).float().mean() > 0.95
    assert (told - after).square().mean() < 0.2 * (before.mean(2, keepdim=True) - after).square().mean()


@pytest.mark.slow
def test_it_learns_what_only_the_text_tells():
    generator = torch.Generator().manual_seed(0)
    torch.manual_seed(0)
    forecaster = Forecaster(channels=2, frames=4, text_width=5, **SMALL)
    optimizer = torch.optim.Adam(forecaster.parameters(), 3e-3)

    def hidden(count):
        """Clips of which all frames seen are the same, and texts (n 3 5) that tell which way they go."""
        clip = drifting(count, generator)
        up = clip[:, 0, 1].mean(-1).argmax(-1) == (clip[:, 0, 0].mean(-1).argmax(-1) - 1) % 8
        return clip, up.float()[:, None, None].expand(-1, 3, 5)

    for _ in range(150):
        clip, text = hidden(16)
        error = (forecaster(clip[:, :, 3:4].expand(-1, -1, 4, -1, -1), text) - clip[:, :, 4:]).square().mean()
        optimizer.zero_grad()
        error.backward()
        optimizer.step()
    clip, text = hidden(64)
    told = forecaster(clip[:, :, 3:4].expand(-1, -1, 4, -1, -1), text)
    assert (told.mean((1, 4)).argmax(-1) == clip[:, :, 4:].mean((1, 4)).argmax(-1)).float().mean() > 0.95


def test_other_numbers_of_frames_are_refused(forecaster, width):
    with pytest.raises(ValueError, match="told from 4; received 3"):
        forecaster(torch.zeros(1, 4, 3, 8, 8), torch.zeros(1, 3, width))


def test_it_is_kept_in_the_folder_of_a_model(forecaster, width, tmp_path):
    assert load_forecaster(tmp_path, torch.float32) is None
    forecaster.save_pretrained(tmp_path / "forecaster")
    again = load_forecaster(tmp_path, torch.float32)
    told = torch.randn(1, 4, 4, 8, 8), torch.randn(1, 3, width)
    assert torch.equal(again(*told), forecaster(*told)) and not again.training
    (tmp_path / "forecaster" / "diffusion_pytorch_model.safetensors").write_bytes(b"no weights")
    with pytest.raises(OSError, match="cannot read the forecaster in"):
        load_forecaster(tmp_path, torch.float32)


@pytest.mark.slow
def test_a_part_that_goes_on_begins_as_its_forecast(pipeline, forecaster, monkeypatch):
    plain = list(pipeline.generate(REQUEST))[-1]
    pipeline.forecaster = forecaster
    monkeypatch.setattr("lumiere.forecaster.AGAIN", 2)
    began, begin = [], Denoising._begin
    monkeypatch.setattr(Denoising, "_begin", lambda *told: began.append(told[1:]) or begin(*told))
    seen = []
    handle = forecaster.register_forward_hook(lambda module, given, told: seen.append((*given, told)))
    *steps, result = pipeline.generate(REQUEST)
    handle.remove()
    assert [part.start for _, part, *_ in began] == [0, 4, 4], "of 7 steps four are above 500"
    assert began[0][3] is None and result.steps == len(steps) == 10 + 3 + 3
    for (*_, begins_as, _), (before, text, told) in zip(began[1:], seen, strict=True):
        assert torch.equal(begins_as, torch.cat([before, told], dim=2))
        assert torch.equal(text, pipeline.encode_prompt(REQUEST).states)
    for _, _, _, begins_as, known in began[1:]:
        assert torch.equal(known[0][:, :, :2], begins_as[:, :, :2])
        assert known[1][:2].all() and not known[1][2:].any(), "the last two are made again"
    assert np.array_equal(result.frames[:2], plain.frames[:2])
    assert not any(map(np.array_equal, result.frames[2:], plain.frames[2:]))
    assert pipeline.frames_shown(REQUEST) == 4 * 10 + 2 * 8 * 3
    short = list(pipeline.generate(replace(REQUEST, steps=1)))[-1]
    assert short.steps == 3, "a part has a step at least"


@pytest.mark.slow
def test_a_part_begins_as_noise_where_too_little_is_seen_or_told(pipeline, forecaster, width):
    pipeline.forecaster = forecaster
    pipeline.growth = (8, 8)
    assert list(pipeline.generate(replace(REQUEST, frames=16)))[-1].steps == 10 + 7, "it tells 4 of 8"
    pipeline.growth, pipeline.forecaster = (4, 4), Forecaster(frames=8, text_width=width, **SMALL)
    assert list(pipeline.generate(REQUEST))[-1].steps == 10 + 7 + 3, "it sees 4 of 8 at first"


def test_what_stands_still_in_a_forecast_is_given_but_not_next_to_what_moves():
    generator = torch.Generator().manual_seed(0)
    ground = torch.randn(1, 4, 1, 6, 8, generator=generator)
    told = ground + 0.01 * torch.randn(1, 4, 4, 6, 8, generator=generator)
    told[:, 0, 1:, 2, 1] += torch.tensor([0.5, 1.0, 0.5])
    moves = torch.zeros(4, 6, 8, dtype=torch.bool)
    moves[1:, 1:4, 0:3] = True
    latents, given = with_what_stands_still(told, None, ground)
    assert torch.equal(given, ~moves), "in each frame, where it is told to be as it was"
    assert torch.equal(latents, ground.expand_as(told)), "it stays as it was"
    known, mask = torch.zeros_like(told), torch.zeros(4, 6, 8, dtype=torch.bool)
    mask[3], known[:, :, 3] = True, 7.0
    latents, given = with_what_stands_still(told, (known, mask), ground)
    assert torch.equal(given[:3], ~moves[:3]) and given[3].all()
    assert torch.equal(latents[:, :, 3], known[:, :, 3])


def test_what_a_thing_uncovers_is_what_was_there_before_it_came():
    generator = torch.Generator().manual_seed(0)
    ground = torch.randn(1, 4, 1, 8, 24, generator=generator)
    clip = ground.repeat(1, 1, 24, 1, 1)
    for frame in range(24):
        clip[:, :, frame, 3:5, frame] += 2.0  # a place further in each frame
    before, told = clip[:, :, :20], clip[:, :, 20:]
    assert torch.equal(most_shown(before), ground)
    latents, given = with_what_stands_still(told, None, before)
    assert torch.equal(latents, ground.expand_as(told))
    assert given[0, :, 18].all() and not given[0, 3:5, 20].any()
    assert given.float().mean() > 0.9


def test_what_stands_still_stays_as_it_was(pipeline, width):
    pipeline.forecaster = Forecaster(frames=4, text_width=width, **SMALL)  # tells the mean
    frames = np.full((8, 64, 64, 3), 90, np.uint8)
    given = Given(frames, np.zeros((8, 64, 64), bool))
    given.mask[:4] = True
    *_, result = pipeline.generate(replace(REQUEST, frames=8), given=given)
    assert np.abs(result.frames[4:].astype(int) - result.frames[0]).max() <= 1


def test_a_clip_that_is_continued_is_forecast_from_what_is_given(pipeline, forecaster):
    pipeline.forecaster = forecaster
    frames = np.random.default_rng(0).integers(0, 255, (8, 64, 64, 3), np.uint8)
    given = Given(frames, np.zeros((8, 64, 64), bool))
    given.mask[:4] = True
    seen = []
    handle = forecaster.register_forward_pre_hook(lambda module, told: seen.append(told[0]))
    *steps, _ = pipeline.generate(replace(REQUEST, frames=8), given=given)
    handle.remove()
    assert len(steps) == 3
    assert torch.equal(seen[0], pipeline.encode_given(given)[0][:, :, :4])
