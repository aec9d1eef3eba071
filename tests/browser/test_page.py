"""The page in a real browser, offline: every request that leaves loopback fails the test.

LUMIERE_SCREENSHOTS names the folder for the pictures, LUMIERE_CHROMIUM the browser.
"""

import base64
import contextlib
import io
import os
import re
import socket
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from lumiere.page import words

sync_api = pytest.importorskip("playwright.sync_api")
pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[2]
CHROMIUM = os.environ.get("LUMIERE_CHROMIUM", "/usr/bin/chromium")
ARGUMENTS = (
    "--no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking "
    "--disable-component-update --disable-sync --autoplay-policy=no-user-gesture-required"
).split()
SIZES = {"1280": (1280, 800), "390": (390, 844)}
PATIENCE = 240_000  # ms; machines that test may be busy with a training

# Notes ten times a second what a person sees in the place of the clip.
WATCH = """() => {
  const canvas = document.querySelector("#stage canvas"), theatre = document.querySelector(".theatre");
  const seen = window.seen = [];
  setInterval(() => {
    const { width, height } = canvas;
    const pixels = canvas.getContext("2d").getImageData(0, 0, width, height).data;
    let low = 255, high = 0, opaque = true;
    for (let i = 0; i < pixels.length; i += 4) {
      low = Math.min(low, pixels[i]); high = Math.max(high, pixels[i]); opaque &&= pixels[i + 3] === 255;
    }
    const video = document.querySelector("#clip video");
    const box = document.querySelector("#stage").getBoundingClientRect();
    const texts = [...document.querySelectorAll(".status .line")].map((line) => line.textContent);
    seen.push({
      at: performance.now(), playing: theatre.dataset.state === "playing", sheet: theatre.dataset.sheets,
      shown: getComputedStyle(canvas).opacity, blank: !opaque || high - low < 4,
      video: video ? video.readyState : -1, top: box.top + scrollY, height: box.height, text: texts[0],
      state: document.querySelector("#workbench").dataset.state,
    });
  }, 100);
}"""


@pytest.fixture(scope="module")
def address(tiny_model, tmp_path_factory):
    """The app as a process of its own, offline, on a free port."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    folder = tmp_path_factory.mktemp("app")
    settings = {
        "LUMIERE_MODEL": os.environ.get("LUMIERE_TEST_MODEL", str(tiny_model)),
        "GRADIO_SERVER_PORT": str(port),
        "GRADIO_TEMP_DIR": str(folder / "clips"),
        "HF_HUB_OFFLINE": "1",
        "http_proxy": "http://127.0.0.1:9",
        "https_proxy": "http://127.0.0.1:9",
        "no_proxy": "127.0.0.1,localhost",
        "OMP_NUM_THREADS": "1",
    }
    with open(folder / "log", "w+") as log:
        app = subprocess.Popen(
            [sys.executable, "app.py"], cwd=ROOT, env=os.environ | settings, stdout=log, stderr=log
        )
        try:
            deadline = time.monotonic() + PATIENCE / 1000
            while words.READY not in (text := (folder / "log").read_text()):
                assert app.poll() is None and time.monotonic() < deadline, text
                time.sleep(0.2)
            yield f"http://127.0.0.1:{port}/"
            assert app.poll() is None, (folder / "log").read_text()
            assert "Traceback" not in (folder / "log").read_text(), (folder / "log").read_text()
        finally:
            app.terminate()
            app.wait(30)


@pytest.fixture(scope="module")
def browser():
    if not Path(CHROMIUM).exists():
        pytest.skip(f"no browser at {CHROMIUM}")
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS)
        yield browser
        browser.close()


@pytest.fixture
def visit(browser, address):
    """Opens the page in a fresh context; in the end nothing may have complained or left loopback."""
    contexts, complaints = [], []

    def open_page(width=1280, height=800, **options):
        context = browser.new_context(viewport={"width": width, "height": height}, **options)
        contexts.append(context)
        page = context.new_page()
        page.set_default_timeout(PATIENCE)
        page.on("console", lambda m: complaints.append(m.text) if m.type == "error" else None)
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.on(
            "request",
            lambda r: None if r.url.startswith((address, "data:", "blob:")) else complaints.append(r.url),
        )
        page.on("response", lambda r: complaints.append(f"{r.status} {r.url}") if r.status >= 400 else None)
        page.goto(address)
        page.locator("#prompt textarea").wait_for()
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert complaints == []


@pytest.fixture(scope="session")
def pictures(tmp_path_factory) -> Path:
    folder = Path(os.environ.get("LUMIERE_SCREENSHOTS") or tmp_path_factory.mktemp("screenshots"))
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def ask(page, prompt, **settings):
    """Fills in numbers of the settings (steps, frames), then the prompt, and starts."""
    for name, value in settings.items():
        set_number(page, name, value)
    page.fill("#prompt textarea", prompt)
    page.keyboard.press("Enter") if page.locator("#prompt textarea").evaluate(
        "e => e === document.activeElement"
    ) else page.click("#generate")


def set_number(page, name, value):
    if not page.locator(f"#{name}").is_visible():
        page.click("#settings > button")
    field = page.locator(f"#{name} input[type=number]")
    taken = f"document.querySelector('#{name} input[type=range]')?.value === '{value}'"
    for _ in range(50):  # what is typed while the folded settings are still being built is lost in gradio
        field.fill(str(value))
        field.blur()
        page.wait_for_timeout(200)
        if page.evaluate(taken):
            return
    raise AssertionError(f"{name} does not take {value}")


def state(page, wanted):
    page.wait_for_function(f"document.querySelector('#workbench').dataset.state === '{wanted}'")


def line(page) -> str:
    return page.locator(".status .line").inner_text()


def test_from_prompt_to_clip(visit, pictures):
    page = visit()
    page.evaluate(WATCH)
    ask(page, "a red ball bouncing over green hills", steps=80)
    state(page, "busy")
    page.wait_for_function("document.querySelector('.theatre').dataset.sheets > 2")
    page.screenshot(path=pictures / "working-1280-light.png")
    state(page, "done")
    video = page.locator("#clip video")
    video.wait_for()
    page.wait_for_function("document.querySelector('#clip video').readyState >= 3")
    page.wait_for_function("document.querySelector('#clip video').currentTime > 0.2")
    first = video.evaluate("v => v.currentTime")
    page.wait_for_function(f"document.querySelector('#clip video').currentTime !== {first}")
    assert video.evaluate("v => v.loop && v.muted || v.loop") and line(page).startswith("Done in")
    check_samples(page.evaluate("seen"), distinct=4)
    assert re.search(r"80 steps .* seed \d+", page.locator(".status .facts").inner_text())
    seed = page.locator("#seed input").input_value()
    assert seed in page.locator(".status .facts").inner_text()
    with page.expect_download() as download:
        page.click("#download")
    saved = Path(download.value.path()).read_bytes()
    assert saved[4:8] == b"ftyp" and download.value.suggested_filename == f"lumiere-{seed}.mp4"
    page.screenshot(path=pictures / "done-1280-light.png")


def check_samples(samples, distinct):
    """No blank or missing picture between the first preview and the end, and no jump of the stage."""
    first = next(i for i, sample in enumerate(samples) if sample["playing"])
    watched = samples[first:]
    assert not [sample for sample in watched if sample["blank"] and sample["video"] < 2]
    assert len({sample["sheet"] for sample in watched}) >= distinct
    assert len({(sample["top"], sample["height"]) for sample in samples}) == 1
    return watched


def test_second_clip_replaces_the_first_without_a_gap(visit):
    page = visit()
    ask(page, "a red ball", steps=4)
    page.locator("#clip video").wait_for()
    page.evaluate(WATCH)
    ask(page, "a blue star", steps=40)
    state(page, "busy")
    state(page, "done")
    page.locator("#clip video").wait_for()
    check_samples(page.evaluate("seen"), distinct=2)


def test_stop_keeps_the_clip_so_far(visit, pictures):
    page = visit()
    ask(page, "a red ball bouncing", steps=150, frames=128)  # long enough to be stopped on a busy machine
    page.wait_for_function("document.querySelector('.theatre').dataset.sheets > 1")
    page.click("#stop")
    state(page, "done")
    assert re.match(r"Stopped at step \d+ of 150\.", line(page))
    page.wait_for_function("document.querySelector('#clip video').readyState >= 2")
    assert page.locator("#generate").is_visible() and page.locator("#generate").is_enabled()
    page.screenshot(path=pictures / "stopped-1280-light.png")
    ask(page, "a red ball bouncing", steps=2, frames=16)  # the page is ready again
    page.wait_for_function("document.querySelector('.status .line').textContent.startsWith('Done')")


def test_blank_prompt_is_refused_in_one_sentence(visit):
    page = visit()
    ask(page, "   ")
    state(page, "refused")
    assert line(page).startswith("Write a prompt")
    assert page.locator("#generate").is_enabled()


def test_unknown_words_are_named_and_markup_stays_text(visit):
    page = visit()
    ask(page, "a red dragon <img src=x onerror=window.hurt=1> ${window.hurt=1} {{hurt}}", steps=2)
    page.wait_for_function("document.querySelector('#note p').textContent.includes('dragon')")
    state(page, "done")
    assert page.evaluate("window.hurt") is None
    assert page.locator("#note img").count() == 0


def test_example_fills_and_runs(visit):
    page = visit()
    set_number(page, "steps", 2)
    chip = page.locator("#chips button").first
    chip.click()
    state(page, "busy")
    assert page.locator("#prompt textarea").input_value() == chip.inner_text()
    state(page, "done")


def test_length_follows_frames_and_rate(visit):
    page = visit()
    page.click("#settings > button")
    field = page.locator("#frames input[type=number]")
    field.fill("40")
    field.blur()
    page.wait_for_function("document.querySelector('#length p').textContent.startsWith('2.5 seconds')")


def test_closed_tab_frees_the_device(visit):
    page = visit()
    ask(page, "a red ball", steps=150)
    page.wait_for_function("document.querySelector('.theatre').dataset.sheets > 0")
    page.context.close()
    other = visit()
    ask(other, "a blue star", steps=2)
    state(other, "done")
    assert line(other).startswith("Done")


@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("size", SIZES)
def test_looks(visit, pictures, size, theme):
    """Pictures to look at; what can be measured is that nothing is wider than the screen."""
    width, height = SIZES[size]
    page = visit(width, height, color_scheme=theme)
    page.wait_for_timeout(500)
    page.screenshot(path=pictures / f"idle-{size}-{theme}.png")
    ask(page, "a yellow star drifting right at night")
    page.wait_for_function("document.querySelector('.theatre').dataset.sheets > 0")
    page.screenshot(path=pictures / f"working-{size}-{theme}.png")
    state(page, "done")
    page.locator("#clip video").wait_for()
    page.wait_for_timeout(500)
    page.screenshot(path=pictures / f"done-{size}-{theme}.png", full_page=True)
    assert page.evaluate("document.documentElement.scrollWidth") <= width


def test_reduced_motion(visit):
    page = visit(reduced_motion="reduce")
    ask(page, "a red ball", steps=2)
    page.locator("#clip video").wait_for()
    page.wait_for_function("document.querySelector('#clip video').readyState >= 2")
    page.wait_for_timeout(500)
    assert page.locator("#clip video").evaluate("v => v.paused")


def test_no_blank_on_a_slow_link(visit):
    """Judged by every picture that the browser composes, from the first preview until the clip plays."""
    page = visit()
    link = page.context.new_cdp_session(page)
    slow = {"offline": False, "latency": 150, "downloadThroughput": -1, "uploadThroughput": -1}
    link.send("Network.emulateNetworkConditions", slow)
    page.evaluate(WATCH)
    stage, film = page.locator(".theatre").bounding_box(), []
    ask(page, "a red ball bouncing over green hills", steps=40)
    page.evaluate("scrollTo(0, 0)")
    link.on("Page.screencastFrame", lambda frame: film.append(frame) or acknowledge(link, frame))
    link.send("Page.startScreencast", {"format": "jpeg", "quality": 60})
    state(page, "busy")
    state(page, "done")
    page.wait_for_function("(document.querySelector('#clip video') || {}).currentTime > 0.5")
    link.send("Page.stopScreencast")
    page.wait_for_timeout(500)
    watched = check_samples(page.evaluate("seen"), distinct=3)
    flat = [contrast(frame["data"], stage) < 12 for frame in film]
    assert len(film) > 20 and not any(flat), f"{sum(flat)} of {len(film)} pictures are blank"
    sheets = {sample["sheet"] for sample in watched}
    print(f"{len(film)} pictures, {len(watched)} samples, {len(sheets)} previews, 0 blank")


def acknowledge(link, frame):
    with contextlib.suppress(sync_api.Error):  # the page may be gone
        link.send("Page.screencastFrameAck", {"sessionId": frame["sessionId"]})


def contrast(picture: str, box: dict) -> float:
    """Standard deviation of the pixels inside of a box of the page, shown without scaling."""
    x, y, width, height = (round(box[side]) for side in ("x", "y", "width", "height"))
    pixels = np.asarray(Image.open(io.BytesIO(base64.b64decode(picture))).convert("RGB"), np.float32)
    return float(pixels[y + 20 : y + height - 20, x + 20 : x + width - 20].std())
