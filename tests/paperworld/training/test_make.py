"""`make`: the embedded model from nothing, part by part."""

import json
from dataclasses import replace

import pytest

from lumiere.model.motion_files import motion_files
from lumiere.paperworld.__main__ import main
from lumiere.paperworld.training import make
from lumiere.paperworld.training.make import BUDGETS, DONE, Maker
from lumiere.paperworld.training.model_folder import load_base
from lumiere.pipeline import LumierePipeline
from lumiere.request import Request


@pytest.mark.slow
def test_a_tiny_budget_makes_a_model_that_generates(tmp_path, capsys):
    model, work = tmp_path / "model", tmp_path / "work"
    command = ["make", "--model", str(model), "--work", str(work), "--budget", "tiny"]
    assert main(command) is None
    first = capsys.readouterr().out
    pipeline = LumierePipeline.from_pretrained(model, device="cpu")
    *_, result = pipeline.generate(Request("a red ball", frames=8, steps=2, seed=1))
    assert result.frames.shape == (8, 128, 128, 3) and not pipeline.unknown_words("a red ball")
    spent = json.loads((work / DONE).read_text())
    assert len(spent) == 10 and all(part["done"] and part["seconds"] > 0 for part in spent.values())
    assert all(f"{name}: " in first for name in spent) and "made in" in first

    files = {file: file.stat() for file in motion_files(model / "motion")}
    assert max(told.st_size for told in files.values()) <= 10_000_000
    assert main(command) is None  # all of it is there
    assert capsys.readouterr().out.count("there already") == 10
    assert all(file.stat().st_mtime_ns == told.st_mtime_ns for file, told in files.items())

    before = load_base(model).state_dict()
    further = ["base", "--model", str(model), "--data", str(work / "stills"), "--run", str(work / "further")]
    assert main([*further, "--steps", "2", "--further"]) is None
    moved = [(weight - before[key]).abs().max() for key, weight in load_base(model).state_dict().items()]
    assert 0 < max(moved) < 2e-3  # a new one would be elsewhere
    assert str(tmp_path) not in (model / "unet" / "config.json").read_text()


def test_a_part_that_failed_is_made_again_and_its_time_counts(tmp_path, monkeypatch):
    told, calls = [], []

    def rendered(*args, **kwargs):
        calls.append(args)
        if len(calls) == 1:
            raise KeyboardInterrupt

    monkeypatch.setattr(make, "render_dataset", rendered)
    maker = Maker(tmp_path / "model", tmp_path / "work", replace(BUDGETS["tiny"], stills=3), told.append)
    maker.parts = {"stills, rendered": maker.parts["stills, rendered"]}
    with pytest.raises(KeyboardInterrupt):
        maker.make()
    before = json.loads((tmp_path / "work" / DONE).read_text())["stills, rendered"]
    assert not before["done"] and told == []
    assert maker.make()["stills, rendered"] > before["seconds"]
    maker.make()
    assert len(calls) == 2 and len(told) == 2
