"""Evaluation: real clips meet every bar, spoilt ones miss the bar of what was spoilt; records go on."""

import json
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from lumiere import models
from lumiere.paperworld import costs, evaluate, rows
from lumiere.paperworld.__main__ import main
from lumiere.paperworld.evaluate import Records, Studio, measure, print_table
from lumiere.paperworld.grid import write_grid
from lumiere.paperworld.judge import Verdict, caption_truth, frozen
from lumiere.paperworld.rows import ROWS, scene_of
from lumiere.paperworld.scene import HELD_OUT, render, sample_scene
from lumiere.pipeline import LumierePipeline
from lumiere.request import Request
from lumiere.table import DEFAULT

CLIPS = 4
SHORT = ["seen16", "held-out16"]
LONG = [pytest.param(name, marks=pytest.mark.slow) for name in ("seen80", "paraphrased80")]


class Puppet:
    """Draws what it is asked for, as no model could; `spoil` changes each clip, and sees what was given."""

    def __init__(self, spoil=lambda clip, given: clip, autoencoder=lambda frames: frames):
        self.spoil, self.through_autoencoder, self.asked = spoil, autoencoder, []
        self.pipeline = SimpleNamespace(seams=lambda frames: list(range(96, frames, 32)))

    def clip(self, prompt, frames, seed, given=None):
        self.asked.append((prompt, frames, seed))
        if given is not None:  # a new picture where nothing is given, the given one elsewhere
            clip = np.where(given.mask[..., None], given.frames, self._real(prompt, frames))
        else:
            clip = self._real(prompt, frames)
        return self.spoil(clip, given)

    @staticmethod
    @lru_cache(maxsize=64)
    def _real(prompt, frames):
        truth, rng = caption_truth(prompt), np.random.default_rng(0)
        while (scene := sample_scene(rng)).motion != truth["motion"]:
            pass
        asked = {name: truth[name] for name in ("colour", "subject", "background")}
        return render(replace(scene, **asked), frames)[0]


def flickering(frames, levels=2.0):
    noise = np.random.default_rng(1).normal(0, levels, frames.shape)
    return np.clip(frames + noise, 0, 255).round().astype(np.uint8)


def figures(name, puppet, tmp_path, count=CLIPS):
    return ROWS[name].figures(measure(puppet, Records(tmp_path / "r.json", "x"), name, range(count)))


def met(*args, **kwargs):
    return [figure.met for figure in figures(*args, **kwargs)]


@pytest.mark.parametrize("name", ["ceiling", "controls", *SHORT, *LONG])
def test_real_clips_meet_the_bars(name, tmp_path):
    assert all(met(name, Puppet(), tmp_path)), figures(name, Puppet(), tmp_path)


@pytest.mark.parametrize("name", [*SHORT, *LONG])
def test_clips_that_stand_still_miss_them(name, tmp_path):
    assert not all(met(name, Puppet(lambda clip, given: frozen(clip)), tmp_path))


def test_clips_of_another_prompt_miss_them_in_all(tmp_path):
    other = Puppet._real("a red ball rising over green hills", 16)
    for figure in figures("seen16", Puppet(lambda clip, given: other), tmp_path):
        assert not figure.met and figure.value <= 0.25


def test_an_autoencoder_that_loses_the_colours_lowers_the_ceiling(tmp_path):
    grey = Puppet(autoencoder=lambda frames: frames.mean(-1, keepdims=True).repeat(3, -1).astype(np.uint8))
    (figure,) = figures("ceiling", grey, tmp_path)
    assert not figure.met and figure.value < 0.5


def test_controls_that_are_right_all_the_same_are_seen(tmp_path):
    """The motion of a spoilt clip must not be right: here all prompts and clips are one."""
    truth = {"colour": "red", "subject": "ball", "background": "sea", "motion": "left", "speed": "slow"}
    records = [{"truth": truth, "verdict": truth, "frozen": truth, "shuffled": truth}] * 4
    assert [figure.met for figure in ROWS["controls"].figures(records)] == [False] * 4


def test_prompts_are_those_that_the_row_names(tmp_path, monkeypatch):
    blank = np.zeros((80, 8, 8, 3), np.uint8)
    monkeypatch.setattr(Puppet, "_real", staticmethod(lambda prompt, frames: blank[:frames]))
    monkeypatch.setattr(rows, "judge", lambda frames: Verdict(None, None, "sea", None, None))
    seen, held_out, other_words = Puppet(), Puppet(), Puppet()
    for puppet, name in ((seen, "seen80"), (held_out, "held-out16"), (other_words, "paraphrased80")):
        measure(puppet, Records(tmp_path / name, "x"), name, range(20))
    combinations = [
        [tuple(caption_truth(prompt)[k] for k in ("colour", "subject", "motion")) for prompt, *_ in p.asked]
        for p in (seen, held_out, other_words)
    ]
    assert [len(HELD_OUT & set(found)) for found in combinations] == [0, len(set(combinations[1])), 0]
    assert combinations[0] == combinations[2]
    assert sum(a == b for a, b in zip(seen.asked, other_words.asked, strict=True)) < 3
    assert {frames for _, frames, _ in seen.asked + other_words.asked} == {80}


@pytest.mark.slow
def test_long_clips_are_judged_in_every_window_and_at_their_seams(tmp_path):
    row = "windows480"
    assert all(met(row, Puppet(), tmp_path / "a", count=1))

    def loses_its_way(clip, given):
        return np.concatenate([clip[:320], clip[:1].repeat(160, 0)])

    def jumps(clip, given):
        changed = clip.copy()
        changed[96:128] = 255 - changed[96:128]
        return changed

    assert not figures(row, Puppet(loses_its_way), tmp_path / "b", count=1)[0].met
    assert not figures(row, Puppet(jumps), tmp_path / "c", count=1)[1].met


@pytest.mark.slow
def test_a_first_frame_must_be_there_and_its_subject_must_stay(tmp_path):
    row = "first-frame80"

    def ends_elsewhere(clip, given):
        clip = clip.copy()
        clip[40:] = Puppet._real("a pink fish rising in the snow", 40)
        return clip

    likeness, kept = figures(row, Puppet(), tmp_path / "a")
    assert likeness.value == 99 and kept.value == 1
    likeness, kept = figures(row, Puppet(lambda clip, given: flickering(clip, 12)), tmp_path / "b")
    assert not likeness.met and likeness.value == pytest.approx(26.6, abs=0.6) and kept.met
    likeness, kept = figures(row, Puppet(ends_elsewhere), tmp_path / "c")
    assert likeness.met and not kept.met


@pytest.mark.slow
def test_a_cinemagraph_moves_where_it_may_and_nowhere_else(tmp_path):
    row = "cinemagraph16"
    assert met(row, Puppet(), tmp_path / "a") == [True]
    assert met(row, Puppet(lambda clip, given: flickering(clip)), tmp_path / "b") == [False]
    assert met(row, Puppet(lambda clip, given: frozen(clip)), tmp_path / "c") == [False]


@pytest.mark.slow
def test_a_background_may_flicker_a_little_more_than_real_ones(tmp_path):
    autoencoder = flickering
    for levels, expected in ((0.0, True), (2.5, True), (3.5, False)):
        puppet = Puppet(lambda clip, given, by=levels: flickering(clip, by), autoencoder)
        (figure,) = figures("still16", puppet, tmp_path / str(levels))
        assert figure.met == expected and figure.value == pytest.approx(levels / 2, rel=0.1, abs=0.02)


def test_timings_are_the_shortest_of_all_rounds():
    records = [{"ours": 9.0, "animatediff": 6.0}, {"ours": 2.0, "animatediff": 5.0}]
    (figure,) = ROWS["animatediff80"].figures(records)
    assert figure.value == 0.4 and figure.met
    (figure,) = ROWS["page80"].figures([{"preview": 2.2, "without": 2.3}, {"preview": 2.4, "without": 1.9}])
    assert figure.value == pytest.approx(2.2 / 1.9) and not figure.met


def test_size_is_that_of_all_files_and_of_the_largest(tmp_path):
    for name, size in (("a", 6_000_000), ("deep/b", 11_000_000)):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"\0" * size)
    record = costs.size(SimpleNamespace(folder=tmp_path), 0)
    total, largest = ROWS["size"].figures([record])
    assert (total.value, largest.value) == (17, 11) and total.met and not largest.met


@pytest.fixture
def studio(tiny_model):
    return Studio(str(tiny_model), steps=2, guidance=3.0)


def test_clips_are_those_of_the_pipeline_and_the_settings(studio, tiny_model):
    clip = studio.clip("a red ball", 8, 5)
    entry = models.entry(DEFAULT)
    pipeline = LumierePipeline.from_pretrained(replace(entry, source=str(tiny_model)), device="cpu")
    size = {"height": 64, "width": 64, "frames": 8, "scheduler": entry.scheduler}
    *_, result = pipeline.generate(Request("a red ball", steps=2, guidance=3.0, seed=5, **size))
    assert np.array_equal(clip, result.frames)


def test_through_the_autoencoder_is_encode_then_decode(studio):
    frames = np.random.default_rng(0).integers(0, 256, (3, 64, 64, 3), np.uint8)
    images = torch.from_numpy(frames).permute(0, 3, 1, 2).float() / 127.5 - 1
    with torch.no_grad():
        vae = studio.pipeline.vae
        expected = vae.decode(vae.encode(images).latent_dist.mean).sample
    expected = (expected / 2 + 0.5).clamp(0, 1).permute(0, 2, 3, 1).numpy() * 255
    assert np.abs(studio.through_autoencoder(frames) - expected).max() <= 1


@pytest.mark.slow
def test_costs_are_those_of_whole_runs(studio, monkeypatch):
    theirs = costs._animatediff(studio.pipeline, "dpm++ 2m", 8)
    assert theirs.unet.config.block_out_channels == studio.pipeline.lumiere.config.block_out_channels
    assert theirs.motion_adapter.config.use_motion_mid_block
    record = costs.against_animatediff(studio, 0, frames=8)
    assert record.keys() == {"ours", "animatediff"} and min(record.values()) > 0
    sheets = []
    monkeypatch.setattr(
        costs, "sprite_sheet", lambda frames: sheets.append(frames) or SimpleNamespace(data_uri="")
    )
    for index in (0, 1):
        assert costs.with_preview(studio, index, frames=8).keys() == {"preview", "without"}
        assert 1 <= len(sheets) <= 2, "one run of each kind, of which one shows previews"
        sheets.clear()


@pytest.mark.slow
def test_an_interrupted_evaluation_goes_on(tmp_path, capsys):
    whole, broken = Puppet(), Puppet()
    print_table(whole, Records(tmp_path / "whole.json", "x"), ["seen16", "controls"], range(5))
    expected = capsys.readouterr().out
    file = tmp_path / "runs" / "broken.json"

    def stop(clip, given):
        if len(broken.asked) == 3:
            raise KeyboardInterrupt
        return clip

    broken.spoil = stop
    assert print_table(broken, Records(file, "x"), ["seen16", "controls"], range(5)) == 130
    assert "goes on from here" in capsys.readouterr().err
    broken.spoil = lambda clip, given: clip
    assert print_table(broken, Records(file, "x"), ["seen16", "controls"], range(5)) == 0
    assert capsys.readouterr().out == expected
    assert [seed for *_, seed in broken.asked] == [0, 1, 2, 2, 3, 4]
    print_table(broken, Records(file, "x"), ["seen16"], range(3))
    assert "| 3 |" in capsys.readouterr().out and len(broken.asked) == 6
    print_table(broken, Records(file, "x"), ["seen16"], range(3, 7))
    assert "| 4 |" in capsys.readouterr().out and [seed for *_, seed in broken.asked][6:] == [5, 6]
    print_table(broken, Records(file, "other weights"), ["seen16"], range(1))
    assert len(broken.asked) == 9 and json.loads(file.read_text()).keys() == {"x", "other weights"}


def test_evaluations_may_share_a_file(tmp_path):
    file = tmp_path / "r.json"
    one, two = Records(file, "x"), Records(file, "x")
    one.add("a", 0, {"n": 0})
    two.add("a", 1, {"n": 1})
    one.add("b", 0, {"n": 2})
    assert json.loads(file.read_text()) == {"x": {"a": {"0": {"n": 0}, "1": {"n": 1}}, "b": {"0": {"n": 2}}}}
    assert list(Records(file, "x").of("a", range(2)).values()) == [{"n": 0}, {"n": 1}]
    assert [path.name for path in tmp_path.iterdir()] == ["r.json"]


@pytest.mark.slow
def test_records_belong_to_weights_and_settings(studio, tiny_model, tmp_path):
    same, other = (Studio(str(tiny_model), steps=2, guidance=g) for g in (3.0, 4.0))
    assert same.fingerprint == studio.fingerprint != other.fingerprint
    folder = tmp_path / "model"
    for file in Path(tiny_model).rglob("*"):
        if file.is_file():
            (folder / file.relative_to(tiny_model)).parent.mkdir(parents=True, exist_ok=True)
            (folder / file.relative_to(tiny_model)).write_bytes(file.read_bytes())
    assert Studio(str(folder), 2, 3.0).fingerprint == studio.fingerprint
    weights = folder / "motion" / "motion.safetensors"
    weights.write_bytes(weights.read_bytes()[:-4] + b"\0\0\0\0")
    assert Studio(str(folder), 2, 3.0).fingerprint != studio.fingerprint


def test_scenes_of_prompts_are_the_same_every_time_and_free_of_training_seeds():
    from lumiere.paperworld.parts import CLIPS_SEED, STILLS_SEED
    from lumiere.paperworld.rows import SEED

    assert scene_of(3)[0] == scene_of(3)[0] != scene_of(4)[0]
    assert SEED not in (CLIPS_SEED, STILLS_SEED)
    trained = [sample_scene(np.random.default_rng((CLIPS_SEED, i))).seed for i in range(300)]
    assert not {scene_of(i)[0].seed for i in range(300)} & set(trained)
    assert [scene_of(i, moves=False)[0].motion for i in range(5)] == ["still"] * 5
    assert "still" not in [scene_of(i, moves=True)[0].motion for i in range(50)]


@pytest.mark.slow
def test_records_that_are_shipped_are_of_the_weights_that_are_shipped():
    kept = json.loads((Path(__file__).parents[1] / "assets/evaluation/paper-world.json").read_text())
    assert list(kept) == [Studio().fingerprint]


def test_wrong_arguments_are_refused_in_words(tiny_model, tmp_path, capsys):
    with pytest.raises(SystemExit):
        main(["evaluate", "--rows", "seen16,sen80"])
    assert "choose from ceiling, seen16, " in capsys.readouterr().err
    assert main(["evaluate", "--clips", "0"]) == 2
    assert "--clips must be 1 or more: received 0." in capsys.readouterr().err
    assert main(["evaluate", "--first", "-1"]) == 2
    assert "--first must be 0 or more: received -1." in capsys.readouterr().err
    assert main(["evaluate", "--model", str(tiny_model), "--scheduler", "magic"]) == 2
    assert "scheduler must be one of" in capsys.readouterr().err
    (tmp_path / "broken.json").write_text("[")
    command = ["evaluate", "--model", str(tiny_model), "--results", str(tmp_path / "broken.json")]
    assert main(command) == 2
    assert "does not hold records of an evaluation" in capsys.readouterr().err
    assert main(["evaluate", "--model", str(tmp_path / "nowhere")]) == 1
    assert "nowhere" in capsys.readouterr().err


def test_the_command_prints_rows_and_attributes(tiny_model, tmp_path, capsys, monkeypatch):
    puppet = Puppet()
    puppet.fingerprint, puppet.folder = "x", Path(tiny_model)
    monkeypatch.setattr(evaluate, "Studio", lambda *args: puppet)
    command = ["evaluate", "--rows", "ceiling,size", "--clips", "2", "--results", str(tmp_path / "r.json")]
    assert main(command) == 0
    told = capsys.readouterr().out
    assert "| real clips through the autoencoder | 2 | all 1 ≥ 0.95 | met |" in told
    assert "MB in all" in told and "| ceiling | 1.000 | 1.000 | 1.000 | 1.000 | 1.000 |" in told


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
