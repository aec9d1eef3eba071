"""The page in a real browser, offline: what leaves loopback fails the test, and so does any complaint.

LUMIERE_SCREENSHOTS names the folder for the pictures, LUMIERE_CHROMIUM the browser, LUMIERE_TEST_MODEL a
model in place of the tiny one.
"""

import os
import socket
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path

import pytest

from lumiere.page import strings

sync_api = pytest.importorskip("playwright.sync_api")

ROOT = Path(__file__).resolve().parents[2]
CHROMIUM = os.environ.get("LUMIERE_CHROMIUM", "/usr/bin/chromium")
ARGUMENTS = (
    "--no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking "
    "--disable-component-update --disable-sync --autoplay-policy=no-user-gesture-required"
).split()
PATIENCE = 240_000  # ms; machines that test may be busy with a training
START = 600  # s until a page is served


@contextmanager
def serving(model: Path | str, folder: Path, *options: str, wait: bool = True, **environment: str):
    """The app as a process of its own, offline, on a free port: its address, once the model is there.

    wait: False gives the address at once, before there is a page.
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    settings = {
        "LUMIERE_MODEL": str(model),
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
            [sys.executable, "app.py", *options],
            cwd=ROOT,
            env=os.environ | settings | environment,
            stdout=log,
            stderr=log,
        )
        try:
            deadline = time.monotonic() + START
            while wait and strings.READY not in (text := (folder / "log").read_text()):
                assert app.poll() is None and time.monotonic() < deadline, text
                time.sleep(0.2)
            yield f"http://127.0.0.1:{port}/"
            assert app.poll() is None, (folder / "log").read_text()
            assert "Traceback" not in (folder / "log").read_text(), (folder / "log").read_text()
        finally:
            app.terminate()
            app.wait(START)


@pytest.fixture(scope="session")
def address(tiny_model, tmp_path_factory):
    model = os.environ.get("LUMIERE_TEST_MODEL", tiny_model)
    with serving(model, tmp_path_factory.mktemp("app")) as address:
        yield address


@pytest.fixture(scope="session")
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

    def open_page(width=1280, height=800, query="", at=address, ready="#prompt textarea", **options):
        context = browser.new_context(viewport={"width": width, "height": height}, **options)
        contexts.append(context)
        page = context.new_page()
        page.set_default_timeout(PATIENCE)
        page.on("console", lambda m: complaints.append(m.text) if m.type == "error" else None)
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.on(
            "request",
            lambda r: None if r.url.startswith((at, "data:", "blob:")) else complaints.append(r.url),
        )
        page.on("response", lambda r: complaints.append(f"{r.status} {r.url}") if r.status >= 400 else None)
        page.goto(at + query)
        page.locator(ready).wait_for()
        if ready == "#prompt textarea":
            page.wait_for_function("window.lumiere?.now?.frames > 0")
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


def fill(page, **settings):
    """Fills in settings as a preset does, and waits until gradio has them."""
    page.evaluate(
        "s => document.dispatchEvent(new CustomEvent('lumiere:fill', { detail: { settings: s } }))", settings
    )
    page.wait_for_function("s => Object.entries(s).every(([k, v]) => lumiere.now[k] === v)", arg=settings)


def stop(page, when="true"):
    """Presses Stop once it is visible and enabled.

    Playwright's own click waits for several frames, of which a busy machine has few.

    Args:
        page: the page.
        when: condition in JavaScript that must hold, too.
    """
    button = "document.querySelector('#stop')"
    ready = f"{button}.checkVisibility() && !{button}.disabled"
    page.wait_for_function(f"{when} && {ready} && ({button}.click(), true)", polling=50)


def ask(page, prompt, **settings):
    """Fills in settings, types the prompt and starts."""
    if settings:
        fill(page, **settings)
    page.fill("#prompt textarea", prompt)
    page.keyboard.press("Enter") if page.locator("#prompt textarea").evaluate(
        "e => e === document.activeElement"
    ) else page.click("#generate")


def state(page, wanted):
    page.wait_for_function(f"document.querySelector('#workbench').dataset.state === '{wanted}'")


def shown(page):
    """Waits until the clip is drawn."""
    page.wait_for_function("document.querySelector('#stage').dataset.film === 'drawn'")


def line(page) -> str:
    return page.locator(".status .line").inner_text()


def made(page) -> dict:
    """What the page knows of the clip it shows."""
    return page.evaluate("window.made")
