"""Clips written and read back, an independent decode, and encoders that fail."""

import os
import re
import subprocess
import sys
from pathlib import Path

import imageio_ffmpeg
import numpy as np
import pytest

from lumiere.media.colours import Colours
from lumiere.media.header import Header
from lumiere.media.video import probe, read_clip, read_settings, write_clip
from lumiere.request import Request

COLOURS = np.array(
    [
        [255, 0, 0],
        [0, 255, 0],
        [0, 0, 255],
        [255, 255, 255],
        [0, 0, 0],
        [128, 128, 128],
        [250, 180, 30],
        [20, 120, 200],
    ],
    np.uint8,
)


def patches(height: int, width: int, frames: int = 3) -> np.ndarray:
    """Two rows of four flat colours that stand still: uint8 (t h w c)."""
    rows, columns = np.arange(height) * 2 // height, np.arange(width) * 4 // width
    return COLOURS[rows[:, None] * 4 + columns][None].repeat(frames, 0)  # h w c -> t h w c


def moving(height: int = 48, width: int = 64, frames: int = 8) -> np.ndarray:
    """Soft stripes of colour that drift, so that every frame is another: uint8 (t h w c)."""
    x, y, t = np.arange(width) / width, np.arange(height)[:, None] / height, np.arange(frames)[:, None, None]
    waves = [np.sin(2 * np.pi * (x * (1 + c) + y * (c - 1) + t / 16)) for c in range(3)]
    return (128 + 100 * np.stack(waves, -1)).astype(np.uint8)


def ffmpeg(*arguments, **options) -> bytes:
    command = [
        imageio_ffmpeg.get_ffmpeg_exe(),
        "-hide_banner",
        "-loglevel",
        "error",
        "-nostdin",
        "-y",
        *arguments,
    ]
    return subprocess.run(list(map(str, command)), check=True, capture_output=True, **options).stdout


def decode_by_the_book(path: Path, height: int, width: int) -> np.ndarray:
    """The stored Y, Cb, Cr samples, turned to RGB by the equations of BT.709, not by ffmpeg: (t h w c)."""
    raw = np.frombuffer(ffmpeg("-i", path, "-f", "rawvideo", "-pix_fmt", "yuv420p", "-"), np.uint8)
    raw = raw.reshape(-1, height * width * 3 // 2).astype(float)
    luma, quarter = height * width, height * width // 4
    y = (raw[:, :luma].reshape(-1, height, width) - 16) / 219
    cb, cr = (
        (raw[:, luma + i * quarter :][:, :quarter].reshape(-1, height // 2, width // 2) - 128) / 224
        for i in (0, 1)
    )
    cb, cr = (c.repeat(2, 1).repeat(2, 2) for c in (cb, cr))
    red, blue = y + 1.5748 * cr, y + 1.8556 * cb
    green = (y - 0.2126 * red - 0.0722 * blue) / 0.7152
    return np.stack([red, green, blue], -1).clip(0, 1) * 255


@pytest.mark.parametrize("height, width", [(128, 128), (63, 65), (64, 129), (130, 66), (720, 1280)])
def test_colours_by_an_independent_decode(tmp_path, height, width):
    frames = patches(height, width)
    write_clip(tmp_path / "a.mp4", frames, 16)
    even = height + height % 2, width + width % 2
    # Away from the borders, where two pixels share a colour sample.
    flat = np.ones((height, width), bool)
    flat[height // 2 - 6 : height // 2 + 6] = False
    for border in (width // 4, width // 2, width * 3 // 4):
        flat[:, border - 6 : border + 6] = False
    for decoded in (
        decode_by_the_book(tmp_path / "a.mp4", *even),
        read_clip(tmp_path / "a.mp4", max_side=1280)[0],
    ):
        assert decoded.shape == (3, *even, 3)
        difference = np.abs(decoded[:, :height, :width].astype(float) - frames).max(axis=(0, 3))  # h w
        # What compression does; BT.601 taken for BT.709 would be 20 levels and more on all of a patch.
        assert float(difference[flat].mean()) <= 1.5 and float(difference[flat].max()) <= 8
        # What was added to make the sides even is a copy of the last row and column.
        last = np.pad(frames, ((0, 0), (0, height % 2), (0, width % 2), (0, 0)), mode="edge")
        rows, columns = (
            np.abs(decoded[:, -1] - last[:, -1].astype(float)),
            decoded[:, :, -1] - last[:, :, -1].astype(float),
        )
        assert float(np.median(rows)) <= 4 and float(np.median(np.abs(columns))) <= 4


def test_the_file_is_what_players_want(tmp_path):
    path = tmp_path / "a.mp4"
    write_clip(path, patches(128, 128, 16), 16, "{}")
    assert probe(path) == Header("h264", 128, 128, 16.0, 1.0, colours=Colours("bt709", "bt709", "bt709"))
    said = subprocess.run(
        [imageio_ffmpeg.get_ffmpeg_exe(), "-i", path], capture_output=True, text=True
    ).stderr
    assert re.search(r"Video: h264 .*yuv420p\(tv, bt709[,)]", said)
    data = path.read_bytes()
    assert 0 < data.index(b"moov") < data.index(b"mdat")  # it plays while it loads
    assert [p.name for p in tmp_path.iterdir()] == ["a.mp4"]


@pytest.mark.parametrize("fps, count", [(1, 2), (12.5, 17), (16, 1), (16, 17), (29.97, 17), (60, 33)])
def test_every_frame_comes_back_once_and_in_order(tmp_path, fps, count):
    frames = (
        np.zeros((count, 32, 32, 3), np.uint8) + (np.arange(count, dtype=np.uint8) * 7)[:, None, None, None]
    )
    write_clip(tmp_path / "a.mp4", frames, fps)
    again, rate = read_clip(tmp_path / "a.mp4")
    assert rate == fps and again.dtype == np.uint8 and again.shape == frames.shape
    assert np.abs(again.astype(int) - frames).max() <= 3
    again[0] = 0  # it belongs to the caller


def test_smallest_clip(tmp_path):
    write_clip(tmp_path / "a.mp4", np.full((1, 1, 1, 3), 200, np.uint8), 16)
    assert np.abs(read_clip(tmp_path / "a.mp4")[0].astype(int) - 200).max() <= 2


def test_the_same_clip_makes_the_same_file(tmp_path):
    for name in ("a.mp4", "b.mp4"):
        write_clip(tmp_path / name, moving(), 16, "x")
    assert (tmp_path / "a.mp4").read_bytes() == (tmp_path / "b.mp4").read_bytes()


def test_frames_in_any_memory_layout(tmp_path):
    frames = moving()
    write_clip(tmp_path / "a.mp4", frames, 16)
    write_clip(tmp_path / "b.mp4", np.asfortranarray(frames), 16)
    write_clip(tmp_path / "c.mp4", frames[::-1][::-1], 16)
    assert len({(tmp_path / f"{name}.mp4").read_bytes() for name in "abc"}) == 1


@pytest.mark.parametrize(
    "text",
    [
        '{"prompt": "a \\"red\\" ball"}',
        "it's \"quoted\" 'twice' `and` $HOME %s %d",
        "line\nline\r\nline\n\n",
        "=;#\\ a=b;c#d\\e\\\\f\\\n= \n;comment=x\n#y\n[STREAM]\ncomment=z\n[",
        "[x]=y",
        "=",
        "\\",
        " leading and trailing ",
        "\u00e9 \u4f60\u597d \u05e9\u05dc\u05d5\u05dd \U0001f3c0 \u2028 \x85 \x01 \x1b \u202e",
        "comment=1\ncomment=2",
        "-i /etc/passwd",
        "x" * 100_000,
    ],
)
def test_settings_come_back_exactly(tmp_path, text):
    write_clip(tmp_path / "a.mp4", moving(frames=1), 16, text)
    assert read_settings(tmp_path / "a.mp4") == text


def test_a_request_comes_back(tmp_path):
    request = Request('a "red" ball; \\ = # \n \U0001f3c0' + "\x01" * 1900, "no", seed=7).with_seed()
    write_clip(tmp_path / "a.mp4", moving(frames=1), 16, request.to_json())
    assert Request.from_json(read_settings(tmp_path / "a.mp4")) == request
    ffmpeg("-i", tmp_path / "a.mp4", "-c", "copy", tmp_path / "a.mkv")
    assert Request.from_json(read_settings(tmp_path / "a.mkv")) == request


def test_no_settings(tmp_path):
    write_clip(tmp_path / "a.mp4", moving(frames=1), 16)
    write_clip(tmp_path / "b.mp4", moving(frames=1), 16, "")
    assert read_settings(tmp_path / "a.mp4") is read_settings(tmp_path / "b.mp4") is None
    (tmp_path / "c.mp4").write_bytes(b"no video")
    with pytest.raises(ValueError, match="cannot read a video from this file"):
        read_settings(tmp_path / "c.mp4")


@pytest.mark.parametrize(
    "change, words",
    [
        (dict(frames=moving().astype(np.float32)), "frames must be uint8 of shape"),
        (dict(frames=moving()[0]), "frames must be uint8 of shape"),
        (dict(frames=moving()[..., :2]), "frames must be uint8 of shape"),
        (dict(frames=moving()[:0]), "frames must be uint8 of shape"),
        (dict(frames=moving()[:, :0]), "1 to 4096 pixels a side: received 64 x 0"),
        (dict(frames=np.zeros((1, 2, 4097, 3), np.uint8)), "1 to 4096 pixels a side: received 4097 x 2"),
        (dict(fps=0), "fps must be a number from 1 to 60: received 0"),
        (dict(fps=float("nan")), "fps must be a number from 1 to 60: received nan"),
        (dict(fps=True), "fps must be a number from 1 to 60: received True"),
        (dict(fps=61), "fps must be a number from 1 to 60: received 61"),
        (dict(settings="x" * 100_001), "settings must be at most 100000 bytes: received 100001"),
        (dict(settings="a\0b"), "settings must be readable text"),
        (dict(settings="a\ud800b"), "settings must be readable text"),
        (dict(path="a.webm"), "must end in .mp4"),
        (dict(path="a"), "must end in .mp4"),
    ],
)
def test_what_the_writer_refuses(tmp_path, change, words):
    values = {"path": "a.mp4", "frames": moving(), "fps": 16, **change}
    with pytest.raises(ValueError, match=re.escape(words)):
        write_clip(tmp_path / values.pop("path"), **values)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "encoder",
    [
        "exit 1",
        "kill -9 $$",
        "cat >/dev/null; exit 0",  # nothing written, and no error
        'cat >/dev/null; for last; do :; done; : > "${last#file:}"; exit 0',  # an empty file, and no error
        'cat >/dev/null; for last; do :; done; head -c 3000 /dev/urandom > "${last#file:}"; exit 0',
        'for last; do :; done; head -c 3000 /dev/urandom > "${last#file:}"; kill -9 $$',
    ],
)
@pytest.mark.parametrize("before", [None, b"what was there"])
def test_a_failing_encoder_leaves_nothing(tmp_path, monkeypatch, encoder, before):
    folder, script = tmp_path / "clips", tmp_path / "ffmpeg"
    real = imageio_ffmpeg.get_ffmpeg_exe()
    folder.mkdir()
    # Only the encoder fails; the check of its result is done by the real one.
    script.write_text(f'#!/bin/sh\ncase "$*" in *libx264*) {encoder};; *) exec "{real}" "$@";; esac\n')
    script.chmod(0o755)
    if before:
        (folder / "a.mp4").write_bytes(before)
    monkeypatch.setenv("IMAGEIO_FFMPEG_EXE", str(script))
    with pytest.raises(OSError, match=r"^cannot write the clip: .* \d+ MB free") as caught:
        write_clip(folder / "a.mp4", moving(), 16)
    assert str(tmp_path) not in str(caught.value)
    assert [p.name for p in folder.iterdir()] == (["a.mp4"] if before else [])
    assert not before or (folder / "a.mp4").read_bytes() == before


def test_an_encoder_that_loses_frames_is_noticed(tmp_path, monkeypatch):
    script = tmp_path / "ffmpeg"
    lines = [
        "#!/bin/sh",
        "n=$#; i=0",
        "for a; do i=$((i + 1))",
        '  case "$i-$*" in $n-*libx264*) set -- "$@" -frames:v 3;; esac',  # before the name of the output
        '  set -- "$@" "$a"; done',
        "shift $n",
        f'exec "{imageio_ffmpeg.get_ffmpeg_exe()}" "$@"',
    ]
    script.write_text("\n".join(lines))
    script.chmod(0o755)
    (tmp_path / "clips").mkdir()
    monkeypatch.setenv("IMAGEIO_FFMPEG_EXE", str(script))
    write_clip(tmp_path / "clips" / "a.mp4", moving(frames=3), 16)
    with pytest.raises(OSError, match="^cannot write the clip") as caught:
        write_clip(tmp_path / "clips" / "a.mp4", moving(frames=4), 16)
    assert "no error" in str(caught.value.__cause__)
    assert [p.name for p in (tmp_path / "clips").iterdir()] == ["a.mp4"]
    assert len(read_clip(tmp_path / "clips" / "a.mp4")[0]) == 3


def test_a_missing_encoder_is_an_error_in_words(tmp_path, monkeypatch):
    monkeypatch.setenv("IMAGEIO_FFMPEG_EXE", str(tmp_path / "nothing"))
    with pytest.raises(OSError, match="^cannot write the clip"):
        write_clip(tmp_path / "a.mp4", moving(), 16)
    assert not list(tmp_path.iterdir())


def test_a_full_disk_midway_leaves_nothing(tmp_path):
    code = (
        "import resource, sys, numpy as np; from lumiere.media.video import write_clip\n"
        "noise = np.random.default_rng(0).integers(0, 256, (8, 64, 64, 3), np.uint8)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))\n"  # the encoder is killed at this size
        "try: write_clip(sys.argv[1] + '/a.mp4', noise, 16)\n"
        "except OSError as error: sys.exit(0 if 'cannot write the clip' in str(error) else 3)\n"
        "sys.exit(4)\n"
    )
    root = Path(__file__).resolve().parents[2]
    done = subprocess.run([sys.executable, "-c", code, tmp_path], cwd=root, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert not list(tmp_path.iterdir())


def test_a_folder_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_bytes(b"")
    for path in (tmp_path / "missing" / "a.mp4", tmp_path / "file" / "a.mp4"):
        with pytest.raises(OSError, match="cannot write the clip: its folder does not exist"):
            write_clip(path, moving(), 16)
    (tmp_path / "taken.mp4").mkdir()
    with pytest.raises(OSError, match="cannot write the clip"):
        write_clip(tmp_path / "taken.mp4", moving(), 16)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["file", "taken.mp4"]
    if os.geteuid():  # root may write anywhere
        closed = tmp_path / "closed"
        closed.mkdir(mode=0o500)
        with pytest.raises(OSError, match="cannot write the clip"):
            write_clip(closed / "a.mp4", moving(), 16)
        assert not list(closed.iterdir())


@pytest.mark.parametrize(
    "name", ["-a.mp4", "a b;$(x)'\".mp4", "http:x.mp4", "%d.mp4", "\u00e9\U0001f3c0.mp4"]
)
def test_names_are_only_names(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    write_clip(name, moving(), 16, "x")
    assert os.listdir(tmp_path) == [name]
    assert len(read_clip(name)[0]) == 8 and read_settings(name) == "x"


@pytest.mark.parametrize("kind", ["mov", "mkv", "webm", "avi", "gif"])
def test_other_containers(tmp_path, kind):
    write_clip(tmp_path / "a.mp4", moving(), 10)
    codec = {"webm": ["-c:v", "libvpx", "-b:v", "2M"], "avi": ["-q:v", "2"]}.get(kind, [])
    ffmpeg("-i", tmp_path / "a.mp4", *codec, tmp_path / f"b.{kind}")
    (tmp_path / f"b.{kind}").rename(tmp_path / "b")  # the content counts, not the name
    frames, fps = read_clip(tmp_path / "b")
    assert frames.shape == (8, 48, 64, 3) and fps == 10
    # A neighbouring frame is 26 levels away. (AVI has no place for the colour matrix, GIF a palette only.)
    assert kind == "gif" or np.abs(frames.astype(int) - moving()).mean() < 12


def test_a_rotated_video_comes_upright(tmp_path):
    write_clip(tmp_path / "a.mp4", moving(), 16)
    ffmpeg("-display_rotation", 90, "-i", tmp_path / "a.mp4", "-c", "copy", tmp_path / "b.mp4")
    frames = read_clip(tmp_path / "b.mp4")[0]
    assert frames.shape == (8, 64, 48, 3)
    turned = np.rot90(read_clip(tmp_path / "a.mp4")[0], 1, (1, 2))
    assert (
        np.abs(frames.astype(int) - turned).mean()
        < 8
        < np.abs(frames[:, ::-1, ::-1].astype(int) - turned).mean()
    )


def test_only_the_first_frames_are_read(tmp_path):
    write_clip(tmp_path / "a.mp4", moving(frames=12), 16)
    whole = read_clip(tmp_path / "a.mp4", max_frames=12)[0]
    assert np.array_equal(read_clip(tmp_path / "a.mp4", max_frames=5)[0], whole[:5])


def test_larger_clips_are_scaled_down(tmp_path):
    write_clip(tmp_path / "a.mp4", moving(48, 64), 16)
    whole = read_clip(tmp_path / "a.mp4", max_side=64)[0]
    assert whole.shape[1:3] == (48, 64)
    half = read_clip(tmp_path / "a.mp4", max_side=32)[0]
    assert half.shape == (8, 24, 32, 3)
    assert np.abs(half - whole.reshape(8, 24, 2, 32, 2, 3).mean((2, 4))).mean() < 3


def test_a_clip_of_1080_lines_is_scaled_down_to_the_default_side(tmp_path):
    ffmpeg("-f", "lavfi", "-i", "testsrc=s=1920x1080:r=16", "-frames:v", 2, tmp_path / "a.mp4")
    assert read_clip(tmp_path / "a.mp4")[0].shape == (2, 576, 1024, 3)


def test_time_over(tmp_path):
    write_clip(tmp_path / "a.mp4", moving(frames=64), 16)
    with pytest.raises(ValueError, match="it took more than 0.001 seconds.$"):
        read_clip(tmp_path / "a.mp4", max_seconds=0.001)
