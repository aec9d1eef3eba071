"""Row 32. A disk of 8 MB where this user may mount one, else limits of the kernel to the same effect."""

import os
import resource
import subprocess
from contextlib import contextmanager

import pytest

from tests.security.server import Process

pytestmark = pytest.mark.slow
MB = 2**20


@contextmanager
def small_disk(folder, options="size=8m"):
    """Whether `folder` is now a disk of its own."""
    folder.mkdir(exist_ok=True)
    mount = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder)]
    mounted = os.geteuid() == 0 and subprocess.run(mount, capture_output=True).returncode == 0
    try:
        yield mounted
    finally:
        if mounted:
            subprocess.run(["umount", "-l", str(folder)], check=True)


def test_full_at_the_start_is_refused_with_the_free_space(tiny_model, tmp_path):
    with small_disk(tmp_path / "clips") as mounted:
        needed = "20" if mounted else str(10**8)
        with Process(tiny_model, tmp_path, LUMIERE_FREE_MB=needed) as process:
            stranger = process.stranger()
            told = stranger.refusal()
            assert told.startswith("The disk of this machine is full: ")
            assert f" MB are free, {needed} MB are needed. Try again later." in told
            assert not mounted or "full: 8 MB" in told or "full: 7 MB" in told
            assert stranger.make()["text"].startswith("The disk of this machine is full")
            assert not [path for path in process.files() if path.suffix in (".mp4", ".part")]
            assert "outcome=refused" in process.said() and "Traceback" not in process.said()
            assert stranger.http.get("/health").json()["free_mb"] < 10 or not mounted


@pytest.fixture(scope="module")
def any_free(surroundings, tiny_model, tmp_path_factory):
    """A page that begins whatever is free, and whether its folder is a small disk."""
    folder = tmp_path_factory.mktemp("disk")
    with small_disk(folder / "clips") as mounted:
        with Process(tiny_model, folder, LUMIERE_FREE_MB="0") as process:
            yield process, mounted


def test_full_midway_cleans_up_and_the_next_clip_succeeds(any_free):
    """The encoder itself meets the end of the disk, in the middle of a file of several hundred kB."""
    large = {"frames": 64, "height": 256, "width": 256, "steps": 1}
    process, mounted = any_free
    stranger, ballast, before = process.stranger(), process.folder / "ballast", process.files()
    if mounted:
        free = os.statvfs(process.folder)
        ballast.write_bytes(b"x" * (free.f_bavail * free.f_frsize - 64 * 1024))
    else:
        size = (64 * 1024, resource.RLIM_INFINITY)
        resource.prlimit(process.process.pid, resource.RLIMIT_FSIZE, size)
    told = stranger.refusal(**large)
    assert told.startswith("Cannot write the clip: the encoder failed, with ") and "MB free" in told
    assert stranger.make(steps=1, frames=128)["text"].startswith("Cannot write the clip")
    assert process.files() - before <= {ballast}
    ballast.unlink(missing_ok=True)
    resource.prlimit(process.process.pid, resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY,) * 2)
    outcome, (file, _) = stranger.generate(**large)
    assert outcome == "complete" and len(stranger.fetch(file["path"]).content) > 64 * 1024


def test_read_only_is_refused_in_words(any_free):
    process, mounted = any_free
    stranger, folder = process.stranger(), process.folder
    assert stranger.generate()[0] == "complete"
    if mounted:
        subprocess.run(["mount", "-o", "remount,ro", str(folder)], check=True)
    else:
        folder.chmod(0o500)
    try:
        told = stranger.refusal()
        assert told.startswith("Cannot write the clip: its folder cannot be made")
        assert stranger.make()["text"] == told
    finally:
        if mounted:
            subprocess.run(["mount", "-o", "remount,rw", str(folder)], check=True)
        else:
            folder.chmod(0o700)
    assert stranger.generate()[0] == "complete"
