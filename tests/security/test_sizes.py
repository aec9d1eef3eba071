"""Row 10: sizes 7, 511, 16384; frames × height × width over budget."""

import pytest


@pytest.mark.parametrize("value", [7, 511, 16384, 0, -64, 128.0, "128", True, float("inf")])
@pytest.mark.parametrize("side", ["height", "width"])
def test_sides_that_do_not_fit_are_refused(stranger, work, side, value):
    told = stranger.refusal(**{side: value})
    assert told.startswith(f"{side.capitalize()} must be ")
    if value in (7, 511, 16384):
        near = {7: "64 and 96", 511: "480 and 512", 16384: "992 and 1024"}[value]
        assert told.endswith(f"{value} is not, the nearest are {near}.")
    assert not work.any


def test_the_limit_is_on_the_product(stranger, work):
    told = "Frames x height x width must be at most 8388608: "
    assert stranger.refusal(frames=12, height=1024, width=1024) == told + "12 x 1024 x 1024 is 12582912."
    assert stranger.refusal(frames=480, height=160, width=160) == told + "480 x 160 x 160 is 12288000."
    assert not work.any
    assert stranger.generate(frames=8, height=256, width=128, steps=1)[1][1]["height"] == 256
