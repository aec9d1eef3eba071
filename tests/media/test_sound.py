"""The sound of a given video in the clip that was made from it."""

import re
import subprocess

import imageio_ffmpeg
import numpy as np
import pytest

from lumiere.media.header import probe
from lumiere.media.sound import copy_sound
from lumiere.media.video import read_clip, read_settings, write_clip
from tests.media.test_video import ffmpeg, moving


def video(path, seconds: float = 2, late: float = 0.0):
    """A video of 16 frames a second; its sound is a tone in the second half second after its first frame."""
    write_clip(path.with_name("frames.mp4"), moving(frames=int(16 * seconds)), 16)
    tone = f"sine=f=1000:d={seconds + late},volume='between(t,{late + 0.5},{late + 1})':eval=frame"
    ffmpeg(
        *("-f", "lavfi", "-i", tone, "-itsoffset", late, "-i", path.with_name("frames.mp4")),
        *("-map", "1:v", "-map", "0:a", "-c:v", "copy", path),
    )
    return path


def loudness(path) -> np.ndarray:
    """Root mean square of each quarter of a second."""
    raw = ffmpeg("-i", path, "-map", "0:a", "-ac", 1, "-ar", 8000, "-f", "f32le", "-")
    samples = np.frombuffer(raw, np.float32)
    samples = samples[: len(samples) // 2000 * 2000].reshape(-1, 2000)
    return np.sqrt((samples**2).mean(1))


@pytest.mark.parametrize("late", [0.0, 1.0])
def test_the_sound_stays_in_step_and_is_cut_to_the_clip(tmp_path, late):
    source, made = video(tmp_path / "a.mp4", late=late), tmp_path / "b.mp4"
    frames = moving(frames=24)
    write_clip(made, frames, 16, '{"seed": 1}')
    before = read_clip(made)[0]
    assert copy_sound(made, source)
    assert np.array_equal(read_clip(made)[0], before) and read_settings(made) == '{"seed": 1}'
    assert probe(made).sound and abs(probe(made).seconds - 1.5) < 0.1
    loud = loudness(made) > 0.02
    assert loud[2:4].all() and not loud[:2].any() and not loud[5]


def test_a_video_without_sound_or_with_a_damaged_one_leaves_the_clip_as_it_is(tmp_path):
    made, mute = tmp_path / "b.mp4", tmp_path / "mute.mp4"
    write_clip(made, moving(), 16)
    write_clip(mute, moving(), 16)
    data = made.read_bytes()
    assert not copy_sound(made, mute)
    source = video(tmp_path / "a.mp4")
    spoiled = source.read_bytes().replace(b"mp4a", b"none").replace(b"esds", b"none")
    (tmp_path / "bad.mp4").write_bytes(spoiled)
    assert not copy_sound(made, tmp_path / "bad.mp4")
    assert made.read_bytes() == data and not list(tmp_path.glob(".*.part"))


def test_the_clip_still_plays_while_it_loads(tmp_path):
    made = tmp_path / "b.mp4"
    write_clip(made, moving(), 16)
    assert copy_sound(made, video(tmp_path / "a.mp4"))
    data = made.read_bytes()
    assert 0 < data.index(b"moov") < data.index(b"mdat")
    log = subprocess.run([imageio_ffmpeg.get_ffmpeg_exe(), "-i", made], capture_output=True, text=True).stderr
    assert re.search(r"Video: h264 .*yuv420p\(tv, bt709[,)]", log)
