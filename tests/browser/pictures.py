"""python -m tests.browser.pictures

Makes the pictures of assets/pictures anew from the page of the embedded model: page.png for the README, and
share.png for links in chats.
"""

import base64
import io
import os
import tempfile
import time
from pathlib import Path

from PIL import Image
from playwright.sync_api import Page, sync_playwright

from lumiere.loading.registry import DEFAULT
from lumiere.page import PICTURE, examples, strings
from tests.browser.conftest import ARGUMENTS, CHROMIUM, PATIENCE, ROOT, ask, serving, shown, state

PAGE = PICTURE.with_name("page.png")
SIZE, SHARED = (1280, 1010), (1200, 630)  # pixels
PROMPT, SEED = examples.EXAMPLES[0]
STRIP = 5  # clips in the shared picture

# A card over the page, in its own type and colours.
CARD = """([title, text, stills]) => {
  const card = document.createElement("div"), strip = document.createElement("div");
  card.style = `position: fixed; inset: 0; z-index: 9999; background: var(--body-background-fill);
    display: grid; align-content: center; gap: 34px; padding: 0 70px`;
  const name = document.createElement("div"), line = document.createElement("div");
  name.textContent = title;
  name.style = "font: 700 104px/1 Quicksand; color: var(--body-text-color)";
  line.textContent = text;
  line.style = "font: 400 36px/1.35 'Source Sans Pro'; color: var(--body-text-color-subdued)";
  strip.style = "display: flex; gap: 14px";
  for (const still of stills) {
    const image = new Image();
    image.src = still;
    image.style = "width: 200px; border-radius: 14px";
    strip.append(image);
  }
  card.append(name, line, strip);
  document.body.append(card);
  return Promise.all([document.fonts.ready, ...[...strip.children].map((image) => image.decode())]);
}"""


def shoot(page: Page, file: Path) -> None:
    picture = Image.open(io.BytesIO(page.screenshot())).convert("RGB")
    picture.save(file, optimize=True)
    print(
        f"{file.relative_to(ROOT)}: {picture.width} x {picture.height}, {file.stat().st_size / 1000:.0f} kB"
    )


def stills() -> list[str]:
    """The still thumbnails of some examples, as data URIs."""
    files = [examples.files(seed, prompt)[1] for prompt, seed in examples.EXAMPLES[:STRIP]]
    return ["data:image/webp;base64," + base64.b64encode(file.read_bytes()).decode() for file in files]


def main() -> None:
    threads = str(os.cpu_count())
    with (
        sync_playwright() as playwright,
        serving(DEFAULT, Path(tempfile.mkdtemp()), OMP_NUM_THREADS=threads) as address,
    ):
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS)
        page = browser.new_page(
            viewport=dict(zip(("width", "height"), SIZE, strict=True)), color_scheme="light"
        )
        page.set_default_timeout(PATIENCE)
        page.goto(address)
        page.wait_for_function("window.lumiere?.now?.frames > 0")
        ask(page, PROMPT, seed=SEED, randomise=False)
        state(page, "busy")
        state(page, "done")
        shown(page)
        time.sleep(1)  # the controls fade
        page.evaluate("document.activeElement.blur(); scrollTo(0, 0)")
        shoot(page, PAGE)
        page.set_viewport_size(dict(zip(("width", "height"), SHARED, strict=True)))
        page.evaluate(CARD, [strings.TITLE, strings.INTRO, stills()])
        shoot(page, PICTURE)
        browser.close()


if __name__ == "__main__":
    main()
