import struct

from lumiere.video import probe, read_clip
from tests.test_video import ffmpeg

from .media import UNREADABLE, cpu_seconds, encoded


def test_19_many_frames_and_odd_rates(tmp_path):
    many = tmp_path / "many.mp4"
    ffmpeg("-f", "lavfi", "-i", "color=s=16x16:r=1000", "-frames:v", 20_000, "-preset", "ultrafast", many)
    started = cpu_seconds()
    frames, fps = read_clip(many, max_frames=80)
    assert frames.shape == (80, 16, 16, 3) and fps == 60
    assert cpu_seconds() - started < 2
    assert probe(many).fps == 1000

    # Variable: 8 frames within half a second, then one ten million seconds later.
    ffmpeg(
        *("-f", "lavfi", "-i", "testsrc=s=64x48:r=16", "-frames:v", 9, "-fps_mode", "passthrough"),
        *("-vf", "setpts='if(lt(N,8),N,160000000)/16/TB'", tmp_path / "gap.mkv"),
    )
    started = cpu_seconds()
    frames, fps = read_clip(tmp_path / "gap.mkv", max_frames=80)
    assert len(frames) <= 80 and 1 <= fps <= 60
    assert cpu_seconds() - started < 2

    avi = encoded(tmp_path / "a.avi", "64x48", 4, "-c:v", "mjpeg").read_bytes()
    scale_and_rate = struct.pack("<2I", 1, 16)
    assert scale_and_rate in avi
    for number, pair in enumerate([(1, 0), (0, 0), (0, 16), (2**32 - 1, 1), (1, 2**32 - 1)]):
        path = tmp_path / f"{number}.avi"
        path.write_bytes(avi.replace(scale_and_rate, struct.pack("<2I", *pair)))
        started = cpu_seconds()
        try:
            frames, fps = read_clip(path, max_frames=20)
            assert len(frames) <= 20 and 1 <= fps <= 60
        except ValueError as error:
            assert UNREADABLE in str(error)
        assert cpu_seconds() - started < 2
