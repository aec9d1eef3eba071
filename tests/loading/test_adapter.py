"""Options of an AnimateDiff adapter that each clip brings: none stays for the next one."""

import threading
from dataclasses import replace

import numpy as np
import pytest

from lumiere import models
from lumiere.errors import GenerationError
from lumiere.loading.registry import MODELS, own
from lumiere.page.server.model_handle import ModelHandle
from lumiere.pipeline import LumierePipeline
from lumiere.request import Request
from lumiere.sampling.settings import Sampling
from tests.bases import camera_model

REQUEST = Request("a red ball", frames=12, height=64, width=64, steps=2, seed=3, guidance=1.0, fps=8)
MIXES = [
    {"cameras": {"zoom-in": 0.8}},
    {"cameras": {"zoom-in": 0.3, "pan-left": -0.5}},
    {"motion_scale": 0.5},
    {"free_noise": True},
    {"free_init": 2},
    {"cameras": {"pan-left": 1}, "motion_scale": 1.3, "free_noise": True},
]


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> models.Model:
    return camera_model(tmp_path_factory.mktemp("adapter"), ("zoom-in", "pan-left"))


@pytest.fixture(scope="module")
def pipeline(model) -> LumierePipeline:
    return LumierePipeline.from_pretrained(model, device="cpu")


def frames(pipeline: LumierePipeline, **fields) -> np.ndarray:
    *_, result = pipeline.generate(replace(REQUEST, **fields))
    return result.frames


def operators(model: models.Model, cameras=(), **sampling) -> models.Model:
    """The model with options of the operator in place of the clip's."""
    files = {name: weight for name, weight in dict(cameras).items()}
    mix = tuple((source, files.get(name, 0.0)) for name, source in model.moves.items())
    return replace(model, cameras=mix, sampling=Sampling(**sampling))


@pytest.mark.slow
@pytest.mark.parametrize("mix", MIXES)
def test_options_of_a_clip_are_those_of_the_operator_and_do_not_stay(model, pipeline, mix):
    plain = frames(pipeline)
    found = frames(pipeline, **mix)
    expected = frames(LumierePipeline.from_pretrained(operators(model, **mix), device="cpu"))
    assert np.array_equal(found, expected) and not np.array_equal(found, plain)
    assert np.array_equal(frames(pipeline), plain)


def test_a_clip_replaces_the_options_of_the_operator(model, pipeline):
    set_up = operators(model, cameras={"zoom-in": 1.0}, motion_scale=0.5)
    other = LumierePipeline.from_pretrained(set_up, device="cpu")
    assert own(set_up, other.limits)["cameras"] == (("zoom-in", 1.0),)
    assert np.array_equal(frames(other, cameras={}, motion_scale=1), frames(pipeline))


def test_offloaded_components_are_adapted(model, pipeline):
    offloaded = LumierePipeline.from_pretrained(replace(model, offload=True), device="cpu")
    mix = {"cameras": {"zoom-in": 0.8}, "free_noise": True}
    assert np.array_equal(frames(offloaded, **mix), frames(pipeline, **mix))
    assert np.array_equal(frames(offloaded), frames(pipeline))


def test_a_torn_file_ends_the_clip_in_words_and_not_the_next(model, pipeline):
    file = model.moves["pan-left"]
    with open(file, "rb") as stream:
        whole = stream.read()
    try:
        with open(file, "wb") as stream:
            stream.write(whole[:50])
        with pytest.raises(GenerationError, match="camera moves of this clip cannot be loaded"):
            frames(pipeline, cameras={"zoom-in": 1, "pan-left": 1})
        assert np.array_equal(
            frames(pipeline), frames(LumierePipeline.from_pretrained(replace(model, cameras=())))
        )
    finally:
        with open(file, "wb") as stream:
            stream.write(whole)


def test_visitors_of_a_served_model_get_their_own(model, pipeline, monkeypatch):
    monkeypatch.setattr(models, "_resident", [])
    handle = ModelHandle("small", model, "cpu")
    for mix in (MIXES[0], {}, MIXES[1]):
        *_, result = handle.generate(replace(REQUEST, **mix), threading.Event())
        assert np.array_equal(result.frames, frames(pipeline, **mix))


def test_moves_by_name_are_for_the_adapter_they_were_trained_with():
    assert len(MODELS["sd15-animatediff-v2"].moves) == 8
    assert not MODELS["sd15-animatediff"].moves and not MODELS["paper-world"].moves
    assert not MODELS["sd15-lightning"].moves
    mine = replace(MODELS["sd15-animatediff"], cameras=(("a/my orbit.safetensors", 1.0), ("zoom-in", 0.5)))
    assert mine.moves == {"my-orbit": "a/my orbit.safetensors", "zoom-in": "zoom-in"}
