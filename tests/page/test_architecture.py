"""The drawing of the model has the model's own numbers."""

import re
import shutil
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest
from safetensors import safe_open

from lumiere.page import strings
from lumiere.page.architecture import Architecture, Level, drawing, parameters, read
from tests.bases import save_base

ROOT = Path(__file__).resolve().parents[2]
MODEL = ROOT / "assets" / "models" / "paper-world"


def counted(*folders) -> int:
    total = 0
    for file in (file for folder in folders for file in folder.glob("*.safetensors")):
        with safe_open(file, "pt") as tensors:
            total += sum(tensors.get_tensor(name).numel() for name in tensors.keys())
    return total


def test_levels_and_parameters_of_the_embedded_model():
    found = read(MODEL, MODEL / "motion")
    seen = [
        (level.stride, level.height, level.width, level.channels, level.attention) for level in found.levels
    ]
    assert seen == [(1, 16, 16, 64, False), (2, 8, 8, 128, False), (4, 4, 4, 192, True)]
    assert found.pixels == 8
    assert found.frozen == counted(*(MODEL / name for name in ("unet", "vae", "text_encoder")))
    assert found.trained == counted(MODEL / "motion")


def test_what_is_loaded_counts_once_and_whole(tmp_path):
    base = save_base(tmp_path / "base", "xl")
    names = ("unet", "vae", "text_encoder", "text_encoder_2")
    expected = counted(*(base / name for name in names))
    for name in names:  # the variant that many models store beside
        (whole,) = (base / name).glob("*.safetensors")
        shutil.copy(whole, whole.with_suffix(".fp16.safetensors"))
    assert read(base, MODEL / "motion").frozen == expected
    for name in names:  # or instead
        (base / name / ("model" if name.startswith("text") else "diffusion_pytorch_model")).with_suffix(
            ".safetensors"
        ).unlink()
    assert read(base, MODEL / "motion").frozen == expected


def test_the_drawing_is_whole_and_tells_them(tmp_path):
    found = read(MODEL, MODEL / "motion")
    section = ElementTree.fromstring(drawing(found, 80))
    assert section.find("h2").text == strings.ARCHITECTURE
    counts = [e.text for e in section.iter() if e.get("data-stride")]
    assert {"80", "40", "20"} == set(counts) and len(counts) == 3 * 2 + 3  # both ways, and the table
    table = [["".join(cell.itertext()) for cell in row] for row in section.iter("tr")]
    assert table[1][:3] == ["80", "16 × 16", "64"] and table[3][:3] == ["20", "4 × 4", "192"]
    millions = re.findall(r"\d+\.\d", strings.architecture_facts(found))
    assert f"{found.trained / 1e6:.1f}" in millions and f"{found.frozen / 1e6:.1f}" in millions


def test_without_the_weights_there_is_a_drawing_without_their_numbers(tmp_path):
    shutil.copy(MODEL / "model_index.json", tmp_path)
    for name in ("unet", "vae", "text_encoder", "motion"):
        (tmp_path / name).mkdir()
        for file in (MODEL / name).glob("*.json"):
            shutil.copy(file, tmp_path / name)
    found = read(tmp_path, tmp_path / "motion")
    assert found.frozen is None and found.trained is None and len(found.levels) == 3
    assert ElementTree.fromstring(drawing(found, 16)) is not None
    (tmp_path / "unet" / "config.json").unlink()
    with pytest.raises(OSError):
        read(tmp_path, tmp_path / "motion")


def test_parameters_of_one_file():
    (file, *_) = (MODEL / "motion").glob("*.safetensors")
    assert 0 < parameters(file) <= parameters(MODEL / "motion")


def test_no_two_blocks_of_a_level_overlap():
    levels = tuple(Level(1, 64 >> n, 64 >> n, 320, attention=True) for n in range(4))
    drawn = drawing(Architecture(levels, 8, None, None), 16)
    strips = re.findall(r'class="trained" x="([\d.]+)" y="([\d.]+)" width="([\d.]+)"', drawn)
    rows = {}
    for x, y, width in strips:
        rows.setdefault(y, []).append((float(x), float(x) + float(width)))
    assert len(rows) == 4
    assert all(end < start for (_, end), (start, _) in rows.values())
