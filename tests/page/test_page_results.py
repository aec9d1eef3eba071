"""The finished clip in other formats."""

import errno
import io
import os
import time
import zipfile
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from lumiere import models
from lumiere.limits import ServerLimits
from lumiere.media.video import write_clip
from lumiere.page import results, strings
from lumiere.page.server.service import Service
from lumiere.request import Limits, Request
from lumiere.runtime import jobs

LIMITS = Limits()
SERVICE = Service(ServerLimits(), loaded=lambda: True)


def filled(**settings) -> Request:
    """A request with the defaults of a model, as the page makes them."""
    return Request("a red ball", **models.entry("paper-world").usual | settings)


@pytest.fixture
def clip(tmp_path, monkeypatch):
    monkeypatch.setenv("GRADIO_TEMP_DIR", str(tmp_path))
    path = tmp_path / "made" / "clip.mp4"
    path.parent.mkdir()
    write_clip(path, np.random.default_rng(0).integers(0, 256, (8, 32, 48, 3), np.uint8), 8)
    return path


@pytest.mark.parametrize("kind", ["webp", "gif"])
def test_a_moving_picture_has_all_frames_at_their_rate(clip, kind):
    assert results.export({"path": str(clip), "kind": kind}, LIMITS, SERVICE)["name"] == f"clip.{kind}"
    with Image.open(clip.with_suffix(f".{kind}")) as picture:
        assert (picture.n_frames, picture.size, picture.info["loop"]) == (8, (48, 32), 0)
        picture.load()
        assert abs(picture.info["duration"] - 125) <= 5


def test_pictures_come_one_by_one(clip):
    results.export({"path": str(clip), "kind": "zip"}, LIMITS, SERVICE)
    with zipfile.ZipFile(clip.with_suffix(".zip")) as archive:
        assert archive.namelist() == [*(f"frame-{n:04d}.png" for n in range(8)), "clip.json"]
        assert Image.open(io.BytesIO(archive.read("frame-0007.png"))).size == (48, 32)


def test_what_the_model_may_make_can_be_exported(clip):
    write_clip(clip, np.zeros((12, 64, 1152, 3), np.uint8), 8)
    asked = {"path": str(clip), "kind": "zip"}
    assert "1024 pixels a side" in results.export(asked, LIMITS, SERVICE)["sentence"]
    assert "url" in results.export(asked, replace(LIMITS, max_side=1536, max_pixels=8 * 64 * 1152), SERVICE)
    with zipfile.ZipFile(clip.with_suffix(".zip")) as archive:
        assert len(archive.namelist()) == 12 + 1


def test_nothing_is_exported_where_there_is_no_room_for_it(clip):
    write_clip(clip, np.zeros((60, 256, 256, 3), np.uint8), 8)  # 12 MB of pixels
    told = results.export({"path": str(clip), "kind": "zip"}, LIMITS, Service(ServerLimits(disk_mb=8), bool))
    assert told == {"sentence": strings.DISK_FULL}
    assert [file.name for file in clip.parent.iterdir()] == ["clip.mp4"]


def test_room_is_not_made_of_the_clip_itself(clip, tmp_path):
    write_clip(clip, np.zeros((30, 256, 256, 3), np.uint8), 8)  # 6 MB of pixels
    other = tmp_path / "upload" / "other"
    other.parent.mkdir()
    other.write_bytes(bytes(4 * 2**20))
    for file, age in ((clip, 400), (other, 300)):
        os.utime(file, (0, time.time() - age))
    told = results.export({"path": str(clip), "kind": "zip"}, LIMITS, Service(ServerLimits(disk_mb=8), bool))
    assert "url" in told and clip.exists() and not other.exists()


@pytest.mark.parametrize(
    "height, width, frames", [(1152, 896, 16), (1024, 1024, 24), (512, 512, 96), (64, 64, 480)]
)
def test_a_finished_clip_of_any_size_can_be_shown_before_its_video_is_there(height, width, frames):
    clip = np.zeros((frames, height, width, 3), np.uint8)
    request = filled(frames=frames, height=height, width=width)
    shown = results.sheet(results.some(clip), request, frames)
    assert 12 <= shown["count"] <= 24
    assert shown["width"] / shown["height"] == pytest.approx(width / height, rel=0.01)


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
        assert "sentence" in results.export({"path": str(clip), "kind": kind}, LIMITS, SERVICE)
    assert [file.name for file in clip.parent.iterdir()] == ["clip.mp4"]
    assert "url" in results.export({"path": str(clip), "kind": kind}, LIMITS, SERVICE)


@pytest.mark.parametrize("asked", [None, {}, {"kind": "exe"}, {"path": "/etc/passwd", "kind": "gif"}])
def test_what_is_no_clip_or_no_format_is_refused(clip, asked):
    assert list(results.export(asked, LIMITS, SERVICE)) == ["sentence"]


def test_a_sheet_plays_as_long_as_its_clip():
    request, frames = filled(frames=48, fps=16), np.zeros((12, 8, 8, 3), np.uint8)
    for length, seconds in ((None, 3), (24, 1.5)):
        sheet = results.sheet(frames, request, length)
        assert sheet["count"] / sheet["fps"] == seconds


def test_time_left_and_pace():
    request, begun = filled(frames=16, height=128, width=128), jobs.Update(step=1, steps=5)
    told = results.progress(request, begun)
    assert told["text"] == "Step 1 of 5" and told["pace"] == 0
    told = results.progress(
        request, replace(begun, step=2, seconds_per_step=2.0, seconds_left=6.0, share=0.4)
    )
    assert told["text"] == "Step 2 of 5 · 2.0 s per step · 6.0 s left"
    assert told["pace"] == pytest.approx(10 / (20 * 16))


@pytest.mark.parametrize(
    "mode, longest", [("text", 480), ("image", 480), ("continue", 8), ("inpaint", 8), ("video", 8)]
)
def test_a_clip_that_is_made_of_another_is_as_long_as_that_lets_it_be(clip, mode, longest):
    request = filled(frames=8, height=32, width=48, mode=mode)
    shown = results.finished(request, np.zeros((8, 32, 48, 3), np.uint8), str(clip), LIMITS)
    assert shown["longest"] == longest
