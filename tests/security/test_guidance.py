"""Row 8: guidance NaN, inf, -5, 1e6."""

import math

import pytest


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, -5, 1e6, 30.01, True, "4", [4], 10**400])
def test_guidance_is_finite_and_in_range(stranger, work, value):
    told = stranger.refusal(guidance=value)
    assert told.startswith("Guidance must be a number from 0 to 30: received ")
    assert stranger.make(guidance=value)["text"] == told
    assert not work.any


@pytest.mark.parametrize("value", [0, 1, 7.25, 30])
def test_guidance_in_range_is_taken(stranger, value):
    outcome, (_, settings) = stranger.generate(guidance=value)
    assert outcome == "complete" and settings["guidance"] == value
