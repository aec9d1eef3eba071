"""Writes H.264 clips and reads untrusted videos.

Both run the ffmpeg binary of imageio-ffmpeg in a subprocess. Its own `write_frames` does not report a failed
encode, and its `read_frames` starts to decode before the size is known. This module requires neither ffprobe
nor torch.
"""

import math
import os
import re
import shutil
import subprocess
import time
from pathlib import Path
from typing import IO

import numpy as np

from lumiere.limits import ServerLimits
from lumiere.media.animations import is_picture, read_animation
from lumiere.media.colours import bt709_filters
from lumiere.media.ffmpeg import MAX_READ_SIDE, PADDING, UNTRUSTED, input_name, output, running, write_mp4
from lumiere.media.header import UNREADABLE, Header, probe
from lumiere.media.images import on_white
from lumiere.media.kinds import check_file
from lumiere.media.whole import replacing
from lumiere.request import FPS

MAX_SETTINGS_BYTES = 100_000  # passed as one process argument, which Linux limits to 128 KiB
MAX_WRITE_SIDE = 4096  # supported by the H.264 decoders of all phones and browsers
ENCODE_SECONDS = 600
ALPHA_DECODERS = {"vp8": "libvpx", "vp9": "libvpx-vp9"}  # ffmpeg's own decoders drop the transparency

# By default swscale converts to BT.601 and players guess the matrix from the size, which shifts colours.
EXACT = "bicubic+accurate_rnd+full_chroma_int"
TO_BT709 = (
    f"scale=out_color_matrix=bt709:out_range=tv:flags={EXACT},format=yuv420p,"
    "setparams=colorspace=bt709:color_primaries=bt709:color_trc=bt709:range=tv"
)


def write_clip(path: str | os.PathLike, frames: np.ndarray, fps: float, settings: str | None = None) -> None:
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
    try:
        with replacing(path) as part:
            _encode(part, frames, fps, settings)
            if _stored(part) != (frames.shape[2], frames.shape[1], len(frames)):
                raise RuntimeError("ffmpeg reported no error, but sizes or frames are missing")
    except (OSError, RuntimeError, subprocess.TimeoutExpired) as error:
        # The message may be shown on a page, so paths stay in the traceback.
        free = shutil.disk_usage(path.parent).free // 2**20
        raise OSError(
            f"cannot write the clip: the encoder failed, with {free} MB free on its disk."
        ) from error


def read_clip(
    path: str | os.PathLike,
    max_frames: int = 256,
    max_side: int = ServerLimits.video_side,
    max_seconds: float = ServerLimits.video_seconds,
    fps: float | None = None,
) -> tuple[np.ndarray, float]:
    """Reads the beginning of an untrusted video as it should be shown.

    Frames are upright, with square pixels and the colours of BT.709, blended onto white where they are
    transparent, and scaled down to `max_side`. The first frame is the first one that the file shows, even if
    its sound begins earlier. Formats for streaming (MKV, WebM, GIF) may end early.

    Args:
        path: path of an MP4, MOV, MKV, WebM, AVI, MPEG-TS, MPEG or GIF file, or of an animated WebP, PNG or
            AVIF.
        max_frames: maximum number of frames. The rest of the file is not read.
        max_side: maximum height and width of the result in pixels.
        max_seconds: timeout.
        fps: rate of the result, 1 to 60. Frames are repeated or left out so that the clip keeps its pace.
            Defaults to the rate of the file, or the nearest one from 1 to 60.

    Returns:
        RGB uint8 `t h w c`, and frames per second.

    Raises:
        ValueError: the video is too large to decode, damaged or in another format, its colours are not
            supported, a frame differs in size from the header, or reading takes longer than `max_seconds`.
    """
    check_file(path)
    if is_picture(path):
        return read_animation(
            path, max_frames=max_frames, max_side=max_side, max_seconds=max_seconds, fps=fps
        )
    header = probe(path)
    if max(header.width, header.height) > MAX_READ_SIDE:
        raise ValueError(
            f"the video must be at most {MAX_READ_SIDE} pixels a side: "
            f"received {header.width} x {header.height}."
        )
    fps = float(fps or min(max(header.fps, FPS[0]), FPS[1]))
    started, filters = time.monotonic(), _filters(header, fps, max_side)
    pixels, shapes, status = _decode(path, header, filters, max_frames, max_seconds)
    if time.monotonic() - started >= max_seconds:
        raise ValueError(f"{UNREADABLE}: it took more than {max_seconds:g} seconds.")
    if not shapes:
        raise ValueError(f"{UNREADABLE}.")
    # After the last requested frame, the decoder may already have failed on the next one.
    if len(set(shapes)) > 1 or (status != 0 and len(shapes) < max_frames):
        raise ValueError(f"{UNREADABLE}: it is damaged, or changes its size, after {len(shapes)} frames.")
    return np.frombuffer(pixels, np.uint8).reshape(len(shapes), *shapes[0]), fps  # t h w c


def _filters(header: Header, fps: float, max_side: int) -> str:
    wide, high = header.width, header.height
    # ffmpeg would rescale a frame of another size. A crop to zero width is an error and ends the process
    # instead. Rotated videos are upright here, hence both orders.
    same_size = f"eq(iw,{wide})*eq(ih,{high})+eq(iw,{high})*eq(ih,{wide})"
    # sar is the aspect ratio of a pixel. The shorter side of pixels is stretched, so that nothing is lost.
    width, height = "iw*max(sar,1)", "ih*max(1/sar,1)"
    shrink = f"min(1,{max_side}/max({width},{height}))"
    filters = [
        f"crop=w='if({same_size},iw,0)':h=ih:exact=1",
        "setpts=PTS-STARTPTS",
        *(["bwdif=mode=send_frame"] if header.interlaced else []),
        f"fps={fps:g}",
        f"scale=w='max(1,round({width}*{shrink}))':h='max(1,round({height}*{shrink}))':flags={EXACT}",
        "setsar=1",
        *bt709_filters(header.colours, high, EXACT),
        f"format={'rgba' if header.alpha else 'rgb24'}",
    ]
    return ",".join(filters)


def _decode(
    path: str | os.PathLike, header: Header, filters: str, max_frames: int, max_seconds: float
) -> tuple[bytearray, list[tuple[int, ...]], int]:
    """Returns the pixels and shapes of complete frames `h w 3`, and the exit status of ffmpeg."""
    most = (header.width + PADDING) * (header.height + PADDING)  # refuses larger frames than the header's
    arguments = ["-xerror", *UNTRUSTED, "-max_pixels", str(most), "-threads", "2"]
    if header.alpha and header.codec in ALPHA_DECODERS:
        arguments += ["-c:v", ALPHA_DECODERS[header.codec]]
    arguments += ["-i", input_name(path), "-map", "0:V:0", "-vf", filters, "-frames:v", str(max_frames)]
    arguments += ["-c:v", "pam", "-f", "image2pipe", "pipe:1"]
    pixels = bytearray()
    shapes: list[tuple[int, ...]] = []
    with running(arguments, max_seconds, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None, "a pipe"
        while (frame := _next_frame(process.stdout)) is not None:
            pixels += frame.data
            shapes.append(frame.shape)
        return pixels, shapes, process.wait()


def _next_frame(stream: IO[bytes]) -> np.ndarray | None:
    """Reads a PAM image, which has its own size, and blends it onto white; None without a complete one."""
    if stream.readline() != b"P7\n":
        return None
    entries = {}
    while (line := stream.readline()) not in (b"ENDHDR\n", b""):
        key, value = line.split()
        entries[key] = value
    if line == b"":
        return None
    shape = tuple(int(entries[key]) for key in (b"HEIGHT", b"WIDTH", b"DEPTH"))
    pixels = stream.read(math.prod(shape))
    if len(pixels) < math.prod(shape):
        return None
    frame = np.frombuffer(pixels, np.uint8).reshape(shape)
    return on_white(frame) if shape[2] == 4 else frame


def read_settings(path: str | os.PathLike) -> str | None:
    """Reads the text that `write_clip` stored in the comment tag. The text is as untrusted as a prompt.

    Args:
        path: path of the file.

    Returns:
        The text, None without a comment tag.

    Raises:
        ValueError: the file is not a readable video.
    """
    text = output([*UNTRUSTED, "-i", input_name(path), "-f", "ffmetadata", "pipe:1"], "stdout")
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
    command = f"-f rawvideo -pix_fmt rgb24 -video_size {width}x{height} -framerate {fps:g} -i pipe:0".split()
    command += ["-vf", TO_BT709, *"-c:v libx264 -crf 18".split()]
    command += ["-metadata", f"comment={settings}"] if settings else []
    write_mp4(path, command, ENCODE_SECONDS, np.ascontiguousarray(frames).data.cast("B"))


def _stored(path: Path) -> tuple[int, int, int] | None:
    """Returns width, height and number of frames stored in our own file; None if it contains no video."""
    arguments = ["-i", input_name(path), "-map", "0:v:0", "-c", "copy", "-f", "framecrc", "pipe:1"]
    listing = output(arguments, "stdout")
    size = re.search(rb"^#dimensions 0: (\d+)x(\d+)$", listing, re.MULTILINE)
    return (int(size[1]), int(size[2]), len(re.findall(rb"^0,", listing, re.MULTILINE))) if size else None
