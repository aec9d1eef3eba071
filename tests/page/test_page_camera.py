"""Camera moves, amount of motion, FreeNoise and FreeInit on the page, in requests, links and files."""

import json
import threading
from dataclasses import replace

import numpy as np
import pytest

from lumiere import models
from lumiere.limits import ServerLimits
from lumiere.media.video import read_clip, write_clip
from lumiere.page import controller, events, restore, strings, widgets
from lumiere.page.server import model_handle
from lumiere.page.server.model_handle import ModelHandle
from lumiere.request import Limits, Request
from tests.bases import camera_model
from tests.security.server import alone
from tests.security.stranger import Stranger

LIMITS = Limits(adapter=True, cameras=("zoom-in", "pan-left"))
CLIP = {"frames": 12, "steps": 2, "seed": 3, "guidance": 1.0}


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> models.Model:
    return camera_model(tmp_path_factory.mktemp("camera"), LIMITS.cameras)


@pytest.fixture
def served(model, tmp_path, monkeypatch):
    """The controller of a small Stable Diffusion 1.5 with an adapter and two camera moves, and a stranger."""
    monkeypatch.setattr(models, "_resident", [])
    monkeypatch.setattr(model_handle, "settle", lambda: None)
    monkeypatch.setenv("GRADIO_TEMP_DIR", str(tmp_path))
    ((name, (entry, limits)),) = model_handle.there({"small": model}).items()
    app = controller.Controller(entry, limits, ServerLimits())
    demo = events.blocks(app.controllers)
    app.service.launch(demo)
    app.model.set_result(ModelHandle(name, entry, "cpu"))
    yield app, Stranger(demo.local_url)
    demo.close(verbose=False)


@pytest.mark.slow
def test_visitors_at_once_get_their_own_cameras(served, tmp_path):
    app, _ = served
    asked = [
        {"cameras": {"zoom-in": 0.8}},
        {"cameras": {}, "motion_scale": 0.5},
        {"cameras": {"pan-left": -0.5, "zoom-in": 1}, "free_noise": True},
        {},
        {"free_init": 2},
    ]
    address, made = served[1].http.base_url, {}
    starting = threading.Barrier(len(asked))

    def ask(number):
        starting.wait()
        made[number] = Stranger(str(address)).generate(**CLIP, **asked[number])

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(len(asked))]
    [thread.start() for thread in threads]
    [thread.join() for thread in threads]
    pipeline, seen = models.get(app.entry, "cpu"), []
    for number, fields in enumerate(asked):
        outcome, (file, settings) = made[number]
        assert outcome == "complete" and settings["cameras"] == fields.get("cameras", {})
        assert settings.items() >= fields.items()
        write_clip(tmp_path / "alone.mp4", alone(pipeline, settings), settings["fps"])
        frames = read_clip(file["path"])[0]
        assert np.array_equal(frames, read_clip(tmp_path / "alone.mp4")[0])
        assert not any(np.array_equal(frames, other) for other in seen)
        seen.append(frames)


@pytest.mark.slow
def test_page_and_programs_have_the_options(served):
    app, stranger = served
    parts = {each["props"].get("elem_id"): each["props"] for each in stranger.config["components"]}
    assert list(parts["camera"]["props"]["moves"]) == ["zoom-in", "pan-left"]
    assert {"motion-scale", "free-init", "free-noise", "model-panel"} <= set(parts)
    names = [each["parameter_name"] for each in stranger.endpoints["/generate"]["parameters"]]
    assert {"cameras", "motion_scale", "free_noise", "free_init"} <= set(names)
    last = stranger.make(**CLIP, camera={"zoom-in": 0.5})
    assert last["state"] == "done" and "camera zoom-in 0.5" in last["facts"]
    assert "zoom-in, pan-left" in stranger.refusal(cameras={"orbit": 1})
    assert stranger.generate(**CLIP)[1][1]["cameras"] == {}  # of the visitor before, nothing stays


@pytest.mark.slow
def test_keys_of_a_prompt_that_are_too_close_are_told(served):
    _, stranger = served
    told = stranger.make(**CLIP, prompt="0: a fish | 4: a bird")
    assert told["state"] == "done" and "Keys of the prompt are 4 frames apart." in told["text"]
    assert "Keys" not in stranger.make(**CLIP)["text"]


def test_the_embedded_page_has_none_of_them():
    entry = models.entry("paper-world")
    app = controller.Controller(entry, models.limits(entry))
    demo = events.blocks(app.controllers)
    ids = {part["props"].get("elem_id") for part in demo.config["components"]}
    assert "frames" in ids and not {"camera", "motion-scale", "free-init", "free-noise", "model-panel"} & ids
    assert widgets.names(app.limits) == widgets.FORM and not widgets.extra_names(app.limits)


def test_examples_bring_back_the_operators_cameras_and_presets_keep_those_there_are():
    entry = replace(models.MODELS["sd15-animatediff-v2"], cameras=(("zoom-in", 0.5),))
    limits = models.narrowed(LIMITS, entry)
    form = widgets.shelf(limits, entry, known=False)[0]["settings"]
    assert form["cameras"] == {"zoom-in": 0.5} and form["loop"] is False
    for preset in widgets.presets(limits, entry):  # a preset is marked while the form has all its settings
        assert preset["settings"].keys() <= set(widgets.names(limits))


@pytest.mark.parametrize(
    "fields, words",
    [
        ({"cameras": {"orbit": 1.0}}, "one of zoom-in, pan-left: received text of length 5"),
        ({"cameras": {"../../etc/passwd": 1.0}}, "received text of length 16"),
        ({"cameras": {"zoom-in": 4.5}}, "weights from -4 to 4: received 4.5"),
        ({"cameras": {"zoom-in": float("nan")}}, "received nan"),
        ({"cameras": {"zoom-in": True}}, "received true"),
        ({"cameras": {"zoom-in": "1"}}, "received text of length 1"),
        ({"cameras": {"zoom-in": 10**400}}, "a number of about 401 digits"),
        ({"cameras": "zoom-in"}, "16 moves at most: received text of length 7"),
        ({"cameras": 3}, "16 moves at most: received 3"),
        ({"cameras": {str(n): 1.0 for n in range(10_000)}}, "received an object of length 10000"),
        ({"cameras": [["zoom-in", 1], ["zoom-in", 2]]}, "each move once"),
        ({"cameras": [["zoom-in"]]}, "moves with their weights"),
        ({"cameras": [[["zoom-in"], 1]]}, "moves with their weights"),
        ({"motion_scale": 4.1}, "from 0 to 4: received 4.1"),
        ({"motion_scale": float("nan")}, "received nan"),
        ({"motion_scale": "1"}, "received text of length 1"),
        ({"free_noise": 1}, "true or false: received 1"),
        ({"free_noise": "yes"}, "true or false: received text"),
        ({"free_init": 0}, "from 1 to 10: received 0"),
        ({"free_init": 2.0}, "whole number"),
        ({"free_init": True}, "received true"),
        ({"free_init": 10, "steps": 25}, "steps x free_init must be at most 150: 25 x 10 is 250"),
    ],
)
def test_refuses_options_that_cannot_be(fields, words):
    with pytest.raises(ValueError, match=words):
        Request("a ball", **fields).check(LIMITS)


@pytest.mark.parametrize(
    "fields, words",
    [
        ({"cameras": {"zoom-in": 1}}, "cameras must be left out for this model"),
        ({"motion_scale": 0.5}, "motion_scale needs motion weights of AnimateDiff"),
        ({"free_noise": True}, "free_noise needs motion weights of AnimateDiff"),
    ],
)
def test_refuses_options_of_adapters_for_other_models(fields, words):
    with pytest.raises(ValueError, match=words):
        Request("a ball", **fields).check(Limits())


def test_passes_values_without_effect_for_other_models():
    Request("a ball", cameras={"zoom-in": 0}, motion_scale=1, free_noise=False, free_init=1).check(Limits())


def test_links_and_clips_restore_them():
    request = Request(
        "a ball",
        seed=1,
        cameras={"zoom-in": 0.8, "pan-left": -0.5},
        motion_scale=1.15,
        free_noise=True,
        free_init=3,
    )
    assert Request.from_json(request.to_json()) == request
    assert json.loads(request.to_json())["cameras"] == {"pan-left": -0.5, "zoom-in": 0.8}
    restored = restore.read_link(restore.link(request)[1:], LIMITS)["settings"]
    expected = {"cameras": {"pan-left": -0.5, "zoom-in": 0.8}, "motion_scale": 1.15}
    assert restored.items() >= (expected | {"free_noise": True, "free_init": 3}).items()
    assert restore.read_link("cameras=", LIMITS)["settings"]["cameras"] == {}
    assert "cameras" not in restore.link(Request("a ball")) and "cameras" not in Request("a ball").saved()
    facts = strings.facts(
        replace(request, frames=8, fps=8, height=64, width=64, steps=2, guidance=1, scheduler="ddim")
    )
    for words in ("camera pan-left -0.5, zoom-in 0.8", "motion 1.15", "FreeNoise", "FreeInit 3"):
        assert words in facts


@pytest.mark.parametrize(
    "query", ["cameras=zoom-in", "cameras=zoom-in:x", "cameras=:1", "cameras=a:1,a:2", "cameras=,,a"]
)
def test_refuses_links_with_other_cameras(query):
    assert set(restore.read_link(query, LIMITS)) == {"sentence"}
