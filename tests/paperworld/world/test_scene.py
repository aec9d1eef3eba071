"""The paper world's scenes: stationary, of any length, decided by the seed, and true to the held-out list."""

import dataclasses

import numpy as np
import pytest

from lumiere.paperworld.world.backgrounds import PALETTES
from lumiere.paperworld.world.scene import (
    COLOURS,
    DRIFT,
    DRIFT_SPEED,
    HELD_OUT,
    MOTIONS,
    PERIODS,
    SIZE,
    SPEEDS,
    Scene,
    begin_at_rest,
    choose_held_out,
    motion_state,
    render,
    sample_scene,
)
from lumiere.paperworld.world.shapes import SUBJECTS


def scene(motion, speed="fast", subject="fish", **changes):
    values = {"x": 66.0, "y": 64.0, "radius": 21.0, "phase": 0.3, "seed": 5} | changes
    return Scene("red", subject, "hills", motion, speed, **values)


@pytest.mark.parametrize("motion", MOTIONS)
def test_a_later_start_gives_the_same_clip_shifted(motion):
    clip, covered = render(scene(motion), 7)
    later, later_covered = render(scene(motion), 3, start=4)
    assert np.array_equal(later, clip[4:])
    assert np.array_equal(later_covered, covered[4:])


@pytest.mark.parametrize("speed", SPEEDS)
@pytest.mark.parametrize("motion", [motion for motion in MOTIONS if motion != "still"])
def test_motions_return_to_where_they_were(motion, speed):
    one = scene(motion, speed)
    cycle = round(SIZE / DRIFT_SPEED[speed]) if motion in DRIFT else PERIODS[motion][speed]
    first, middle, again = (render(one, 1, start)[0].astype(int) for start in (3, 3 + cycle // 2, 3 + cycle))
    assert np.abs(first - again).max() <= 1
    assert np.abs(first - middle).max() > 50


@pytest.mark.parametrize("frames", [1, 5, 18])
def test_any_number_of_frames(frames):
    clip, covered = render(scene("circling"), frames, start=10**5)
    assert clip.shape == (frames, SIZE, SIZE, 3) and clip.dtype == np.uint8
    assert covered.shape == (frames, SIZE, SIZE)


def test_still_scenes_stand_still():
    clip, _ = render(scene("still"), 3)
    assert np.array_equal(clip[0], clip[1]) and np.array_equal(clip[0], clip[2])


def test_held_out_combinations_are_drawn_exactly_when_asked_for():
    rng = np.random.default_rng(0)
    assert not any(sample_scene(rng).combination in HELD_OUT for _ in range(2000))
    assert all(sample_scene(rng, held_out=True).combination in HELD_OUT for _ in range(100))


def test_held_out_list_is_the_chosen_tenth():
    assert sorted(HELD_OUT) == choose_held_out()
    assert 0.08 < len(HELD_OUT) / (len(COLOURS) * len(SUBJECTS) * len(MOTIONS)) < 0.11
    assert len({sum(c[2] == motion for c in HELD_OUT) for motion in MOTIONS}) == 1


def test_the_seed_decides_everything():
    first, again, other = (sample_scene(np.random.default_rng(seed)) for seed in (3, 3, 4))
    assert first == again != other
    assert np.array_equal(render(first, 2)[0], render(again, 2)[0])
    moved = dataclasses.replace(first, seed=first.seed + 1)
    assert not np.array_equal(render(first, 1)[0], render(moved, 1)[0])


def test_samples_show_everything_the_world_has():
    rng = np.random.default_rng(1)
    scenes = [sample_scene(rng) for _ in range(400)]
    for attribute, values in (
        ("colour", COLOURS),
        ("subject", SUBJECTS),
        ("background", PALETTES),
        ("motion", MOTIONS),
        ("speed", SPEEDS),
    ):
        assert {getattr(s, attribute) for s in scenes} == set(values)


def test_what_does_not_drift_stays_in_the_picture():
    rng = np.random.default_rng(2)
    for one in (sample_scene(rng) for _ in range(300)):
        x, y, _, wide, tall = motion_state(one, 32)
        if one.motion not in DRIFT:
            assert min((x - one.radius * wide).min(), (y - one.radius * tall).min()) > 0
            assert max((x + one.radius * wide).max(), (y + one.radius * tall).max()) < SIZE


@pytest.mark.parametrize("subject", SUBJECTS)
def test_loss_weights_cover_the_subject(subject):
    clip, covered = render(scene("right", subject=subject, phase=0.45), 3)  # crosses the edge of the frame
    coloured = np.linalg.norm(clip - np.array(COLOURS["red"], np.float32), axis=-1) < 30
    assert coloured.sum() > 3 * 250
    assert (covered[coloured] == 1).all()
    assert covered.min() == 0 and 0.03 < covered.mean() < 0.3


@pytest.mark.parametrize("motion", ["left", "rising", "bouncing", "circling", "spinning", "pulsing"])
def test_loss_weights_cover_the_marks(motion):
    alone = render(scene("still", phase=0), 1)[1].sum()
    with_marks = render(scene(motion, phase=0), 1)[1].sum()
    assert with_marks > alone + 50


@pytest.mark.parametrize("motion", MOTIONS)
def test_what_begins_at_rest_moves_from_there_and_stays_in_the_picture(motion):
    rng, tops = np.random.default_rng(0), []
    for _ in range(50):
        asked = sample_scene(rng, motions=[motion])
        still, moving = begin_at_rest(asked, rng)
        assert still == dataclasses.replace(asked, motion="still", x=still.x, y=still.y, phase=0.0)
        x, y, angle, wide, tall = motion_state(moving, 64)
        assert np.hypot(x[0] - still.x, y[0] - still.y) < (6.5 if motion == "bouncing" else 1e-6)  # squashed
        assert angle[0] == 0 and max(abs(wide[0] - 1), abs(tall[0] - 1)) < 0.25
        if motion not in DRIFT:
            assert min(x.min(), y.min()) >= asked.radius and max(x.max(), y.max()) <= SIZE - asked.radius + 7
        tops.append(moving.phase == 0.5)
    assert (0 < sum(tops) < 50) == (motion == "bouncing"), "from the ground or from the top"
