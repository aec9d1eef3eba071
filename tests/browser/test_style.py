"""The sliders of the styles that the operator gave."""

import pytest

from tests.browser.conftest import ask, serving, state
from tests.loading.test_lora import save_styled

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def styled(tmp_path_factory):
    folder = tmp_path_factory.mktemp("styled")
    save_styled(folder, "water")
    options = ["--motion", folder / "adapter", "--lora", f"{folder / 'ink.safetensors'}:0.5"]
    options += ["--style-base", folder / "water", "--style-alpha", "0.25"]
    with serving(folder / "base", folder, *map(str, options)) as address:
        yield address


def test_a_slider_for_each_weight(visit, styled, pictures):
    page = visit(at=styled)
    sliders = page.locator("#style input")
    assert page.locator("#style label span").all_inner_texts() == ["ink", "water"]
    assert [sliders.nth(n).input_value() for n in range(2)] == ["0.5", "0.25"]
    assert [sliders.nth(n).get_attribute("max") for n in range(2)] == ["2", "1"]
    sliders.nth(0).fill("1.5")
    page.screenshot(path=pictures / "style-1280-light.png")
    ask(page, "a red ball", steps=2, frames=8)
    state(page, "done")
    assert "style 1.5, 0.25" in page.locator(".status .facts").inner_text()
    page.goto(f"{styled}?prompt=a+fish&style_weights=0.8,1")
    page.wait_for_function("window.lumiere?.now?.prompt === 'a fish'")
    assert [sliders.nth(n).input_value() for n in range(2)] == ["0.8", "1"]


def test_without_styles_there_are_none(visit):
    assert visit().locator("#style").count() == 0
