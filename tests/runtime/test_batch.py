"""A file of prompts: shared out, resumed, and the same clips however many processes make them."""

import json

import pytest

from lumiere import __main__ as command
from lumiere import models
from lumiere.errors import GenerationError
from lumiere.loading.registry import Model
from lumiere.media.video import read_settings
from lumiere.request import Limits, Request
from lumiere.runtime import batch
from tests.training.test_train import launch

pytestmark = pytest.mark.slow

PROMPTS = ["a red ball", "", "  a blue star  ", "a green fish", "a yellow rocket", "a red star"]
OPTIONS = ["--frames", "4", "--steps", "2", "--device", "cpu"]


@pytest.fixture
def run(tmp_path, tiny_model, monkeypatch):
    """Runs the command line for a folder; the model and the file of prompts are there."""
    monkeypatch.setenv(models.VARIABLE, str(tiny_model))
    (tmp_path / "prompts.txt").write_text("\n".join(PROMPTS), "utf-8")

    def go(name: str, *more: str) -> int:
        prompts = str(tmp_path / "prompts.txt")
        return command.main(["--prompts", prompts, "-o", str(tmp_path / name), *OPTIONS, *more])

    return go


def lines(folder) -> list[dict]:
    return [json.loads(line) for line in (folder / batch.LINES).read_text("utf-8").splitlines()]


def clips(folder) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in sorted(folder.glob("*.mp4"))}


def test_a_clip_and_a_line_for_each_prompt(run, tmp_path, tiny_model):
    assert run("clips", "--seed", "4294967294", "--first-frame", "base") == 0
    told = lines(tmp_path / "clips")
    assert [line["request"]["prompt"] for line in told] == [p.strip() for p in PROMPTS if p]
    assert {line["request"]["first_frame"] for line in told} == {"base"}
    assert [line["request"]["seed"] for line in told] == [2**32 - 2, 2**32 - 1, 0, 1, 2]
    assert [line["clip"] for line in told] == [f"{number:05}.mp4" for number in range(1, 6)]
    assert all(line["seconds"] > 0 and line["model"]["source"] == str(tiny_model) for line in told)
    for line in told:
        settings = read_settings(tmp_path / "clips" / line["clip"])
        assert Request.from_json(settings) == Request(**line["request"])
        named = json.loads(settings)
        assert (named["model"], named["model_version"]) == (tiny_model.name, line["model"]["version"])
    assert sorted(file.suffix for file in (tmp_path / "clips").iterdir()) == [".jsonl"] + [".mp4"] * 5


def test_a_line_may_hold_other_ends_of_lines(run, tmp_path):
    assert run("clips", "--negative-prompt", "a\u2028b\x85c") == 0
    before = clips(tmp_path / "clips")
    stamps = {file: file.stat().st_mtime_ns for file in (tmp_path / "clips").iterdir()}
    assert [file.suffix for file in stamps].count(".jsonl") == 1
    assert run("clips", "--negative-prompt", "a\u2028b\x85c") == 0
    assert clips(tmp_path / "clips") == before
    assert all(file.stat().st_mtime_ns == stamp for file, stamp in stamps.items() if file.suffix == ".mp4")


def test_an_interrupted_run_goes_on_and_gives_the_same_files(run, tmp_path, monkeypatch):
    assert run("whole") == 0
    pipeline, made = models.get(None, "cpu"), []
    generate = pipeline.generate

    def interrupted(request):
        if len(made) == 2:
            raise KeyboardInterrupt
        made.append(request.prompt)
        return generate(request)

    monkeypatch.setattr(pipeline, "generate", interrupted)
    assert run("clips") == 130
    assert len(clips(tmp_path / "clips")) == 2 and not (tmp_path / "clips" / batch.LINES).exists()
    own = tmp_path / "clips" / f"{batch.LINES}.0"
    own.write_text(own.read_text() + '\n{"number": 3, "cl')  # torn by the end of the process
    (tmp_path / "clips" / "00003.mp4").write_bytes(b"without a line")
    made.clear()
    monkeypatch.setattr(
        pipeline, "generate", lambda request: made.append(request.prompt) or generate(request)
    )
    assert run("clips") == 0
    assert made == ["a green fish", "a yellow rocket", "a red star"]
    assert clips(tmp_path / "clips") == clips(tmp_path / "whole")
    assert [line["number"] for line in lines(tmp_path / "clips")] == [1, 2, 3, 4, 5]
    made.clear()
    assert run("clips") == 0 and made == []
    assert run("clips", "--seed", "1") == 0 and len(made) == 5  # other clips than those that are there


def test_a_deleted_clip_is_made_again(run, tmp_path):
    assert run("clips") == 0
    before = clips(tmp_path / "clips")
    (tmp_path / "clips" / "00002.mp4").unlink()
    assert run("clips") == 0
    assert clips(tmp_path / "clips") == before


def test_clips_of_another_version_are_made_anew(run, tmp_path, monkeypatch):
    assert run("clips") == 0
    monkeypatch.setattr("lumiere.loading.registry.SAMPLING_VERSION", 99)
    assert run("clips") == 0
    assert {line["model"]["version"] for line in lines(tmp_path / "clips")} == {"99"}


def test_a_clip_that_fails_is_told_of_and_tried_again(run, tmp_path, monkeypatch, capsys):
    pipeline = models.get(None, "cpu")
    generate = pipeline.generate

    def failing(request):
        if "fish" in request.prompt:
            raise GenerationError("the device ran out of memory")
        return generate(request)

    monkeypatch.setattr(pipeline, "generate", failing)
    assert run("clips") == 1
    assert "3 of 5: the device ran out of memory" in capsys.readouterr().err
    told = lines(tmp_path / "clips")
    assert told[2]["clip"] is None and "memory" in told[2]["error"]
    assert [line["clip"] is None for line in told] == [False, False, True, False, False]
    monkeypatch.setattr(pipeline, "generate", generate)
    assert run("clips") == 0
    assert lines(tmp_path / "clips")[2]["clip"] == "00003.mp4" and len(clips(tmp_path / "clips")) == 5


def test_prompts_that_do_not_fit_the_clip_are_refused_before_the_first():
    prompts, like = ["a ball", "0: a ball | 16: a star"], Request("x", frames=16, seed=0)
    with pytest.raises(ValueError, match="prompt 2 of 2: frames in prompt must be from 0 to 15"):
        batch.requests(prompts, like, Limits())


def test_figures_of_the_table_make_no_clip_anew(tmp_path):
    measured = Model("a", download=1.0, gigabytes=2.0, licence="MIT", preview="b")
    first, second = (batch.Batch(tmp_path, [], model) for model in (Model("a"), measured))
    assert first.facts == second.facts != batch.Batch(tmp_path, [], Model("a", guidance=1.0)).facts


def test_shares_are_apart_and_cover_all(tmp_path):
    wanted = batch.requests([f"ball {n}" for n in range(7)], Request("x", seed=0), Limits())
    made = []

    class Pipeline:
        def unknown_words(self, prompt):
            return []

        def close_keys(self, request):
            return None

        def generate(self, request):
            made.append(request.prompt)
            raise GenerationError("nothing is made")

    for process in range(3):
        batch.Batch(tmp_path / str(process), wanted, Model("x")).make(Pipeline(), process, 3, lambda _: None)
    assert sorted(made) == [request.prompt for request in wanted] and len(made) == 7


def test_two_processes_make_the_files_of_one(run, tmp_path, tiny_model, monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "1")  # for one, too: other threads add up in another order
    for processes, name in enumerate(("one", "two"), 1):
        arguments = ["--prompts", str(tmp_path / "prompts.txt"), "-o", str(tmp_path / name), *OPTIONS]
        launch(processes, "-m", "lumiere", *arguments)
    assert clips(tmp_path / "two") == clips(tmp_path / "one") and len(clips(tmp_path / "one")) == 5
    one, two = (lines(tmp_path / name) for name in ("one", "two"))
    assert [line | {"seconds": 0} for line in one] == [line | {"seconds": 0} for line in two]


@pytest.mark.parametrize(
    "text, more, words",
    [
        ("\n  \n", [], "there is no prompt in"),
        ("x\n" + "y" * 2001, [], "prompt 2 of 2: prompt must be at most 2000 characters: received 2001"),
        ("x", ["a prompt beside it"], "goes without a prompt"),
        ("x", ["--image", "a.png"], "without given pixels"),
        ("x", ["--frames", "18"], "the nearest are 16 and 20"),
        (None, [], "there is no file"),
    ],
)
def test_what_cannot_be_is_one_sentence_and_status_2(run, tmp_path, capsys, text, more, words):
    (tmp_path / "prompts.txt").write_text(text) if text else (tmp_path / "prompts.txt").unlink()
    assert run("clips", *more) == 2
    told = capsys.readouterr().err
    assert words in told and told.count("\n") == 1


def test_a_folder_is_needed(run, tmp_path, capsys):
    (tmp_path / "file.mp4").write_bytes(b"")
    assert run("file.mp4") == 2 and "needs a folder" in capsys.readouterr().err
    assert command.main(["--prompts", str(tmp_path / "prompts.txt")]) == 2


def test_launchers_tell_the_place():
    assert batch.place({}) == (0, 1, 0)
    assert batch.place({"RANK": "5", "WORLD_SIZE": "8", "LOCAL_RANK": "1"}) == (5, 8, 1)


def test_words_that_the_model_ignores_are_said_for_each_prompt(run, tmp_path, capsys):
    (tmp_path / "prompts.txt").write_text("a red ball\na dragon\n", "utf-8")
    assert run("clips") == 0
    said = capsys.readouterr().err
    assert "2 of 2: words ignored, because the model does not know or cannot take them: dragon." in said
    assert "1 of 2: words ignored" not in said
