"""The weights of the operator's styles on the page, in requests, links and files."""

import json
import threading
from dataclasses import replace

import numpy as np
import pytest

from lumiere import models
from lumiere.limits import ServerLimits
from lumiere.loading.registry import Model
from lumiere.loading.styles import Style
from lumiere.media.video import read_clip, write_clip
from lumiere.page import controller, events, restore, strings
from lumiere.page.server import model_handle
from lumiere.page.server.model_handle import ModelHandle
from lumiere.pipeline import LumierePipeline
from lumiere.request import Limits, Request
from tests.loading.test_lora import save_styled
from tests.security.stranger import Stranger

pytestmark = pytest.mark.slow

REQUEST = Request("a red ball", frames=8, height=64, width=64, steps=2, seed=7, guidance=4)


@pytest.fixture(scope="module")
def styled(tmp_path_factory) -> Model:
    """A LoRA with weight 0.5, and another base with alpha 0.25."""
    folder = tmp_path_factory.mktemp("styled")
    save_styled(folder, "other")
    style = Style(((str(folder / "ink.safetensors"), 0.5),), str(folder / "other"), 0.25)
    return Model(str(folder / "base"), str(folder / "adapter"), steps=2, style=style)


@pytest.fixture(autouse=True)
def nothing_stays(monkeypatch):
    monkeypatch.setattr(models, "_resident", [])
    monkeypatch.setattr(model_handle, "settle", lambda: None)


@pytest.fixture
def site(styled, tmp_path, monkeypatch):
    monkeypatch.setenv("GRADIO_TEMP_DIR", str(tmp_path))
    app = controller.Controller(styled, models.limits(styled), ServerLimits())
    demo = events.blocks(app.controllers)
    app.service.launch(demo)
    app.model.set_result(ModelHandle("styled", styled, "cpu"))
    yield Stranger(demo.local_url)
    demo.close(verbose=False)


def frames(pipeline) -> np.ndarray:
    *_, result = pipeline.generate(REQUEST)
    return result.frames


def test_other_weights_are_put_in_for_the_clip_that_asks_for_them(styled):
    served_model = ModelHandle("styled", styled, "cpu")

    def made(*weights):
        items = list(served_model.generate(replace(REQUEST, style_weights=weights), threading.Event()))
        return items[-1].frames, strings.STYLING in items

    own, told = made()
    assert not told
    assert np.array_equal(own, frames(LumierePipeline.from_pretrained(styled, device="cpu")))
    style = replace(styled.style, loras=((styled.style.loras[0][0], 2.0),), alpha=1.0)
    strong, told = made(2, 1)
    assert told and not np.array_equal(strong, own)
    expected = frames(LumierePipeline.from_pretrained(replace(styled, style=style), device="cpu"))
    assert np.array_equal(strong, expected)
    assert np.array_equal(made()[0], own)  # the next visitor has the operator's


def test_page_and_programs_have_them(site):
    (shown,) = (
        each["props"] for each in site.config["components"] if each["props"].get("elem_id") == "style"
    )
    assert list(shown["props"]["names"]) == ["ink", "other"] and list(shown["value"]) == [0.5, 0.25]
    assert [list(each) for each in shown["props"]["ranges"]] == [[0, 2], [0, 1]]
    names = [each["parameter_name"] for each in site.endpoints["/generate"]["parameters"]]
    assert names[-3:] == ["style_weights", "first_frame", "loop"]
    said, (file, settings) = site.generate(style_weights=[1.5, 0.5])
    assert said == "complete" and settings["style_weights"] == [1.5, 0.5]
    _, (other, settings) = site.generate(style_weights=None)
    assert "style_weights" not in settings
    assert not np.array_equal(*(read_clip(each["path"])[0] for each in (file, other)))
    assert site.make(steps=2)["state"] == "done"
    assert "style weights must be from 0 to 2" in site.refusal(style_weights=[2.5, 0]).lower()


LIMITS = Limits(styles=((0.0, 2.0), (0.0, 1.0)))


@pytest.mark.parametrize(
    "style, sentence",
    [
        ([1.0], "as many numbers as the model has styles, 2: received 1"),
        ([0.5, 1.5], "from 0 to 1: received 1.5"),
        ([-0.5, 1], "from 0 to 2: received -0.5"),
        ("0.5", "16 numbers at most: received text of length 3"),
        ([0.0] * 17, "received a list of length 17"),
        ([True, 1], "numbers from -4 to 4: received true"),
        ([10**400, 1], "a number of about 401 digits"),
        ([float("nan"), 1], "received nan"),
    ],
)
def test_weights_that_cannot_be_are_refused_in_words(style, sentence):
    with pytest.raises(ValueError, match=sentence):
        Request("a ball", style_weights=style).check(LIMITS)


def test_a_model_without_styles_takes_no_weights():
    with pytest.raises(ValueError, match="styles, 0: received 1"):
        Request("a ball", style_weights=[1]).check(Limits())


def test_links_and_clips_restore_them(tmp_path, monkeypatch):
    request = Request("a ball", seed=1, style_weights=[0.8, 0.25])
    assert Request.from_json(request.to_json()) == request
    restored = restore.read_link(restore.link(request)[1:], LIMITS)["settings"]
    assert restored["style_weights"] == (0.8, 0.25)
    assert "style_weights" not in json.loads(Request("a ball").to_json())
    assert "style_weights" not in restore.link(Request("a ball")) and "style_weights" not in restore.form(
        Request("a ball")
    )
    assert "sentence" in restore.read_link("style_weights=much", LIMITS)
    monkeypatch.setenv("GRADIO_TEMP_DIR", str(tmp_path))
    write_clip(tmp_path / "clip.mp4", np.zeros((16, 64, 64, 3), np.uint8), 8, request.to_json())
    sent = {"path": str(tmp_path / "clip.mp4")}
    assert restore.read_clip_settings(sent, LIMITS)["settings"]["style_weights"] == (0.8, 0.25)


def test_the_operators_own_weight_can_be_asked_for():
    style = Style((("a/b.safetensors", -3.0), ("c", 3.5)))
    assert style.ranges == ((-3.0, 2.0), (0.0, 3.5)) and style.names == ("b", "c")
    assert style.weighted(()) is style and style.weighted((1.0, 0.0)).weights == (1.0, 0.0)
    assert Style().ranges == Style().weights == ()
