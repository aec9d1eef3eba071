"""Row 9: frames not divisible by the downsample factor, 0, 100 000."""

import pytest


@pytest.mark.parametrize(
    "value, near", [(18, (16, 20)), (5, (4, 8)), (0, (4, 8)), (100_000, (476, 480)), (481, (476, 480))]
)
def test_frames_that_do_not_divide_are_refused_with_the_two_nearest(stranger, work, value, near):
    told = stranger.refusal(frames=value)
    assert told.endswith(f"divisible by 4: {value} is not, the nearest are {near[0]} and {near[1]}.")
    assert stranger.make(frames=value)["text"] == told
    assert not work.any


@pytest.mark.parametrize("value", [-4, 8.0, 16.5, "16", True, float("nan"), 10**30, [16]])
def test_frames_are_a_whole_number(stranger, work, value):
    told = stranger.refusal(frames=value)
    assert told.startswith("Frames must be a whole number from 0 to 1000000: received ")
    assert stranger.make(frames=value)["text"] == told
    assert not work.any
