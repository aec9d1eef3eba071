"""A walk through every mode and every button, on a laptop and a phone, by day and by night, with pictures."""

import io
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from lumiere.media.video import write_clip
from lumiere.modes import NEEDS
from lumiere.page import strings
from lumiere.request import MODES
from tests.browser.conftest import ask, fill, line, made, serving, shown, state, stop
from tests.marks import soak

pytestmark = pytest.mark.slow

SIZES = {"1280": (1280, 800), "390": (390, 844)}
QUICK = {"steps": 2, "frames": 8}

# Notes what is pressed, and what is shown of the last clip.
NOTE = """() => {
  window.pressed = new Set();
  const name = (e) => e.getAttribute("aria-label") || e.innerText.trim() || e.id;
  window.names = (places) => places.flatMap((place) => [...document.querySelectorAll(`${place} button`)])
    .filter((e) => e.checkVisibility({ visibilityProperty: true })).map(name);
  addEventListener("click", (event) => {
    const button = event.target.closest("button");
    if (button) pressed.add(name(button));
  }, true);
  document.addEventListener("lumiere:status", ({ detail }) => (lumiere.step = detail.step));
  document.addEventListener("lumiere:made", ({ detail }) => (window.made = detail));
}"""

# Holds back what the page sends until `go` is called.
LATE = """() => {
  const held = [];
  window.usual = fetch;
  window.fetch = (...call) => new Promise((go) => held.push(go)).then(() => usual(...call));
  window.go = () => held.forEach((go) => go());
  window.held = held;
}"""


@pytest.fixture(scope="module")
def given(tmp_path_factory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("given")
    ramp = np.broadcast_to(np.linspace(0, 255, 90).astype(np.uint8)[:, None, None], (90, 120, 3)).copy()
    ramp[30:60, 40:80] = (200, 40, 30)
    Image.fromarray(ramp).save(folder / "picture.png")
    write_clip(folder / "clip.mp4", np.stack([np.roll(ramp, 3 * n, 1) for n in range(10)]), 16)
    return {
        "image": folder / "picture.png",
        "last_image": folder / "picture.png",
        "clip": folder / "clip.mp4",
    }


def generate(page):
    page.click("#generate")
    done(page)


def done(page):
    """Waits for a clip that was not there before."""
    page.wait_for_function("window.made && window.made !== window.known")
    state(page, "done")
    shown(page)
    page.evaluate("window.known = window.made")


def press(page, place, text):
    page.locator(f"{place} button", has_text=text).first.click()


def choose(page, mode):
    page.locator("#mode label", has_text=strings.MODES[mode]).click()
    page.wait_for_function(f"lumiere.now.mode === '{mode}'")


def give(page, given, mode):
    for name in NEEDS[mode]:
        if name == "region":
            draw(page)
            continue
        page.locator(f".slot.{name} input").set_input_files(given[name])
        page.wait_for_selector(f".slot.{name}[data-full]:not([data-busy])")


def draw(page):
    page.wait_for_selector(".easel[data-ready]:not([data-busy])")
    stroke(page)
    page.wait_for_selector(".easel[data-drawn]")


def stroke(page):
    page.locator(".easel canvas").scroll_into_view_if_needed()
    box = page.locator(".easel canvas").bounding_box()
    page.mouse.move(box["x"] + box["width"] * 0.3, box["y"] + box["height"] * 0.3)
    page.mouse.down()
    page.mouse.move(box["x"] + box["width"] * 0.7, box["y"] + box["height"] * 0.6, steps=6)
    page.mouse.up()


def type_number(page, name, value):
    field = page.locator(f"#{name} input[type=number]")
    field.fill(str(value))
    field.blur()
    page.wait_for_function(f"lumiere.now['{name}'] === {value}")


@pytest.mark.parametrize(
    "size, theme", [("1280", "light"), ("390", "dark"), *soak(("1280", "dark"), ("390", "light"))]
)
def test_walk(visit, pictures, given, tmp_path, size, theme):
    width, height = SIZES[size]
    page = visit(width, height, color_scheme=theme, reduced_motion="no-preference")

    def picture(name, **options):
        page.screenshot(path=pictures / f"{name}-{size}-{theme}.png", **options)
        assert page.evaluate("document.documentElement.scrollWidth") <= width, name

    page.evaluate(NOTE)
    page.wait_for_timeout(400)
    picture("idle", full_page=True)
    settings_are_typed(page, picture)
    text_to_clip(page, picture, tmp_path)
    for mode in MODES[1:]:
        choose(page, mode)
        give(page, given, mode)
        picture(f"mode-{mode}")
        generate(page)
        assert made(page)["settings"]["mode"] == mode and line(page).startswith("Done in"), line(page)
    results_go_on(page)
    gallery(page, picture)
    picture("end", full_page=True)
    # Of things that are there many times one is pressed; the buttons of settings and inputs are gradio's.
    there, pressed = (set(page.evaluate(script)) for script in ("names(['main'])", "[...pressed]"))
    many = page.evaluate(
        "names(['.cells', '.gallery li', '.examples', '.vocabulary', '#settings', '#strength'])"
    )
    assert there - pressed - set(many) == set(), "buttons that the walk did not press"


def settings_are_typed(page, picture):
    for name in strings.PRESET_NAMES.values():
        if page.locator(".presets button", has_text=name).count():
            press(page, ".presets", name)
    press(page, ".settings-panel", strings.SETTINGS_PANEL["more"])
    type_number(page, "steps", 2)
    type_number(page, "frames", 8)
    page.wait_for_function("document.querySelector('.estimate').textContent.startsWith('0.5 s of film')")
    picture("settings", full_page=True)
    page.locator("#settings").get_by_label(strings.FIELDS["randomise"][0]).uncheck()
    page.locator("#seed input").fill("7")
    page.locator("#seed input").blur()
    page.wait_for_function("lumiere.now.seed === 7 && lumiere.now.randomise === false")
    press(page, ".settings-panel", strings.SETTINGS_PANEL["more"])
    assert not page.locator("#settings").is_visible()


def text_to_clip(page, picture, tmp_path):
    ask(page, "a red dragon bouncing over green hills")
    done(page)
    page.wait_for_function("document.querySelector('#prompt mark')?.textContent === 'dragon'")
    clip = made(page)
    assert clip["settings"]["seed"] == 7 and clip["frames"] == clip["count"] == 8
    picture("done", full_page=True)
    page.locator(".cells button").nth(3).click()
    page.wait_for_function("document.querySelector('#stage video').paused")
    press(page, ".acts", strings.RESULT["loop"])
    assert not page.locator("#stage video").evaluate("v => v.loop")
    press(page, ".acts", strings.RESULT["loop"])
    before = page.evaluate("document.querySelector('.slice canvas').toDataURL()")
    page.locator(".slice input").fill("0.1")
    assert page.evaluate("document.querySelector('.slice canvas').toDataURL()") != before
    assert page.locator(".ruler").is_visible()
    page.locator(".slice input").blur()
    for name, reader in {"WebP": moving, "GIF": moving, strings.RESULT["frames"]: zipped}.items():
        with page.expect_download() as download:
            press(page, ".saves", name)
        assert reader(Path(download.value.path()).read_bytes()) == 8, name
    with page.expect_download() as download:
        page.click("#download")
    assert Path(download.value.path()).read_bytes()[4:8] == b"ftyp"
    assert download.value.suggested_filename == "lumiere-7.mp4"
    press(page, ".acts", strings.RESULT["another"])
    done(page)
    assert made(page)["settings"]["seed"] != 7 and made(page)["settings"]["steps"] == 2
    press(page, ".acts", strings.RESULT["longer"])
    done(page)
    assert made(page)["settings"]["frames"] == 16
    press(page, ".saves", strings.RESULT["link"])
    page.wait_for_function("document.querySelector('.said').textContent !== ''")
    fill(page, steps=150, frames=128)  # long enough to be stopped on a busy machine
    page.click("#generate")
    stop(page, when="lumiere.step > 0")
    done(page)
    assert line(page).startswith("Stopped at step")
    fill(page, **QUICK)


def moving(data: bytes) -> int:
    return Image.open(io.BytesIO(data)).n_frames


def zipped(data: bytes) -> int:
    return sum(name.endswith(".png") for name in zipfile.ZipFile(io.BytesIO(data)).namelist())


def results_go_on(page):
    """The clip of one mode is the beginning of another."""
    press(page, ".acts", strings.RESULT["continue"])
    done(page)
    assert made(page)["settings"]["mode"] == "continue" and made(page)["frames"] == 12
    for mode in ("inpaint", "video", "cinemagraph", "image"):
        press(page, ".uses", strings.MODES[mode])
        page.wait_for_function(f"lumiere.now.mode === '{mode}'")
        if "region" in NEEDS[mode]:
            for area in strings.GIVEN["areas"].values():
                press(page, ".tools", area)
            press(page, ".tools", strings.GIVEN["clear"])
            draw(page)
        generate(page)
        assert made(page)["settings"]["mode"] == mode
    page.locator(".slot.image .clear").click()
    generate_refused(page, "needs a picture")
    choose(page, "text")


def generate_refused(page, sentence):
    page.click("#generate")
    page.wait_for_function(
        "s => document.querySelector('.status .line').textContent.includes(s)", arg=sentence
    )
    state(page, "refused")


def gallery(page, picture):
    cards = page.locator(".gallery li")
    assert cards.count() >= 10
    cards.nth(0).locator("input").check()
    cards.nth(1).locator("input").check()
    press(page, ".gallery", strings.GALLERY["compare"])
    page.wait_for_timeout(300)
    assert page.locator(".pair canvas").count() == 2 and page.locator(".pair dt").count() > 0
    picture("compare")
    press(page, "dialog", strings.GALLERY["close"])
    cards.last.locator("button").click()
    page.wait_for_function(
        "lumiere.now.seed === 7 && !lumiere.now.randomise && lumiere.now.frames === 8"
        " && lumiere.now.mode === 'text'"
    )
    if page.locator(".vocabulary").count():
        page.locator(".vocabulary summary").click()
        page.locator(".vocabulary button").first.click()


def test_nothing_is_drawn_while_another_picture_is_on_its_way(visit, given):
    page = visit()
    page.evaluate(NOTE)
    fill(page, **QUICK)
    choose(page, "cinemagraph")
    page.locator(".slot.image input").set_input_files(given["image"])
    page.wait_for_selector(".easel[data-ready]:not([data-busy])")
    page.evaluate(LATE)
    page.locator(".slot.image input").set_input_files(given["image"])
    page.wait_for_selector(".easel[data-busy]")
    page.wait_for_function("held.length > 0")
    stroke(page)
    press(page, ".tools", strings.GIVEN["areas"]["middle"])
    assert not page.locator(".easel[data-drawn]").count()
    page.evaluate("() => { window.fetch = usual; go(); }")
    draw(page)
    generate(page)
    assert made(page)["settings"]["mode"] == "cinemagraph"


def test_link_restores_every_setting(visit):
    page = visit(permissions=["clipboard-read", "clipboard-write"])
    page.evaluate(NOTE)
    wanted = {
        "steps": 3,
        "frames": 12,
        "fps": 12,
        "guidance": 2.5,
        "scheduler": "euler a",
        "negative_prompt": "x & y",
    }
    ask(page, "a red ball & a <b>star</b>", **wanted)
    done(page)
    press(page, ".saves", strings.RESULT["link"])
    page.wait_for_function("document.querySelector('.said').textContent !== ''")
    address = page.evaluate("navigator.clipboard.readText()")
    seed = made(page)["settings"]["seed"]
    other = visit(query=address.partition("/?")[2] and "?" + address.partition("?")[2])
    other.wait_for_function("s => lumiere.now.seed === s", arg=seed)
    assert other.locator("#prompt textarea").input_value() == "a red ball & a <b>star</b>"
    now = other.evaluate("lumiere.now")
    assert wanted.items() <= now.items() and now["randomise"] is False
    assert other.locator("b", has_text="star").count() == 0


def test_link_of_a_stranger_is_refused_in_words(visit):
    page = visit(query="?steps=1000&prompt=%3Cimg%20src=x%20onerror=hurt()%3E")
    state(page, "refused")
    assert "steps must be a whole number from 1 to 150" in line(page).lower()


def test_clip_dropped_on_the_page_restores_its_settings(visit, tmp_path):
    page = visit()
    page.evaluate(NOTE)
    ask(page, "a red ball over the sea", steps=3, frames=12)
    done(page)
    with page.expect_download() as download:
        page.click("#download")
    clip = Path(download.value.path()).read_bytes()
    other = visit()
    drop(other, clip)
    other.wait_for_function("lumiere.now.steps === 3 && lumiere.now.frames === 12")
    assert other.locator("#prompt textarea").input_value() == "a red ball over the sea"
    write_clip(tmp_path / "other.mp4", np.zeros((4, 16, 16, 3), np.uint8), 16)
    drop(other, (tmp_path / "other.mp4").read_bytes())
    other.wait_for_function(
        "s => document.querySelector('.status .line').textContent === s", arg=strings.NO_SETTINGS
    )
    drop(other, b"no clip at all")
    other.wait_for_function(
        "document.querySelector('.status .line').textContent.startsWith('Cannot read a video')"
    )


def drop(page, data: bytes):
    page.evaluate(
        """bytes => {
          const transfer = new DataTransfer();
          transfer.items.add(new File([new Uint8Array(bytes)], "clip.mp4", { type: "video/mp4" }));
          const how = { dataTransfer: transfer, bubbles: true, cancelable: true };
          document.body.dispatchEvent(new DragEvent("drop", how));
        }""",
        list(data),
    )


def test_settings_are_remembered_by_the_browser(visit):
    page = visit()
    fill(page, steps=5, frames=12)
    page.reload()
    page.wait_for_function("window.lumiere?.now?.steps === 5 && lumiere.now.frames === 12")


def test_two_browsers_get_their_own_clips(visit):
    pages = [visit(), visit()]
    for page, prompt in zip(pages, ("a red ball", "a blue star"), strict=True):
        page.evaluate(NOTE)
        fill(page, steps=20, frames=8)
        page.fill("#prompt textarea", prompt)
    for page in pages:
        page.click("#generate")
    for page in pages:
        done(page)
    clips = [made(page) for page in pages]
    assert [clip["settings"]["prompt"] for clip in clips] == ["a red ball", "a blue star"]
    assert len({clip["clip"] for clip in clips}) == 2
    assert [page.locator(".gallery li").count() for page in pages] == [1, 1]


def test_place_in_the_queue_is_told(visit):
    first, second = visit(), visit()
    ask(first, "a red ball", steps=150, frames=128)
    first.wait_for_function("document.querySelector('.player').dataset.sheets > 0")
    ask(second, "a blue star", **QUICK)
    second.wait_for_function(
        "s => document.querySelector('.status .line').textContent === s", arg=strings.waiting(1)
    )
    stop(first)
    state(second, "done")


def test_hidden_tab_tells_in_its_title(visit):
    page = visit()
    page.evaluate("Object.defineProperty(document, 'hidden', { get: () => window.away, configurable: true })")
    page.evaluate("window.away = true")
    title = page.title()
    ask(page, "a red ball", **QUICK)
    page.wait_for_function("document.title.startsWith('✓ Done in')")
    page.evaluate("window.away = false; document.dispatchEvent(new Event('visibilitychange'))")
    assert page.title() == title


def test_large_screens_are_filled(visit, pictures):
    page = visit(3840, 2160)
    page.wait_for_timeout(300)
    page.screenshot(path=pictures / "idle-3840-light.png")
    box = page.locator("#workbench").bounding_box()
    assert box["width"] > 0.6 * 3840 and page.evaluate("document.documentElement.scrollWidth") <= 3840


def test_showcase(visit, tiny_model, tmp_path, pictures):
    """It goes from clip to clip by itself and by keys, and leaves nothing on the disk."""
    with serving(tiny_model, tmp_path, "--showcase") as at:
        page = visit(1920, 1080, at=at, ready=".caption .prompt")
        page.wait_for_function("document.querySelector('.player').dataset.sheets > 1")
        page.wait_for_function("document.querySelector('.caption').dataset.state === 'done'")
        first = page.locator(".caption .prompt").inner_text()
        page.screenshot(path=pictures / "showcase-1920-light.png")
        page.keyboard.press("ArrowRight")
        page.wait_for_function("p => document.querySelector('.caption .prompt').textContent !== p", arg=first)
        page.keyboard.press("ArrowLeft")
        page.wait_for_function("p => document.querySelector('.caption .prompt').textContent === p", arg=first)
        assert page.locator("main :is(button, input, textarea, a):visible").count() == 0
        page.context.close()
        assert not list((tmp_path / "clips").rglob("*.mp4"))
