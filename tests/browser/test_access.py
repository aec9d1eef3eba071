"""Accessibility, judged by axe-core: nothing serious in any state of the page, in both themes."""

import pytest

from lumiere.page import strings
from tests.browser.conftest import ask, shown, state
from tests.marks import soak

axe = pytest.importorskip("axe_playwright_python.sync_playwright")
pytestmark = pytest.mark.slow


def serious(page) -> list[str]:
    found = axe.Axe().run(page).response["violations"]
    return [
        f"{each['id']}: {node['target']} {node.get('failureSummary', '')[:200]}"
        for each in found
        if each["impact"] in ("serious", "critical")
        for node in each["nodes"]
    ]


@pytest.mark.parametrize(
    "width, height, theme",
    [(1280, 800, "light"), (390, 844, "dark"), *soak((1280, 800, "dark"), (390, 844, "light"))],
)
def test_no_serious_findings(visit, width, height, theme):
    page = visit(width, height, color_scheme=theme)
    assert serious(page) == [], "idle"
    page.locator(".settings-panel .more").click()
    assert serious(page) == [], "settings"
    for mode, name in strings.MODES.items():
        page.locator("#mode label", has_text=name).click()
        page.wait_for_function(f"lumiere.now.mode === '{mode}'")
        assert serious(page) == [], mode
    page.locator("#mode label", has_text=strings.MODES["text"]).click()
    ask(page, "a red dragon", steps=2, frames=8)
    state(page, "done")
    shown(page)
    assert serious(page) == [], "done"
