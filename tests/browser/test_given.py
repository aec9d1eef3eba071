"""Given files that the browser cannot show: the server's picture stands for them, and can be drawn on."""

import subprocess

import imageio_ffmpeg
import pytest
from PIL import Image

from tests.browser.conftest import fill, line, made, state
from tests.browser.test_walk import NOTE, QUICK, choose, draw, generate
from tests.marks import soak

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def unplayable(tmp_path_factory):
    """Of each kind a clip: a GIF, which no video element plays, and MPEG-4 part 2, which Chromium lacks."""
    folder = tmp_path_factory.mktemp("unplayable")
    pictures = [Image.new("RGB", (96, 64), (200, 10 * number, 40)) for number in range(8)]
    pictures[0].save(folder / "clip.gif", save_all=True, append_images=pictures[1:], duration=60)
    command = [imageio_ffmpeg.get_ffmpeg_exe(), "-loglevel", "error", "-i", folder / "clip.gif"]
    subprocess.run([*command, "-c:v", "mpeg4", folder / "clip.mov"], check=True)
    pictures[0].save(folder / "picture.tiff")
    return folder


@pytest.mark.parametrize("width", [1280, *soak(390)])
@pytest.mark.parametrize(
    "mode, name, file",
    [
        ("inpaint", "clip", "clip.gif"),
        ("inpaint", "clip", "clip.mov"),
        ("cinemagraph", "image", "picture.tiff"),
    ],
)
def test_what_the_browser_cannot_show_can_be_drawn_on(visit, pictures, unplayable, width, mode, name, file):
    page = visit(width=width, height=844)
    page.evaluate(NOTE)
    fill(page, **QUICK)
    choose(page, mode)
    page.locator(f".slot.{name} input").set_input_files(unplayable / file)
    page.wait_for_selector(f".slot.{name}[data-full]:not([data-busy])")
    shown = page.locator(f".slot.{name} img")
    shown.wait_for()
    assert shown.evaluate("image => image.decode().then(() => image.naturalWidth)") == 96
    draw(page)
    page.screenshot(path=pictures / f"{file.replace('.', '-')}-{width}.png")
    generate(page)
    assert made(page)["settings"]["mode"] == mode


def test_a_clip_that_cannot_be_read_is_refused_at_once(visit, tmp_path):
    (tmp_path / "clip.mp4").write_bytes(b"no clip")
    page = visit()
    choose(page, "inpaint")
    page.locator(".slot.clip input").set_input_files(tmp_path / "clip.mp4")
    state(page, "refused")
    assert line(page).startswith("Cannot read a video from this file")
    assert not page.locator(".slot.clip[data-full]").count()
