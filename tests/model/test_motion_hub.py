"""Motion weights as a repository: saved, loaded and uploaded, without a network."""

import huggingface_hub
import pytest
import torch

from lumiere.model.motion_hub import from_pretrained, push_to_hub, save_pretrained
from lumiere.model.motion_weights import read_facts
from tests.model.test_lumiere import small_unet, trained, two_clips

FACTS = {"steps": 3, "data": "clips"}


@pytest.fixture(scope="module")
def lumiere():
    return trained(small_unet())


@torch.no_grad()
def test_saves_and_loads_every_bit(lumiere, tmp_path):
    save_pretrained(lumiere, tmp_path, "someone/base", FACTS)
    loaded = from_pretrained(small_unet(), tmp_path)
    assert torch.equal(loaded(*two_clips()).sample, lumiere(*two_clips()).sample)
    card = (tmp_path / "README.md").read_text()
    assert "base_model: someone/base\n" in card and "multiple of 4 frames" in card and '"steps": 3' in card
    (tmp_path / "README.md").write_text("own words")
    save_pretrained(lumiere, tmp_path)
    assert (tmp_path / "README.md").read_text() == "own words" and read_facts(tmp_path) == {}


def test_uploads_what_it_saves_and_loads_from_the_hub(lumiere, tmp_path, monkeypatch):
    """The hub is a folder here."""
    calls = []

    class Hub:
        def __init__(self, token=None):
            calls.append(token)

        def create_repo(self, repo_id, private=None, exist_ok=False):
            calls.append((repo_id, private, exist_ok))

        def upload_folder(self, repo_id, folder_path, commit_message):
            from shutil import copytree

            copytree(folder_path, tmp_path / repo_id)
            return "address"

    def download(name, revision=None, allow_patterns=()):
        assert (name, revision) == ("me/motion", "v1") and "motion.json" in allow_patterns
        return str(tmp_path / name)

    monkeypatch.setattr(huggingface_hub, "HfApi", Hub)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    assert push_to_hub(lumiere, "me/motion", "someone/base", FACTS, private=True, token="t") == "address"
    assert calls == ["t", ("me/motion", True, True)]
    assert "README.md" in [file.name for file in (tmp_path / "me/motion").iterdir()]
    loaded = from_pretrained(small_unet(), "me/motion", revision="v1")
    assert all(torch.equal(x, lumiere.state_dict()[key]) for key, x in loaded.state_dict().items())
