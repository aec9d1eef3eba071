"""Settings that come back from links and clips, which strangers may have made."""

import dataclasses
import json
from urllib.parse import urlencode

import numpy as np
import pytest

from lumiere.loading.registry import Model, saved_settings
from lumiere.media.video import write_clip
from lumiere.page import strings
from lumiere.page.restore import MOST_QUERY, link, read_clip_settings, read_link
from lumiere.page.server import files
from lumiere.request import Limits, Request

LIMITS = Limits(styles=((0.0, 2.0),), adapter=True, cameras=("zoom-in",))
WHOLE = Request(
    "a blue fish & a red ball, 50% <b>",
    negative_prompt="noise",
    frames=32,
    fps=8,
    height=64,
    width=96,
    steps=7,
    guidance=2.5,
    scheduler="euler a",
    seed=2**32 - 1,
    style_weights=(0.5,),
    cameras={"zoom-in": 0.8},
    motion_scale=1.15,
    free_noise=True,
    free_init=3,
)


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"mode": "video", "strength": 0.35},
        {"mode": "inpaint"},
        {"first_frame": "base"},
        {"clip_skip": 2},
        {"loop": True},
    ],
)
def test_a_link_brings_back_every_setting(changes):
    request = dataclasses.replace(WHOLE, **changes)
    told = read_link(link(request).removeprefix("?"), LIMITS)
    found = told["settings"]
    assert found.pop("randomise") is False
    usual = Request("-")
    for name, value in request.saved().items():
        assert found.get(name, getattr(usual, name)) == value, name
    # Given pixels do not fit in a link, and clip_skip is no setting of the page.
    assert ("sentence" in told) == (request.mode != "text" or request.clip_skip > 0)


def test_a_link_holds_only_what_it_needs():
    assert link(Request("a star", seed=3, frames=16)).startswith("?prompt=a+star&frames=16&")
    assert "negative_prompt" not in link(Request("a star", seed=3)) and "fps" not in link(Request("a star"))
    assert "first_frame" not in link(WHOLE)
    assert read_link("seed=9", LIMITS) == {"settings": {"seed": 9, "randomise": False}}
    assert read_link("", LIMITS) == {"settings": {}}
    assert read_link("theme=dark&utm_source=x", LIMITS) == {"settings": {}}


@pytest.mark.parametrize(
    "query, sentence",
    [
        ("frames=18", "divisible by 4"),
        ("frames=1e3", "whole number"),
        ("steps=99999999999999999999999", "Steps must be"),
        ("guidance=nan", "Guidance must be"),
        ("scheduler=magic", "Scheduler must be"),
        ("mode=../../etc", "Mode must be"),
        ("first_frame=mine", "First frame must be"),
        ("prompt=" + "x" * 2001, "2000"),
        ("height=4096&width=4096", "1024"),
    ],
)
def test_a_link_with_what_cannot_be_is_refused_in_one_sentence(query, sentence):
    told = read_link(query, LIMITS)
    assert set(told) == {"sentence"} and sentence in told["sentence"]
    assert told["sentence"][0].isupper() and told["sentence"].endswith(".") and "<" not in told["sentence"]


@pytest.mark.parametrize(
    "query", [None, 7, ["frames=16"], {"frames": 16}, "a" * (MOST_QUERY + 1), "a=1&" * 65]
)
def test_what_is_no_link_is_refused(query):
    assert read_link(query, LIMITS) == {"sentence": strings.BAD_LINK}


@pytest.fixture
def clip(tmp_path, monkeypatch):
    """Writes a clip with these settings where uploads are kept, and returns what the page sends of it."""
    monkeypatch.setenv("GRADIO_TEMP_DIR", str(tmp_path))

    def made(settings: str | None):
        write_clip(tmp_path / "clip.mp4", np.zeros((4, 32, 32, 3), np.uint8), 8, settings)
        return {"path": str(tmp_path / "clip.mp4")}

    return made


def test_a_clip_brings_back_the_settings_that_made_it(clip):
    told = read_clip_settings(clip(WHOLE.to_json()), LIMITS)
    assert told == {"settings": WHOLE.saved() | {"randomise": False}}


@pytest.mark.parametrize(
    "settings", ["{", "[]", "null", '{"prompt": 7}', '{"prompt": "a", "frames": 17}', '{"a": ' * 2000]
)
def test_a_clip_with_settings_of_a_stranger_is_refused_in_one_sentence(clip, settings):
    told = read_clip_settings(clip(settings), LIMITS)
    assert set(told) == {"sentence"} and told["sentence"].endswith(".") and "Error" not in told["sentence"]


def test_a_clip_of_others_has_none_and_a_file_that_is_not_ours_is_not_opened(clip, tmp_path):
    assert read_clip_settings(clip(None), LIMITS) == {"sentence": strings.NO_SETTINGS}
    for sent in (None, "/etc/passwd", {"path": "/etc/passwd"}, {"path": str(tmp_path / "missing.mp4")}):
        assert "must be uploaded" in read_clip_settings(sent, LIMITS)["sentence"]


OURS = Model("own/base")
HERE = {"version": OURS.version, "names": {OURS.name}}


def settings_of(**changes) -> str:
    """Saved settings of a clip of the page's model; None takes a key out."""
    saved = json.loads(saved_settings(WHOLE, OURS)) | changes
    return json.dumps({name: value for name, value in saved.items() if value is not None})


def test_same_version_says_nothing(clip):
    told = read_clip_settings(clip(settings_of()), LIMITS, **HERE)
    assert told == {"settings": WHOLE.saved() | {"randomise": False}}


@pytest.mark.parametrize("made_by", ["1", "451f4fe+449d899/1", "9.0-b"])
def test_other_version_is_told(clip, made_by):
    told = read_clip_settings(clip(settings_of(model_version=made_by)), LIMITS, **HERE)
    assert told["settings"] == WHOLE.saved() | {"randomise": False}
    assert told["sentence"] == strings.other_version(made_by, OURS.version)
    assert f"({made_by}; now {OURS.version})" in told["sentence"]


@pytest.mark.parametrize("model", [OURS.name, None, 7, ["own/base"]])
def test_clip_without_version_is_an_earlier_one(clip, model):
    told = read_clip_settings(clip(settings_of(model=model, model_version=None)), LIMITS, **HERE)
    assert told["settings"]["prompt"] == WHOLE.prompt
    assert told["sentence"] == strings.other_version("", OURS.version) and "earlier" in told["sentence"]


@pytest.mark.parametrize("made_by", ["<b>1</b>", "1 free clip", "1" * 33, "\u0661", "", 1, ["1"], {}, True])
def test_version_of_a_stranger_is_not_shown(clip, made_by):
    told = read_clip_settings(clip(settings_of(model_version=made_by)), LIMITS, **HERE)
    assert told["sentence"] == strings.other_version("", OURS.version)


def test_reminder_and_version_are_both_told(clip):
    told = read_clip_settings(clip(settings_of(model_version="1", mode="inpaint")), LIMITS, **HERE)
    expected = strings.give_again("inpaint"), strings.other_version("1", OURS.version)
    assert told["sentence"] == " ".join(expected)


def test_clip_of_another_model_is_told_without_its_name(clip):
    told = read_clip_settings(clip(settings_of(model="http://elsewhere/")), LIMITS, **HERE)
    assert told["sentence"] == strings.OTHER_MODEL and "settings" in told


@pytest.mark.parametrize("made_by, shown", [("1", "1"), (None, ""), ("<b>", "")])
def test_version_travels_to_the_page_of_another_model(clip, made_by, shown):
    sent = clip(settings_of(model="real", model_version=made_by))
    address = read_clip_settings(sent, LIMITS, **HERE, others={"real": "real"})["address"]
    told = read_link(address.removeprefix("real?"), LIMITS, "2")
    assert told["settings"]["prompt"] == WHOLE.prompt
    assert told["sentence"] == strings.other_version(shown, "2")
    assert "sentence" not in read_link("model_version=2", LIMITS, "2")


def test_addresses_are_escaped():
    assert files.address("/tmp/a b/ü?.mp4") == "gradio_api/file=/tmp/a%20b/%C3%BC%3F.mp4"
    assert urlencode({"prompt": WHOLE.prompt}) in link(WHOLE)
