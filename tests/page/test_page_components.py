"""Every component has its files, and every event of the scripts a sender and a listener."""

import re
from pathlib import Path

from lumiere.page import FOLDER, css

COMPONENTS = FOLDER / "components"
SCRIPTS = {file: file.read_text("utf-8") for file in COMPONENTS.rglob("*.js")}
HIDDEN = {"deep_link", "export", "form", "rotation", "thumbnail"}  # relay values only: nothing to style


def names(pattern: str) -> set[str]:
    return {name for text in SCRIPTS.values() for name in re.findall(pattern, text)}


def test_every_event_has_a_sender_and_a_listener():
    sent, heard = names(r'\bsend\("([\w-]+)"'), names(r'\blisten\("([\w-]+)"')
    assert sent == heard and len(sent) > 10
    others = {file.name for file, text in SCRIPTS.items() if "CustomEvent" in text or "lumiere:" in text}
    assert others == {"lib.js"}


def test_every_component_has_template_and_script_and_what_is_shown_a_style():
    folders = {file.name: file for file in COMPONENTS.iterdir() if file.is_dir()}
    document, header = folders.pop("document"), folders.pop("header")  # neither is a component with a script
    assert (document / "style.css").exists() and (header / "template.html").exists()
    for name, folder in folders.items():
        files = {file.name for file in folder.iterdir()}
        assert {"template.html", "script.js"} <= files, name
        assert ("style.css" in files) != (name in HIDDEN), name


def test_styles_of_the_document_come_first():
    assert css().startswith((COMPONENTS / "document" / "style.css").read_text("utf-8"))
    assert all(Path(file).read_text("utf-8") in css() for file in COMPONENTS.rglob("*.css"))
