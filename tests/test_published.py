"""The benchmark of published weights, on small random twins."""

import pytest

from lumiere.media.video import read_settings
from tests.benchmarks.published import main

pytestmark = pytest.mark.slow


def test_makes_clips_a_contact_sheet_and_a_table(tmp_path):
    names = ["sd15-lcm", "sdxl-hotshot"]
    options = ["--random", "--small", "--clips", "1", "--device", "cpu", "--out", str(tmp_path)]
    assert main([*names, *options]) == 0
    expected = {"table.md", *(f"{name}{end}" for name in names for end in (".png", "-0.mp4"))}
    assert {file.name for file in tmp_path.iterdir()} == expected
    rows = (tmp_path / "table.md").read_text().splitlines()
    assert [row.split(" | ")[0] for row in rows[2:]] == [f"| {name}" for name in names]
    assert "8 x 64 x 64, 2 steps" in rows[2]
    assert '"model": "sd15-lcm"' in read_settings(tmp_path / "sd15-lcm-0.mp4")


def test_a_model_that_cannot_be_fetched_is_a_row_with_the_reason(tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    assert main(["sd15-lcm", "--device", "cpu", "--out", str(tmp_path)]) == 1
    assert "cannot fetch the model" in (tmp_path / "table.md").read_text()
