"""Clips in a process forked for the call; the platform is played by a package that pickles all it sees."""

import pickle
import sys
import threading
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from safetensors.torch import save_file

from lumiere import models
from lumiere.errors import GenerationError
from lumiere.events import Result
from lumiere.loading.styles import Style
from lumiere.pipeline import LumierePipeline
from lumiere.request import Request
from lumiere.runtime import jobs, zerogpu
from tests.loading.test_lora import factors

REQUEST = Request("a red ball", frames=8, height=64, width=64, steps=3, seed=1)


@pytest.fixture
def zero(tiny_model, monkeypatch):
    """With `asked`, the seconds that calls asked for."""
    asked = []

    def gpu(duration):
        def decorate(task):
            def call(*args):
                asked.append(duration(*args))
                for item in task(*pickle.loads(pickle.dumps(args))):
                    yield pickle.loads(pickle.dumps(item))

            return call

        return decorate

    monkeypatch.setitem(sys.modules, "spaces", SimpleNamespace(GPU=gpu))
    monkeypatch.setattr(models, "_resident", [])
    made = zerogpu.ZeroGPU(models.Model(str(tiny_model)))
    made.asked = asked
    return made


@pytest.mark.slow
def test_a_job_gives_previews_and_the_clip_of_the_pipeline(zero, tiny_model):
    updates = [update for update in jobs.Job(zero.generate(REQUEST)).start().updates() if update]
    assert updates[-1].ended and any(update.preview is not None for update in updates)
    *_, expected = LumierePipeline.from_pretrained(tiny_model, device="cpu").generate(REQUEST)
    assert np.array_equal(updates[-1].result.frames, expected.frames)
    assert zero.asked == [zero.seconds(REQUEST)]


def test_refusals_come_before_the_call_and_errors_keep_their_words(zero, monkeypatch):
    with pytest.raises(ValueError, match="16 and 20"):
        zero.generate(replace(REQUEST, frames=18))
    assert zero.asked == []

    def failing(*_):
        raise GenerationError("the device ran out of memory: lower frames, height or width.")
        yield

    monkeypatch.setattr(zero._pipeline, "generate", failing)
    with pytest.raises(GenerationError, match="lower frames"):
        list(zero.generate(REQUEST)(threading.Event()))


def test_stop_crosses_the_fork_and_keeps_the_clip_so_far(zero):
    stop, items = threading.Event(), []
    for item in zero.generate(replace(REQUEST, steps=150))(stop):
        items.append(item)
        stop.set()
    assert isinstance(items[-1], Result) and items[-1].stopped and 1 <= items[-1].steps_done < 150
    assert not [t for t in threading.enumerate() if t.name.startswith("zero")]
    *_, again = zero.generate(REQUEST)(threading.Event())
    assert not again.stopped


@pytest.mark.slow
def test_style_weights_count_in_the_call(zero, tiny_model, tmp_path, monkeypatch):
    unet = LumierePipeline.from_pretrained(tiny_model, device="cpu").base.unet
    save_file(factors({"unet": unet}), tmp_path / "ink.safetensors")
    style = Style(((str(tmp_path / "ink.safetensors"), 1.0),))
    monkeypatch.setattr(models, "_resident", [])
    zero = zerogpu.ZeroGPU(models.Model(str(tiny_model), style=style))
    clips = [
        list(zero.generate(replace(REQUEST, style_weights=weights))(threading.Event()))[-1].frames
        for weights in ((), (0.0,), (1.0,))
    ]
    *_, plain = LumierePipeline.from_pretrained(tiny_model, device="cpu").generate(REQUEST)
    assert np.array_equal(clips[0], clips[2]) and not np.array_equal(clips[0], clips[1])
    assert np.array_equal(clips[1], plain.frames)


def test_longer_work_asks_for_more_seconds_up_to_all_there_are(zero):
    asked = [zero.seconds(replace(REQUEST, frames=frames, height=512, width=512)) for frames in (8, 16, 64)]
    assert zerogpu.START_SECONDS < asked[0] < asked[1] < asked[2] <= zerogpu.MOST_SECONDS
    assert zero.seconds(replace(REQUEST, frames=128, height=1024, width=1024, steps=150)) == 120
    assert not zerogpu.HERE
