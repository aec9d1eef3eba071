"""Row 17: 8192² video in 16 kB."""

import struct

from tests.security.media import encoded, refuse


def test_a_small_file_of_huge_frames(tmp_path):
    for name, side, codec in (("a.mp4", 8192, "libx264"), ("a.avi", 8192, "mjpeg")):
        path = encoded(tmp_path / name, f"{side}x{side}", 1, "-c:v", codec, "-preset", "ultrafast")
        text = refuse(path, "", seconds=0.3)
        assert text == f"the video must be at most 4096 pixels a side: received {side} x {side}."

    path = encoded(tmp_path / "a.gif", "64x64", 2)
    screen = path.read_bytes()
    path.write_bytes(screen[:6] + struct.pack("<2H", 8192, 8192) + screen[10:])
    assert refuse(path, "", seconds=0.3).endswith("received 8192 x 8192.")


def test_over_http_a_small_file_of_huge_frames(stranger, work, tmp_path):
    path = encoded(tmp_path / "a.mp4", "8192x8192", 1, "-c:v", "libx264", "-preset", "ultrafast")
    told = stranger.refusal("continue_clip", clip=stranger.file("a.mp4", path.read_bytes()))
    assert told == "The video must be at most 4096 pixels a side: received 8192 x 8192."
    assert not work.any
