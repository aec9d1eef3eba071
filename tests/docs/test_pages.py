"""Sizes and links of the documentation, and the table of the security page."""

import re
from pathlib import Path
from urllib.parse import unquote

import pytest

ROOT = Path(__file__).resolve().parents[2]
TOP = [ROOT / name for name in ("README.md", "CONTRIBUTING.md", "SECURITY.md", "CHANGELOG.md")]
PAGES = [*TOP, ROOT / "assets/models/paper-world/README.md", *sorted((ROOT / "docs").rglob("*.md"))]
KB = 1024


def prose(page: Path) -> str:
    """Returns the page without code."""
    return re.sub(r"^```.*?^```$|`[^`\n]*`", "", page.read_text("utf-8"), flags=re.M | re.S)


def anchors(page: Path) -> set[str]:
    """Returns the anchors of the headings, as GitHub and mkdocs make them."""
    headings = re.findall(r"^#+ (.+)$", page.read_text("utf-8"), re.M)
    return {re.sub(r"[^\w -]", "", heading.lower()).strip().replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_links_lead_somewhere(page):
    for target in re.findall(r"\]\(([^)\s]+)\)", prose(page)):
        if re.match(r"[a-z]+:", target):
            continue
        name, _, anchor = unquote(target).partition("#")
        file = (page.parent / name).resolve() if name else page
        assert file.exists(), target
        assert not anchor or anchor in anchors(file), target


def test_pages_are_short():
    assert (ROOT / "README.md").stat().st_size <= 10 * KB
    assert all(page.stat().st_size <= 15 * KB for page in PAGES)


def test_all_pages_are_in_the_navigation():
    navigation = (ROOT / "mkdocs.yml").read_text("utf-8")
    for page in sorted((ROOT / "docs").rglob("*.md")):
        assert f": {page.relative_to(ROOT / 'docs').as_posix()}\n" in navigation, page


def test_security_page_lists_all_38_rows():
    rows = re.findall(r"^\| (\d+) \|", (ROOT / "docs/security.md").read_text("utf-8"), re.M)
    assert [int(row) for row in rows] == list(range(1, 39))
