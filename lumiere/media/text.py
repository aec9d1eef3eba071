"""Reads text files of people: prompts, captions and lists."""

import codecs
import os
from pathlib import Path

from lumiere.media.kinds import check_file

MARKS = (  # UTF-32 first: its mark begins with that of UTF-16
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)


def read_text(path: str | os.PathLike) -> str:
    """Reads a text file in UTF-8, or in UTF-16 or UTF-32 as Windows writes them, without its byte order mark.

    Args:
        path: path of the file.

    Returns:
        The text. Line ends are as in the file.

    Raises:
        ValueError: there is no such file, or it is not text.
    """
    check_file(path)
    data = Path(path).read_bytes()
    encoding = next((name for mark, name in MARKS if data.startswith(mark)), "utf-8")
    if encoding == "utf-8" and b"\0" in data[:4]:  # UTF-16 without a mark: ASCII has a zero in every pair
        encoding = "utf-16-be" if data[0] == 0 else "utf-16-le"
    try:
        return data.decode(encoding)
    except UnicodeDecodeError as error:
        name = encoding.removesuffix("-sig").upper()
        begins = "" if name == "UTF-8" else f"it begins as {name}, but "
        place = f"{begins}byte {error.start + 1}"
        raise ValueError(f"{path} should be UTF-8 text: {place} is not {name}.") from None


def printable(text: object) -> str:
    """Returns text, such as a path, whose bytes that are not UTF-8 are escapes, so that it can be printed."""
    return str(text).encode("utf-8", "backslashreplace").decode()
