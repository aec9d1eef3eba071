"""Row 21. Text that names other files and addresses, sent as a video."""

import os
import subprocess

import imageio_ffmpeg
import pytest

from lumiere.media.video import read_settings
from tests.media.test_video import ffmpeg
from tests.security.media import UNREADABLE, refuse

pytestmark = pytest.mark.slow

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


def test_playlists_open_nothing_else(tmp_path, trapped, playlist):
    address, asked = trapped
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
def test_the_traps_work(tmp_path, trapped, playlist):
    """Two of the lists above are followed when nothing holds ffmpeg back."""
    address, asked = trapped
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


def test_over_http_playlists_open_nothing_else(stranger, work, tmp_path, trapped, playlist):
    address, asked = trapped
    text, name = playlist
    for target in (str(tmp_path / name), f"{address}/{name}"):
        opened = os.stat(tmp_path / name).st_atime_ns
        file = stranger.file("list.mp4", text.format(target=target).encode())
        assert stranger.refusal("continue_clip", clip=file) == f"{UNREADABLE.capitalize()}."
        assert os.stat(tmp_path / name).st_atime_ns == opened
    assert asked == [] and not work.any
