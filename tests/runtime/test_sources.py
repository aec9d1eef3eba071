"""From pictures, clips and drawn regions to given pixels."""

from dataclasses import replace

import numpy as np
import pytest

from lumiere import modes
from lumiere.request import MODES, Limits, Request
from lumiere.runtime.sources import Sources, prepare

LIMITS = Limits(default_height=64, default_width=64)
FORM = {"frames": 8, "height": 64, "width": 64}
PICTURE = np.broadcast_to(np.linspace(0, 255, 100).astype(np.uint8)[:, None, None], (100, 90, 3))
CLIP = np.stack([np.roll(PICTURE, 5 * n, 0) for n in range(14)])
REGION = np.zeros((30, 30, 3), np.uint8)
REGION[:, 15:] = 255
ALL = {"image": PICTURE, "last_image": PICTURE[::-1], "clip": CLIP, "region": REGION}


def prepared(mode, **changes):
    request = Request("a red ball", mode=mode, **(FORM | changes))
    return prepare(request, Sources(**{name: ALL[name] for name in modes.NEEDS[mode]}), LIMITS)


def test_every_mode_of_a_request_is_known():
    assert tuple(modes.NEEDS) == MODES


@pytest.mark.parametrize(
    "mode, whole",
    [("image", [0]), ("images", [0, 7]), ("cinemagraph", [0]), ("continue", [0, 1, 2, 3]), ("inpaint", [])],
)
def test_frames_that_are_given_whole(mode, whole):
    made = prepared(mode)
    assert made.given.frames.shape == (8, 64, 64, 3) and made.given.mask.shape == (8, 64, 64)
    assert np.flatnonzero(made.given.mask.all((1, 2))).tolist() == whole
    assert (made.before is not None) == (mode == "continue")


def test_drawn_regions_are_made_anew():
    for mode in ("inpaint", "cinemagraph"):
        mask = prepared(mode).given.mask
        assert mask[:, :, :32].all() and not mask[1:, :, 32:].any()


def test_text_gives_nothing():
    assert prepared("text").given is None


def test_a_clip_goes_on_behind_its_end():
    made = prepared("continue")
    assert len(made.before) == 10
    joined = np.concatenate([made.before, made.given.frames[:4]])
    assert np.array_equal(joined[::-1][:4], made.given.frames[:4][::-1])
    assert made.request.frames == 8


def test_a_clip_of_which_the_end_was_not_read_does_not_go_on():
    request, sources = Request("a red ball", mode="continue", **FORM), Sources(clip=ALL["clip"])
    size = request.height * request.width
    for enough in ({"max_frames": 14}, {"max_pixels": 14 * size // 4}):  # four times what is made
        assert len(prepare(request, sources, replace(LIMITS, **enough)).before) == 10
    for few in ({"max_frames": 13}, {"max_pixels": 13 * size // 4}):
        with pytest.raises(ValueError, match="must have at most 13 frames"):
            prepare(request, sources, replace(LIMITS, **few))


def test_a_clip_made_anew_is_as_long_as_it_was_at_most():
    assert prepared("video", frames=8).request.frames == 8
    made = prepared("video", frames=40, strength=0.5)
    assert made.request.frames == len(made.given.frames) == 12  # of 14, in steps of 4
    assert not made.given.mask.any()


@pytest.mark.parametrize("mode", [mode for mode in MODES if mode != "text"])
def test_what_is_missing_is_named(mode):
    for name in modes.NEEDS[mode]:
        has = {other: ALL[other] for other in modes.NEEDS[mode] if other != name}
        with pytest.raises(ValueError, match=f"mode {mode} needs {modes.WORDS[name]}"):
            prepare(Request("a ball", mode=mode, **FORM), Sources(**has), LIMITS)


@pytest.mark.parametrize("mode", ["image", "images", "continue"])
def test_a_single_frame_is_not_given_whole(mode):
    sources = Sources(**{name: ALL[name] for name in modes.NEEDS[mode]})
    with pytest.raises(ValueError, match=f"mode {mode} needs 2 frames or more"):
        prepare(Request("a ball", mode=mode, **FORM | {"frames": 1}), sources, LIMITS)


def test_what_has_no_use_is_refused():
    with pytest.raises(ValueError, match="mode text takes no picture"):
        prepare(Request("a ball", **FORM), Sources(image=PICTURE), LIMITS)
    with pytest.raises(ValueError, match="strength 0.5 needs a clip"):
        prepare(Request("a ball", strength=0.5, **FORM), Sources(), LIMITS)
    with pytest.raises(ValueError, match="region is empty"):
        sources = Sources(image=PICTURE, region=np.zeros_like(REGION))
        prepare(Request("a ball", mode="cinemagraph", **FORM), sources, LIMITS)
    with pytest.raises(ValueError, match="at least 4 frames: received 3"):
        prepare(Request("a ball", mode="video", **FORM), Sources(clip=CLIP[:3]), LIMITS)
