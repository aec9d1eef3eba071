"""Stable Diffusion with public motion weights, on small random models in the published layouts.

Frames must be those of diffusers' own pipelines: of the same noise, scheduler, steps and guidance.
"""

from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import AnimateDiffPipeline, AnimateDiffSDXLPipeline, DDIMScheduler, MotionAdapter
from safetensors.torch import load_file, save_file

from lumiere.pipeline import LumierePipeline
from lumiere.request import SCHEDULERS, Request
from lumiere.sampling import CLASSES
from tests.bases import components, save_adapter, save_base

BAR = 2  # of 255, largest difference of any pixel
LIGHTNING = "animatediff_lightning_4step_diffusers.safetensors"
POSITIONS = 24


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """`sd` and `xl`, and for each `<family>-adapter` and `<family>-middle`; the file of Lightning for sd."""
    folder = tmp_path_factory.mktemp("bases")
    for family in ("sd", "xl"):
        save_base(folder / family, family)
        unet = components(family)["unet"]
        for name, middle in (("adapter", False), ("middle", True)):
            save_adapter(folder / f"{family}-{name}", unet, middle, POSITIONS)
    weights = load_file(folder / "sd-middle" / "diffusion_pytorch_model.safetensors")
    save_file(weights, folder / LIGHTNING)
    return folder


@pytest.fixture(scope="module")
def pipelines(folder):
    """Ours and that of diffusers, of a base and an adapter by name; loaded once."""
    return cache(lambda family, motion: (ours(folder, family, motion), theirs(folder, family, motion)))


def ours(folder: Path, family: str, motion: str) -> LumierePipeline:
    return LumierePipeline.from_pretrained(folder / family, folder / motion, device="cpu")


def theirs(folder: Path, family: str, motion: str):
    klass = AnimateDiffPipeline if family == "sd" else AnimateDiffSDXLPipeline
    adapter = MotionAdapter.from_pretrained(folder / motion)
    pipeline = klass.from_pretrained(folder / family, motion_adapter=adapter, local_files_only=True)
    if family == "xl":  # diffusers 0.42 leaves it random
        embedding = components(family)["unet"].add_embedding
        pipeline.unet.add_embedding.load_state_dict(embedding.state_dict())
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def theirs_of(pipeline, request: Request, config: dict) -> np.ndarray:
    """The frames that a pipeline of diffusers makes of a request, uint8 (t h w c)."""
    klass = DDIMScheduler if request.scheduler == "ddim" else CLASSES[request.scheduler]
    pipeline.scheduler = klass.from_config(config)
    frames = pipeline(
        request.prompt,
        negative_prompt=request.negative_prompt or None,
        num_frames=request.frames,
        height=request.height,
        width=request.width,
        num_inference_steps=request.steps,
        guidance_scale=request.guidance,
        generator=torch.Generator().manual_seed(request.seed),
        output_type="np",
    ).frames[0]
    return (frames * 255).round().astype(np.uint8)


def frames_of(pipeline: LumierePipeline, request: Request) -> np.ndarray:
    *_, result = pipeline.generate(request)
    return result.frames


def difference(one: np.ndarray, other: np.ndarray) -> int:
    assert one.shape == other.shape
    return int(np.abs(one.astype(int) - other).max())


SEEN = Request("a red ball", "dull", frames=8, height=64, width=64, steps=4, seed=3, scheduler="ddim")
FAST = [("sd", "adapter", "ddim"), ("sd", "middle", "euler"), ("xl", "adapter", "ddim")]
SLOW = [(f, a, s) for f in ("sd", "xl") for a in ("adapter", "middle") for s in SCHEDULERS]
CASES = FAST + [pytest.param(*case, marks=pytest.mark.slow) for case in SLOW if case not in FAST]


@pytest.mark.parametrize("guidance", [7.5, 1.0])
@pytest.mark.parametrize("family, motion, scheduler", CASES)
def test_frames_are_those_of_diffusers(pipelines, family, motion, scheduler, guidance):
    our, their = pipelines(family, f"{family}-{motion}")
    request = replace(SEEN, scheduler=scheduler, guidance=guidance)
    found = frames_of(our, request)
    assert difference(found, theirs_of(their, request, our.scheduler_config)) <= BAR
    base = our.scheduler_config | {"beta_schedule": "scaled_linear"}  # what is compared can be seen
    assert difference(found, theirs_of(their, request, base)) > BAR
    others = [replace(request, prompt="a blue star in the sea")]
    others += [replace(request, negative_prompt="bright")] if guidance > 1 else []
    for other in others:
        assert difference(found, theirs_of(their, other, our.scheduler_config)) > BAR


@pytest.mark.parametrize("family", ["sd", "xl"])
def test_an_empty_negative_prompt_and_other_sizes_are_told_as_diffusers_does(pipelines, family):
    our, their = pipelines(family, f"{family}-adapter")
    request = replace(SEEN, negative_prompt="", guidance=7.5, height=64, width=128)
    expected = theirs_of(their, request, our.scheduler_config)
    assert difference(frames_of(our, request), expected) <= BAR
