"""Two thousand damaged pictures and videos: each is read or refused, soon and in little memory."""

import io
import random
import resource
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from lumiere.media.images import read_image
from lumiere.media.video import read_clip, read_settings, write_clip
from tests.media.test_video import ffmpeg, moving
from tests.security.test_fuzz_endpoint import Told, peak, timed

pytestmark = [pytest.mark.slow, pytest.mark.soak]
CASES = 1000  # of each kind
PICTURES = {"PNG": {}, "JPEG": {"quality": 90}, "WEBP": {}, "GIF": {}, "BMP": {}}
VIDEOS = {"mp4": [], "mkv": [], "webm": ["-c:v", "libvpx"], "avi": ["-c:v", "mjpeg"], "gif": []}
NO_PICTURE = ("cannot read a picture from this file", "a picture must be at most", "the picture ")
NO_VIDEO = ("cannot read a video from this file", "the video must be at most", "the colours of the video")


def mutated(data: bytes, chance: random.Random) -> bytes:
    """A file with parts flipped, cut, doubled, zeroed, overwritten or moved; early ones more often."""
    data = bytearray(data)
    for _ in range(chance.choice((1, 1, 2, 4, 16, 64))):
        if not data:
            break
        place = int(len(data) * chance.random() ** chance.choice((1, 3)))
        size = min(chance.choice((1, 2, 4, 8, 64, 1024)), len(data) - place)
        how = chance.randrange(7)
        if how == 0:
            data[place] ^= 1 << chance.randrange(8)
        elif how == 1:
            data[place : place + size] = chance.randbytes(size)
        elif how == 2:
            del data[place:]
        elif how == 3:
            del data[place : place + size]
        elif how == 4:
            data[place:place] = data[place : place + size] * chance.choice((1, 2, 50))
        elif how == 5:
            data[place : place + size] = bytes([chance.choice((0, 255, 127))]) * size
        else:
            other = chance.randrange(len(data))
            data[place : place + size] = data[other : other + size]
    return bytes(data)


def clips(folder) -> list[bytes]:
    write_clip(folder / "a.mp4", moving(), 16, '{"prompt": "a"}')
    for kind, options in VIDEOS.items():
        if kind != "mp4":
            ffmpeg("-i", folder / "a.mp4", *options, folder / f"a.{kind}")
    return [(folder / f"a.{kind}").read_bytes() for kind in VIDEOS]


def pictures() -> list[bytes]:
    made = []
    for kind, options in PICTURES.items():
        file = io.BytesIO()
        Image.fromarray(moving()[0]).save(file, kind, **options)
        made.append(file.getvalue())
    return made


@pytest.mark.filterwarnings("ignore")
def test_fuzz_pictures(tmp_path, capfd):
    told, before, chance, whole = Told(), peak(), random.Random(0), pictures()
    for number in range(CASES):
        (tmp_path / "x").write_bytes(mutated(whole[number % len(whole)], chance))

        def case():
            try:
                image = read_image(tmp_path / "x")
            except ValueError as refusal:
                assert str(refusal).startswith(NO_PICTURE)
                return "refused"
            assert image.dtype == np.uint8 and image.ndim == 3 and image.shape[2] == 3
            return "read"

        told.add(*timed(case))
    assert told.counts["read"] > 10 and told.counts["refused"] > 100
    assert peak() - before < 1500
    with capfd.disabled():
        print(f"\npictures: {told}; memory grew by {peak() - before:.0f} MB")


def fuzz_videos(folder: Path) -> tuple[Told, float, float]:
    """What became of the videos, and MB by which this process grew and that the largest decoder took."""
    told, before, chance, whole = Told(), peak(), random.Random(0), clips(folder)
    for number in range(CASES):
        (folder / "x").write_bytes(mutated(whole[number % len(whole)], chance))

        def case():
            try:
                frames, fps = read_clip(folder / "x", max_frames=16)
            except ValueError as refusal:
                assert str(refusal).startswith(NO_VIDEO)
                assert str(folder) not in str(refusal)
                return "refused"
            assert frames.dtype == np.uint8 and 1 <= len(frames) <= 16 and 1 <= fps <= 60
            return "read"

        told.add(*timed(case))
        if number % 5 == 0:
            try:
                timed(lambda: read_settings(folder / "x"))
            except ValueError as refusal:
                assert str(refusal) == "cannot read a video from this file."
    return told, peak() - before, resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024


def test_fuzz_videos(tmp_path, capfd):
    # In a process of its own, whose only children are decoders: the largest child is remembered for ever.
    with ProcessPoolExecutor(1, get_context("spawn")) as process:
        told, grown, children = process.submit(fuzz_videos, tmp_path).result()
    assert told.counts["read"] > 10 and told.counts["refused"] > 100
    assert grown < 300 and children < 1000
    with capfd.disabled():
        print(f"\nvideos: {told}; memory grew by {grown:.0f} MB, the decoder's was {children:.0f} MB")
