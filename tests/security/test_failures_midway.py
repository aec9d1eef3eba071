"""Row 31: exception at step 3 of 20; while encoding."""

import logging
import stat

import imageio_ffmpeg
import pytest

from lumiere.page import strings

BROKEN = "CUDA error: device-side assert triggered, secret path /home/someone"


@pytest.fixture
def broken(work):
    """A device that breaks down at the third step, once."""

    def break_down(call):
        if call == 3:
            raise RuntimeError(BROKEN)

    work.before = break_down
    return work


def test_a_device_that_breaks_at_step_3_of_20(server, stranger, broken, caplog):
    files = server.files()
    with caplog.at_level(logging.INFO, "lumiere"):
        outcome, told = stranger.generate(steps=20)
    assert outcome == "error" and told is None  # nothing of the error, not even its words
    assert broken.unet == 3 and server.files() == files
    assert "secret path" in caplog.text  # for the operator
    assert "steps=20" in caplog.text and "outcome=failed" in caplog.text
    broken.unet = 0
    page = stranger.make(steps=20)
    assert page["state"] == "refused" and page["text"] == strings.FAILED
    assert stranger.generate()[0] == "complete" and server.files() != files


def encoder(folder, script: str):
    """An ffmpeg that does this in place of encoding; all else is done by the real one."""
    real, file = imageio_ffmpeg.get_ffmpeg_exe(), folder / "ffmpeg"
    file.write_text(f'#!/bin/sh\ncase "$*" in *libx264*) {script};; *) exec "{real}" "$@";; esac\n')
    file.chmod(file.stat().st_mode | stat.S_IXUSR)
    return str(file)


@pytest.mark.parametrize(
    "script",
    [
        "exit 1",
        "kill -9 $$",
        'for last; do :; done; head -c 3000 /dev/urandom > "${last#file:}"; kill -9 $$',
        'cat >/dev/null; for last; do :; done; head -c 3000 /dev/urandom > "${last#file:}"; exit 0',
    ],
    ids=["fails", "is killed", "is killed midway", "writes rubbish"],
)
def test_an_encoder_that_fails_leaves_no_file_and_the_queue_goes_on(
    server, stranger, tmp_path, monkeypatch, script
):
    files, folders = server.files(), set(server.folder.iterdir())
    with monkeypatch.context() as patch:
        patch.setenv("IMAGEIO_FFMPEG_EXE", encoder(tmp_path, script))
        told = stranger.refusal()
        assert told.startswith("Cannot write the clip: the encoder failed, with ") and "MB free" in told
        page = stranger.make()
        assert page["state"] == "refused" and page["text"].startswith("Cannot write the clip")
    assert server.files() == files and set(server.folder.iterdir()) == folders
    assert stranger.generate()[0] == "complete"
    assert not list(server.folder.rglob("*.part"))
