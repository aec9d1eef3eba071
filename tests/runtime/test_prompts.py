"""Files of prompts as people's editors write them."""

import pytest

from lumiere.runtime.batch import read_prompts


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32"])
def test_byte_order_marks_are_no_part_of_a_prompt(tmp_path, encoding):
    (tmp_path / "prompts.txt").write_bytes("a red ball\r\n\r\nein blauer Bär\r\n".encode(encoding))
    assert read_prompts(tmp_path / "prompts.txt") == ["a red ball", "ein blauer Bär"]


@pytest.mark.parametrize(
    "content, words",
    [
        (b"a caf\xe9", "should be UTF-8 text: byte 6 is not UTF-8"),
        (b"\xff\xfea\0\xe9", "should be UTF-8 text: it begins as UTF-16, but byte . is not UTF-16"),
        (b"\xef\xbb\xbf\n", "there is no prompt in"),
        (None, "there is no file .*prompts.txt"),
    ],
)
def test_files_that_hold_no_prompts_are_refused_in_words(tmp_path, content, words):
    if content is not None:
        (tmp_path / "prompts.txt").write_bytes(content)
    with pytest.raises(ValueError, match=words):
        read_prompts(tmp_path / "prompts.txt")


def test_a_folder_is_no_file_of_prompts(tmp_path):
    with pytest.raises(ValueError, match="is a folder: a file is needed"):
        read_prompts(tmp_path)
