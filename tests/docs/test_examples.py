"""Every command and every Python example of the README, the guide and the model card runs."""

from pathlib import Path

import pytest

from tests.docs.reader import ROOT, Reader, examples

PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "assets/models/paper-world/README.md"]
PAGES += sorted((ROOT / "docs").rglob("*.md"))
CHECKED = [page for page in PAGES if examples(page)]
NIGHTLY = {"docs/guide/first-clip.md", "docs/guide/real-bases.md"}  # of the kinds that other pages have


def name(page: Path) -> str:
    """Returns the path of a page in the repository."""
    return page.relative_to(ROOT).as_posix()


@pytest.mark.slow
@pytest.mark.usefixtures("desk")
@pytest.mark.parametrize(
    "page",
    [x if name(x) not in NIGHTLY else pytest.param(x, marks=pytest.mark.soak) for x in CHECKED],
    ids=name,
)
def test_commands_and_examples_run(page, monkeypatch):
    Reader(monkeypatch).follow(page)


def test_examples_are_found():
    found = [example for page in CHECKED for example in examples(page)]
    assert {example.language for example in found} == {"python", "bash"}
    text = "".join(page.read_text("utf-8") for page in PAGES)
    assert text.count("```python\n") == sum(example.language == "python" for example in found)
    assert len([example for example in found if "python" in example.text]) > 50
