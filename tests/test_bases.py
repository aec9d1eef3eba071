"""Stable Diffusion with public motion weights, on small random models in the published layouts.

Frames must be those of diffusers' own pipelines: of the same noise, scheduler, steps and guidance.
"""

import re
from dataclasses import replace
from functools import cache
from itertools import product
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import (
    AnimateDiffPipeline,
    AnimateDiffSDXLPipeline,
    DDIMScheduler,
    EulerDiscreteScheduler,
    MotionAdapter,
)
from safetensors.torch import load_file, save_file

from lumiere import __main__ as command
from lumiere import models
from lumiere.loading.assembly import FREE_U
from lumiere.loading.registry import MODELS
from lumiere.model.animatediff import convert, load_weights
from lumiere.pipeline import LumierePipeline
from lumiere.request import SCHEDULERS, Request
from lumiere.sampling.schedulers import CLASSES
from lumiere.sampling.settings import Sampling
from tests.bases import components, save_adapter, save_base
from tests.marks import soak
from tests.model.test_animatediff import same_weights
from tests.model.test_motion_lora import factors as motion_lora_factors
from tests.model.test_motion_lora import peft as peft_key

pytestmark = pytest.mark.slow

BAR = 1  # of 255, largest difference of any pixel
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


def theirs_of(pipeline, request: Request, config: dict, **other) -> np.ndarray:
    """The frames that a pipeline of diffusers makes of a request, with `other` arguments, uint8 (t h w c)."""
    klass = DDIMScheduler if request.scheduler == "ddim" else CLASSES[request.scheduler]
    pipeline.scheduler = klass.from_config(config)
    prompts = {"prompt": request.prompt, "negative_prompt": request.negative_prompt or None}
    frames = pipeline(
        **prompts | other,
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


# Every scheduler; and every family, kind of adapter and guidance at least once.
DAILY = [("sd", "adapter", scheduler, 7.5) for scheduler in SCHEDULERS]
DAILY += [("sd", "middle", "ddim", 1.0), ("xl", "adapter", "ddim", 7.5), ("xl", "middle", "euler", 1.0)]
ALL = product(("sd", "xl"), ("adapter", "middle"), SCHEDULERS, (7.5, 1.0))


@pytest.mark.parametrize(
    "family, motion, scheduler, guidance", [*DAILY, *soak(*(case for case in ALL if case not in DAILY))]
)
def test_frames_are_those_of_diffusers(pipelines, family, motion, scheduler, guidance):
    our, their = pipelines(family, f"{family}-{motion}")
    request = replace(SEEN, scheduler=scheduler, guidance=guidance)
    found = frames_of(our, request)
    assert difference(found, theirs_of(their, request, our.scheduler_config)) <= BAR
    base = our.scheduler_config | {"beta_schedule": "scaled_linear"}  # what is compared can be seen
    assert difference(found, theirs_of(their, request, base)) > BAR
    others = [replace(request, prompt="the quick jump of wax")]  # with other letters, which are its tokens
    others += [replace(request, negative_prompt="bright")] if guidance > 1 else []
    for other in others:
        assert difference(found, theirs_of(their, other, our.scheduler_config)) > BAR


@pytest.mark.parametrize("family", ["sd", "xl"])
def test_an_empty_negative_prompt_and_other_sizes_are_told_as_diffusers_does(pipelines, family):
    our, their = pipelines(family, f"{family}-adapter")
    request = replace(SEEN, negative_prompt="", guidance=7.5, height=64, width=128)
    expected = theirs_of(their, request, our.scheduler_config)
    assert difference(frames_of(our, request), expected) <= BAR


def test_lightning_is_known_by_its_file_and_sampled_as_its_authors_say(folder):
    """Of whatever base: four steps of Euler, trailing, no guidance; linear betas as for all of them."""
    model = models.entry(str(folder / "sd"), str(folder / LIGHTNING))
    assert (model.steps, model.guidance, model.scheduler, model.fps) == (4, 1.0, "euler", 8)
    eight = models.entry("a/base", LIGHTNING.replace("4step", "8step"))
    assert eight.steps == 8 and eight.schedule == model.schedule and eight.source == "a/base"
    pipeline = models.get(replace(model, text_width=None), "cpu", told=[].append)
    request = replace(
        SEEN, negative_prompt="", steps=model.steps, guidance=model.guidance, scheduler=model.scheduler
    )
    their = theirs(folder, "sd", "sd-middle")
    their.scheduler = EulerDiscreteScheduler.from_config(
        their.scheduler.config, timestep_spacing="trailing", beta_schedule="linear", clip_sample=False
    )
    expected = theirs_of(their, request, their.scheduler.config)
    assert difference(frames_of(pipeline, request), expected) <= BAR
    leading = dict(their.scheduler.config) | {"timestep_spacing": "leading"}
    assert difference(frames_of(pipeline, request), theirs_of(their, request, leading)) > BAR


@pytest.mark.parametrize("family", ["sd", "xl"])
def test_every_layout_of_motion_weights_is_the_same_bit_by_bit(folder, tmp_path, family):
    unet = components(family)["unet"]
    original = load_file(folder / f"{family}-middle.safetensors")
    assert all("temporal_transformer" in key for key in original)
    torch.save({"state_dict": {f"module.{key}": w for key, w in original.items()}}, tmp_path / "mm.ckpt")
    convert(tmp_path / "mm.ckpt", tmp_path / "mm.safetensors")
    expected = load_weights(unet, folder / f"{family}-middle")
    sources = (
        folder / f"{family}-middle.safetensors",
        folder / f"{family}-middle" / "diffusion_pytorch_model.safetensors",
        tmp_path / "mm.safetensors",
    )
    for source in sources:
        assert same_weights(load_weights(unet, source), expected), source


class Code:
    """What a checkpoint from a stranger may hold."""

    def __init__(self, file):
        self.file = file

    def __reduce__(self):
        return Path.touch, (self.file,)


def test_code_in_a_checkpoint_is_refused_and_not_run(tmp_path):
    torch.save({"state_dict": Code(tmp_path / "ran")}, tmp_path / "mm.ckpt")
    with pytest.raises(
        ValueError, match="mm.ckpt is refused: it is damaged, or holds other things than tensors"
    ):
        convert(tmp_path / "mm.ckpt", tmp_path / "mm.safetensors")
    assert sorted(file.name for file in tmp_path.iterdir()) == ["mm.ckpt"]
    with pytest.raises(FileNotFoundError, match="there is no checkpoint"):
        convert(tmp_path / "nothing.ckpt", tmp_path / "mm.safetensors")


def test_more_frames_than_positions_go_through_windows(pipelines):
    our, _ = pipelines("sd", "sd-adapter")
    seen = []
    handle = our.lumiere.register_forward_pre_hook(lambda module, args: seen.append(args[0].shape[2]))
    frames = frames_of(our, replace(SEEN, frames=POSITIONS + 16, guidance=1.0, steps=1))
    frames_of(our, replace(SEEN, frames=POSITIONS, guidance=1.0, steps=1))
    handle.remove()
    assert len(frames) == POSITIONS + 16 and seen == [POSITIONS] * 3


def test_half_as_large_files_are_found(folder, tmp_path):
    save_base(tmp_path / "half", "xl", half=True)
    assert (tmp_path / "half" / "unet" / "diffusion_pytorch_model.fp16.safetensors").is_file()
    half = LumierePipeline.from_pretrained(tmp_path / "half", folder / "xl-adapter", device="cpu")
    whole = LumierePipeline.from_pretrained(folder / "xl", folder / "xl-adapter", device="cpu")
    assert difference(frames_of(half, SEEN), frames_of(whole, SEEN)) < 30


def test_what_was_changed_is_told(folder, pipelines, capsys):
    our, _ = pipelines("sd", "sd-adapter")
    assert our.notes == (
        "The motion weights need another schedule than the base has: beta_schedule scaled_linear -> linear.",
    )
    status = command.main(
        ["a red ball", "--model", str(folder / "sd"), "--motion", str(folder / "sd-adapter"), "--frames", "8"]
        + ["--steps", "1", "--device", "cpu", "-o", str(folder / "clip.mp4")]
    )
    assert status == 0 and "beta_schedule scaled_linear -> linear" in capsys.readouterr().err


def test_the_table_says_what_each_model_is():
    for name, model in MODELS.items():
        assert model.licence != "unknown" and model.frames >= model.shortest, name
        for revision in (model.revision, model.motion_revision):
            assert revision is None or re.fullmatch("[0-9a-f]{40}", revision), name
        assert Request("x", steps=model.steps, guidance=model.guidance, scheduler=model.scheduler)
    assert models.entry("sd15-long").frames == models.entry("sd15-long").sampling.window == 64
    other = models.entry("a/base", "guoyww/animatediff-motion-adapter-v1-5-3")
    usual = MODELS["sd15-animatediff"]
    assert other == replace(
        usual,
        source="a/base",
        revision=None,
        half=False,
        licence="unknown",
        gigabytes=usual.gigabytes,
        download=None,
    )
    assert models.entry("a/base", "own/weights") == models.Model("a/base", "own/weights")


def adjusted(folder: Path, sampling: Sampling = Sampling(), **changes) -> LumierePipeline:  # noqa: B008
    """Ours with options of the adapter for Stable Diffusion 1.5."""
    model = models.entry(str(folder / "sd"), str(folder / "sd-adapter"))
    return LumierePipeline.from_pretrained(replace(model, sampling=sampling, **changes), device="cpu")


def test_free_init_is_that_of_diffusers(folder):
    our, their = adjusted(folder, Sampling(free_init=2)), theirs(folder, "sd", "sd-adapter")
    their.enable_free_init(num_iters=2)
    request = replace(SEEN, guidance=7.5)
    *progress, result = our.generate(request)
    assert difference(result.frames, theirs_of(their, request, our.scheduler_config)) <= BAR
    assert [(p.step, p.steps) for p in progress] == [(n, 8) for n in range(1, 9)]
    their.disable_free_init()
    assert difference(result.frames, theirs_of(their, request, our.scheduler_config)) > BAR


def test_free_noise_is_that_of_diffusers(folder):
    our, their = adjusted(folder, Sampling(free_noise=True)), theirs(folder, "sd", "sd-adapter")
    their.enable_free_noise(context_length=POSITIONS, context_stride=POSITIONS // 4)
    request = replace(SEEN, guidance=7.5, frames=POSITIONS + 9, steps=2)
    found = frames_of(our, request)
    assert difference(found, theirs_of(their, request, our.scheduler_config)) <= BAR
    assert difference(found, frames_of(adjusted(folder), request)) > BAR


@pytest.mark.parametrize("family", ["sd", "xl"])
def test_free_u_is_that_of_diffusers(folder, family):
    model = models.entry(str(folder / family), str(folder / f"{family}-adapter"))
    our = LumierePipeline.from_pretrained(replace(model, sampling=Sampling(free_u=True)), device="cpu")
    their = theirs(folder, family, f"{family}-adapter")
    their.enable_freeu(*FREE_U["sd15" if family == "sd" else "sdxl"])
    request = replace(SEEN, guidance=7.5)
    found = frames_of(our, request)
    assert difference(found, theirs_of(their, request, our.scheduler_config)) <= BAR
    their.disable_freeu()
    assert difference(found, theirs_of(their, request, our.scheduler_config)) > BAR


def test_two_camera_moves_are_those_of_diffusers(folder, tmp_path):
    their, scales = theirs(folder, "sd", "sd-adapter"), (0.8, -0.5)
    files = [tmp_path / f"{name}.safetensors" for name in ("zoom-in", "pan-left")]
    for seed, file in enumerate(files):
        factors = motion_lora_factors(MotionAdapter.from_pretrained(folder / "sd-adapter"), seed)
        save_file({peft_key(key): weight for key, weight in factors.items()}, file)
        their.load_lora_weights(file.parent, weight_name=file.name, adapter_name=file.stem)
    their.set_adapters([file.stem for file in files], list(scales))
    our = adjusted(folder, cameras=tuple(zip(map(str, files), scales, strict=True)))
    request = replace(SEEN, guidance=7.5)
    found = frames_of(our, request)
    assert difference(found, theirs_of(their, request, our.scheduler_config)) <= BAR
    assert difference(found, frames_of(adjusted(folder), request)) > BAR


def test_motion_scale_is_an_option_of_the_model(folder):
    still = frames_of(adjusted(folder, Sampling(motion_scale=0.0)), SEEN)
    assert difference(frames_of(adjusted(folder, Sampling(motion_scale=1.0)), SEEN), still) > BAR


@pytest.mark.parametrize(
    "changes",
    [{"cameras": (("zoom-in.safetensors", 1.0),)}, {"cameras": (("on-no-disk.safetensors", 1.0),)}]
    + [{"sampling": Sampling(motion_scale=0.5)}]
    + [{"sampling": Sampling(free_noise=True)}],
)
def test_options_of_adapters_are_refused_for_other_motion_weights(folder, tmp_path, monkeypatch, changes):
    factors = motion_lora_factors(MotionAdapter.from_pretrained(folder / "sd-adapter"), 0)
    save_file(factors, tmp_path / "zoom-in.safetensors")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match="needs motion weights of AnimateDiff"):
        LumierePipeline.from_pretrained(replace(models.entry("paper-world"), **changes), device="cpu")
