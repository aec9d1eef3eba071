"""The list of models: `lumiere models`."""

import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from lumiere.__main__ import main
from lumiere.loading.catalogue import camera_on_disk, on_disk, rows
from lumiere.loading.registry import CAMERAS, MODELS, Model

COMMIT = "f" * 40


@pytest.fixture
def hub(tmp_path, monkeypatch) -> Path:
    """An empty cache of the hub."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    return tmp_path / "hub"


def put(hub: Path, name: str, folder: Path) -> None:
    """Writes a folder to the cache of the hub, as the newest commit of a repository."""
    place = hub / f"models--{name.replace('/', '--')}"
    shutil.copytree(folder, place / "snapshots" / COMMIT)
    (place / "refs").mkdir()
    (place / "refs" / "main").write_text(COMMIT)


def test_a_model_is_on_disk_when_every_part_is(hub, tiny_model, tmp_path):
    model = Model("some/base", "some/motion", domain_adapter=("some/lora/x.safetensors", 0.5))
    adapter = tmp_path / "adapter"
    adapter.mkdir()
    (adapter / "diffusion_pytorch_model.safetensors").touch()
    (tmp_path / "lora").mkdir()
    (tmp_path / "lora" / "x.safetensors").touch()
    for name, folder in (("base", tiny_model), ("motion", adapter), ("lora", tmp_path / "lora")):
        assert not on_disk(model)
        put(hub, f"some/{name}", folder)
    assert on_disk(model)
    assert not on_disk(replace(model, vae="some/vae"))
    (hub / "models--some--base" / "snapshots" / COMMIT / "vae" / "config.json").unlink()
    assert not on_disk(model)


def test_cameras_too(hub, tmp_path):
    assert not camera_on_disk("zoom-in")
    (tmp_path / "camera").mkdir()
    (tmp_path / "camera" / "diffusion_pytorch_model.safetensors").touch()
    put(hub, CAMERAS["zoom-in"], tmp_path / "camera")
    assert camera_on_disk("zoom-in") and not camera_on_disk("zoom-out")


def test_rows_say_what_each_model_can_do(hub):
    found = {row.name: row for row in rows()}
    assert found.keys() == MODELS.keys()
    assert [name for name, row in found.items() if row.on_disk] == ["paper-world"]
    assert [name for name, row in found.items() if "cameras" in row.abilities] == ["sd15-animatediff-v2"]
    lcm = found["sd15-lcm"]
    assert lcm.clip == "16 frames, 6 steps of lcm, guidance 1.5"
    assert {"preset fast", "domain adapter (weight 0.8)", "8 to 128 frames"} <= set(lcm.abilities)
    assert found["sd15-lightning-1"].clip == "16 frames, 1 step of euler, no guidance"
    assert all(row.model.download for row in found.values() if row.name != "paper-world")


def test_command_prints_the_list(hub, capsys):
    assert main(["models"]) == 0
    text = capsys.readouterr().out
    for name, model in MODELS.items():
        assert f"{name} (" in text and model.licence.split(",")[0] in text
    assert "paper-world (on disk)" in text and "sd15-lcm (not on disk)" in text and "zoom-in" in text
