"""The finished clip in other formats."""

import errno
import io
import zipfile
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from lumiere.page import results
from lumiere.request import Limits
from lumiere.video import write_clip

LIMITS = Limits()


@pytest.fixture
def clip(tmp_path, monkeypatch):
    monkeypatch.setenv("GRADIO_TEMP_DIR", str(tmp_path))
    path = tmp_path / "made" / "clip.mp4"
    path.parent.mkdir()
    write_clip(path, np.random.default_rng(0).integers(0, 256, (8, 32, 48, 3), np.uint8), 8)
    return path


@pytest.mark.parametrize("kind", ["webp", "gif"])
def test_a_moving_picture_has_all_frames_at_their_rate(clip, kind):
    assert results.export({"path": str(clip), "kind": kind}, LIMITS)["name"] == f"clip.{kind}"
    with Image.open(clip.with_suffix(f".{kind}")) as picture:
        assert (picture.n_frames, picture.size, picture.info["loop"]) == (8, (48, 32), 0)
        picture.load()
        assert abs(picture.info["duration"] - 125) <= 5


def test_pictures_come_one_by_one(clip):
    results.export({"path": str(clip), "kind": "zip"}, LIMITS)
    with zipfile.ZipFile(clip.with_suffix(".zip")) as archive:
        assert archive.namelist() == [*(f"frame-{n:04d}.png" for n in range(8)), "clip.json"]
        assert Image.open(io.BytesIO(archive.read("frame-0007.png"))).size == (48, 32)


def test_what_the_model_may_make_can_be_exported(clip):
    write_clip(clip, np.zeros((12, 64, 1152, 3), np.uint8), 8)
    asked = {"path": str(clip), "kind": "zip"}
    assert "1024 pixels a side" in results.export(asked, LIMITS)["sentence"]
    assert "url" in results.export(asked, replace(LIMITS, max_side=1536, max_frames=12))
    with zipfile.ZipFile(clip.with_suffix(".zip")) as archive:
        assert len(archive.namelist()) == 12 + 1


@pytest.mark.parametrize("kind", ["webp", "gif", "zip"])
def test_a_file_that_the_disk_had_no_room_for_is_not_left_as_a_half_and_is_made_later(
    clip, kind, monkeypatch
):
    def full(picture, file, *args, **kwargs):
        """What Pillow does there: some of it is written."""
        if hasattr(file, "write"):
            file.write(b"half")
        else:
            file.write_bytes(b"half")
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(Image.Image, "save", full)
        assert "sentence" in results.export({"path": str(clip), "kind": kind}, LIMITS)
    assert [file.name for file in clip.parent.iterdir()] == ["clip.mp4"]
    assert "url" in results.export({"path": str(clip), "kind": kind}, LIMITS)


@pytest.mark.parametrize("asked", [None, {}, {"kind": "exe"}, {"path": "/etc/passwd", "kind": "gif"}])
def test_what_is_no_clip_or_no_format_is_refused(clip, asked):
    assert list(results.export(asked, LIMITS)) == ["sentence"]
