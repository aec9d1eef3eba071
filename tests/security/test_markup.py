"""Row 5. That a browser shows it as text is tested in `tests/browser`."""

import logging
from pathlib import Path

import pytest

from lumiere.media.video import read_settings
from lumiere.page import FOLDER

MARKUP = [
    "<script>window.hurt=1</script> <img src=x onerror=hurt()>",
    "${window.hurt=1} {{hurt}} {hurt} #{hurt} <%= hurt %>",
    "**b** [a](javascript:hurt()) | # x",
    "%s %d %(hurt)s %n {0} {hurt.__class__}",
    "../../etc/passwd; rm -rf x | $(hurt) `hurt` & \"quoted\" 'twice'",
]


@pytest.mark.parametrize("prompt", MARKUP)
def test_markup_stays_text_in_files_names_answers_and_the_log(server, stranger, prompt, caplog):
    with caplog.at_level(logging.DEBUG, "lumiere"):
        outcome, (file, settings) = stranger.generate(prompt=prompt)
    assert outcome == "complete" and settings["prompt"] == prompt
    path = Path(file["path"])
    assert path.name == "lumiere-7.mp4" and path.resolve().is_relative_to(server.folder.resolve())
    assert prompt in read_settings(path).replace('\\"', '"')
    assert "hurt" not in caplog.text and "passwd" not in caplog.text
    assert stranger.make(prompt=prompt)["state"] == "done"


@pytest.mark.parametrize("prompt", MARKUP)
def test_what_the_page_is_told_of_a_prompt_is_data_and_never_a_template(stranger, prompt):
    answer = stranger.press("note", [prompt])
    assert answer.headers["content-type"].startswith("application/json")
    assert prompt not in stranger.http.get("/").text and prompt not in stranger.http.get("/config").text


def test_templates_hold_no_place_for_values():
    """Both `${value}` and `{{value}}` in a gr.HTML template execute what people type."""
    templates = sorted(FOLDER.rglob("*.html"))
    assert len(templates) >= 4
    for file in templates:
        assert not {"${", "{{"} & {file.read_text()[i : i + 2] for i in range(file.stat().st_size)}, file
