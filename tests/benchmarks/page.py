"""python -m tests.benchmarks.page

What visitors of the embedded model's page wait for, in Chromium on this machine, and what they should not
see: each figure beside its bar. To be run while nothing else is.
"""

import os
import socket
import statistics
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from playwright.sync_api import Browser, Page, sync_playwright

from lumiere.loading.registry import DEFAULT
from tests.browser.conftest import ARGUMENTS, CHROMIUM, PATIENCE, ROOT, ask, fill, serving, shown, state
from tests.browser.test_access import serious
from tests.browser.test_page import WATCH, delayed, judged

TIMES = 5  # clips of which the median counts
THREADS = str(os.cpu_count())  # tests have one, visitors all
LATENCY = 150  # ms, of a slow link
PROMPT = "a red ball bouncing over green hills"

# Notes when the status changes and when a preview is drawn, in ms.
LISTEN = """() => {
  const player = document.querySelector(".player");
  window.told = [];
  const note = (what) => told.push({ at: performance.now(), ...what });
  document.addEventListener("lumiere:status", ({ detail }) => note(detail));
  new MutationObserver(() => note({ sheet: player.dataset.sheets })).observe(player, {
    attributeFilter: ["data-sheets"],
  });
}"""
# The mean gradient of each sheet of previews, in levels, as it is decoded; seams between frames do not count.
SHARPNESS = """side => {
  window.sharpness = [];
  const decode = HTMLImageElement.prototype.decode;
  HTMLImageElement.prototype.decode = async function () {
    await decode.call(this);
    if (!this.src.startsWith("data:image/jpeg")) return;
    const { width, height } = this;
    const paint = new OffscreenCanvas(width, height).getContext("2d");
    paint.drawImage(this, 0, 0);
    const { data } = paint.getImageData(0, 0, width, height);
    let sum = 0, count = 0;
    for (let y = 0; y < height; y++)
      for (let x = 1; x < width; x++)
        if (x % side) {
          const at = 4 * (y * width + x) + 1;
          sum += Math.abs(data[at] - data[at - 4]);
          count++;
        }
    sharpness.push(sum / count);
  };
}"""
PRESS = """button => {
  window.told = [];
  document.querySelector(button).click();
  return performance.now();
}"""


@dataclass(frozen=True)
class Clip:
    """When things happened after the press, in seconds."""

    preview: float
    first_step: float
    step: float
    previews: int
    sharpening: float  # rank correlation of the previews' mean gradient with their order

    @property
    def before(self) -> float:
        """What passed before the first step began."""
        return self.first_step - self.step


def opened(browser: Browser, address: str, complaints: list) -> Page:
    """The page, once it can be used, however long the server takes to be there."""
    host, port = address.removeprefix("http://").strip("/").split(":")
    while True:
        try:
            socket.create_connection((host, int(port))).close()
            break
        except OSError:  # nobody listens yet
            time.sleep(0.05)
    page = browser.new_page(viewport={"width": 1280, "height": 800})
    page.set_default_timeout(PATIENCE)
    page.on("console", lambda m: complaints.append(m.text) if m.type == "error" else None)
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.goto(address)
    page.locator("#prompt textarea").wait_for()
    page.wait_for_function("window.lumiere?.now?.frames > 0")
    return page


def press(page: Page) -> Clip:
    """Makes a clip with the settings as they are."""
    page.evaluate("sharpness.length = 0")
    pressed = page.evaluate(PRESS, "#generate")
    page.wait_for_function("told.some((e) => e.state === 'done')")
    sharpness = page.evaluate("sharpness")
    told = [event | {"at": (event["at"] - pressed) / 1000} for event in page.evaluate("told")]
    steps = [event for event in told if event.get("state") == "busy" and event["step"] and event["steps"] > 1]
    first, last = steps[0], steps[-1]
    return Clip(
        preview=next(event["at"] for event in told if "sheet" in event),
        first_step=first["at"],
        step=(last["at"] - first["at"]) / (last["step"] - first["step"]),
        previews=len(sharpness),
        sharpening=rank_correlation(sharpness),
    )


def rank_correlation(values: list[float]) -> float:
    """Of values with their order (Spearman)."""
    ranks = np.argsort(np.argsort(values))
    return float(np.corrcoef(ranks, np.arange(len(values)))[0, 1]) if len(values) > 1 else 0.0


def stop(page: Page, step: float) -> float:
    """Seconds from Stop, pressed in the middle of a step, to a page that can be used again."""
    page.evaluate(PRESS, "#generate")
    page.wait_for_function("told.some((e) => e.step >= 3)")
    page.wait_for_timeout(500 * step)
    pressed = page.evaluate(PRESS, "#stop")
    page.wait_for_function("told.some((e) => e.state === 'done')")
    page.locator("#generate").wait_for()
    done = next(event["at"] for event in page.evaluate("told") if event.get("state") == "done")
    return (done - pressed) / 1000


def blanks(page: Page, latency: float = 0) -> tuple[int, int]:
    """Of samples ten times a second, from the first preview on, how many show nothing; and of how many."""
    delayed(page, latency)
    page.evaluate(WATCH)
    ask(page, PROMPT)
    state(page, "busy")
    state(page, "done")
    shown(page)
    watched, blank = judged(page.evaluate("seen"))
    return len(blank), len(watched)


def started(browser: Browser, complaints: list) -> float:
    """Seconds from the command to a page that can be used."""
    with serving(DEFAULT, Path(tempfile.mkdtemp()), wait=False, OMP_NUM_THREADS=THREADS) as address:
        began = time.monotonic()
        page = opened(browser, address, complaints)
        took = time.monotonic() - began
        page.wait_for_timeout(100)
        page.close()
    return took


def tell(name: str, measured: str, bar: str, met: bool) -> None:
    print(f"| {name} | {measured} | {bar} | {'met' if met else 'missed'} |", flush=True)


def measure(browser: Browser) -> None:
    complaints: list[str] = []
    print("| | measured | bar | |\n|---|---|---|---|")
    started(browser, complaints)  # brings the files into memory
    start = started(browser, complaints)
    tell("command to a usable page", f"{start:.1f} s", "10 s", start <= 10)
    with serving(DEFAULT, Path(tempfile.mkdtemp()), wait=False, OMP_NUM_THREADS=THREADS) as address:
        page = opened(browser, address, complaints)
        page.evaluate(LISTEN)
        page.evaluate(SHARPNESS, 128)
        first, second = press(page), press(page)
        share = second.before / first.before
        told = f"{share:.3f} ({second.before:.2f} s of {first.before:.1f} s)"
        tell("before the first step, second request against first", told, "0.05", share <= 0.05)
        clips = [press(page) for _ in range(TIMES)]
        step = statistics.median(clip.step for clip in clips)
        preview = statistics.median(clip.preview for clip in clips)
        tell("press to the first preview", f"{preview:.2f} s", "0.8 s", preview <= 0.8)
        previews = min(clip.previews for clip in clips)
        tell("previews of a clip, least", f"{previews}", "6", previews >= 6)
        sharper = statistics.median(clip.sharpening for clip in clips)
        tell("rank correlation of their sharpness and order", f"{sharper:.2f}", "0.8", sharper >= 0.8)
        stops, most = statistics.median(stop(page, step) for _ in range(TIMES)), step + 0.5
        tell("Stop in the middle of a step", f"{stops:.2f} s", f"{most:.2f} s", stops <= most)
        fill(page, steps=40)
        for name, latency in (("loopback", 0), (f"{LATENCY} ms", LATENCY)):
            blank, count = blanks(page, latency)
            tell(f"blank samples, {name}", f"{blank} of {count}", "0", not blank)
        findings = len(serious(page))
        tell("serious findings of axe", str(findings), "0", not findings)
        tell("errors in the console", str(len(complaints)), "0", not complaints)
    lines = len((ROOT / "app.py").read_text("utf-8").splitlines())
    tell("lines of app.py", str(lines), "300", lines <= 300)
    print(f"\na step took {step:.2f} s, {TIMES} clips of each kind")


def main() -> None:
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS)
        measure(browser)
        browser.close()


if __name__ == "__main__":
    main()
