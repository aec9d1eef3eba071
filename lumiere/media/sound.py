"""Copies the sound of a given video to the clip that was made from it."""

import os
import secrets
import subprocess
from pathlib import Path

import imageio_ffmpeg

from lumiere.media.ffmpeg import UNTRUSTED, input_name
from lumiere.media.header import probe

SECONDS = 60  # timeout


def copy_sound(path: str | os.PathLike, source: str | os.PathLike) -> bool:
    """Adds the first sound track of a video to a clip, in step with the frames and cut to the clip's length.

    Args:
        path: MP4 file without sound, which keeps its frames and its metadata; replaced atomically.
        source: the video, untrusted, from whose first frame on the clip was made.

    Returns:
        Whether the sound was added; otherwise the clip is unchanged.

    Raises:
        ValueError: one of the files is not a readable video.
    """
    path, header, clip = Path(path), probe(source), probe(path)
    if not header.sound:
        return False
    part = path.with_name(f".{secrets.token_hex(8)}.part")
    command = [imageio_ffmpeg.get_ffmpeg_exe(), *"-hide_banner -nostdin -loglevel error -xerror -y".split()]
    command += ["-i", input_name(path), *UNTRUSTED, "-ss", f"{header.start:.6f}", "-i", input_name(source)]
    # Sound that begins after the first frame gets silence before it.
    command += "-map 0:v:0 -map 1:a:0 -c:v copy -c:a aac -b:a 160k -af aresample=async=1:first_pts=0".split()
    command += [
        "-map_metadata",
        "0",
        "-t",
        f"{clip.seconds or 0:.3f}",
        "-movflags",
        "+faststart",
        "-f",
        "mp4",
    ]
    try:
        done = subprocess.run([*command, input_name(part)], capture_output=True, timeout=SECONDS)
        if done.returncode != 0 or not probe(part).sound:
            return False
        os.replace(part, path)
        return True
    except (OSError, subprocess.TimeoutExpired):
        return False
    finally:
        part.unlink(missing_ok=True)
