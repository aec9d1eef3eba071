"""Row 38: a clip folder with broken, tiny, silent and missing-caption files."""

import numpy as np
from accelerate import Accelerator

from lumiere.training.config import Settings
from lumiere.training.trainer import Trainer
from lumiere.training.video_folder import encode_clips
from tests.media.test_video import ffmpeg
from tests.training.test_video_folder import SIZE, folder, vae  # noqa: F401


def spoil(folder):  # noqa: F811
    """Puts more of what people keep in such folders beside the clips of the fixture."""
    (folder / "empty.mp4").write_bytes(b"")
    (folder / "playlist.mp4").write_text(f"ffconcat version 1.0\nfile '{folder / 'a.mp4'}'\n")
    ffmpeg("-f", "lavfi", "-i", "sine=d=1", folder / "sound.mp4")
    whole = (folder / "a.mp4").read_bytes()
    (folder / "cut.mp4").write_bytes(whole[: len(whole) // 2])
    (folder / "directory.mp4").mkdir()
    for name in ("empty", "playlist", "sound", "cut", "directory"):
        (folder / f"{name}.txt").write_text("a clip")
    (folder / "deep" / "b.txt").write_text(" \n")  # a caption without a word


def test_what_cannot_be_used_is_listed_once_skipped_and_counted(folder, vae, tmp_path):  # noqa: F811
    spoil(folder)
    told, cache = [], tmp_path / "cache"
    assert encode_clips(folder, cache, vae, SIZE, told.append) == 1
    (words,) = told
    first, *rest = words.splitlines()
    assert first.startswith(f"{len(rest)} of {len(rest) + 1} clips in")
    for name, why in (
        ("broken", "cannot read a video from this file"),
        ("empty", "cannot read a video from this file"),
        ("playlist", "cannot read a video from this file"),
        ("sound", "cannot read a video from this file"),
        ("cut", "cannot read a video from this file"),
        ("short", "it has 3 frames, fewer than 4"),
        ("mute", "it has no caption"),
        ("b", "it has no caption"),
    ):
        assert sum(f"{name}.mp4: {why}" in line for line in rest) == 1, (name, words)


def test_training_goes_on_with_the_others(folder, tiny_model, tmp_path, capsys):  # noqa: F811
    spoil(folder)
    settings = Settings(
        str(tiny_model), str(folder), str(tmp_path / "run"), frames=4, steps=2, batch_size=2, precision="no"
    )
    trainer = Trainer(settings, Accelerator(mixed_precision="no", cpu=True))
    trainer.resume()
    assert len(trainer.clips) == 1
    assert all(np.isfinite(trainer.advance()["loss"]) for _ in range(2))
    assert "clips in" in capsys.readouterr().err
