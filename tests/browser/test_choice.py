"""The choice of a model: a page of each, with links between them."""

import shutil

import pytest

from lumiere.page import strings
from tests.browser.conftest import ask, fill, line, serving, state

pytestmark = pytest.mark.slow

NOTE = """() => {
  window.told = [];
  document.addEventListener("lumiere:status", ({ detail }) => told.push(detail.text));
}"""


@pytest.fixture(scope="module")
def several(tiny_model, tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    for name in ("small-one", "small-two"):
        shutil.copytree(tiny_model, folder / name)
    with serving(f"{folder / 'small-one'},{folder / 'small-two'}", folder) as address:
        yield address


def test_pages_of_two_models(visit, several, pictures):
    page = visit(at=several)
    links = page.locator("#models a")
    assert links.all_inner_texts() == ["small-one", "small-two"]
    assert page.locator("#models a[aria-current=page]").inner_text() == "small-one"
    fill(page, steps=33)
    page.screenshot(path=pictures / "models-1280-light.png")

    links.nth(1).click()
    page.wait_for_url("**/small-two")
    page.wait_for_function("window.lumiere?.now?.frames > 0")
    assert page.locator("#models a[aria-current=page]").inner_text() == "small-two"
    assert page.evaluate("lumiere.now.steps") == 20  # what was set is remembered for the other
    page.evaluate(NOTE)
    ask(page, "a red fish", steps=2, frames=8)
    state(page, "done")
    assert strings.loading("small-two") in page.evaluate("told")
    assert line(page).startswith("Done in")
    clip = page.get_attribute("#download", "href")

    links.nth(0).click()
    page.wait_for_function("window.lumiere?.now?.steps === 33")
    drop = """async (clip) => {
      const file = new File([await (await fetch(clip)).blob()], "clip.mp4", { type: "video/mp4" });
      const held = new DataTransfer();
      held.items.add(file);
      const how = { dataTransfer: held, bubbles: true, cancelable: true };
      document.body.dispatchEvent(new DragEvent("drop", how));
    }"""
    page.evaluate(drop, clip)
    page.wait_for_url("**/small-two?*")
    page.wait_for_function("window.lumiere?.now?.prompt === 'a red fish' && lumiere.now.steps === 2")


def test_the_choice_fits_a_phone(visit, several, pictures):
    page = visit(at=several, width=390, height=844, color_scheme="dark")
    box = page.locator("#models").bounding_box()
    assert box["x"] >= 0 and box["x"] + box["width"] <= 390
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    page.screenshot(path=pictures / "models-390-dark.png")


def test_one_model_has_no_choice(visit):
    assert visit().locator("#models").count() == 0
