"""What `read_clip` does with the files that strangers send; the numbers are those of the list of tries."""

import http.server
import os
import re
import struct
import subprocess
import threading
from pathlib import Path

import imageio_ffmpeg
import numpy as np
import pytest
from test_video import ffmpeg, moving

from lumiere.video import probe, read_clip, read_settings, write_clip

UNREADABLE = "cannot read a video from this file"


def cpu_seconds() -> float:
    """What finished child processes have used, which does not depend on what else the machine does."""
    times = os.times()
    return times.children_user + times.children_system


def refuse(path, words: str = UNREADABLE, seconds: float = 1.0, **limits) -> str:
    """The refusal of this file by `read_clip`: one sentence that does not name it, and little work."""
    started = cpu_seconds()
    with pytest.raises(ValueError) as caught:
        read_clip(path, **limits)
    assert cpu_seconds() - started < seconds
    text = str(caught.value)
    assert type(caught.value) is ValueError and text.endswith(".") and "\n" not in text
    assert words in text and Path(path).name not in text and str(path) not in text
    return text


def encoded(path: Path, size: str, frames: int, *options) -> Path:
    source = "testsrc" if int(size.partition("x")[0]) < 1024 else "color"
    ffmpeg("-f", "lavfi", "-i", f"{source}=s={size}:r=16", "-frames:v", frames, *options, path)
    return path


def test_only_the_first_frames_are_read(tmp_path):
    write_clip(tmp_path / "a.mp4", moving(frames=12), 16)
    whole = read_clip(tmp_path / "a.mp4", max_frames=12)[0]
    assert np.array_equal(read_clip(tmp_path / "a.mp4", max_frames=5)[0], whole[:5])


def test_a_side_over_the_limit(tmp_path):
    write_clip(tmp_path / "a.mp4", moving(48, 64), 16)
    assert read_clip(tmp_path / "a.mp4", max_side=64)[0].shape[1:3] == (48, 64)
    assert (
        refuse(tmp_path / "a.mp4", "", max_side=63)
        == "the video must be at most 63 pixels a side: received 64 x 48."
    )


def test_time_over(tmp_path):
    write_clip(tmp_path / "a.mp4", moving(frames=64), 16)
    assert refuse(tmp_path / "a.mp4", max_seconds=0.001).endswith("it took more than 0.001 seconds.")


def test_17_a_small_file_of_huge_frames(tmp_path):
    for name, side, codec in (("a.mp4", 8192, "libx264"), ("a.avi", 4096, "mjpeg")):
        path = encoded(tmp_path / name, f"{side}x{side}", 1, "-c:v", codec, "-preset", "ultrafast")
        text = refuse(path, "", seconds=0.3)
        assert text == f"the video must be at most 1024 pixels a side: received {side} x {side}."

    path = encoded(tmp_path / "a.gif", "64x64", 2)
    screen = path.read_bytes()
    path.write_bytes(screen[:6] + struct.pack("<2H", 8192, 8192) + screen[10:])
    assert refuse(path, "", seconds=0.3).endswith("received 8192 x 8192.")


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


@pytest.mark.parametrize("kind", ["mp4", "faststart.mp4", "avi", "mkv"])
def test_20_truncated(tmp_path, kind):
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
def test_20_no_video_at_all(tmp_path, content):
    path = tmp_path / "stranger.mp4"
    path.write_bytes(np.random.default_rng(0).bytes(100_000) if content is None else content)
    assert refuse(path) == f"{UNREADABLE}."
    with pytest.raises(ValueError):
        probe(path)


def test_20_sound_only_a_folder_and_nothing(tmp_path):
    ffmpeg("-f", "lavfi", "-i", "sine=d=1", tmp_path / "sound.mp4")
    (tmp_path / "folder.mp4").mkdir()
    for name in ("sound.mp4", "folder.mp4", "missing.mp4"):
        assert refuse(tmp_path / name) == f"{UNREADABLE}."


@pytest.fixture
def server(tmp_path):
    """A server of the folder, and the list of what was asked of it."""
    asked = []

    class Handler(http.server.SimpleHTTPRequestHandler):
        def __init__(self, *arguments):
            super().__init__(*arguments, directory=str(tmp_path))

        def log_message(self, *_):
            asked.append(self.path)

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as running:
        threading.Thread(target=running.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{running.server_port}", asked
        running.shutdown()


PLAYLISTS = {
    "hls": "#EXTM3U\n#EXT-X-VERSION:3\n#EXT-X-TARGETDURATION:1\n#EXTINF:1.0,\n{target}\n#EXT-X-ENDLIST\n",
    "concat": "ffconcat version 1.0\nfile '{target}'\n",
    "dash": '<?xml version="1.0"?><MPD xmlns="urn:mpeg:dash:schema:mpd:2011" type="static" '
    'mediaPresentationDuration="PT1S"><Period><AdaptationSet><Representation id="1" mimeType="video/mp4" '
    'bandwidth="1"><BaseURL>{target}</BaseURL></Representation></AdaptationSet></Period></MPD>',
    "sdp": "v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nc=IN IP4 127.0.0.1\nt=0 0\nm=video 5004 RTP/AVP 96\n"
    "a=rtpmap:96 H264/90000\na=control:{target}\n",
    "image": "{target}",
}


@pytest.fixture(params=PLAYLISTS)
def playlist(request, tmp_path):
    """The text of a playlist, and the name of a video beside it of a kind that such a list may hold."""
    name = "secret.ts" if request.param == "hls" else "secret.mp4"
    ffmpeg("-f", "lavfi", "-i", "testsrc=s=64x48:r=16", "-frames:v", 16, "-c:v", "libx264", tmp_path / name)
    return PLAYLISTS[request.param], name


def test_21_playlists_open_nothing_else(tmp_path, server, playlist):
    address, asked = server
    text, name = playlist
    for target in (name, str(tmp_path / name), f"{address}/{name}"):
        (tmp_path / "list.mp4").write_text(text.format(target=target))
        opened = os.stat(tmp_path / name).st_atime_ns
        assert refuse(tmp_path / "list.mp4") == f"{UNREADABLE}."
        with pytest.raises(ValueError):
            read_settings(tmp_path / "list.mp4")
        assert os.stat(tmp_path / name).st_atime_ns == opened
    assert asked == []


@pytest.mark.parametrize("playlist", ["hls", "concat"], indirect=True)
def test_21_the_traps_work(tmp_path, server, playlist):
    """Two of the lists above are followed when nothing holds ffmpeg back."""
    address, asked = server
    text, name = playlist
    if name == "secret.ts":
        (tmp_path / "list.m3u8").write_text(text.format(target=f"{address}/{name}"))
        followed = ["-protocol_whitelist", "file,http,tcp", "-i", tmp_path / "list.m3u8", "-f", "null", "-"]
        subprocess.run([imageio_ffmpeg.get_ffmpeg_exe(), *followed], capture_output=True)
        assert asked
    else:
        (tmp_path / "list.mp4").write_text(text.format(target=name))
        gray = ffmpeg("-i", tmp_path / "list.mp4", "-f", "rawvideo", "-pix_fmt", "gray", "-")
        assert len(gray) == 16 * 64 * 48


@pytest.mark.parametrize(
    "address", ["/etc/passwd", "concat:{0}|{0}", "subfile,,start,0,end,9999,,:{0}", "{1}/a.mp4"]
)
def test_22_an_address_is_no_file(tmp_path, server, address):
    write_clip(tmp_path / "a.mp4", moving(), 16)
    url, asked = server
    assert refuse(address.format(tmp_path / "a.mp4", url)) == f"{UNREADABLE}."
    assert asked == []
