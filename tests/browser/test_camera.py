"""The camera pad, the amount of motion, FreeInit, FreeNoise and the table of models."""

import pytest

from lumiere.loading.registry import CAMERAS, MODELS
from lumiere.page import strings
from tests.bases import camera_model
from tests.browser.conftest import ask, fill, made, serving, state
from tests.browser.test_access import serious

pytestmark = pytest.mark.slow

REMEMBER = "document.addEventListener('lumiere:made', ({ detail }) => { window.made = detail; })"


@pytest.fixture(scope="module")
def adapted(tmp_path_factory):
    folder = tmp_path_factory.mktemp("adapted")
    model = camera_model(folder, list(CAMERAS))
    options = ["--motion", model.motion]
    for file, _ in model.cameras:
        options += ["--camera", f"{file}:0"]
    with serving(model.source, folder, *options) as address:
        yield address


def cameras(page) -> dict:
    page.evaluate(REMEMBER)
    ask(page, "a red ball", steps=2, frames=16)
    state(page, "busy")
    state(page, "done")
    page.wait_for_function("window.made")
    return made(page)["settings"]["cameras"]


def test_moves_by_mouse_and_keys_travel_with_the_clip(visit, adapted, pictures):
    page = visit(at=adapted)
    pad, rows = page.locator("#camera .pad button"), page.locator("#camera .rows input")
    assert pad.count() == 9 and page.locator("#camera .pad button[aria-pressed=true]").inner_text().endswith(
        "Still"
    )
    page.click("#camera .pad >> text=Zoom in")
    page.click("#camera .pad >> text=Pan left")
    rows.nth(0).fill("0.4")  # in the order of the pad
    assert page.locator("#camera .rows span").all_inner_texts() == ["Pan left", "Zoom in"]
    page.screenshot(path=pictures / "camera-1280-light.png", full_page=True)
    assert cameras(page) == {"pan-left": 0.4, "zoom-in": 1}
    assert "camera pan-left 0.4, zoom-in 1" in page.locator(".status .facts").inner_text()

    page.locator("#camera .pad >> text=Still").click()
    assert rows.count() == 0
    for key in ("ArrowUp", "ArrowRight", "Space"):  # from the middle to the corner
        page.keyboard.press(key)
    assert page.locator("#camera .rows span").all_inner_texts() == ["Roll right"]
    assert page.evaluate("document.querySelectorAll('#camera .pad [tabindex=\"0\"]').length") == 1


def test_options_are_restored_from_a_link(visit, adapted):
    link = "?prompt=a+fish&cameras=tilt-up:0.5&motion_scale=1.2&free_init=2&free_noise=true"
    page = visit(at=adapted, query=link)
    page.wait_for_function("window.lumiere.now.prompt === 'a fish' && lumiere.now.motion_scale === 1.2")
    assert page.evaluate("[lumiere.now.free_init, lumiere.now.free_noise]") == [2, True]
    assert page.locator("#camera .rows input").input_value() == "0.5"
    assert cameras(page) == {"tilt-up": 0.5}
    assert made(page)["settings"]["motion_scale"] == 1.2 and "FreeInit 2" in made(page)["facts"]


def test_it_fits_a_phone_and_is_accessible(visit, adapted, pictures):
    page = visit(at=adapted, width=390, height=844, color_scheme="dark")
    page.click("#camera .pad >> text=Zoom out")
    page.click("#settings-panel .more")
    page.click("#model-panel summary")
    page.locator("#model-panel li").first.wait_for()
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    page.screenshot(path=pictures / "camera-390-dark.png", full_page=True)
    assert serious(page) == []


def test_the_table_tells_of_every_model_and_offers_no_download_offline(visit, adapted, pictures):
    page = visit(at=adapted)
    page.click("#model-panel summary")
    page.locator("#model-panel li").first.wait_for()
    assert page.locator("#model-panel h3").count() == len(MODELS)
    told = page.locator("#model-panel li", has_text="sd15-animatediff-v2").inner_text()
    assert "cameras" in told and strings.NOT_ON_DISK in told and "licence" in told
    assert page.locator("#model-panel li", has_text="paper-world").inner_text().count(strings.ON_DISK) == 1
    assert page.locator("#model-panel button").count() == 0
    page.locator("#model-panel").screenshot(path=pictures / "models-panel-1280-light.png")


def test_settings_of_an_adapter_are_remembered(visit, adapted):
    page = visit(at=adapted)
    fill(page, motion_scale=0.5, free_init=3)
    page.reload()
    page.wait_for_function("window.lumiere?.now?.motion_scale === 0.5 && lumiere.now.free_init === 3")


def test_a_download_that_fails_is_told_and_may_be_tried_again(visit, tiny_model, tmp_path):
    with serving(tiny_model, tmp_path, HF_HUB_OFFLINE="0") as address:  # whose proxy leads nowhere
        page = visit(at=address)
        page.click("#model-panel summary")
        button = page.locator("#model-panel li", has_text="sdxl-hotshot").locator("button")
        button.click()
        page.locator("#model-panel .said", has_text=strings.not_fetched("sdxl-hotshot")).wait_for()
        assert button.is_enabled() and page.locator("#camera").count() == 0
