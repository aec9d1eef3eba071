"""Writes H.264 clips and reads untrusted videos.

Both run the ffmpeg binary of imageio-ffmpeg in a subprocess. Its own `write_frames` does not report a failed
encode, and its `read_frames` starts to decode before the size is known. This module requires neither ffprobe
nor torch.
"""

import os
import re
import secrets
import shutil
import subprocess
import threading
import time
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import imageio_ffmpeg
import numpy as np

from lumiere.limits import ServerLimits
from lumiere.request import FPS

MAX_SETTINGS_BYTES = 100_000  # passed as one process argument, which Linux limits to 128 KiB
MAX_WRITE_SIDE = 4096  # supported by the H.264 decoders of all phones and browsers
ENCODE_SECONDS = 600
HEADER_SECONDS = 30  # timeout; on an idle machine a header takes 0.05 s
MAX_HEADER_BYTES = 2**20  # a malicious file may contain any amount of metadata

UNREADABLE = "cannot read a video from this file"

# Only self-contained formats may be opened, whatever the file name: playlists (HLS, ffconcat, DASH, SDP)
# refer to other files and URLs, which ffmpeg would open.
UNTRUSTED = ["-protocol_whitelist", "file", "-format_whitelist", "mov,matroska,webm,avi,gif"]
# ffmpeg decodes a frame or two even for the header. It still reports the size of frames above the limit.
HEADER_ONLY = [*UNTRUSTED, "-max_pixels", str(2**22)]

# By default swscale converts to BT.601 and players guess the matrix from the size, which shifts colours.
EXACT = "bicubic+accurate_rnd+full_chroma_int"
TO_BT709 = (
    f"scale=out_color_matrix=bt709:out_range=tv:flags={EXACT},format=yuv420p,"
    "setparams=colorspace=bt709:color_primaries=bt709:color_trc=bt709:range=tv"
)


@dataclass(frozen=True)
class Header:
    """Video properties from the header of a file.

    Attributes:
        codec: name of the codec in ffmpeg.
        width: pixels before rotation.
        height: pixels before rotation.
        fps: frames per second.
        seconds: duration, None if the header lacks it.
    """

    codec: str
    width: int
    height: int
    fps: float
    seconds: float | None


def write_clip(path, frames: np.ndarray, fps: float, settings: str | None = None) -> None:
    """Writes an MP4 (H.264, yuv420p, BT.709, crf 18, faststart) and moves it to `path` atomically.

    H.264 with yuv420p has even sides. An odd height or width repeats its last row or column: 63 x 65 becomes
    64 x 66, also for readers. After an error, a previous file at `path` is kept and no partial file remains.

    Args:
        path: output path, ending in `.mp4`.
        frames: RGB uint8 `t h w c`, sides up to 4096.
        fps: 1 to 60.
        settings: text for the comment tag, up to 100 000 bytes (see `read_settings`).

    Raises:
        ValueError: an argument is out of range.
        OSError: writing failed; the message states the free space.
    """
    path = Path(path)
    _check_clip(path, frames, fps, settings)
    if not path.parent.is_dir():
        raise OSError("cannot write the clip: its folder does not exist.")
    height, width = frames.shape[1:3]
    frames = np.pad(frames, ((0, 0), (0, height % 2), (0, width % 2), (0, 0)), mode="edge")  # t h+ w+ c
    part = path.with_name(f".{secrets.token_hex(8)}.part")
    try:
        _encode(part, frames, fps, settings)
        if _stored(part) != (frames.shape[2], frames.shape[1], len(frames)):
            raise RuntimeError("ffmpeg reported no error, but sizes or frames are missing")
        os.replace(part, path)
    except (OSError, RuntimeError, subprocess.TimeoutExpired) as error:
        # The message may be shown on a page, so paths stay in the traceback.
        free = shutil.disk_usage(path.parent).free // 2**20
        raise OSError(
            f"cannot write the clip: the encoder failed, with {free} MB free on its disk."
        ) from error
    finally:
        part.unlink(missing_ok=True)


def read_clip(
    path,
    max_frames: int = 256,
    max_side: int = ServerLimits.video_side,
    max_seconds: float = ServerLimits.video_seconds,
    max_fps: float = FPS[1],
) -> tuple[np.ndarray, float]:
    """Reads the beginning of an untrusted video, upright.

    Clips with a constant rate from 1 to `max_fps` are read frame by frame. Other clips are resampled to the
    nearest such rate. Formats for streaming (MKV, WebM, GIF) may end early.

    Args:
        path: path of an MP4, MOV, MKV, WebM, AVI or GIF file.
        max_frames: maximum number of frames. The rest of the file is not read.
        max_side: maximum height and width in pixels, checked in the header before decoding.
        max_seconds: timeout.
        max_fps: maximum rate, up to 60.

    Returns:
        RGB uint8 `t h w c`, and frames per second.

    Raises:
        ValueError: the video is too large, damaged or in another format, a frame differs in size from the
            header, or reading takes longer than `max_seconds`.
    """
    header = probe(path)
    wide, high = header.width, header.height
    if max(wide, high) > max_side:
        raise ValueError(f"the video must be at most {max_side} pixels a side: received {wide} x {high}.")
    fps = float(min(max(header.fps, FPS[0]), max_fps))
    # ffmpeg would rescale a frame of another size. A crop to zero width is an error and ends the process
    # instead. Rotated videos are upright here, hence both orders.
    same_size = f"eq(iw,{wide})*eq(ih,{high})+eq(iw,{high})*eq(ih,{wide})"
    filters = f"crop=w='if({same_size},iw,0)':h=ih:exact=1,fps={fps:g},scale=flags={EXACT},format=rgb24"
    # The decoder also enforces the size, in whole macroblocks, hence the margin.
    limits = [*UNTRUSTED, "-max_pixels", str((max_side + 64) ** 2), "-threads", "2"]
    arguments = ["-xerror", *limits, "-i", _file(path), "-map", "0:V:0", "-vf", filters]
    arguments += ["-frames:v", str(max_frames), "-c:v", "ppm", "-f", "image2pipe", "pipe:1"]
    pixels, shape, started = bytearray(), None, time.monotonic()
    with _ffmpeg(arguments, max_seconds, stdout=subprocess.PIPE) as process:
        while process.stdout.readline() == b"P6\n":  # each frame is a PPM image with its own size
            sides = process.stdout.readline().split()
            if process.stdout.readline() != b"255\n":
                break
            shape = int(sides[1]), int(sides[0]), 3
            pixels += process.stdout.read(shape[0] * shape[1] * 3)
        status = process.wait()
    if time.monotonic() - started >= max_seconds:
        raise ValueError(f"{UNREADABLE}: it took more than {max_seconds:g} seconds.")
    if shape is None:
        raise ValueError(f"{UNREADABLE}.")
    count, rest = divmod(len(pixels), shape[0] * shape[1] * 3)
    # After the last requested frame, the decoder may already have failed on the next one.
    if rest or (status != 0 and count < max_frames):
        raise ValueError(f"{UNREADABLE}: it is damaged, or changes its size, after {count} frames.")
    return np.frombuffer(pixels, np.uint8).reshape(count, *shape), fps  # t h w c


def probe(path) -> Header:
    """Reads the header of an untrusted video.

    Args:
        path: path of the file.

    Returns:
        The header.

    Raises:
        ValueError: the file is not a readable video.
    """
    log = _output([*HEADER_ONLY, "-i", _file(path)], "stderr").decode("utf-8", "replace")
    # `  Stream #0:0[0x1](und): Video: h264 (High) (avc1 / 0x31637661), yuv420p(tv), 64x48 [SAR 1:1], 16 fps`
    for line in re.findall(r"^ {2,4}Stream #0:\d+.*: (Video: \w.*)", log, re.MULTILINE):
        size = re.search(r", (\d{1,6})x(\d{1,6})\b", line) or re.search(r"size (\d+)x(\d+) exceeds", log)
        rate = re.search(r", (\d+(?:\.\d+)?)(k?) (?:fps|tbr)\b", line)
        if size and rate and float(rate[1]) > 0 and "(attached pic)" not in line:
            break
    else:
        raise ValueError(f"{UNREADABLE}.")
    length = re.search(r"^  Duration: (\d+):(\d\d):(\d\d\.\d+)", log, re.MULTILINE)
    return Header(
        codec=re.match(r"Video: (\w+)", line)[1],
        width=int(size[1]),
        height=int(size[2]),
        fps=float(rate[1]) * (1000 if rate[2] else 1),
        seconds=int(length[1]) * 3600 + int(length[2]) * 60 + float(length[3]) if length else None,
    )


def read_settings(path) -> str | None:
    """Reads the text that `write_clip` stored in the comment tag. The text is as untrusted as a prompt.

    Args:
        path: path of the file.

    Returns:
        The text, None without a comment tag.

    Raises:
        ValueError: the file is not a readable video.
    """
    text = _output([*HEADER_ONLY, "-i", _file(path), "-f", "ffmetadata", "pipe:1"], "stdout")
    if not text:
        raise ValueError(f"{UNREADABLE}.")
    # Lines of key=value, with \ before = ; # \ and newline, up to the first section of a stream or chapter.
    for key, value, section in re.findall(
        rb"^(?:((?:\\.|[^\\\n=\[])+)=((?:\\.|[^\\\n])*)$|(\[))", text, re.MULTILINE | re.DOTALL
    ):
        if section:
            break
        if key.lower() == b"comment":
            return re.sub(rb"\\(.)", rb"\1", value, flags=re.DOTALL).decode("utf-8", "replace")
    return None


def _check_clip(path: Path, frames: np.ndarray, fps: float, settings: str | None) -> None:
    if path.suffix.lower() != ".mp4":
        raise ValueError(
            f"the clip's file name must end in .mp4: received one of {len(path.name)} characters."
        )
    shape = frames.shape
    if frames.dtype != np.uint8 or len(shape) != 4 or shape[3] != 3 or not shape[0]:
        raise ValueError(
            f"frames must be uint8 of shape (t h w 3): received {frames.dtype} of shape {shape}."
        )
    if not 1 <= min(shape[1:3]) <= max(shape[1:3]) <= MAX_WRITE_SIDE:
        raise ValueError(
            f"frames must be 1 to {MAX_WRITE_SIDE} pixels a side: received {shape[2]} x {shape[1]}."
        )
    if type(fps) not in (int, float) or not FPS[0] <= fps <= FPS[1]:
        raise ValueError(f"fps must be a number from {FPS[0]} to {FPS[1]}: received {fps}.")
    if settings is not None:
        size = len(settings.encode("utf-8", "replace"))
        if size > MAX_SETTINGS_BYTES:
            raise ValueError(f"settings must be at most {MAX_SETTINGS_BYTES} bytes: received {size}.")
        if "\0" in settings or re.search("[\ud800-\udfff]", settings):
            raise ValueError(
                f"settings must be readable text: received {size} bytes with NUL or a lone surrogate."
            )


def _encode(path: Path, frames: np.ndarray, fps: float, settings: str | None) -> None:
    height, width = frames.shape[1:3]
    command = [
        imageio_ffmpeg.get_ffmpeg_exe(),
        *"-hide_banner -nostdin -loglevel error -y -f rawvideo".split(),
    ]
    command += f"-pix_fmt rgb24 -video_size {width}x{height} -framerate {fps:g} -i pipe:0".split()
    command += ["-vf", TO_BT709, *"-c:v libx264 -crf 18 -movflags +faststart".split()]
    command += ["-metadata", f"comment={settings}"] if settings else []
    command += ["-f", "mp4", _file(path)]
    pixels = memoryview(np.ascontiguousarray(frames)).cast("B")
    done = subprocess.run(command, input=pixels, capture_output=True, timeout=ENCODE_SECONDS)
    if done.returncode != 0:
        words = done.stderr[-2000:].decode("utf-8", "replace")
        raise RuntimeError(f"ffmpeg ended with {done.returncode}: {words}")


def _stored(path: Path) -> tuple[int, int, int] | None:
    """Returns width, height and number of frames stored in our own file; None if it contains no video."""
    arguments = ["-i", _file(path), "-map", "0:v:0", "-c", "copy", "-f", "framecrc", "pipe:1"]
    listing = _output(arguments, "stdout")
    size = re.search(rb"^#dimensions 0: (\d+)x(\d+)$", listing, re.MULTILINE)
    return (int(size[1]), int(size[2]), len(re.findall(rb"^0,", listing, re.MULTILINE))) if size else None


def _file(path) -> str:
    # With an explicit protocol, no name is parsed as an option, a URL or a pattern.
    return f"file:{os.path.abspath(path)}"


def _output(arguments: list[str], stream: str) -> bytes:
    """Returns one output stream of ffmpeg, limited in bytes and in seconds."""
    with _ffmpeg(arguments, HEADER_SECONDS, **{stream: subprocess.PIPE}) as process:
        return getattr(process, stream).read(MAX_HEADER_BYTES)


@contextmanager
def _ffmpeg(arguments: list[str], seconds: float, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL):
    """Runs ffmpeg and kills it after `seconds`, or at the end of the `with` block."""
    command = [imageio_ffmpeg.get_ffmpeg_exe(), "-hide_banner", "-nostdin", *arguments]
    with subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=stdout, stderr=stderr) as process:
        timer = threading.Timer(seconds, process.kill)
        timer.start()
        try:
            yield process
        finally:
            timer.cancel()
            process.kill()
