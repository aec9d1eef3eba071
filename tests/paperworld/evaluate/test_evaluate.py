"""The evaluation's command: clips of a studio, records, tables, and the version of the sampling."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from lumiere import models
from lumiere.loading.registry import DEFAULT
from lumiere.paperworld.__main__ import main
from lumiere.paperworld.evaluate import costs, evaluate
from lumiere.paperworld.evaluate.evaluate import Studio, fixed_clips, print_tables
from lumiere.paperworld.evaluate.grid import write_grid, write_sheet
from lumiere.paperworld.evaluate.measures import alike
from lumiere.paperworld.evaluate.records import CLIPS, Records
from lumiere.pipeline import LumierePipeline
from lumiere.request import Request
from lumiere.sampling.settings import SAMPLING_VERSION
from tests.paperworld.puppet import Puppet, noisy

SHIPPED = Path(__file__).parents[3] / "assets/evaluation/paper-world.json"


@pytest.fixture
def studio(tiny_model):
    return Studio(str(tiny_model), seed=5, steps=2, guidance=3.0)


def test_clips_are_those_of_the_pipeline(studio, tiny_model):
    clip, preview = studio.make("a red ball", 8, 2)
    entry = models.entry(DEFAULT)
    pipeline = LumierePipeline.from_pretrained(replace(entry, source=str(tiny_model)), device="cpu")
    size = {"height": 64, "width": 64, "frames": 8, "scheduler": entry.scheduler}
    *_, last, result = pipeline.generate(Request("a red ball", steps=2, guidance=3.0, seed=7, **size))
    assert np.array_equal(clip, result.frames) and np.array_equal(preview, last.preview())
    assert not np.array_equal(clip, studio.clip("a red ball", 8, 2, steps=3))
    assert studio.name == f"{tiny_model} steps=2 guidance=3.0"


def test_through_the_autoencoder_is_encode_then_decode(studio):
    frames = np.random.default_rng(0).integers(0, 256, (3, 64, 64, 3), np.uint8)
    images = torch.from_numpy(frames).permute(0, 3, 1, 2).float() / 127.5 - 1
    with torch.no_grad():
        vae = studio.pipeline.vae
        expected = vae.decode(vae.encode(images).latent_dist.mean).sample
    expected = (expected / 2 + 0.5).clamp(0, 1).permute(0, 2, 3, 1).numpy() * 255
    assert np.abs(studio.through_autoencoder(frames) - expected).max() <= 1


@pytest.mark.slow
def test_costs_of_whole_runs(studio, monkeypatch):
    theirs = costs._animatediff(studio.pipeline, "dpm++ 2m", 8)
    assert theirs.unet.config.block_out_channels == studio.pipeline.lumiere.config.block_out_channels
    assert theirs.motion_adapter.config.use_motion_mid_block
    record = costs.against_animatediff(studio, 0, frames=8)
    assert record.keys() == {"ours", "animatediff"} and min(record.values()) > 0
    record = costs.seconds(studio, 0)
    assert record.keys() == {"16", "80"} and 0 < record["16"] < record["80"]
    assert costs.parameters(studio, 0) == {"parameters": 0}
    sheets = []
    monkeypatch.setattr(costs, "sprite_sheet", lambda frames: sheets.append(frames) or Sheet)
    for index in (0, 1):
        assert costs.with_preview(studio, index, frames=8).keys() == {"preview", "without"}
        assert 1 <= len(sheets) <= 2, "one run of each kind, of which one shows previews"
        sheets.clear()


class Sheet:
    data_uri = ""


def test_a_stopped_evaluation_goes_on(tmp_path, capsys):
    whole, broken = Puppet(), Puppet()
    print_tables(whole, Records(tmp_path / "whole.json", "x", 0), ["text16", "controls"], range(4))
    expected = capsys.readouterr().out
    file = tmp_path / "runs" / "broken.json"

    def stop(clip, given):
        if len(broken.asked) == 3:
            raise KeyboardInterrupt
        return clip

    broken.spoil = stop
    assert print_tables(broken, Records(file, "x", 0), ["text16", "controls"], range(4)) == 130
    assert "goes on from here" in capsys.readouterr().err
    broken.spoil = lambda clip, given: clip
    assert print_tables(broken, Records(file, "x", 0), ["text16", "controls"], range(4)) == 0
    assert capsys.readouterr().out == expected
    assert [index for _, _, index, *_ in broken.asked] == [0, 1, 2, 2, 3]
    print_tables(broken, Records(file, "x", 0), ["text16"], range(2, 5))
    assert "| 3 |" in capsys.readouterr().out and [index for _, _, index, *_ in broken.asked][5:] == [4]


def test_records_are_kept_apart(tmp_path):
    file = tmp_path / "r.json"
    places = [("x", 0, 1), ("x", 1, 1), ("y", 0, 1), ("x", 0, 2)]  # model and settings, seed, version
    for number, place in enumerate(places):
        Records(file, *place).add("a", 0, {"n": number})
    for number, place in enumerate(places):
        assert Records(file, *place).of("a", range(3)) == {0: {"n": number}}
    assert json.loads(file.read_text()) == {
        "1": {
            "x": {"0": {"a": {"0": {"n": 0}}}, "1": {"a": {"0": {"n": 1}}}},
            "y": {"0": {"a": {"0": {"n": 2}}}},
        },
        "2": {"x": {"0": {"a": {"0": {"n": 3}}}}},
    }


def test_processes_share_a_file(tmp_path):
    file = tmp_path / "r.json"
    one, two = Records(file, "x", 0), Records(file, "x", 0)
    one.add("a", 0, {"n": 0})
    two.add("a", 1, {"n": 1})
    one.add("b", 0, {"n": 2})
    again = Records(file, "x", 0)
    assert again.of("a", range(2)) == {0: {"n": 0}, 1: {"n": 1}} and again.of("b", range(2)) == {0: {"n": 2}}
    assert [path.name for path in tmp_path.iterdir()] == ["r.json"]


def test_records_of_other_clips_are_refused(tmp_path):
    file, clips = tmp_path / "r.json", fixed_clips(Puppet())
    others = fixed_clips(Puppet(lambda clip, given: clip // 2))
    nearly = fixed_clips(Puppet(lambda clip, given: noisy(clip, 1.0)))  # as of another processor
    assert alike(clips, nearly) and not alike(clips, [*clips[:2], others[2]])
    records = Records(file, "x", 0, version=1)
    assert records.accept(clips) and records.accept(nearly) and not records.accept(others)
    assert records.remember(others) and records.accept(others), "nothing was recorded of the ones before"
    records.add("a", 0, {"n": 0})
    assert not records.remember(clips) and not records.accept(clips)
    assert Records(file, "x", 1, version=1).accept(others) and Records(file, "y", 0, version=1).accept(clips)
    raised = Records(file, "x", 0, version=2)
    assert raised.remember(clips) and not raised.accept(others)
    assert json.loads(file.read_text()) == {"2": {"x": {CLIPS: clips}}}, "older versions are dropped"


@pytest.mark.slow
def test_shipped_records_are_of_this_sampling():
    """Where it fails: raise SAMPLING_VERSION, then `evaluate --remember --results` with this file."""
    kept = json.loads(SHIPPED.read_text())
    assert set(kept) == {str(SAMPLING_VERSION)}
    assert alike(kept[str(SAMPLING_VERSION)][DEFAULT][CLIPS], fixed_clips(Studio()))


def test_refuses_wrong_arguments(tiny_model, tmp_path, capsys):
    with pytest.raises(SystemExit):
        main(["evaluate", "--rows", "text16,txt80"])
    assert "choose from ceiling, text16, " in capsys.readouterr().err
    for option, value in (("clips", "0"), ("first", "-1"), ("seed", "-1")):
        assert main(["evaluate", f"--{option}", value]) == 2
        assert f"received {value}." in capsys.readouterr().err
    assert main(["evaluate", "--model", str(tiny_model), "--scheduler", "magic"]) == 2
    assert "scheduler must be one of" in capsys.readouterr().err
    (tmp_path / "broken.json").write_text("[")
    command = ["evaluate", "--model", str(tiny_model), "--results", str(tmp_path / "broken.json")]
    assert main(command) == 2
    assert "does not hold records of an evaluation" in capsys.readouterr().err
    assert main(["evaluate", "--model", str(tmp_path / "nowhere")]) == 1
    assert "nowhere" in capsys.readouterr().err


def test_command_prints_three_tables(tiny_model, tmp_path, capsys, monkeypatch):
    puppet, asked = Puppet(), []
    puppet.folder = Path(tiny_model)

    def studio(*args, **settings):
        asked.append((*args, settings))
        return puppet

    monkeypatch.setattr(evaluate, "Studio", studio)
    results = ["--results", str(tmp_path / "r.json")]
    command = ["evaluate", "--rows", "ceiling,size,controls", "--clips", "2", *results]
    assert main([*command, "--first-frame", "base", "--seed", "3"]) == 0
    told = capsys.readouterr().out
    assert "| real clips through the autoencoder | 2 | all 1 [0.34, 1.00] >= 0.95 | met |" in told
    assert "| size of the model | 1 | MB in all" in told
    assert "| ceiling | 1.000 | 1.000 | 1.000 | 1.000 | 1.000 |" in told and "| controls |" not in told
    assert "| right in all | still | left |" in told and " / 1 |" in told
    settings = {"steps": None, "guidance": None, "scheduler": None, "first_frame": "base"}
    assert asked == [(None, 3, settings)]
    puppet.spoil = lambda clip, given: clip // 2
    assert main([*command, "--seed", "3"]) == 1
    assert f"raise SAMPLING_VERSION ({SAMPLING_VERSION})" in capsys.readouterr().err
    assert main(["evaluate", "--remember", *results]) == 1
    (tmp_path / "r.json").unlink()
    assert main(["evaluate", "--remember", *results]) == 0 and capsys.readouterr().out == ""
    assert list(json.loads((tmp_path / "r.json").read_text())) == [str(SAMPLING_VERSION)]


def test_grid_plays_every_clip_in_its_place_above_its_words(tmp_path):
    clips = [
        np.full((5, 16, 64, 3), 10 * i, np.uint8) + np.arange(0, 60, 12, dtype=np.uint8)[:, None, None, None]
        for i in range(7)
    ]
    texts = ["a red ball", "a blue star", *[" "] * 5]
    write_grid(tmp_path / "grid.webp", clips, texts, columns=4)
    with Image.open(tmp_path / "grid.webp") as grid:
        height = grid.size[1] // 2
        assert grid.n_frames == 5 and grid.size[0] == 4 * 64 and height > 16
        grid.seek(3)
        frame = np.asarray(grid.convert("RGB"), int)
    for index in range(7):
        row, column = divmod(index, 4)
        cell = frame[row * height + 4 : row * height + 12, column * 64 + 4 : column * 64 + 60]
        assert abs(cell.mean() - (10 * index + 36)) < 4, index
    labels = [frame[16:height, column * 64 : (column + 1) * 64] for column in range(3)]
    ink = [(label < 150).any(-1).sum() for label in labels]
    assert ink[0] > 20 and ink[1] > 20 and ink[2] == 0


def test_sheet_shows_clips_from_first_to_last_frame(tmp_path):
    clips = [np.full((16, 32, 32, 3), 40 * i, np.uint8) for i in range(3)]
    clips[0] = clips[0] + np.arange(16, dtype=np.uint8)[:, None, None, None] * 10
    write_sheet(tmp_path / "sheet.png", clips, ["a red ball", " ", " "])
    with Image.open(tmp_path / "sheet.png") as sheet:
        pixels = np.asarray(sheet, int)
    half = len(pixels) // 2
    assert pixels[0, :128:16, 0].tolist() == [0, 20, 40, 60, 80, 100, 120, 150]
    assert (pixels[0, 128] == 40).all() and (pixels[half, 0] == 80).all()
    assert (pixels[16:half, :128] < 150).any() and not (pixels[16:half, 128:] < 150).any()
