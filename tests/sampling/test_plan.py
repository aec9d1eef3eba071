"""Which parts of a clip are denoised one after another."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

from lumiere.model.conditioning import Given
from lumiere.request import Request
from lumiere.sampling.plan import Part, Plan, segments
from lumiere.sampling.settings import Sampling

REQUEST = Request("a red ball", frames=32)
SAMPLING = Sampling(segment=16, context=4)


def given(*frames: int) -> Given:
    mask = np.zeros((32, 8, 8), bool)
    mask[list(frames)] = True
    return Given(np.zeros((32, 8, 8, 3), np.uint8), mask)


def plan(request, given, sampling, takes_cond):
    return Plan(request, given, sampling, SimpleNamespace(cond_channels=5 * takes_cond), {}).parts


@pytest.mark.parametrize("frames, length, context", [(80, 24, 8), (16, 24, 8), (24, 24, 8), (100, 16, 0)])
def test_segments_cover_the_clip_and_share_their_context(frames, length, context):
    found = segments(frames, length, context)
    assert found[0].start == 0 and found[-1].stop == frames
    assert {part.stop - part.start for part in found} == {min(length, frames)}
    shared = [a.stop - b.start for a, b in zip(found, found[1:], strict=False)]
    assert all(count == context for count in shared[:-1]) and all(count >= context for count in shared[-1:])


@pytest.mark.parametrize("context", [-1, 16])
def test_refuses_contexts_as_long_as_a_segment(context):
    with pytest.raises(ValueError, match="from 0 to 15 frames"):
        segments(80, 16, context)


def test_text_begins_with_a_still_if_the_base_draws_the_first_frame():
    drawn = replace(REQUEST, first_frame="base")
    still, *rest = plan(drawn, None, SAMPLING, takes_cond=True)
    assert still == Part(slice(0, 1), still=True)
    assert rest == [Part(slice(0, 16)), Part(slice(12, 28)), Part(slice(16, 32))]
    assert plan(REQUEST, None, SAMPLING, takes_cond=True) == rest
    assert plan(drawn, None, SAMPLING, takes_cond=False) == rest
    assert plan(drawn, given(0), SAMPLING, takes_cond=True) == rest


def test_what_is_known_from_the_start_is_denoised_at_once():
    whole = [Part(slice(0, 32))]
    assert plan(REQUEST, given(0, 31), SAMPLING, takes_cond=True) == whole
    assert plan(replace(REQUEST, strength=0.5), given(), SAMPLING, takes_cond=True) == whole
    assert plan(REQUEST, given(0), Sampling(), takes_cond=True) == whole
    region = given()
    region.mask[:, :4] = True
    assert len(plan(REQUEST, region, SAMPLING, takes_cond=True)) == 3


def test_short_clips_are_denoised_at_once():
    short = replace(REQUEST, frames=4)
    mask = np.ones((4, 8, 8), bool)
    both = Given(np.zeros((4, 8, 8, 3), np.uint8), mask)
    assert plan(short, both, SAMPLING, takes_cond=True) == [Part(slice(0, 4))]
