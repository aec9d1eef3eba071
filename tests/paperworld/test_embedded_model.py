"""The embedded model as it is shipped: its files, its words, and that it does what it is told."""

import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from lumiere import models
from lumiere.model.motion_weights import read_facts
from lumiere.page import examples
from lumiere.paperworld.judge.judge import judge
from lumiere.paperworld.world.captions import canonical, paraphrase
from lumiere.paperworld.world.scene import sample_scene
from lumiere.request import Request

FOLDER = Path(__file__).parents[2] / "assets/models/paper-world"
MB = 1_000_000


@pytest.fixture(scope="module")
def pipeline():
    return models.get("paper-world", "cpu")


def clip(pipeline, prompt, **settings):
    *_, result = pipeline.generate(Request(prompt, **{"seed": 7} | settings))
    return result.frames


def test_files_are_small_enough_for_a_space_and_none_is_a_pickle():
    files = [path for path in FOLDER.rglob("*") if path.is_file()]
    assert max(path.stat().st_size for path in files) <= 10 * MB
    assert sum(path.stat().st_size for path in files) <= 40 * MB
    assert not [path for path in files if path.suffix in (".bin", ".pt", ".ckpt", ".pkl")]
    assert read_facts(FOLDER / "motion")["steps"] > 0


def test_first_frames_stand_still(pipeline):
    rng = np.random.default_rng(0)
    for _ in range(50):
        scene = sample_scene(rng)
        rewritten = pipeline.first_frame_prompt(canonical(scene, with_speed=True))
        assert rewritten == canonical(replace(scene, motion="still"))
        rewritten = pipeline.first_frame_prompt(paraphrase(scene, rng, with_speed=True))
        assert pipeline.unknown_words(rewritten) == []
        assert re.search("standing still|stands still", rewritten)


def test_words_of_its_world_are_known_and_others_are_named(pipeline):
    rng = np.random.default_rng(0)
    for _ in range(50):
        assert pipeline.unknown_words(canonical(sample_scene(rng), with_speed=True)) == []
    assert pipeline.unknown_words("a red dragon bouncing over green Hills, quickly!") == ["dragon"]


def test_time_is_compressed_by_four_and_the_base_is_frozen(pipeline):
    assert pipeline.lumiere.downsample_factor == 4
    assert not any(weight.requires_grad for weight in pipeline.lumiere.model.parameters())


@pytest.mark.slow
def test_one_seed_is_one_clip(pipeline):
    first = clip(pipeline, "a red ball bouncing over green hills", steps=4)
    clip(pipeline, "a blue moon rising in the forest", steps=2, seed=8)
    assert np.array_equal(first, clip(pipeline, "a red ball bouncing over green hills", steps=4))
    assert not np.array_equal(first, clip(pipeline, "a red ball bouncing over green hills", steps=4, seed=8))


@pytest.mark.slow
def test_clips_show_the_colour_and_the_background_they_were_asked_for_and_move(pipeline):
    rng = np.random.default_rng(5)
    right, moved = [], []
    while len(right) < 12:
        scene = sample_scene(rng)
        frames = clip(pipeline, canonical(scene), seed=len(right))
        verdict = judge(frames)
        right.append(verdict.colour == scene.colour and verdict.background == scene.background)
        if scene.motion != "still":
            moved.append(np.abs(np.diff(frames.astype(float), axis=0)).mean())
    assert np.mean(right) >= 0.6, right
    assert min(moved) > 0.3, "levels from frame to frame: a clip that should move stands still"


@pytest.mark.slow
def test_the_base_is_an_ordinary_base_model_of_diffusers():
    from diffusers import StableDiffusionPipeline

    base = StableDiffusionPipeline.from_pretrained(FOLDER, local_files_only=True)
    base.set_progress_bar_config(disable=True)
    generator = torch.Generator().manual_seed(0)
    picture = base(
        "a red ball over green hills", num_inference_steps=12, guidance_scale=3.0, generator=generator
    ).images[0]
    pixels = np.asarray(picture, float)
    assert picture.size == (128, 128)
    red = (pixels[..., 0] > 150) & (pixels[..., 1] < 90) & (pixels[..., 2] < 90)
    assert red.mean() > 0.03, "no red ball in it"


def test_the_examples_of_the_page_use_words_it_knows(pipeline):
    assert [word for text, _ in examples.EXAMPLES for word in pipeline.unknown_words(text)] == []
