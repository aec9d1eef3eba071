"""Row 7: steps 0, -1, 1e9, 7.3, true, "10", null, NaN."""

import pytest

NAN, INF = float("nan"), float("inf")
REFUSED = [
    (0, "0"),
    (-1, "-1"),
    (151, "151"),
    (10**9, "1000000000"),
    (10**400, "a number of about 401 digits"),
    (7.3, "7.3"),
    (20.0, "20.0"),
    (True, "true"),
    ("10", "text of length 2"),
    ("", "text of length 0"),
    (NAN, "nan"),
    (INF, "inf"),
    ([5], "a list of length 1"),
    ({}, "an object of length 0"),
]


@pytest.mark.parametrize("value, received", REFUSED)
def test_steps_are_a_whole_number_in_range(stranger, work, value, received):
    told = f"Steps must be a whole number from 1 to 150: received {received}."
    assert stranger.refusal(steps=value) == told
    page = stranger.make(steps=value)
    assert page["state"] == "refused" and page["text"] == told
    assert not work.any


def test_steps_in_range_are_done_and_none_are_those_of_the_model(stranger, work):
    for steps in (1, 3, None):
        work.unet = 0
        outcome, (_, settings) = stranger.generate(steps=steps)
        assert outcome == "complete" and work.unet == settings["steps"] == (steps or 20)
