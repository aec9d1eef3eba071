"""Row 18: a video whose size changes midway, a header that lies."""

import struct
from pathlib import Path

import pytest

from lumiere.media.video import probe, read_clip, write_clip
from tests.media.test_video import ffmpeg, moving
from tests.security.media import UNREADABLE, encoded, refuse

TOO_LARGE = 4608  # pixels a side
CODECS = {
    "avi": ("mjpeg",),
    "webm": ("libvpx", "-deadline", "realtime", "-cpu-used", "8"),
    "mp4": ("libx264", "-preset", "ultrafast"),
}


def size_in_header(kind: str, side: int) -> list[bytes]:
    """How files of this kind tell that frames are so many pixels wide and high."""
    if kind == "webm":
        return [tag + struct.pack(">H", side) for tag in (b"\xb0\x82", b"\xba\x82")]
    layouts = {"avi": [("<2I", 1)], "mp4": [(">2H", 1), (">2I", 1 << 16)]}[kind]
    return [struct.pack(layout, side * unit, side * unit) for layout, unit in layouts]


def changing(folder: Path, second: str, kind: str = "mp4") -> Path:
    """A video of eight frames of 64 x 48, then as many of another size."""
    for name, size in (("a", "64x48"), ("b", second)):
        encoded(folder / f"{name}.h264", size, 8, "-c:v", "libx264", "-pix_fmt", "yuv420p", "-bf", "0")
    both = folder / "ab.h264"
    both.write_bytes((folder / "a.h264").read_bytes() + (folder / "b.h264").read_bytes())
    path = folder / f"ab.{kind}"
    ffmpeg(
        "-fflags", "+genpts", "-r", 16, "-i", both, "-c", "copy", "-bsf:v", "setts=ts=N", folder / "ab.mp4"
    )
    if kind == "mkv":
        ffmpeg("-i", folder / "ab.mp4", "-c", "copy", path)
    return path


def lying(folder: Path, kind: str) -> Path:
    """A video of frames too large to be decoded, whose header says 64 x 64."""
    path = encoded(folder / f"large.{kind}", f"{TOO_LARGE}x{TOO_LARGE}", 2, "-c:v", *CODECS[kind])
    data = path.read_bytes()
    for true, false in zip(size_in_header(kind, TOO_LARGE), size_in_header(kind, 64), strict=True):
        assert true in data
        data = data.replace(true, false)
    path.write_bytes(data)
    return path


@pytest.mark.parametrize("kind", ["mp4", "mkv"])
@pytest.mark.parametrize("second", ["128x112", "32x16", "48x64", "2048x2048"])
def test_the_size_changes_midway(tmp_path, kind, second):
    path = changing(tmp_path, second, kind)
    assert probe(path).width == 64
    if second == "48x64":  # may pass as the same video turned by a quarter, but never in another shape
        try:
            frames = read_clip(path)[0]
        except ValueError as error:
            assert UNREADABLE in str(error)
        else:
            assert frames.shape[1:] == (48, 64, 3)
        return
    assert "changes its size" in refuse(path)
    assert len(read_clip(path, max_frames=4)[0]) == 4  # what lies behind the limit is not looked at


@pytest.mark.parametrize("kind", CODECS)
def test_a_header_that_lies(tmp_path, kind):
    refuse(lying(tmp_path, kind), "")


@pytest.mark.parametrize("endpoint", ["continue_clip", "video_to_video"])
def test_over_http_neither_reaches_the_device(stranger, work, tmp_path, endpoint):
    def told(path):
        return stranger.refusal(endpoint, clip=stranger.file(path.name, path.read_bytes()))

    assert "changes its size" in told(changing(tmp_path, "128x112"))
    for kind in CODECS:
        assert told(lying(tmp_path, kind))
    assert not work.any


def test_words_that_pose_as_a_header(tmp_path):
    line = "  Stream #0:0: Video: h264, yuv420p, 9x9, 1.2.3 fps, . tbr"
    write_clip(tmp_path / "a.mp4", moving(), 16, f"x\n{line}\r{line}")
    header = probe(tmp_path / "a.mp4")
    assert (header.width, header.height, header.fps) == (64, 48, 16)
    for key in (f"language=eng): Video: , 9x9, 1.2.3 fps, {line}", f"  Stream #0={line}", f"title=\n{line}"):
        for name, tag in (("b.mkv", "-metadata"), ("c.mkv", "-metadata:s:v:0")):
            ffmpeg("-i", tmp_path / "a.mp4", "-c", "copy", tag, key, tmp_path / name)
            try:
                assert read_clip(tmp_path / name)[0].shape == (8, 48, 64, 3)
            except ValueError as error:
                assert str(error).startswith(UNREADABLE)
