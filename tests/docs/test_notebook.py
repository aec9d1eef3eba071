"""The quickstart notebook runs on the embedded model."""

import json
import sys
from pathlib import Path

import pytest

from lumiere import models
from lumiere.media.video import read_clip

NOTEBOOK = Path(__file__).resolve().parents[2] / "docs/notebooks/quickstart.ipynb"


def cells() -> list[dict]:
    """Returns the code cells."""
    cells = json.loads(NOTEBOOK.read_text("utf-8"))["cells"]
    return [cell for cell in cells if cell["cell_type"] == "code"]


def test_notebook_is_stored_without_outputs():
    assert all(cell["outputs"] == [] and cell["execution_count"] is None for cell in cells())


@pytest.mark.slow
@pytest.mark.soak
def test_notebook_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.setattr(models, "_resident", [])
    (tmp_path / "lumiere").symlink_to(NOTEBOOK.parents[2] / "lumiere")  # the checkout: see its first cell
    names: dict = {}
    for number, cell in enumerate(cells(), 1):
        exec(compile("".join(cell["source"]), f"cell {number}", "exec"), names)
    assert names["request"].seed == 7
    for name in ("ball.mp4", "falling.mp4"):
        assert read_clip(name)[0].shape == (16, 128, 128, 3)
