"""Videos as strangers send them, and what `read_clip` says to those it refuses."""

import os
from pathlib import Path

import pytest

from lumiere.media.video import read_clip
from tests.media.test_video import ffmpeg

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
