"""Row 20: truncated, empty, random, audio-only file named .mp4."""

import numpy as np
import pytest

from lumiere.media.video import probe, read_clip
from tests.media.test_video import ffmpeg
from tests.security.media import UNREADABLE, encoded, refuse


@pytest.mark.parametrize("kind", ["mp4", "faststart.mp4", "avi", "mkv"])
def test_truncated(tmp_path, kind):
    extra = ["-movflags", "+faststart"] if "faststart" in kind else []
    whole = encoded(tmp_path / f"whole.{kind}", "128x96", 32, *extra, "-g", "8", "-bf", "0")
    frames, data, path = read_clip(whole)[0], whole.read_bytes(), tmp_path / f"cut.{kind}"
    assert len(frames) == 32
    for share in (0.0, 0.02, 0.3, 0.6, 0.98):
        path.write_bytes(data[: int(len(data) * share)])
        try:
            part = read_clip(path)[0]
        except ValueError as error:
            assert str(error).startswith(UNREADABLE)
        else:  # made to be streamed: what is there is intact
            assert kind == "mkv" and share > 0.02 and np.array_equal(part, frames[: len(part)])


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\0" * 5000,
        b"hello",
        b"\0\0\0\x18ftypmp42" + b"\0" * 100,
        b"<html><script>x</script></html>",
        None,
    ],
)
def test_no_video_at_all(tmp_path, content):
    path = tmp_path / "stranger.mp4"
    path.write_bytes(np.random.default_rng(0).bytes(100_000) if content is None else content)
    what = {b"": ": it is empty", b"<html><script>x</script></html>": ": it is a web page"}
    assert refuse(path) == f"{UNREADABLE}{what.get(content, '')}."
    with pytest.raises(ValueError):
        probe(path)


def test_sound_only_a_folder_and_nothing(tmp_path):
    ffmpeg("-f", "lavfi", "-i", "sine=d=1", tmp_path / "sound.mp4")
    (tmp_path / "folder.mp4").mkdir()
    assert refuse(tmp_path / "sound.mp4") == f"{UNREADABLE}: it has sound only."
    for name, words in (("folder.mp4", "is a folder"), ("missing.mp4", "there is no file")):
        with pytest.raises(ValueError, match=words):
            read_clip(tmp_path / name)


@pytest.mark.parametrize("content", [b"\n", b"\0" * 5000, b"<html><script>x</script></html>"])
def test_over_http_no_video_at_all(stranger, work, content):
    for endpoint in ("continue_clip", "video_to_video"):
        told = stranger.refusal(endpoint, clip=stranger.file("a.mp4", content))
        assert told.startswith("Cannot read a video from this file")
    assert not work.any
