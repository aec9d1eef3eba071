"""The judge: right on real clips, clean or degraded, and not fooled by frozen or shuffled ones."""

import argparse

import numpy as np
import pytest

from lumiere.media.video import write_clip
from lumiere.paperworld.judge.judge import (
    DEGRADATIONS,
    JUDGED,
    Verdict,
    accuracy,
    add_judge_arguments,
    caption_truth,
    chance,
    frozen,
    judge,
    run_judge,
    score,
    shuffled,
)
from lumiere.paperworld.world.backgrounds import PALETTES, background
from lumiere.paperworld.world.captions import caption_with_truth
from lumiere.paperworld.world.scene import (
    BOUNCE,
    COLOURS,
    DRIFT,
    MOTIONS,
    ORBIT,
    PERIODS,
    PULSE,
    SPEEDS,
    Scene,
    render,
    sample_scene,
)
from lumiere.paperworld.world.shapes import SUBJECTS
from lumiere.request import Request


def scene(index):
    """Nine scenes (index 0 to 8) show every motion, and among them every subject, colour and background."""
    names = [list(table) for table in (COLOURS, SUBJECTS, PALETTES, MOTIONS, SPEEDS)]
    # Strides keep the attributes apart; pairs such as black at night and yellow in the desert are among them.
    picked = [
        values[(stride * index) % len(values)] for values, stride in zip(names, (3, 1, 2, 1, 1), strict=True)
    ]
    return Scene(*picked, x=60.0 + index, y=66.0, radius=20.0 + index / 2, phase=index / 9, seed=index)


@pytest.fixture(scope="module")
def clips():
    """(truth, frames, verdict) of the nine scenes, 16 frames each."""
    clips = [(scene(index), render(scene(index), 16)[0]) for index in range(len(MOTIONS))]
    return [(truth, frames, judge(frames)) for truth, frames in clips]


def test_real_clips_are_judged_right(clips):
    verdicts = [(truth, verdict) for truth, _, verdict in clips]
    assert all(all(score(truth, verdict).values()) for truth, verdict in verdicts), verdicts
    assert chance(verdicts)["all"] == 0
    assert chance(verdicts)["motion"] == 0  # every one of the nine has its own


@pytest.mark.parametrize("name", DEGRADATIONS)
def test_degraded_clips_are_judged_right(clips, name):
    for truth, frames, _ in clips[list(DEGRADATIONS).index(name) % 3 :: 3]:
        right = score(truth, judge(DEGRADATIONS[name](frames, np.random.default_rng(0))))
        assert right["all"], (truth, right)


def test_numbers_are_those_of_the_scene(clips):
    for truth, _, verdict in clips:
        assert verdict.radius == pytest.approx(truth.radius, rel=0.08)
        assert verdict.agreement > 0.85 and verdict.explained > 0.9 and verdict.distance < 16
        if truth.motion in DRIFT:
            speed = {"slow": 2, "fast": 4}[truth.speed]
            assert verdict.velocity == pytest.approx([speed * d for d in DRIFT[truth.motion]], abs=0.1)
        elif truth.motion != "still":
            assert verdict.period == pytest.approx(PERIODS[truth.motion][truth.speed], rel=0.25)
        amplitudes = {"circling": ORBIT, "bouncing": BOUNCE, "pulsing": PULSE * truth.radius}
        if truth.motion in amplitudes:
            assert verdict.amplitude == pytest.approx(amplitudes[truth.motion], rel=0.25)


def test_backwards_in_time_a_drift_or_turn_is_its_opposite(clips):
    opposite = {"left": "right", "right": "left", "rising": "falling", "falling": "rising"}
    for truth, frames, forwards in clips:
        backwards = judge(frames[::-1])
        assert backwards.motion == opposite.get(truth.motion, truth.motion)
        assert backwards.turning == pytest.approx(-forwards.turning, rel=0.1)
        assert (forwards.turning > 0) == (truth.motion in ("circling", "spinning"))


@pytest.mark.parametrize("index, frames", [(1, 72), (5, 33), (7, 24)])
def test_longer_clips(index, frames):
    assert all(score(scene(index), judge(render(scene(index), frames)[0])).values())


def test_frozen_clips_stand_still(clips):
    for truth, frames, _ in clips[1::2]:
        verdict = judge(frozen(frames))
        assert verdict.motion == "still" and verdict.speed is None
        assert all(score(truth, verdict)[name] for name in ("colour", "background"))


def test_shuffled_frames_do_not_move_as_asked(clips):
    rng = np.random.default_rng(0)
    for truth, frames, _ in clips:
        right = score(truth, judge(shuffled(frames, rng)))
        assert right["motion"] == (truth.motion == "still")
        assert right["colour"] and right["subject"] and right["background"]


@pytest.mark.parametrize("kind", PALETTES)
def test_an_empty_landscape_has_no_subject(kind):
    picture = background(kind, np.random.default_rng(1)).round().astype(np.uint8)
    verdict = judge(np.repeat(picture[None], 8, 0))
    assert verdict.background == kind
    assert verdict.colour is verdict.subject is verdict.motion is verdict.speed is None


@pytest.mark.parametrize(
    "frames",
    [np.zeros((16, 64, 64, 3), np.uint8), np.zeros((7, 128, 128, 3), np.uint8), np.zeros((8, 128, 128, 3))],
)
def test_clips_that_cannot_be_judged_are_refused(frames):
    with pytest.raises(ValueError, match="received"):
        judge(frames)


def test_score_counts_only_what_is_asked():
    verdict = Verdict("red", "ball", "sea", "left", "slow")
    assert score({"colour": "red", "subject": None, "motion": "left"}, verdict) == {
        "colour": True,
        "motion": True,
        "all": True,
    }
    asked = {"colour": "red", "subject": "star", "background": "sea", "motion": "left", "speed": "fast"}
    assert score(asked, verdict) == dict(asked, colour=True, subject=False, background=True, motion=True) | {
        "all": False,
        "speed": False,
    }
    assert score({}, verdict) == {}
    assert "speed" not in score({"motion": "still", "speed": "slow"}, verdict)


def test_accuracy_is_a_share_of_those_that_ask():
    red, blue = (Verdict(colour, "ball", "sea", "left", None) for colour in ("red", "blue"))
    table = accuracy([({"colour": "red"}, red), ({"colour": "red"}, blue), ({"subject": "ball"}, blue)])
    assert table == {"colour": 0.5, "subject": 1.0, "all": 2 / 3}


def test_captions_are_read_back():
    rng = np.random.default_rng(0)
    for _ in range(600):
        text, truth = caption_with_truth(sample_scene(rng), rng)
        assert caption_truth(text) == truth, text


@pytest.mark.parametrize(
    "text, truth",
    [
        ("a red ball bouncing over green hills", ("red", "ball", "hills", "bouncing", None)),
        ("Above snowy peaks, a ROSE present rises slowly.", ("pink", "box", "snow", "rising", "slow")),
        (
            "an orange moon jumping up and down in the night sky",
            ("orange", "moon", "night", "bouncing", None),
        ),
        ("a gently turning around golden star", ("yellow", "star", None, "spinning", "slow")),
        ("a submarine", (None,) * 5),
    ],
)
def test_captions_whose_words_could_collide(text, truth):
    assert tuple(caption_truth(text)[name] for name in (*JUDGED, "speed")) == truth


def run(*arguments):
    parser = argparse.ArgumentParser()
    add_judge_arguments(parser)
    return run_judge(parser.parse_args([str(argument) for argument in arguments]))


def test_command_judges_files_against_their_own_prompt(clips, tmp_path, capsys):
    truth, frames, _ = clips[1]
    asked = f"a {truth.colour} {truth.subject} drifting left"
    for name, prompt in (("right", asked), ("wrong", asked.replace("left", "right"))):
        write_clip(tmp_path / f"{name}.mp4", frames, 16, Request(prompt).to_json())
    write_clip(tmp_path / "bare.mp4", frames, 16)
    assert run(tmp_path / "right.mp4", tmp_path / "wrong.mp4", tmp_path / "bare.mp4") == 0
    said = capsys.readouterr().out.splitlines()
    assert said[1].endswith("as asked") and said[3].endswith("wrong: motion") and len(said) == 5
    assert said[0].endswith(" · ".join(getattr(truth, name) for name in (*JUDGED, "speed")))
    (tmp_path / "bare.mp4").write_bytes(b"no clip")
    assert run(tmp_path / "bare.mp4") == 1


def test_command_prints_a_table_of_renders(capsys):
    assert run("--renders", 2, "--frames", 16, "--seed", 1) == 0
    rows = [line for line in capsys.readouterr().out.splitlines() if line.startswith("|")]
    assert len(rows) == 6 and "1.000 | 1.000 | 1.000 | 1.000 | 1.000" in rows[2]
    assert run() == run("--renders", 3, "--frames", 7) == 2
