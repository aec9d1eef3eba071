"""Row 4: prompt null, list, number, lone surrogate, NUL, right-to-left, emoji."""

import pytest

from lumiere.media.video import read_settings
from lumiere.request import Request

STRANGE = [
    "\u05db\u05d3\u05d5\u05e8 \u0627\u0644\u0643\u0631\u0629 \u202eabc",
    "\U0001f3c0 \U0001f469\u200d\U0001f680 e\u0301",
    "a\x01b\x1b[31m c",
    "\u2028\u2029 a \ufeff",
]


@pytest.mark.parametrize("value", [None, ["a"], {"a": 1}, {"text": "a"}, 3, 2.5, True, [[["a"]]]])
def test_what_is_no_text_is_refused(stranger, work, value):
    for field in ("prompt", "negative_prompt"):
        if value is None and field == "negative_prompt":
            continue  # none is given
        name = field.replace("_", " ").capitalize()
        assert stranger.refusal(**{field: value}).startswith(f"{name} must be text: received ")
    assert stranger.make(prompt=value)["text"].startswith("Prompt must be text: received ")
    assert not work.any


@pytest.mark.parametrize("value", ["a\0b", "\ud83d ball", "ball\udfff"])
def test_what_cannot_be_written_is_refused(stranger, work, value):
    assert stranger.refusal(prompt=value).startswith("Prompt must be readable text: character ")
    assert stranger.make(prompt=value)["state"] == "refused"
    assert stranger.press("note", [value]).status_code == 200
    assert not work.any


@pytest.mark.parametrize("prompt", STRANGE)
def test_other_scripts_and_signs_are_text(stranger, prompt):
    outcome, (file, settings) = stranger.generate(prompt=prompt)
    assert outcome == "complete" and settings["prompt"] == prompt
    assert Request.from_json(read_settings(file["path"])).prompt == prompt
    assert stranger.press("note", [prompt]).status_code == 200
