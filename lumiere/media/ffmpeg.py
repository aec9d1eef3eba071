"""Runs the ffmpeg binary of imageio-ffmpeg on untrusted files, within limits of time, bytes and formats."""

import os
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path

import imageio_ffmpeg

HEADER_SECONDS = 30  # timeout; on an idle machine a header takes 0.05 s
MAX_HEADER_BYTES = 2**20  # a malicious file may contain any amount of metadata

MAX_READ_SIDE = 4096  # pixels of a video before it is scaled down: 4K, the most that phones record by default
PADDING = 256  # pixels that decoders add to the sides of a frame
# Only self-contained formats may be opened, whatever the file name: playlists (HLS, ffconcat, DASH, SDP)
# refer to other files and URLs, which ffmpeg would open. Decoders refuse frames of more than `max_pixels`,
# counted with their padding.
UNTRUSTED = [
    *("-protocol_whitelist", "file"),
    *("-format_whitelist", "mov,matroska,webm,avi,gif,mpegts,mpeg"),
    *("-max_pixels", str((MAX_READ_SIDE + PADDING) ** 2)),
]


def input_name(path: str | os.PathLike) -> str:
    """Returns the name of a file for ffmpeg, which parses it neither as an option, a URL nor a pattern."""
    return f"file:{os.path.abspath(path)}"


def output(arguments: list[str], stream: str) -> bytes:
    """Returns the beginning of one output stream of ffmpeg.

    Args:
        arguments: arguments of ffmpeg.
        stream: "stdout" or "stderr".

    Returns:
        At most `MAX_HEADER_BYTES`, written within `HEADER_SECONDS`.
    """
    with running(arguments, HEADER_SECONDS, **{stream: subprocess.PIPE}) as process:
        return getattr(process, stream).read(MAX_HEADER_BYTES)


@contextmanager
def running(
    arguments: list[str], seconds: float, stdout: int = subprocess.DEVNULL, stderr: int = subprocess.DEVNULL
) -> Iterator[subprocess.Popen[bytes]]:
    """Runs ffmpeg and kills it after a timeout, or at the end of the `with` block.

    Args:
        arguments: arguments of ffmpeg.
        seconds: timeout.
        stdout: as in `subprocess.Popen`.
        stderr: as in `subprocess.Popen`.

    Yields:
        The process.
    """
    command = [imageio_ffmpeg.get_ffmpeg_exe(), "-hide_banner", "-nostdin", *arguments]
    with subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=stdout, stderr=stderr) as process:
        timer = threading.Timer(seconds, process.kill)
        timer.start()
        try:
            yield process
        finally:
            timer.cancel()
            process.kill()


def write_mp4(path: Path, arguments: list[str], seconds: float, pixels: memoryview | None = None) -> None:
    """Writes an MP4 file that plays before it is loaded whole.

    Args:
        path: output path; the name needs no ending.
        arguments: inputs and their encoding.
        seconds: timeout.
        pixels: data of the input `pipe:0`.

    Raises:
        RuntimeError: ffmpeg failed.
        subprocess.TimeoutExpired: it took too long.
    """
    command = [imageio_ffmpeg.get_ffmpeg_exe(), *"-hide_banner -nostdin -loglevel error -xerror -y".split()]
    command += [*arguments, *"-movflags +faststart -f mp4".split(), input_name(path)]
    done = subprocess.run(command, input=pixels, capture_output=True, timeout=seconds)
    if done.returncode != 0:
        words = done.stderr[-2000:].decode("utf-8", "replace")
        raise RuntimeError(f"ffmpeg ended with {done.returncode}: {words}")


@cache
def has_filter(name: str) -> bool:
    """Returns whether this build of ffmpeg contains a filter; some lack libzimg's `zscale`."""
    return f" {name} ".encode() in output(["-filters"], "stdout")
