"""Copies the sound of a given video to the clip that was made from it."""

import os
import subprocess
from pathlib import Path

from lumiere.media.ffmpeg import UNTRUSTED, input_name, write_mp4
from lumiere.media.header import probe
from lumiere.media.whole import replacing

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
    command = ["-i", input_name(path), *UNTRUSTED, "-ss", f"{header.start:.6f}", "-i", input_name(source)]
    # Sound that begins after the first frame gets silence before it.
    command += "-map 0:v:0 -map 1:a:0 -c:v copy -c:a aac -b:a 160k -af aresample=async=1:first_pts=0".split()
    command += f"-map_metadata 0 -t {clip.seconds or 0:.3f}".split()
    try:
        with replacing(path) as part:
            write_mp4(part, command, SECONDS)
            if not probe(part).sound:
                raise RuntimeError("ffmpeg reported no error, but the sound is missing")
        return True
    except (OSError, RuntimeError, subprocess.TimeoutExpired):
        return False
