"""What is measured of clips: right for real ones, and wrong as soon as a clip is spoilt."""

from dataclasses import replace

import numpy as np
import pytest

from lumiere.paperworld.evaluate.measures import (
    MOST,
    box_around,
    changes,
    digest,
    flicker,
    inside_and_outside,
    moving_region,
    preview_psnr,
    psnr,
    seam_ratio,
    wilson,
)
from lumiere.paperworld.world.scene import MOTIONS, render, sample_scene


def scene(motion, seed=0):
    rng = np.random.default_rng(seed)
    while True:
        drawn = sample_scene(rng)
        if drawn.motion == motion:
            return drawn


def noisy(frames, levels, where=True):
    noise = np.random.default_rng(0).normal(0, levels, frames.shape) * np.asarray(where)[..., None]
    return np.clip(frames + noise, 0, 255).round().astype(np.uint8)


def test_changes_are_levels_per_frame_and_do_not_wrap_around():
    clip = np.zeros((3, 2, 2, 3), np.uint8)
    clip[1, 0, 0], clip[2] = (30, 60, 0), 255
    assert changes(clip).shape == (2, 2, 2)
    assert changes(clip)[0, 0, 0] == 30 and changes(clip)[0, 1, 1] == 0
    assert changes(clip)[1, 1, 1] == 255 and changes(clip)[1, 0, 0] == pytest.approx(225)


def test_psnr_is_that_of_the_noise():
    picture = np.full((128, 128, 3), 128, np.uint8)
    assert psnr(picture, picture) == MOST
    assert psnr(noisy(picture, 8), picture) == pytest.approx(20 * np.log10(255 / 8), abs=0.1)


def test_a_jump_at_the_seams_is_seen_and_one_elsewhere_is_not():
    clip = render(scene("right"), 96)[0]
    seams = [24, 48]
    assert seam_ratio(clip, seams) == pytest.approx(1, abs=0.1)
    spoilt = np.concatenate([clip[:24], noisy(clip[24:48], 0) // 2 + 40, clip[48:]])
    assert seam_ratio(spoilt, seams) > 3
    assert seam_ratio(spoilt, [12, 60]) < 1


def test_the_moving_region_holds_all_that_changes_and_leaves_the_rest():
    for motion in MOTIONS:
        clip = render(scene(motion), 32)[0]
        moving = moving_region(clip)
        assert not changes(clip)[:, ~moving].max() > 8, motion
        assert moving.mean() < 0.85, motion
        assert moving.any() == (motion != "still")
    cells = moving_region(render(scene("spinning"), 32)[0]).reshape(16, 8, 16, 8)
    assert (cells.min((1, 3)) == cells.max((1, 3))).all(), "a latent is given whole or not at all"


def test_change_inside_and_outside():
    clip = render(scene("spinning"), 32)[0]
    moving = moving_region(clip)
    inside, outside = inside_and_outside(clip, moving)
    assert inside > 1 and outside < 0.01 * inside
    inside, outside = inside_and_outside(noisy(clip, 4, ~moving), moving)
    assert outside > 0.5 * inside


@pytest.mark.parametrize("motion", ["still", "rising", "pulsing", "circling"])
def test_flicker_is_of_the_background_alone(motion):
    clip = render(scene(motion), 16)[0]
    assert flicker(clip) == 0, "the subject and its marks do not count"
    assert flicker(noisy(clip, 2)) == pytest.approx(2 * 2 / np.sqrt(np.pi), rel=0.1)


def test_a_subject_that_is_everywhere_leaves_no_background():
    places = [(x, y) for x in (20, 50, 80, 110) for y in (20, 50, 80, 110)]
    everywhere = [render(replace(scene("still"), x=x, y=y), 1)[0] for x, y in places]
    assert flicker(np.concatenate(everywhere)) is None


@pytest.mark.parametrize(
    "right, count, low, high",
    [
        (8, 10, 0.490, 0.943),
        (0, 10, 0.0, 0.278),
        (10, 10, 0.722, 1.0),
        (282, 300, 0.907, 0.962),
        (1, 2, 0.095, 0.905),
    ],
)
def test_wilson_interval(right, count, low, high):
    assert wilson(right, count) == pytest.approx((low, high), abs=6e-4)


def test_preview_is_compared_at_its_size():
    clip = render(scene("circling"), 80)[0]
    shown = clip[[int(i * 80 / 24) for i in range(24)]]
    halved = shown.reshape(24, 64, 2, 64, 2, 3).mean((2, 4)).round().astype(np.uint8)
    assert preview_psnr(shown, clip) == MOST and preview_psnr(halved, clip) > 50
    assert preview_psnr(halved[::-1], clip) < 25 and preview_psnr(noisy(halved, 8), clip) == pytest.approx(
        30, abs=1
    )


def test_box_holds_the_whole_way():
    for motion in MOTIONS:
        covered = render(scene(motion), 16)[1]
        box = box_around(covered)
        assert not covered[:, ~box].any() and 0.1 < box.mean() < 0.9
        rows, columns = np.flatnonzero(box.any(1)), np.flatnonzero(box.any(0))
        assert box.sum() == len(rows) * len(columns) and len(rows) % 8 == len(columns) % 8 == 0


def test_digest_is_mean_colours_of_cells_and_frames():
    clip = np.zeros((16, 64, 32, 3), np.uint8)
    clip[0, :8, :4], clip[-1, 56:, 28:, 1] = 200, 90
    found = np.array(digest(clip)).reshape(4, 8, 8, 3)
    assert found[0, 0, 0].tolist() == [200] * 3 and found[3, 7, 7].tolist() == [0, 90, 0]
    assert found.sum() == 690
