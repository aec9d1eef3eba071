"""How clips are divided into turns, without a model."""

from dataclasses import replace

import numpy as np

from lumiere import forecaster
from lumiere.conditioning import Given
from lumiere.request import Request
from lumiere.turns import Beginning, Planner

REQUEST = Request("a red ball", frames=48, height=64, width=64, steps=10, scheduler="euler")
CONFIG = {"num_train_timesteps": 1000, "timestep_spacing": "leading", "steps_offset": 1}
PLANNER = Planner(CONFIG, growth=(16, 16), guided_above=0.6, revisions=1, drafts=3, foretold=16)


def given(frames: int, *those: int) -> Given:
    mask = np.zeros((frames, 64, 64), bool)
    mask[list(those)] = True
    return Given(np.zeros((frames, 64, 64, 3), np.uint8), mask)


def told(planner: Planner, request: Request = REQUEST, given: Given | None = None) -> list[tuple]:
    return [
        (turn.window, turn.request.steps, turn.passes, turn.drafts, turn.guided_down_to, turn.beginning)
        for turn in planner.turns(request, given)[1]
    ]


def test_what_begins_as_noise_is_drafted_and_revised_and_what_goes_on_begins_as_a_forecast():
    first = (slice(0, 16), 10, [slice(0, 5), slice(1, 10)], 3, 600.0, Beginning.NOISE)
    later = (7, [slice(3, 7)], 1, 800.0, Beginning.FORECAST)
    assert told(PLANNER) == [first, (slice(0, 32), *later), (slice(16, 48), *later)]


def test_where_fewer_frames_are_seen_than_are_made_again_there_is_no_forecast():
    for before, beginning in ((3, Beginning.NOISE), (4, Beginning.FORECAST)):
        assert forecaster.AGAIN == 4
        made = told(replace(PLANNER, growth=(16, before)))
        assert [turn[-1] for turn in made] == [Beginning.NOISE, beginning, beginning]


def test_without_a_forecaster_it_begins_as_noise_and_is_not_revised():
    later = (7, [slice(0, 7)], 1, 800.0, Beginning.NOISE)
    assert told(replace(PLANNER, foretold=0))[1:] == [(slice(0, 32), *later), (slice(16, 48), *later)]


def test_a_clip_that_goes_on_from_given_frames_has_no_first_turn():
    begun, turns = PLANNER.turns(REQUEST, given(48, *range(20)))
    assert begun == 16 and [turn.window for turn in turns] == [slice(0, 32), slice(16, 48)]
    assert all(turn.beginning is Beginning.FORECAST and turn.drafts == 1 for turn in turns)


def test_an_opening_begins_with_stills_and_is_drafted_but_not_revised():
    planner = replace(PLANNER, opened=16)
    first, *later = planner.turns(REQUEST, None)[1]
    assert (first.beginning, first.passes, first.drafts) == (Beginning.FROM_STILL, [slice(8, 10)], 3)
    assert first.steps == 1 + 2, "the stills count as a step"
    assert [turn.beginning for turn in later] == [Beginning.FORECAST] * 2
    assert planner.turns(REQUEST, given(48)) == planner.turns(REQUEST, None), "nothing of it is given"


def test_an_opening_begins_with_the_first_frame_where_that_alone_is_given():
    planner = replace(PLANNER, opened=16)
    (first, *later), (drawn, *same) = (planner.turns(REQUEST, x)[1] for x in (given(48, 0), None))
    assert first == replace(drawn, beginning=Beginning.FROM_FIRST) and later == same
    assert first.steps == 2 and (first.again, later[0].again) == (0, forecaster.AGAIN)


def test_no_opening_where_more_is_given_or_more_is_made_than_it_tells():
    planner = replace(PLANNER, opened=16)
    for those in ((1,), (0, 1)):
        assert told(planner, given=given(48, *those)) == told(PLANNER, given=given(48, *those))
    some = given(48, 0)
    some.mask[0, 0, 0] = False
    assert told(planner, given=some) == told(PLANNER, given=some)
    assert told(planner, replace(REQUEST, strength=0.4), given(48)) == told(
        PLANNER, replace(REQUEST, strength=0.4), given(48)
    )
    assert told(replace(planner, opened=12)) == told(PLANNER)
    assert told(replace(planner, growth=None)) == told(replace(PLANNER, growth=None))


def test_a_clip_that_knows_its_end_is_made_at_once():
    whole = [(slice(0, 48), 10, [slice(0, 5), slice(1, 10)], 3, 600.0, Beginning.NOISE)]
    assert told(PLANNER, given=given(48, 47)) == whole == told(replace(PLANNER, growth=None))


def test_a_clip_that_begins_as_another_runs_the_last_steps_once():
    request = replace(REQUEST, strength=0.4)
    whole = [(slice(0, 48), 10, [slice(6, 10)], 1, 0.0, Beginning.GIVEN)]
    assert told(PLANNER, request, given(48, 0)) == whole
