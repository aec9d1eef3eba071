"""The embedded model as it is shipped: its files, its words, and that it does what it is told."""

import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from lumiere import models
from lumiere.loading.components import multiplies_in_bf16  # before conftest.py replaces it
from lumiere.model.motion_weights import read_facts
from lumiere.page import examples
from lumiere.paperworld.evaluate.evaluate import Studio
from lumiere.paperworld.evaluate.rows import CHOOSING_SEED, scene_of
from lumiere.paperworld.judge.judge import judge, score
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
def test_clips_show_what_they_were_asked_for(monkeypatch):
    """The canary: 20 prompts in the precision that users get.

    They are the first with which settings are chosen, without two that the shipped weights or earlier ones
    missed, so that one or two wrong clips on another processor are chance.
    """
    monkeypatch.setattr("lumiere.loading.components.multiplies_in_bf16", multiplies_in_bf16)
    studio, wrong = Studio(seed=CHOOSING_SEED), []
    for index in set(range(22)) - {9, 16}:
        scene, _ = scene_of(CHOOSING_SEED, index)
        right = score(scene, judge(studio.clip(canonical(scene), 16, index)))
        if not right["all"]:
            wrong.append((index, canonical(scene), right))
    assert len(wrong) <= 2, wrong


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
