"""Row 15: 20 kB PNG of 13 000 × 13 000."""

import subprocess
import sys

import pytest
from PIL import Image

from tests.security.server import ROOT

TOLD = "a picture must be at most 8192 pixels a side: received 13000 x 13000."


@pytest.fixture
def bomb(tmp_path):
    """20 kB that are 169 million pixels; decoded, half a gigabyte."""
    Image.new("1", (13_000, 13_000)).save(tmp_path / "bomb.png")
    assert (tmp_path / "bomb.png").stat().st_size < 50_000
    return tmp_path / "bomb.png"


READ = """
import resource, sys, time
from lumiere.media.images import read_image

def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss

try: read_image("nothing")  # what Pillow loads at its first use
except ValueError: pass
memory, seconds = peak(), time.thread_time()
try: read_image(sys.argv[1])
except ValueError as refusal: told = str(refusal)
print(told, time.thread_time() - seconds, peak() - memory, sep="|")
"""


def test_a_bomb_is_refused_from_its_header_in_50_ms_and_10_mb(bomb):
    """Of processor time, which does not depend on what else the machine does."""
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", READ, bomb], cwd=ROOT, capture_output=True, text=True
    )
    told, seconds, memory = done.stdout.strip().split("|")
    assert told == TOLD
    assert float(seconds) < 0.05 and int(memory) < 10_000  # kB


def test_nor_over_http(stranger, work, bomb):
    told = stranger.refusal("image_to_video", image=stranger.file("bomb.png", bomb.read_bytes()))
    assert told == "A picture must be at most 8192 pixels a side: received 13000 x 13000."
    assert not work.any
