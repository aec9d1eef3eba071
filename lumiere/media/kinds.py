"""Recognises kinds of files by their first bytes, to say what a file is that cannot be read."""

import os
from pathlib import Path
from typing import BinaryIO

HEAD = 512  # bytes that are looked at
SIGNATURES = (  # offset, bytes, name
    (0, b"\x89PNG\r\n\x1a\n", "a PNG picture"),
    (0, b"\xff\xd8\xff", "a JPEG picture"),
    (0, b"BM", "a BMP picture"),
    (0, b"II*\0", "a TIFF picture"),
    (0, b"MM\0*", "a TIFF picture"),
    (0, b"\xff\x0a", "a JPEG XL picture"),
    (4, b"JXL ", "a JPEG XL picture"),
    (0, b"8BPS", "a Photoshop file"),
    (0, b"gimp xcf", "a GIMP file"),
    (0, b"%PDF", "a PDF file"),
    (0, b"FLV\x01", "a Flash video"),
    (0, b"\x30\x26\xb2\x75\x8e\x66\xcf\x11", "a Windows Media file"),
    (0, b"OggS", "an Ogg file"),
    (0, b"\x1aE\xdf\xa3", "a Matroska or WebM video"),
    (8, b"WEBP", "a WebP picture"),
    (8, b"AVI ", "an AVI video"),
    (8, b"WAVE", "a sound file"),
    (0, b"ID3", "a sound file"),
    (0, b"fLaC", "a sound file"),
    (0, b"PK\x03\x04", "a ZIP archive"),
    (0, b"\x1f\x8b", "a gzip archive"),
    (0, b"7z\xbc\xaf", "a 7z archive"),
    (0, b"Rar!", "a RAR archive"),
    (0, b"version https://git-lfs", "a Git LFS pointer; `git lfs pull` fetches the file itself"),
)
BRANDS = {  # of ISO base media files, at offset 8
    b"avif": "an AVIF picture",
    b"avis": "an AVIF picture",
    b"heic": "a HEIC picture",
    b"heix": "a HEIC picture",
    b"hevc": "a HEIC picture",
    b"mif1": "a HEIF picture",
    b"msf1": "a HEIF picture",
    b"crx ": "a raw picture of a camera",
    b"M4A ": "a sound file",
}
PICTURES = (
    "a PNG picture",
    "a WebP picture",
    "an AVIF picture",
    "a JPEG picture",
    "a BMP picture",
    "a TIFF picture",
)


def read_head(file: str | os.PathLike | BinaryIO, size: int) -> bytes:
    """Returns the first bytes of a file.

    Args:
        file: path, or binary file, which keeps its position.
        size: number of bytes.
    """
    if isinstance(file, str | os.PathLike):
        with open(file, "rb") as stream:
            return stream.read(size)
    position = file.tell()
    head = file.read(size)
    file.seek(position)
    return head


def kind(file: str | os.PathLike | BinaryIO) -> str:
    """Returns what a file is, such as "a HEIC picture"; empty if it is of no known kind.

    Args:
        file: path, or binary file, which keeps its position.
    """
    head = read_head(file, HEAD)
    if not head:
        return "empty"
    if head[4:8] == b"ftyp":
        return BRANDS.get(head[8:12], "an MP4 or MOV video")
    for offset, signature, name in SIGNATURES:
        if head.startswith(signature, offset):
            return name
    text = head.lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if text.startswith((b"<!doctype html", b"<html")):
        return "a web page"
    return "an SVG drawing" if b"<svg" in text else ""


def check_file(path: str | os.PathLike) -> None:
    """Checks that a path names a file that can be opened.

    Args:
        path: path of the file.

    Raises:
        ValueError: there is no such file, it is a folder, or it must not be read.
    """
    try:
        if Path(path).is_dir():
            raise ValueError(f"{path} is a folder: a file is needed.")
        with open(path, "rb"):
            pass
    except FileNotFoundError:
        raise ValueError(f"there is no file {path}.") from None
    except OSError as error:
        raise ValueError(f"cannot open {path}: {error.strerror}.") from None


def refusal(words: str, file: str | os.PathLike | BinaryIO, readable: tuple[str, ...] = ()) -> ValueError:
    """Returns the error for an unreadable file. It names the kind of the file.

    Args:
        words: beginning of the sentence, for example "cannot read a video from this file".
        file: path or binary file.
        readable: names of kinds that can be read; such a file is damaged.
    """
    try:
        found = kind(file)
    except OSError:
        found = ""
    if not found or found in readable:
        return ValueError(f"{words}.")
    return ValueError(f"{words}: it is {found}.")
