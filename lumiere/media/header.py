"""Reads what a video file says of itself. Uses only ffmpeg's log, since ffprobe may be missing.

Rotation, pixel aspect and edit lists are not listed here: ffmpeg attaches them to the decoded frames, where
`read_clip` applies them.
"""

import os
import re
from dataclasses import dataclass, field

from lumiere.media.colours import MATRICES, Colours
from lumiere.media.ffmpeg import UNTRUSTED, input_name, output
from lumiere.media.kinds import check_file, refusal

UNREADABLE = "cannot read a video from this file"
VIDEOS = ("an MP4 or MOV video", "a Matroska or WebM video", "an AVI video")
STREAM = re.compile(r"^ {2,4}Stream #0:\d+.*: ((?:Video|Audio|Subtitle|Data|Attachment): .*)", re.MULTILINE)
ALPHA = re.compile(r", (yuva|gbrap|rgba|bgra|argb|abgr|ya\d|pal8|ayuv|vuya)")  # pixel formats


@dataclass(frozen=True)
class Header:
    """Video properties from the header of a file.

    Attributes:
        codec: name of the codec in ffmpeg.
        width: pixels before rotation, within the clean aperture.
        height: pixels before rotation, within the clean aperture.
        fps: frames per second.
        seconds: duration, None if the header lacks it.
        start: seconds from the start of the file to the first frame, more than 0 after an early sound.
        colours: colour description.
        alpha: whether the frames have transparency.
        interlaced: whether the frames consist of two fields.
        sound: whether the file contains a sound track.
    """

    codec: str
    width: int
    height: int
    fps: float
    seconds: float | None
    start: float = 0.0
    colours: Colours = field(default_factory=Colours)
    alpha: bool = False
    interlaced: bool = False
    sound: bool = False


def probe(path: str | os.PathLike) -> Header:
    """Reads the header of an untrusted video.

    Args:
        path: path of the file.

    Returns:
        The header.

    Raises:
        ValueError: the file is not a readable video, or a video that only special players can show.
    """
    check_file(path)
    log = output([*UNTRUSTED, "-i", input_name(path)], "stderr").decode("utf-8", "replace")
    stream = _video_stream(log)
    if stream is None:
        if any(stream[1].startswith("Audio: ") for stream in STREAM.finditer(log)):
            raise ValueError(f"{UNREADABLE}: it has sound only.")
        raise refusal(UNREADABLE, path, VIDEOS)
    line, details = stream
    codec, size = re.match(r"Video: (\w+)", line), _size(line, log)
    assert codec and size, "`_video_stream` accepts no other line"
    rate = _rate(line)
    length = re.search(r"^  Duration: (\d+):(\d\d):(\d\d\.\d+), start: (-?\d+\.\d+)", log, re.MULTILINE)
    start = re.search(r", start (-?\d+\.\d+)", line)
    if re.search(r"^ +DOVI configuration record: .*profile: 5,", details, re.MULTILINE):
        raise ValueError(
            "the video is Dolby Vision of profile 5, which is not supported: save it as HDR10 or HLG."
        )
    cropped = re.search(r"^ +Frame Cropping: (\d+)/(\d+)/(\d+)/(\d+)$", details, re.MULTILINE)
    left, right, top, bottom = map(int, cropped.groups()) if cropped else (0, 0, 0, 0)
    return Header(
        codec=codec[1],
        width=int(size[1]) - left - right,
        height=int(size[2]) - top - bottom,
        fps=rate,
        seconds=int(length[1]) * 3600 + int(length[2]) * 60 + float(length[3]) if length else None,
        start=max(0.0, float(start[1]) - float(length[4])) if start and length else 0.0,
        colours=_colours(line),
        alpha=bool(ALPHA.search(line) or re.search(r"^ +alpha_mode +: 1$", details, re.MULTILINE)),
        interlaced=bool(re.search(r"[(,] ?(top|bottom) (coded )?first", line)),
        sound=any(stream[1].startswith("Audio: ") for stream in STREAM.finditer(log)),
    )


def pace_note(own: float, fps: float) -> str:
    """Returns a sentence about frames that are repeated or left out, so that a clip keeps its pace.

    Args:
        own: frames per second of the file.
        fps: frames per second at which it is read.

    Returns:
        The sentence, empty if every frame is read once.
    """
    if abs(own / fps - 1) < 0.05:  # GIF rates are rounded
        return ""
    verb = "repeated" if own < fps else "left out"
    return f"the video has {own:g} frames per second: frames are {verb} to keep its pace at {fps:g}."


def _video_stream(log: str) -> tuple[str, str] | None:
    """Returns the line of the first video stream that is no cover picture, and its indented details."""
    # `  Stream #0:0[0x1](und): Video: h264 (High) (avc1 / 0x31637661), yuv420p(tv), 64x48 [SAR 1:1], 16 fps`
    found = list(STREAM.finditer(log))
    ends = [*(stream.start() for stream in found[1:]), len(log)]
    for stream, end in zip(found, ends, strict=False):
        line = stream[1]
        if re.match(r"Video: \w", line) and "(attached pic)" not in line and _size(line, log) and _rate(line):
            return line, log[stream.end() : end]
    return None


def _size(line: str, log: str) -> re.Match | None:
    return re.search(r", (\d{1,6})x(\d{1,6})\b", line) or re.search(r"size (\d+)x(\d+) exceeds", log)


def _rate(line: str) -> float:
    rate = re.search(r", (\d+(?:\.\d+)?)(k?) (?:fps|tbr)\b", line)
    return float(rate[1]) * (1000 if rate[2] else 1) if rate else 0.0


def _colours(line: str) -> Colours:
    """Parses `yuv420p10le(tv, bt2020nc/bt2020/arib-std-b67, progressive)`; one name stands for all three."""
    described = re.search(r", [a-z0-9]+\((.*?)\)+, \d", line)
    words = described[1].split(", ") if described else []
    named = next((word for word in words if "/" in word or word in MATRICES), "")
    parts = named.split("/") if "/" in named else [named] * 3
    return Colours(*("" if part in ("unknown", "reserved") else part for part in parts[:3]))
