"""Where clips and uploads are kept."""

import os
import tempfile

import gradio.mcp
import pytest

from lumiere.page.disk import own_folder


@pytest.fixture
def nowhere(tmp_path, monkeypatch):
    """No folder is named, and that of temporary files is empty."""
    monkeypatch.setenv("GRADIO_TEMP_DIR", "")
    monkeypatch.delenv("GRADIO_TEMP_DIR")
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setattr(gradio.mcp, "DEFAULT_TEMP_DIR", "elsewhere")
    return tmp_path


def test_each_user_has_a_folder_which_is_that_of_tools_too(nowhere):
    own_folder()
    (folder,) = nowhere.iterdir()
    assert folder.name == f"lumiere-{os.getuid()}" and not list(folder.iterdir())
    assert os.environ["GRADIO_TEMP_DIR"] == gradio.mcp.DEFAULT_TEMP_DIR == str(folder)


def test_the_operator_may_name_another(nowhere, monkeypatch):
    monkeypatch.setenv("GRADIO_TEMP_DIR", str(nowhere / "a" / "b"))
    own_folder()
    assert (nowhere / "a" / "b").is_dir() and gradio.mcp.DEFAULT_TEMP_DIR == str(nowhere / "a" / "b")


def test_a_folder_that_cannot_be_written_to_is_told_at_the_start(nowhere, monkeypatch):
    (nowhere / "file").write_text("")
    monkeypatch.setenv("GRADIO_TEMP_DIR", str(nowhere / "file" / "folder"))
    with pytest.raises(OSError, match=r"clips cannot be written to .*folder \(.+\): set GRADIO_TEMP_DIR"):
        own_folder()
