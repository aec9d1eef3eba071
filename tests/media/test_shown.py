"""What a video file says of its frames, beside their pixels, is applied or refused in words."""

import struct
from pathlib import Path

import numpy as np
import pytest

from lumiere.media import colours, header
from lumiere.media.colours import Colours, bt709_filters
from lumiere.media.header import probe
from lumiere.media.video import read_clip, write_clip
from tests.media.test_video import COLOURS, ffmpeg, moving, patches

WIDE = {  # matrix, primaries, transfer
    "hlg": ("bt2020nc", "bt2020", "arib-std-b67"),
    "pq": ("bt2020nc", "bt2020", "smpte2084"),
    "bt2020": ("bt2020nc", "bt2020", "bt709"),
    "p3": ("bt709", "smpte432", "bt709"),
    "bt601": ("smpte170m", "smpte170m", "bt709"),
}


def in_colours(path: Path, matrix: str, primaries: str, transfer: str) -> Path:
    """Writes `patches` in other colours, with white at 203 nits in HDR, and with tags that say so."""
    raw = patches(96, 128)[..., [1, 2, 0]].transpose(0, 3, 1, 2)  # planes g b r
    light = "zscale=min=gbr:pin=bt709:tin=bt709:rin=full:m=gbr:p=bt709:t=linear:npl=203,format=gbrpf32le"
    colours = f"{light},zscale=p={primaries}:t={transfer}:m={matrix}:r=tv:npl=203,format=yuv444p10le"
    ffmpeg(
        *"-f rawvideo -pix_fmt gbrp -video_size 128x96 -framerate 16 -i pipe:0 -vf".split(),
        f"{colours},setparams=color_primaries={primaries}:color_trc={transfer}:colorspace={matrix}",
        *("-c:v", "libx265", "-x265-params", "lossless=1:log-level=none", path),
        input=np.ascontiguousarray(raw).tobytes(),
    )
    return path


@pytest.mark.parametrize("kind", WIDE)
def test_other_colours_come_as_those_of_bt709(tmp_path, kind):
    path = in_colours(tmp_path / "a.mp4", *WIDE[kind])
    frame = read_clip(path)[0][0].astype(int)
    for number, colour in enumerate(COLOURS.astype(int)):
        if kind == "bt601" and 0 < np.ptp(colour) != 220:
            continue  # outside of the other gamut: already clipped when the file was written
        row, column = (24 + 48 * (number // 4), 16 + 32 * (number % 4))
        # In HDR, colours near white are compressed to leave room for highlights.
        bound = 26 if np.ptp(colour) == 255 else 12 if kind in ("hlg", "pq") and colour.min() == 255 else 7
        assert np.abs(frame[row, column] - colour).max() <= bound, (colour, frame[row, column])


def test_the_hlg_case_has_the_colours_of_its_bt709_twin():
    cases = Path(__file__).resolve().parents[3] / "shared" / "cases"
    if not cases.is_dir():
        pytest.skip("the shared inputs are not here")
    hlg, plain = (read_clip(cases / name)[0][0] for name in ("hlg-bt2020-10bit.mp4", "bars-bt709.mp4"))
    assert np.abs(hlg[25, [8, 27, 64, 100]].astype(int) - plain[25, [8, 27, 64, 100]]).max() < 32


def test_colours_that_cannot_be_converted_are_refused_in_words():
    with pytest.raises(ValueError, match="^the colours of the video are not supported: .*/bt709/log100.$"):
        bt709_filters(Colours("bt709", "bt709", "log100"), 1080, "bicubic")


def test_an_ffmpeg_without_the_filter_is_said(monkeypatch):
    monkeypatch.setattr(colours, "has_filter", lambda name: False)
    with pytest.raises(ValueError, match="HDR or a wide gamut, which this ffmpeg cannot convert"):
        bt709_filters(Colours("bt2020nc", "bt2020", "smpte2084"), 1080, "bicubic")
    assert bt709_filters(Colours(), 480, "bicubic")


@pytest.mark.parametrize("lines, matrix", [(480, "smpte170m"), (720, "bt709")])
def test_videos_without_a_matrix_are_read_as_players_do(tmp_path, lines, matrix):
    ffmpeg(
        *("-f", "lavfi", "-i", f"color=red:s=128x{lines}:r=16", "-frames:v", 2, "-vf"),
        f"scale=out_color_matrix={matrix},format=yuv420p,setparams=colorspace=unknown",
        *("-c:v", "libx264", "-crf", 1, tmp_path / "a.mp4"),
    )
    assert not probe(tmp_path / "a.mp4").colours.matrix
    assert np.abs(read_clip(tmp_path / "a.mp4")[0][0, 50, 50].astype(int) - (254, 0, 0)).max() <= 4


@pytest.mark.parametrize("kind", ["mp4", "mkv", "ts"])
def test_a_clip_begins_at_its_first_frame_when_its_sound_starts_earlier(tmp_path, kind):
    write_clip(tmp_path / "a.mp4", moving(), 8)
    ffmpeg(
        *("-f", "lavfi", "-i", "sine=d=3", "-itsoffset", 2, "-i", tmp_path / "a.mp4"),
        *("-map", "1:v", "-map", "0:a", "-c:v", "copy", tmp_path / f"b.{kind}"),
    )
    assert probe(tmp_path / f"b.{kind}").start == pytest.approx(2, abs=0.1)
    late, fps = read_clip(tmp_path / f"b.{kind}")
    assert fps == 8 and np.array_equal(late, read_clip(tmp_path / "a.mp4")[0])


def test_an_edit_list_is_applied(tmp_path):
    write_clip(tmp_path / "a.mp4", moving(frames=32), 16)
    ffmpeg("-ss", 0.5, "-i", tmp_path / "a.mp4", "-c", "copy", tmp_path / "b.mp4")  # cuts without a keyframe
    cut, whole = read_clip(tmp_path / "b.mp4")[0], read_clip(tmp_path / "a.mp4")[0]
    assert np.array_equal(cut, whole[8:])


@pytest.mark.parametrize("fps, frames", [(16, 16), (8, 8), (4, 4)])
def test_a_clip_brought_to_a_rate_keeps_its_pace(tmp_path, fps, frames):
    write_clip(tmp_path / "a.mp4", moving(), 8)  # one second
    again, rate = read_clip(tmp_path / "a.mp4", fps=fps)
    assert rate == fps and len(again) == frames
    own = read_clip(tmp_path / "a.mp4")[0]
    assert np.array_equal(again, own.repeat(2, 0) if fps == 16 else own[:: 8 // fps])


@pytest.mark.parametrize("aspect, size", [("2/1", (48, 128)), ("1/2", (96, 64)), ("1/1", (48, 64))])
@pytest.mark.parametrize("kind", ["mp4", "mkv", "avi"])
def test_pixels_that_are_not_square_become_so(tmp_path, kind, aspect, size):
    codec = ("-c:v", "libx264") if kind != "avi" else ("-c:v", "mpeg4")
    write_clip(tmp_path / "a.mp4", moving(), 16)
    ffmpeg("-i", tmp_path / "a.mp4", "-vf", f"setsar={aspect}", *codec, tmp_path / f"b.{kind}")
    assert read_clip(tmp_path / f"b.{kind}")[0].shape[1:3] == size


def test_a_turned_clip_of_flat_pixels_is_upright_and_in_proportion(tmp_path):
    write_clip(tmp_path / "a.mp4", moving(), 16)
    ffmpeg("-i", tmp_path / "a.mp4", "-vf", "setsar=2/1", tmp_path / "b.mp4")
    ffmpeg("-display_rotation", 90, "-i", tmp_path / "b.mp4", "-c", "copy", tmp_path / "c.mp4")
    assert read_clip(tmp_path / "c.mp4")[0].shape[1:3] == (128, 48)
    assert read_clip(tmp_path / "c.mp4", max_side=64)[0].shape[1:3] == (64, 24)


def test_pixels_of_absurd_proportions_are_bounded(tmp_path):
    write_clip(tmp_path / "a.mp4", moving(), 16)
    ffmpeg("-i", tmp_path / "a.mp4", "-vf", "setsar=1000/1", tmp_path / "b.mp4")
    assert max(read_clip(tmp_path / "b.mp4", max_side=256)[0].shape[1:3]) <= 256


ALPHA = {
    "vp9.webm": ("-c:v", "libvpx-vp9", "-pix_fmt", "yuva420p"),
    "vp8.webm": ("-c:v", "libvpx", "-pix_fmt", "yuva420p", "-auto-alt-ref", 0),
    "prores.mov": ("-c:v", "prores_ks", "-pix_fmt", "yuva444p10le"),
    "qtrle.mov": ("-c:v", "qtrle"),
    "palette.gif": ("-filter_complex", "split[a][b];[a]palettegen[p];[b][p]paletteuse"),
}


@pytest.mark.parametrize("name", ALPHA)
def test_what_is_transparent_in_a_clip_is_white(tmp_path, name):
    layer = "color=red:s=64x48:r=10:d=0.4,format=rgba,geq=r=255:g=0:b=0:a='255*gt(X,31)'"
    ffmpeg("-f", "lavfi", "-i", layer, "-frames:v", 4, *ALPHA[name], tmp_path / name)
    frame = read_clip(tmp_path / name)[0][0].astype(int)
    assert (frame[24, :24] > 243).all() and np.abs(frame[24, 40:] - (255, 0, 0)).max() < 30


def test_an_interlaced_clip_has_no_combs(tmp_path):
    """Fields of a bar that moves fast; without deinterlacing neighbouring rows show it in two places."""
    moved = "color=black:s=64x48:r=50,drawbox=x=0:w=20:h=48:t=fill:c=white,scroll=h=0.1"
    ffmpeg(
        *("-f", "lavfi", "-i", f"{moved},tinterlace=interleave_top,fieldorder=tff", "-frames:v", 8),
        *("-c:v", "mpeg2video", "-flags", "+ilme+ildct", "-b:v", "4M", tmp_path / "a.ts"),
    )
    assert probe(tmp_path / "a.ts").interlaced
    frames = read_clip(tmp_path / "a.ts")[0].astype(int)
    inner = frames[2:6, 8:40]
    assert np.abs(inner[:, 1:] - inner[:, :-1]).mean() < 6


def test_only_the_clean_aperture_of_a_clip_is_shown(tmp_path):
    """Cameras store a margin around the picture, which the box `clap` cuts off."""
    write_clip(tmp_path / "a.mp4", moving(), 16)
    ffmpeg("-i", tmp_path / "a.mp4", "-c", "copy", tmp_path / "b.mp4")  # moov comes last: nothing moves
    data = bytearray((tmp_path / "b.mp4").read_bytes())
    box = struct.pack(">I4s8I", 40, b"clap", 32, 1, 48, 1, 0, 1, 0, 1)
    entry = data.rindex(b"avc1") - 4
    end = entry + int.from_bytes(data[entry : entry + 4], "big")
    for at in (
        entry,
        *(data.index(name) - 4 for name in (b"moov", b"trak", b"mdia", b"minf", b"stbl", b"stsd")),
    ):
        data[at : at + 4] = (int.from_bytes(data[at : at + 4], "big") + len(box)).to_bytes(4, "big")
    data[end:end] = box
    (tmp_path / "c.mp4").write_bytes(data)
    whole, inner = (read_clip(tmp_path / name)[0] for name in ("a.mp4", "c.mp4"))
    assert inner.shape == (8, 48, 32, 3)
    off = np.abs(inner.astype(int) - whole[:, :, 16:48])
    assert off[:, :, 8:-8].max() <= 2  # colours at the border are interpolated from fewer samples


def test_dolby_vision_without_a_base_picture_is_refused_in_words(tmp_path, monkeypatch):
    """Profile 5 stores colours that only its own decoders understand; 8.4 of phones has HLG beneath."""
    write_clip(tmp_path / "a.mp4", moving(), 16)
    stream = (
        "  Stream #0:0[0x1](und): Video: hevc (Main 10) (dvh1 / 0x31687664), yuv420p10le(tv), 64x48, 16 fps\n"
    )
    record = "      DOVI configuration record: version: 1.0, profile: {}, level: 4, rpu flag: 1, el flag: 0\n"
    for profile, refused in ((5, True), (8, False)):
        log = (stream + "    Side data:\n" + record.format(profile)).encode()
        monkeypatch.setattr(header, "output", lambda *_, log=log: log)
        if refused:
            with pytest.raises(ValueError, match="^the video is Dolby Vision of profile 5, .* save it as"):
                probe(tmp_path / "a.mp4")
        else:
            assert probe(tmp_path / "a.mp4").codec == "hevc"
