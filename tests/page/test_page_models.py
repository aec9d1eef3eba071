"""A page with a choice of models: each with what is its own, one at a time on the device, in its turn."""

import gc
import json
import re
import threading
import weakref
from contextlib import contextmanager
from dataclasses import replace
from types import SimpleNamespace

import httpx
import numpy as np
import pytest

from lumiere import models
from lumiere.errors import GenerationError
from lumiere.limits import ServerLimits
from lumiere.loading.registry import Model
from lumiere.media.video import read_settings, write_clip
from lumiere.page import controller, events, strings, widgets
from lumiere.page.server import model_handle
from lumiere.page.server.launch import arguments
from lumiere.page.server.model_handle import ModelHandle
from lumiere.request import Request
from lumiere.runtime import jobs
from lumiere.sampling import memory
from tests.bases import components, save_adapter, save_base
from tests.security.server import wait_for
from tests.security.stranger import PATIENCE, Stranger

pytestmark = pytest.mark.slow

SETTINGS = {"prompt": "a red ball", "frames": 8, "height": 64, "width": 64, "steps": 2, "seed": 7}


@pytest.fixture(scope="module")
def allowed(tiny_model, tmp_path_factory) -> dict[str, Model]:
    """One with motion weights of ours, one with an adapter, and one that has no weights."""
    folder = tmp_path_factory.mktemp("models")
    save_base(folder / "base", "sd")
    save_adapter(folder / "adapter", components("sd")["unet"])
    save_base(folder / "torn", "sd")
    (folder / "torn" / "unet" / "diffusion_pytorch_model.safetensors").unlink()
    real = Model(
        str(folder / "base"), str(folder / "adapter"), steps=3, guidance=7.5, fps=8, scheduler="ddim"
    )
    return {"tiny": Model(str(tiny_model)), "real": real, "torn": Model(str(folder / "torn"), real.motion)}


@pytest.fixture(scope="module")
def site(allowed, tmp_path_factory):
    """(apps, address) of a running page, opened as `main` does."""
    patch = pytest.MonkeyPatch()
    patch.setenv("GRADIO_TEMP_DIR", str(tmp_path_factory.mktemp("clips")))
    patch.setattr(models, "_resident", [])
    patch.setattr(model_handle, "settle", lambda: None)  # what the tests made is not to stay
    apps = {}
    for name, (model, limits) in model_handle.there(allowed).items():
        controller.Controller(model, limits, ServerLimits(), name, apps)
    demo = events.blocks(apps)
    apps["tiny"].service.launch(demo)
    for app in apps.values():
        app.model.set_result(ModelHandle(app.name, app.entry, "cpu"))
    yield apps, demo.local_url
    demo.close(verbose=False)
    patch.undo()


@pytest.fixture
def stranger(site):
    return Stranger(site[1])


def shown(site, path: str) -> dict:
    """What a page holds, by the ids of its elements."""
    text = httpx.get(site[1] + path).text
    config = json.loads(re.search(r"window\.gradio_config = (\{.*?\});</script>", text, re.S)[1])
    return {each["props"].get("elem_id"): each["props"] for each in config["components"]}


def test_each_page_has_what_is_its_models_own(site):
    tiny, real = shown(site, ""), shown(site, "real")
    assert (tiny["steps"]["value"], real["steps"]["value"]) == (20, 3)
    assert (tiny["frames"]["step"], real["frames"]["step"]) == (4, 1)
    assert (tiny["scheduler"]["value"], real["scheduler"]["value"]) == ("dpm++ 2m", "ddim")
    assert "16 is what" in tiny["fps"]["info"] and "8 is what" in real["fps"]["info"]
    assert strings.ARCHITECTURE_HALVED in tiny["architecture"]["html_template"]
    assert strings.ARCHITECTURE_KEPT in real["architecture"]["html_template"]
    assert real["shelf"]["props"]["examples"][0]["settings"]["guidance"] == 7.5
    assert tiny["first-frame"]["visible"] == real["first-frame"]["visible"] == "hidden"
    assert tiny["settings-panel"]["props"]["store"] != real["settings-panel"]["props"]["store"]


def test_pages_link_to_each_other_and_a_page_alone_has_no_choice(site, allowed):
    apps, _ = site
    head = widgets.header("real", apps["real"].addresses)
    links = re.findall(r'<a href="([^"]+)"( aria-current=page)?>(\w+)<', head)
    assert links == [("./", "", "tiny"), ("real", " aria-current=page", "real"), ("torn", "", "torn")]
    alone = controller.Controller(apps["tiny"].entry, apps["tiny"].limits)
    assert "<nav" not in widgets.header("model", alone.addresses)


def test_programs_choose_by_name_and_get_its_own_settings(stranger):
    for name, usual in {"real": (3, 7.5, 8, "ddim"), "tiny": (20, 4.0, 16, "dpm++ 2m")}.items():
        fields = {"frames": 8, "steps": None, "model": name if name == "real" else None}
        said, (file, settings) = stranger.generate(**fields)
        assert said == "complete" and settings["model"] == name
        found = tuple(settings[field] for field in ("steps", "guidance", "fps", "scheduler"))
        assert found == usual
        assert json.loads(read_settings(file["path"])) == settings


@pytest.mark.parametrize("name", ["<script>", "", 7, ["real"], {"real": 1}, True])
def test_other_names_are_refused_in_words(stranger, name):
    said, sentence = stranger.generate(model=name)
    assert (said, sentence) == ("error", strings.unknown_model(["tiny", "real", "torn"]))


def test_a_model_that_cannot_be_loaded_gives_a_sentence_and_others_go_on(stranger, caplog):
    assert stranger.generate(model="torn") == ("error", strings.no_model("torn"))
    assert "lacks unet/diffusion_pytorch_model.safetensors" in caplog.text  # for the operator
    assert stranger.generate(model="tiny")[0] == "complete"


def test_a_switch_waits_for_its_turn_and_is_told(site, monkeypatch):
    """A clip that is being made is not disturbed by whoever asks for another model."""
    apps, _ = site
    seen, loaded = [], []
    get = models.get

    def watched(model, device):
        if models.resident(model, device) is None:
            loaded.append(model)
        return get(model, device)

    def ask(name, session):
        fields = SETTINGS | {"negative_prompt": "", "fps": 8, "guidance": 4, "scheduler": "ddim"}
        form = [
            (
                fields
                | {"mode": "text", "randomise": False, "strength": 1, "first_frame": "none", "loop": False}
            ).get(n)
            for n in widgets.names(apps[name].limits)
        ]
        for values in apps[name].make(SimpleNamespace(session_hash=session), None, *form):
            news = dict(zip(widgets.OUTPUTS, values, strict=True))["status"]
            if isinstance(news, dict) and "state" in news:
                seen.append((name, news["text"], news["state"]))

    models.get(apps["tiny"].entry, "cpu")
    monkeypatch.setattr(models, "get", watched)
    threads = [threading.Thread(target=ask, args=(name, name)) for name in ("tiny", "real")]
    with jobs_held():
        for number, thread in enumerate(threads, 2):
            thread.start()
            wait_for(lambda number=number: len(jobs.device) == number)
    for thread in threads:
        thread.join(PATIENCE)
    assert loaded == [apps["real"].entry]
    assert [name for name, _, state in seen if state == "done"] == ["tiny", "real"]
    told = [name for name, text, _ in seen if text == strings.loading("real")]
    assert told and set(told) == {"real"}
    assert models.resident(apps["tiny"].entry, "cpu") is None


@contextmanager
def jobs_held():
    """The device is somebody else's meanwhile."""
    leave = threading.Event()
    job = jobs.Job(lambda stop: iter(leave.wait, True)).start()
    try:
        yield
    finally:
        leave.set()
        job.join(PATIENCE)


def test_a_clip_of_another_model_is_restored_on_its_page(site, stranger, tmp_path):
    apps, _ = site
    _, (file, settings) = stranger.generate(model="real", prompt="a “ball” & a fish", steps=2)
    sent = {"clip": {"path": file["path"]}}
    assert apps["real"].deep_link(sent)["settings"]["prompt"] == settings["prompt"]
    address = apps["tiny"].deep_link(sent)["address"]
    page, query = address.split("?")
    told = apps["real"].deep_link({"query": query})
    restored = told["settings"]
    assert "sentence" not in told
    expected = settings | {"randomise": False}
    assert settings["model_version"] == apps["real"].entry.version
    assert page == "real" and restored == {name: expected[name] for name in restored}
    assert {"prompt", "frames", "steps", "seed", "scheduler"} <= set(restored)


@pytest.mark.parametrize("model", ["http://elsewhere/", "//elsewhere", ["real"], None, "tiny"])
def test_only_pages_of_this_server_are_gone_to(site, model):
    apps, _ = site
    path = apps["tiny"].service.disk.folder / "forged" / "clip.mp4"
    path.parent.mkdir(parents=True, exist_ok=True)
    frames = np.zeros((8, 64, 64, 3), np.uint8)
    write_clip(path, frames, 8, json.dumps(SETTINGS | {"model": model}))
    assert set(apps["tiny"].deep_link({"clip": {"path": str(path)}})) == {"settings", "sentence"}


def test_what_does_not_fit_is_refused_in_words(allowed, monkeypatch):
    monkeypatch.setattr(models, "_resident", [])
    monkeypatch.setattr(model_handle, "settle", lambda: None)
    monkeypatch.setattr(memory, "available", lambda device: 1000)
    monkeypatch.setattr("lumiere.pipeline.BATCH_LATENTS", 0)  # so that it is asked of the CPU, too
    items = ModelHandle("tiny", allowed["tiny"], "cpu").generate(Request(**SETTINGS), threading.Event())
    with pytest.raises(GenerationError, match="needs about .* lower frames"):
        list(items)


def test_what_was_frozen_after_its_loading_goes_too(allowed, monkeypatch):
    monkeypatch.setattr(models, "_resident", [])
    hooked = replace(allowed["tiny"], offload=True)  # whose parts refer to themselves by their hooks
    first = weakref.ref(models.get(hooked, "cpu").lumiere)
    model_handle.settle()
    try:
        models.get(allowed["real"], "cpu")
        assert first() is None
    finally:
        gc.unfreeze()


def options(*given: str):
    return arguments(list(given))


def test_the_models_that_the_operator_allows(monkeypatch):
    monkeypatch.delenv(models.VARIABLE, raising=False)
    assert models.allowed(options()) == {"paper-world": models.entry("paper-world")}
    several = models.allowed(options("--model", "paper-world", "--model", "sd15-lightning", "--offload"))
    assert list(several) == ["paper-world", "sd15-lightning"] and several["sd15-lightning"].steps == 4
    assert all(model.offload for model in several.values())
    monkeypatch.setenv(models.VARIABLE, "sd15-lightning, my models/a base")
    assert list(models.allowed(options())) == ["sd15-lightning", "a-base"]
    assert models.entry() is models.entry("sd15-lightning")  # for programs that take one
    assert list(models.allowed(options("--model", "paper-world"))) == ["paper-world"]


def test_the_variable_of_motion_weights_goes_with_that_of_one_model(monkeypatch):
    monkeypatch.setenv(models.VARIABLE, "a/base")
    monkeypatch.setenv(models.MOTION_VARIABLE, "some/motion")
    assert models.allowed(options())["base"].motion == "some/motion"
    assert models.allowed(options("--model", "a/base"))["base"].motion is None


@pytest.mark.parametrize(
    "given, words",
    [
        (["--model", "a/x", "--model", "b/x"], "the name x: rename"),
        (["--model", "a", "--model", "b", "--lora", "c"], "must be given with one model: received 2"),
        (["--model", "a", "--model", "b", "--camera", "zoom-in"], "must be given with one model: received 2"),
        (["--camera", "zoom-in:9"], "the weight of the camera zoom-in must be from -4 to 4: received 9"),
        (["--motion-scale", "nan"], "the motion scale must be from 0 to 4: received nan"),
        (["--free-init", "0"], "FreeInit takes 1 to 10 passes: received 0"),
    ],
)
def test_choices_that_cannot_be(given, words):
    with pytest.raises(ValueError, match=words):
        models.allowed(options(*given))


def test_a_model_whose_small_files_are_missing_is_left_out_unless_it_is_alone(allowed, capsys):
    gone = Model("/nowhere")
    assert list(model_handle.there({"gone": gone, **allowed})) == list(allowed)
    assert "The model gone is left out: there is no model folder" in capsys.readouterr().err
    with pytest.raises(OSError, match="no model folder"):
        model_handle.there({"gone": gone, "too": gone})


def test_a_model_that_cannot_be_loaded_at_the_start_ends_it_only_when_it_is_alone(
    allowed, monkeypatch, capsys
):
    monkeypatch.setattr(models, "_resident", [])
    monkeypatch.setattr(model_handle, "settle", lambda: None)
    assert model_handle.first_ready(allowed["torn"], "cpu", alone=False) == strings.PAGE_READY
    assert "lacks unet" in capsys.readouterr().err
    with pytest.raises(OSError, match="lacks unet"):
        model_handle.first_ready(allowed["torn"], "cpu", alone=True)
