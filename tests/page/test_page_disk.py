"""Where clips and uploads are kept."""

import os
import tempfile
import time

import gradio.mcp
import numpy as np
import pytest

from lumiere.limits import ServerLimits
from lumiere.page.server.disk import Disk, own_folder
from lumiere.request import Request


@pytest.fixture
def nowhere(tmp_path, monkeypatch):
    """No folder is named, and that of temporary files is empty."""
    monkeypatch.setenv("GRADIO_TEMP_DIR", "")
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setattr(gradio.mcp, "DEFAULT_TEMP_DIR", "elsewhere")
    return tmp_path


def test_each_user_has_a_folder_which_is_that_of_tools_too(nowhere):
    own_folder()
    (folder,) = nowhere.iterdir()
    assert folder.name == f"lumiere-{os.getuid()}" and not list(folder.iterdir())
    assert folder.stat().st_mode & 0o777 == 0o700
    assert os.environ["GRADIO_TEMP_DIR"] == gradio.mcp.DEFAULT_TEMP_DIR == str(folder)


def test_a_folder_that_another_user_has_made_is_not_taken(nowhere, monkeypatch):
    (nowhere / "lumiere-7").mkdir()
    monkeypatch.setattr(os, "getuid", lambda: 7)
    with pytest.raises(OSError, match="lumiere-7 .it belongs to another user.: set GRADIO_TEMP_DIR"):
        own_folder()


def test_what_another_server_is_writing_stays(tmp_path, monkeypatch):
    monkeypatch.setenv("GRADIO_TEMP_DIR", str(tmp_path))
    ours, theirs = Disk(ServerLimits()), Disk(ServerLimits())
    for disk in (ours, theirs):
        disk.save(Request("a red ball", fps=16, seed=1), np.zeros((4, 64, 64, 3), np.uint8), "{}")
    for folder in tmp_path.iterdir():
        (folder / ".half.part").write_bytes(b"half")
    ours.remove_parts(f"{ours.mark}*")
    (left,) = tmp_path.glob("*/.half.part")
    assert left.parent.name.startswith(theirs.mark) and len(list(tmp_path.glob("*/*.mp4"))) == 2


def test_files_expire_after_the_minutes_of_the_operator(tmp_path, monkeypatch):
    monkeypatch.setenv("GRADIO_TEMP_DIR", str(tmp_path))
    for name, minutes in (("new", 55), ("old", 65)):
        (tmp_path / name).write_bytes(b"clip")
        os.utime(tmp_path / name, (0, time.time() - 60 * minutes))
    assert Disk(ServerLimits(keep_minutes=60, free_mb=0)).room()
    assert [file.name for file in tmp_path.iterdir()] == ["new"]


def test_nothing_is_deleted_for_what_could_never_fit(tmp_path, monkeypatch):
    monkeypatch.setenv("GRADIO_TEMP_DIR", str(tmp_path))
    (tmp_path / "old").write_bytes(b"old")
    os.utime(tmp_path / "old", (0, time.time() - 600))
    assert not Disk(ServerLimits(disk_mb=8)).room(9 * 2**20) and (tmp_path / "old").exists()


def test_the_operator_may_name_another(nowhere, monkeypatch):
    monkeypatch.setenv("GRADIO_TEMP_DIR", str(nowhere / "a" / "b"))
    own_folder()
    assert (nowhere / "a" / "b").is_dir() and gradio.mcp.DEFAULT_TEMP_DIR == str(nowhere / "a" / "b")


def test_a_folder_that_cannot_be_written_to_is_told_at_the_start(nowhere, monkeypatch):
    (nowhere / "file").write_text("")
    monkeypatch.setenv("GRADIO_TEMP_DIR", str(nowhere / "file" / "folder"))
    with pytest.raises(OSError, match=r"clips cannot be written to .*folder \(.+\): set GRADIO_TEMP_DIR"):
        own_folder()
