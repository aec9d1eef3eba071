"""The preview and the clip, as a person sees them: judged by samples and by what the browser composes."""

import base64
import contextlib
import io
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.browser.conftest import ask, line, shown, state, stop, sync_api

pytestmark = pytest.mark.slow

# Notes ten times a second what a person sees in the place of the clip.
WATCH = """() => {
  const canvas = document.querySelector("#stage canvas"), player = document.querySelector(".player");
  const seen = window.seen = [];
  setInterval(() => {
    const { width, height } = canvas;
    const pixels = canvas.getContext("2d").getImageData(0, 0, width, height).data;
    let low = 255, high = 0, opaque = true;
    for (let i = 0; i < pixels.length; i += 4) {
      low = Math.min(low, pixels[i]); high = Math.max(high, pixels[i]); opaque &&= pixels[i + 3] === 255;
    }
    const film = document.querySelector("#stage").dataset.film === "drawn";
    const box = document.querySelector("#stage").getBoundingClientRect();
    const texts = [...document.querySelectorAll(".status .line")].map((line) => line.textContent);
    seen.push({
      at: performance.now(), playing: player.dataset.state === "playing", sheet: player.dataset.sheets,
      shown: getComputedStyle(canvas).opacity, blank: !opaque || high - low < 4,
      film, top: box.top + scrollY, height: box.height, text: texts[0],
      state: document.querySelector("#workbench").dataset.state,
    });
  }, 100);
}"""


def test_from_prompt_to_clip(visit, pictures):
    page = visit()
    page.evaluate(WATCH)
    ask(page, "a red ball bouncing over green hills", steps=150, frames=64)
    state(page, "busy")
    page.wait_for_function("document.querySelector('.player').dataset.sheets > 2")
    page.screenshot(path=pictures / "working-1280-light.png")
    state(page, "done")
    video = page.locator("#stage video")
    shown(page)
    page.wait_for_function("document.querySelector('#stage video').currentTime > 0.2")
    first = video.evaluate("v => v.currentTime")
    page.wait_for_function(f"document.querySelector('#stage video').currentTime !== {first}")
    assert video.evaluate("v => v.loop && v.muted") and line(page).startswith("Done in")
    check_samples(page.evaluate("seen"), distinct=4)
    assert re.search(r"150 steps .* seed \d+", page.locator(".status .facts").inner_text())
    seed = page.locator("#seed input").input_value()
    assert seed in page.locator(".status .facts").inner_text()
    with page.expect_download() as download:
        page.click("#download")
    saved = Path(download.value.path()).read_bytes()
    assert saved[4:8] == b"ftyp" and download.value.suggested_filename == f"lumiere-{seed}.mp4"
    page.screenshot(path=pictures / "done-1280-light.png")


def judged(samples) -> tuple[list, list]:
    """The samples from the first preview on, and those of them that show nothing."""
    first = next(i for i, sample in enumerate(samples) if sample["playing"])
    watched = samples[first:]
    return watched, [sample for sample in watched if sample["blank"] and not sample["film"]]


def check_samples(samples, distinct):
    """No blank or missing picture between the first preview and the end, and no jump of the stage."""
    watched, blank = judged(samples)
    assert not blank
    assert len({sample["sheet"] for sample in watched}) >= distinct
    assert len({(sample["top"], sample["height"]) for sample in samples}) == 1
    return watched


def test_second_clip_replaces_the_first_without_a_gap(visit):
    page = visit()
    ask(page, "a red ball", steps=4)
    shown(page)
    page.evaluate(WATCH)
    ask(page, "a blue star", steps=150, frames=64)
    state(page, "busy")
    state(page, "done")
    shown(page)
    check_samples(page.evaluate("seen"), distinct=2)


def test_stop_keeps_the_clip_so_far(visit, pictures):
    page = visit()
    ask(page, "a red ball bouncing", steps=150, frames=128)  # long enough to be stopped on a busy machine
    stop(page, when="document.querySelector('.player').dataset.sheets > 1")
    state(page, "done")
    assert re.match(r"Stopped at step \d+ of 150\.", line(page))
    shown(page)
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
    example = page.locator(".examples button").nth(1)
    example.click()
    state(page, "busy")
    assert page.locator("#prompt textarea").input_value() == example.inner_text()
    state(page, "done")


def test_closed_tab_frees_the_device(visit):
    page = visit()
    ask(page, "a red ball", steps=150)
    page.wait_for_function("document.querySelector('.player').dataset.sheets > 0")
    page.context.close()
    other = visit()
    ask(other, "a blue star", steps=2)
    state(other, "done")
    assert line(other).startswith("Done")


def test_reduced_motion(visit):
    page = visit(reduced_motion="reduce")
    ask(page, "a red ball", steps=2)
    shown(page)
    shown(page)
    page.wait_for_timeout(500)
    assert page.locator("#stage video").evaluate("v => v.paused")


def test_no_blank_on_a_slow_link(visit):
    """Judged by every picture that the browser composes, from the first preview until the clip plays."""
    page = visit()
    link = delayed(page, 150)
    page.evaluate(WATCH)
    stage, film = page.locator(".player").bounding_box(), []
    ask(page, "a red ball bouncing over green hills", steps=150, frames=64)
    page.evaluate("scrollTo(0, 0)")
    link.on("Page.screencastFrame", lambda frame: film.append(frame) or acknowledge(link, frame))
    link.send("Page.startScreencast", {"format": "jpeg", "quality": 60})
    state(page, "busy")
    state(page, "done")
    page.wait_for_function("document.querySelector('#stage video').currentTime > 0.5")
    link.send("Page.stopScreencast")
    page.wait_for_timeout(500)
    watched = check_samples(page.evaluate("seen"), distinct=3)
    flat = [contrast(frame["data"], stage) < 12 for frame in film]
    assert len(film) > 20 and not any(flat), f"{sum(flat)} of {len(film)} pictures are blank"
    sheets = {sample["sheet"] for sample in watched}
    print(f"{len(film)} pictures, {len(watched)} samples, {len(sheets)} previews, 0 blank")


def test_clip_plays_though_its_previews_decode_slowly(visit):
    """The sheets that arrive before the clip are decoded after it, as on a busy machine."""
    page = visit()
    page.evaluate("""() => {
      const decode = HTMLImageElement.prototype.decode;
      HTMLImageElement.prototype.decode = async function () {
        await decode.call(this);
        await new Promise((done) => setTimeout(done, 1500));
      };
    }""")
    ask(page, "a red ball", steps=4)
    state(page, "done")
    page.wait_for_function("Number(document.querySelector('.player').dataset.sheets) > 1")
    shown(page)
    page.wait_for_function("document.querySelector('#stage video').currentTime > 0.5")


def delayed(page, latency):
    """The session with the browser that makes the page's link so slow, in ms."""
    link = page.context.new_cdp_session(page)
    slow = {"offline": False, "latency": latency, "downloadThroughput": -1, "uploadThroughput": -1}
    link.send("Network.emulateNetworkConditions", slow)
    return link


def acknowledge(link, frame):
    with contextlib.suppress(sync_api.Error):  # the page may be gone
        link.send("Page.screencastFrameAck", {"sessionId": frame["sessionId"]})


def contrast(picture: str, box: dict) -> float:
    """Standard deviation of the pixels inside of a box of the page, shown without scaling."""
    x, y, width, height = (round(box[side]) for side in ("x", "y", "width", "height"))
    pixels = np.asarray(Image.open(io.BytesIO(base64.b64decode(picture))).convert("RGB"), np.float32)
    return float(pixels[y + 20 : y + height - 20, x + 20 : x + width - 20].std())
