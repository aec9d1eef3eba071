"""Row 19: 20 000 frames, 1000 fps, variable fps, fps 0."""

import struct
from pathlib import Path

import pytest

from lumiere.media.video import probe, read_clip
from tests.media.test_video import ffmpeg
from tests.security.media import UNREADABLE, cpu_seconds, encoded

AVI_RATES = [(1, 0), (0, 0), (0, 16), (2**32 - 1, 1), (1, 2**32 - 1)]  # scale and rate in the header
REFUSED = {  # many.mp4 is 20 s long: where it ends, from where it would go on, was not read
    ".mp4": "A clip that goes on must have at most 480 frames: received more.",
    ".avi": "Cannot read a video from this file.",
}
NAMES = ["many.mp4", "gap.mkv", *(f"{number}.avi" for number in range(len(AVI_RATES)))]


@pytest.fixture(scope="module")
def videos(tmp_path_factory) -> Path:
    """many.mp4: 20 000 frames, 1000 a second. gap.mkv: 8 within half a second, then one ten million seconds
    later. Numbers: headers with rates that cannot be.
    """
    folder = tmp_path_factory.mktemp("rates")
    source = ("-f", "lavfi", "-i", "color=s=16x16:r=1000")
    ffmpeg(*source, "-frames:v", 20_000, "-preset", "ultrafast", folder / "many.mp4")
    ffmpeg(
        *("-f", "lavfi", "-i", "testsrc=s=64x48:r=16", "-frames:v", 9, "-fps_mode", "passthrough"),
        *("-vf", "setpts='if(lt(N,8),N,160000000)/16/TB'", folder / "gap.mkv"),
    )
    avi = encoded(folder / "a.avi", "64x48", 4, "-c:v", "mjpeg").read_bytes()
    scale_and_rate = struct.pack("<2I", 1, 16)
    assert scale_and_rate in avi
    for number, pair in enumerate(AVI_RATES):
        (folder / f"{number}.avi").write_bytes(avi.replace(scale_and_rate, struct.pack("<2I", *pair)))
    return folder


def test_a_thousand_frames_a_second(videos):
    assert probe(videos / "many.mp4").fps == 1000
    frames, fps = read_clip(videos / "many.mp4", max_frames=80)
    assert frames.shape == (80, 16, 16, 3) and fps == 60


@pytest.mark.parametrize("name", NAMES)
def test_many_frames_and_odd_rates(videos, name):
    started = cpu_seconds()
    try:
        frames, fps = read_clip(videos / name, max_frames=80)
        assert len(frames) <= 80 and 1 <= fps <= 60
    except ValueError as error:
        assert UNREADABLE in str(error) and name.endswith(".avi")
    assert cpu_seconds() - started < 2


@pytest.mark.parametrize("name", NAMES)
def test_over_http_a_clip_of_the_asked_length_or_a_refusal(stranger, videos, name):
    data = (videos / name).read_bytes()
    outcome, told = stranger.generate("continue_clip", clip=stranger.file(name, data))
    if outcome == "error":
        assert told == REFUSED.get(Path(name).suffix)
    else:
        file, settings = told
        assert settings["frames"] == 8 and 1 <= settings["fps"] <= 60
        path = videos / "made.mp4"
        path.write_bytes(stranger.fetch(file["path"]).content)
        assert len(read_clip(path)[0]) >= 8
