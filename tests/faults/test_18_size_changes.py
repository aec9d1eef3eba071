import re
import struct

import pytest

from lumiere.video import probe, read_clip, write_clip
from tests.test_video import ffmpeg, moving

from .media import UNREADABLE, encoded, refuse


@pytest.mark.parametrize("kind", ["mp4", "mkv"])
@pytest.mark.parametrize("second", ["128x112", "32x16", "48x64", "2048x2048"])
def test_18_the_size_changes_midway(tmp_path, kind, second):
    for name, size in (("a", "64x48"), ("b", second)):
        encoded(tmp_path / f"{name}.h264", size, 8, "-c:v", "libx264", "-pix_fmt", "yuv420p", "-bf", "0")
    both = tmp_path / "ab.h264"
    both.write_bytes((tmp_path / "a.h264").read_bytes() + (tmp_path / "b.h264").read_bytes())
    path = tmp_path / f"ab.{kind}"
    ffmpeg(
        "-fflags", "+genpts", "-r", 16, "-i", both, "-c", "copy", "-bsf:v", "setts=ts=N", tmp_path / "ab.mp4"
    )
    if kind == "mkv":
        ffmpeg("-i", tmp_path / "ab.mp4", "-c", "copy", path)
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


def test_18_a_header_that_lies(tmp_path):
    path = encoded(tmp_path / "a.avi", "2048x2048", 4, "-c:v", "mjpeg")
    data = bytearray(path.read_bytes())
    for match in list(re.finditer(re.escape(struct.pack("<2I", 2048, 2048)), bytes(data))):
        data[match.start() : match.end()] = struct.pack("<2I", 64, 64)
    (tmp_path / "b.avi").write_bytes(data)
    refuse(tmp_path / "b.avi", "")

    path = encoded(
        tmp_path / "a.webm", "2048x2048", 4, "-c:v", "libvpx", "-deadline", "realtime", "-cpu-used", "8"
    )
    data = (
        path.read_bytes()
        .replace(b"\xb0\x82\x08\x00", b"\xb0\x82\x00\x40")
        .replace(b"\xba\x82\x08\x00", b"\xba\x82\x00\x40")
    )
    assert data != path.read_bytes()
    (tmp_path / "b.webm").write_bytes(data)
    refuse(tmp_path / "b.webm", "")

    path = encoded(tmp_path / "a.mp4", "2048x2048", 2, "-c:v", "libx264", "-preset", "ultrafast")
    data = path.read_bytes().replace(struct.pack(">2H", 2048, 2048), struct.pack(">2H", 64, 64))
    data = data.replace(struct.pack(">2I", 2048 << 16, 2048 << 16), struct.pack(">2I", 64 << 16, 64 << 16))
    assert data != path.read_bytes()
    (tmp_path / "b.mp4").write_bytes(data)
    refuse(tmp_path / "b.mp4", "")


def test_18_words_that_pose_as_a_header(tmp_path):
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
