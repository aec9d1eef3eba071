"""The command line."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from lumiere import __main__ as command
from lumiere import models
from lumiere.media.header import probe
from lumiere.media.video import read_clip, read_settings, write_clip
from lumiere.pipeline import LumierePipeline
from lumiere.request import Request
from tests.media.test_sound import video

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(autouse=True)
def model(monkeypatch, tiny_model):
    monkeypatch.setenv(models.VARIABLE, str(tiny_model))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")


def test_a_clip_with_its_settings(tmp_path, capsys):
    clip = tmp_path / "clip.mp4"
    arguments = ["a red ball", "--frames", "8", "--seed", "7", "--steps", "3", "--fps", "12"]
    arguments += ["--negative-prompt", "a dragon", "--first-frame", "base", "--device", "cpu"]
    assert command.main([*arguments, "-o", str(clip)]) == 0
    captured = capsys.readouterr()
    assert captured.out.splitlines()[0] == str(clip) and "seed 7 · 8 frames at 12 fps" in captured.out
    assert "first frame by the base" in captured.out
    assert "step 3 of 3" in captured.err and "words ignored" not in captured.err
    assert "words of the negative prompt ignored" in captured.err and "dragon" in captured.err
    frames, fps = read_clip(clip)
    assert frames.shape == (8, 64, 64, 3) and fps == 12
    expected = Request(
        "a red ball", "a dragon", 8, 12, height=64, width=64, steps=3, seed=7, first_frame="base"
    ).filled(models.entry().usual)
    assert Request.from_json(read_settings(clip)) == expected
    model, saved = models.entry(), json.loads(read_settings(clip))
    assert (saved["model"], saved["model_version"]) == (Path(model.source).name, model.version)
    again = tmp_path / "again.mp4"
    assert command.main([*arguments, "-o", str(again)]) == 0
    assert np.array_equal(read_clip(again)[0], frames)


@pytest.fixture
def files(tmp_path):
    """A picture, a mask of its right half, and a clip of 10 frames."""
    ramp = np.linspace(0, 255, 80).astype(np.uint8)
    picture = np.broadcast_to(ramp[:, None], (80, 80, 3)).copy()
    Image.fromarray(picture).save(tmp_path / "picture.png")
    half = np.zeros((80, 80), np.uint8)
    half[:, 40:] = 255
    Image.fromarray(half).save(tmp_path / "mask.png")
    write_clip(tmp_path / "old.mp4", np.stack([np.roll(picture, n, 0) for n in range(10)]), 16)
    return {name: str(tmp_path / name) for name in ("picture.png", "mask.png", "old.mp4")}


@pytest.mark.parametrize(
    "arguments, given, frames",
    [
        ("--image picture.png", [0], 8),
        ("--image picture.png --last-image picture.png", [0, 7], 8),
        ("--image picture.png --mask mask.png", [0], 8),
        ("--continue old.mp4", [0, 1, 2, 3], 14),
        ("--video old.mp4 --mask mask.png", [], 8),
        ("--video old.mp4 --strength 0.5", [], 8),
    ],
)
def test_given_pixels_reach_the_model(files, tmp_path, monkeypatch, arguments, given, frames):
    seen = []
    usual = LumierePipeline.generate
    monkeypatch.setattr(
        LumierePipeline, "generate", lambda self, *args: seen.append(args[2]) or usual(self, *args)
    )
    arguments = [files.get(word, word) for word in arguments.split()]
    length = [] if "--video" in arguments else ["--frames", "8"]
    clip = tmp_path / "clip.mp4"
    options = [*length, "--steps", "2", "--seed", "1", "--device", "cpu", "-o", str(clip)]
    assert command.main(["a red ball", *arguments, *options]) == 0
    mask = seen[0].mask
    assert mask.shape == (8, 64, 64) and np.flatnonzero(mask.all((1, 2))).tolist() == given
    if "--mask" in arguments:
        assert mask[:, :, :32].all() and not mask[1:, :, 32:].any()
    assert seen[0].frames[0].std() > 50
    assert len(read_clip(clip)[0]) == frames


@pytest.mark.parametrize(
    "arguments, words",
    [
        ("--mask mask.png", "a mask goes with --image or --video"),
        ("--last-image picture.png", "goes with a first one"),
        ("--video old.mp4", "both are missing"),
        ("--strength 0.5", "strength 0.5 needs a clip"),
        ("--image picture.png --strength 0.5", "strength 0.5 needs a clip"),
        ("--video old.mp4 --strength 0", "above 0 and at most 1"),
        ("--video old.mp4 --mask mask.png --frames 12", "has 10 frames: 12 were asked for"),
        ("--image old.mp4", "cannot read a picture"),
        ("--continue picture.png", "a PNG picture that does not move was given where a video is needed"),
        ("--image picture.png --video old.mp4", "not allowed with"),
    ],
)
def test_given_files_that_do_not_fit_are_refused_in_a_sentence(files, capsys, arguments, words):
    arguments = [files.get(word, word) for word in arguments.split()]
    try:
        status = command.main(["a red ball", *arguments, "--device", "cpu"])
    except SystemExit as stop:
        status = stop.code
    assert status == 2
    told = capsys.readouterr().err
    assert words in told and "Traceback" not in told


@pytest.mark.parametrize(
    "variable, arguments",
    [
        ("IMAGE_SIDE", "--image picture.png"),
        ("IMAGE_SIDE", "--video old.mp4 --mask mask.png"),
    ],
)
def test_the_operator_says_how_large_given_files_may_be(files, capsys, monkeypatch, variable, arguments):
    monkeypatch.setenv(f"LUMIERE_{variable}", "64")
    arguments = [files.get(word, word) for word in arguments.split()]
    assert command.main(["a red ball", *arguments, "--device", "cpu"]) == 2
    assert "at most 64 pixels a side: received 80 x 80" in capsys.readouterr().err


def test_the_operator_says_how_long_a_video_is_read(files, monkeypatch):
    def refuse(path, max_frames, max_side, max_seconds, fps):
        raise ValueError(f"{max_seconds}")

    monkeypatch.setattr(command, "read_clip", refuse)
    monkeypatch.setattr(command, "say", lambda sentence, status: str(sentence))
    monkeypatch.setenv("LUMIERE_VIDEO_SECONDS", "7")
    assert command.main(["a red ball", "--continue", files["old.mp4"], "--device", "cpu"]) == "7"


def test_without_an_output_the_file_is_named_after_the_seed(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert command.main(["../x <script> %s dragon", "--frames", "4", "--steps", "1", "--device", "cpu"]) == 0
    captured = capsys.readouterr()
    (clip,) = tmp_path.iterdir()
    seed = Request.from_json(read_settings(clip)).seed
    assert clip.name == f"lumiere-{seed}.mp4" and f"seed {seed} " in captured.out
    assert "ignored" in captured.err and "dragon" in captured.err


@pytest.mark.parametrize(
    "arguments, words",
    [
        (["x", "--frames", "18"], "the nearest are 16 and 20"),
        (["x", "--frames", "many"], "--frames"),
        (["x", "--no-such-thing"], "--no-such-thing"),
        ([], "prompt"),
        ([""], "write a prompt"),
        (["x" * 2001], "2001"),
        (["x", "--steps", "0"], "1 to 150"),
        (["x", "--guidance", "nan"], "0 to 30"),
        (["x", "--scheduler", "magic"], "dpm++ 2m"),
        (["x", "--first-frame", "mine"], "none, base"),
        (["x", "--height", "100"], "divisible by 32"),
        (["x", "--seed", "-1"], "4294967295"),
        (["x", "-o", "/nowhere/clip.mp4"], "folder"),
        (["x", "-o", "clip.gif"], ".mp4"),
        (["x", "--device", "tpu"], "no device tpu"),
    ],
)
def test_refusals_are_one_sentence_and_status_2(arguments, words, capsys):
    try:
        status = command.main(arguments)
    except SystemExit as error:  # the argument parser leaves by itself
        status = error.code
    captured = capsys.readouterr()
    assert status == 2 and not captured.out
    assert words in captured.err and len(captured.err.splitlines()) == 1


def test_a_model_that_is_missing_is_one_sentence_and_status_1(capsys):
    assert command.main(["x", "--model", "/nowhere"]) == 1
    assert capsys.readouterr().err.count("\n") == 1


def test_a_refusal_loads_neither_torch_nor_weights():
    code = "import sys; from lumiere.__main__ import main; status = main(['x', '--frames', '18']); "
    code += "sys.exit(9 if 'torch' in sys.modules else status)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 2, done.stderr


def test_interrupting_keeps_the_partial_clip(tmp_path, monkeypatch, capsys):
    clip = tmp_path / "clip.mp4"
    pipeline = models.get(None, "cpu")
    generate = pipeline.generate

    def interrupted(request, stop, given):
        for item in generate(request, stop, given):
            yield item
            if getattr(item, "step", 0) == 2:
                os.kill(os.getpid(), signal.SIGINT)

    monkeypatch.setattr(pipeline, "generate", interrupted)
    before = signal.getsignal(signal.SIGINT)
    arguments = ["a ball", "--frames", "4", "--steps", "5", "-o", str(clip), "--device", "cpu"]
    assert command.main(arguments) == 130
    assert signal.getsignal(signal.SIGINT) is before
    captured = capsys.readouterr()
    assert "after step 2 of 5" in captured.err and str(clip) in captured.out
    assert len(read_clip(clip)[0]) == 4


def test_interrupting_while_loading_is_no_traceback(monkeypatch, capsys):
    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(models, "get", interrupted)
    assert command.main(["a ball"]) == 130
    assert capsys.readouterr().err.count("\n") == 1


def test_a_full_disk_is_one_sentence(tmp_path, monkeypatch, capsys):
    def full(*_):
        raise OSError("cannot write the clip: the encoder failed, with 0 MB free on its disk.")

    monkeypatch.setattr(command, "write_clip", full)
    arguments = ["a ball", "--frames", "4", "--steps", "1", "-o", str(tmp_path / "c.mp4"), "--device", "cpu"]
    assert command.main(arguments) == 1
    assert "0 MB free" in capsys.readouterr().err


@pytest.mark.slow
def test_as_a_program_from_another_folder(tmp_path):
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    arguments = ["-m", "lumiere", "a red ball", "--frames", "4", "--steps", "2", "-o", "clip.mp4"]
    arguments.insert(0, sys.executable)
    done = subprocess.run(arguments, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 0 and (tmp_path / "clip.mp4").exists(), done.stderr
    assert "Traceback" not in done.stderr and "Loading weights" not in done.stderr


def test_a_slower_clip_keeps_its_pace_and_that_is_said(tmp_path, capsys):
    old, made = tmp_path / "old.mp4", tmp_path / "made.mp4"
    write_clip(old, np.random.default_rng(0).integers(0, 255, (4, 64, 64, 3), np.uint8), 8)  # half a second
    arguments = ["a red ball", "--continue", str(old), "--frames", "8", "--steps", "1", "--device", "cpu"]
    assert command.main([*arguments, "--fps", "16", "-o", str(made)]) == 0
    assert "has 8 frames per second: frames are repeated to keep its pace at 16" in capsys.readouterr().err
    assert len(read_clip(made)[0]) == 8 + 8 - 4  # 8 frames of half a second, 4 of them given
    assert command.main([*arguments, "--fps", "8", "-o", str(made)]) == 0
    assert "pace" not in capsys.readouterr().err


@pytest.mark.parametrize("option", ["--video", "--continue"])
def test_sound_is_kept_with_the_length_or_its_loss_is_said(tmp_path, capsys, option):
    source, made = video(tmp_path / "a.mp4", seconds=0.5), tmp_path / "made.mp4"
    arguments = ["a red ball", option, str(source), "--steps", "2", "--device", "cpu", "-o", str(made)]
    extra = ["--strength", "0.5"] if option == "--video" else ["--frames", "8"]
    assert command.main([*arguments, *extra]) == 0
    said = capsys.readouterr().err
    assert probe(made).sound == (option == "--video")
    assert ("the sound of" in said and "is left out" in said) == (option == "--continue")


@pytest.mark.parametrize(
    "arguments, words",
    [
        ("--guidance 1 --negative-prompt star", "--negative-prompt has no effect at --guidance 1."),
        ("--image picture.png --first-frame base", "--first-frame has no effect with given pixels."),
        ("--style-alpha 0.3", "--style-alpha has no effect without --style-base."),
        ("--guidance 3 --negative-prompt star --first-frame base", None),
    ],
)
def test_options_without_effect_are_said(files, monkeypatch, capsys, arguments, words):
    monkeypatch.setattr(command, "make", lambda *_: 0)
    arguments = [files.get(word, word) for word in arguments.split()]
    assert command.main(["a red ball", *arguments, "--device", "cpu"]) == 0
    said = capsys.readouterr().err
    assert words in said if words else "no effect" not in said


def test_frames_that_the_model_does_not_make_are_said(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(command, "make", lambda *_: 0)
    write_clip(tmp_path / "a.mp4", np.zeros((10, 64, 64, 3), np.uint8), 16)
    arguments = ["a red ball", "--video", str(tmp_path / "a.mp4"), "--strength", "0.5", "--device", "cpu"]
    assert command.main(arguments) == 0
    assert "a.mp4 is left out: the clip has its first 8 frames" in capsys.readouterr().err


@pytest.mark.parametrize(
    "option", ["--image", "--mask", "--video", "--continue", "--last-image", "--prompts"]
)
def test_a_file_that_does_not_exist_is_said_not_to(files, capsys, option):
    more = {"--mask": ["--image", files["picture.png"]], "--last-image": ["--image", files["picture.png"]]}
    more |= {"--video": ["--strength", "0.5"], "--prompts": ["-o", "clips"]}
    prompt = [] if option == "--prompts" else ["a red ball"]
    arguments = [*prompt, option, "/nowhere/x", *more.get(option, []), "--device", "cpu"]
    assert command.main(arguments) == 2
    assert capsys.readouterr().err.endswith("there is no file /nowhere/x.\n")


def test_a_folder_for_the_output_that_does_not_exist_is_said_not_to(capsys):
    assert command.main(["a red ball", "-o", "/nowhere/x.mp4", "--device", "cpu"]) == 2
    assert "must lie in a folder that exists: received /nowhere/x.mp4" in capsys.readouterr().err
