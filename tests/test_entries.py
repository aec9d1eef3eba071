"""Entries of the table of models, with small random models in the place of the published weights.

Frames must equal the frames of diffusers' own pipelines, as in test_bases.py.
"""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import AnimateDiffVideoToVideoPipeline, DDIMScheduler, MotionAdapter
from diffusers.models.autoencoders.vae import DiagonalGaussianDistribution
from diffusers.pipelines.animatediff import pipeline_animatediff_video2video
from PIL import Image
from safetensors.torch import save_file

from lumiere import models
from lumiere.loading.registry import MODELS, ORIGINAL_FILES
from lumiere.pipeline import LumierePipeline
from lumiere.runtime.sources import Sources, prepare
from tests.bases import components, save_adapter, save_base
from tests.loading.test_lora import factors
from tests.test_bases import BAR, LIGHTNING, SEEN, difference, frames_of, ours, theirs, theirs_of

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """`sd` and `xl` with `<family>-middle`, an adapter."""
    folder = tmp_path_factory.mktemp("entries")
    for family in ("sd", "xl"):
        save_base(folder / family, family)
        save_adapter(folder / f"{family}-middle", components(family)["unet"], middle=True)
    return folder


def of_table(folder: Path, name: str, **changes) -> LumierePipeline:
    """An entry of the table, with the small model and adapter in the place of the published ones."""
    model = MODELS[name]
    family = "sd" if name.startswith("sd15") else "xl"
    places = {"source": str(folder / family), "motion": str(folder / f"{family}-middle")}
    unpinned = {"revision": None, "motion_revision": None, "half": False, "text_width": None, "preview": None}
    return LumierePipeline.from_pretrained(replace(model, **places, **unpinned, **changes), device="cpu")


@pytest.mark.parametrize("name, weight", [("sd15-lcm", 0.8), ("sd15-animatediff", 0.7)])
def test_a_domain_adapter_is_that_of_diffusers(folder, tmp_path, name, weight):
    """AnimateLCM with its LoRA, scheduler, steps and guidance; AnimateDiff v3 with its domain adapter."""
    file = tmp_path / "lora.safetensors"
    save_file(factors({"unet": components("sd")["unet"]}), file)
    model = MODELS[name]
    our = of_table(folder, name, domain_adapter=(str(file), weight))
    their = theirs(folder, "sd", "sd-middle")
    their.load_lora_weights(tmp_path, weight_name=file.name, adapter_name="domain")
    their.set_adapters(["domain"], [weight])
    usual = {"scheduler": model.scheduler, "steps": model.steps, "guidance": model.guidance}
    request = replace(SEEN, **usual)
    config = dict(their.scheduler.config) | {"beta_schedule": "linear", "clip_sample": False}
    config |= {"timestep_spacing": "leading", "steps_offset": 1}
    found = frames_of(our, request)
    assert difference(found, theirs_of(their, request, config)) <= BAR
    assert our.style.loras == ()  # is no style that a request may weight
    our.restyle(our.style)
    assert difference(frames_of(our, request), found) == 0
    alone = of_table(folder, name, domain_adapter=(str(file), 0.0))
    assert difference(frames_of(alone, request), found) > BAR


def test_weight_of_a_domain_adapter_is_an_option():
    def chosen(*given: str):
        return models.allowed(models.options("").parse_args(given))

    (model,) = chosen("--model", "sd15-animatediff", "--domain-adapter", "0.6").values()
    assert model.domain_adapter == ("guoyww/animatediff/v3_sd15_adapter.ckpt", 0.6)
    (model,) = chosen("--model", "a/base", "--motion", "x/AnimateLCM_sd15_t2v.ckpt").values()
    assert (model.domain_adapter, model.scheduler) == (MODELS["sd15-lcm"].domain_adapter, "lcm")
    with pytest.raises(ValueError, match="needs the motion weights of AnimateDiff v3 or AnimateLCM"):
        chosen("--model", "sd15-lightning", "--domain-adapter", "0.6")
    with pytest.raises(ValueError, match="must be from 0 to 2: received 3"):
        chosen("--model", "sd15-lcm", "--domain-adapter", "3")


def test_presets_are_motion_weights_and_settings_for_a_base():
    fast, quality = (models.entry("a/base", preset=preset) for preset in ("fast", "quality"))
    assert (fast.source, fast.motion, fast.steps, fast.scheduler) == (
        "a/base",
        MODELS["sd15-lcm"].motion,
        6,
        "lcm",
    )
    assert (quality.motion, quality.steps) == (MODELS["sd15-animatediff"].motion, 25)
    assert models.entry("sd15-animatediff", preset="fast") == MODELS["sd15-lcm"]
    for name, motion, preset, words in (
        ("sdxl-animatediff", None, "fast", "for bases of Stable Diffusion 1.5: received sdxl-animatediff"),
        ("paper-world", None, "fast", "for bases of Stable Diffusion 1.5: received paper-world"),
        ("a/base", "b/c", "fast", "has its own motion weights: received b/c besides"),
        ("a/base", None, "best", "must be one of fast, quality: received best"),
    ):
        with pytest.raises(ValueError, match=words):
            models.entry(name, motion, preset)


def test_original_files_are_known_by_their_names():
    for stem, name in ORIGINAL_FILES.items():
        for end in (".ckpt", ".safetensors", ".f16.safetensors"):
            model = models.entry("a/base", f"weights/{stem}{end}")
            assert (model.steps, model.scheduler, model.schedule) == (
                MODELS[name].steps,
                MODELS[name].scheduler,
                MODELS[name].schedule,
            )
    steps = [
        models.entry("a/base", f"x/{LIGHTNING.replace('4step', f'{n}step')}").steps for n in (1, 2, 4, 8)
    ]
    assert steps == [1, 2, 4, 8]


def test_hotshot_keeps_the_betas_of_xl_and_has_its_own_size(folder):
    pipeline = of_table(folder, "sdxl-hotshot")
    assert pipeline.scheduler_config["beta_schedule"] == "scaled_linear"
    defaults = pipeline.defaults
    assert (defaults["height"], defaults["width"], defaults["frames"]) == (512, 512, 8)


@pytest.mark.parametrize("strength", [0.3, 0.6, 0.9])
def test_a_clip_with_noise_is_that_of_diffusers(folder, monkeypatch, strength):
    """Both encode the clip to the mean, and both draw the noise in the order of ours."""
    our = ours(folder, "sd", "sd-middle")
    adapter = MotionAdapter.from_pretrained(folder / "sd-middle")
    their = AnimateDiffVideoToVideoPipeline.from_pretrained(
        folder / "sd", motion_adapter=adapter, local_files_only=True
    )
    their.set_progress_bar_config(disable=True)
    their.scheduler = DDIMScheduler.from_config(our.scheduler_config)
    monkeypatch.setattr(DiagonalGaussianDistribution, "sample", lambda self, generator: self.mean)

    def drawn(shape, generator, **_):
        b, t, c, h, w = shape
        return torch.randn(b, c, t, h, w, generator=generator).transpose(1, 2)

    monkeypatch.setattr(pipeline_animatediff_video2video, "randn_tensor", drawn)
    ramp = np.linspace(0, 255, 64).astype(np.uint8)
    clip = np.stack([np.roll(np.broadcast_to(ramp[:, None], (64, 64, 3)), 5 * n, 0) for n in range(8)])
    request = replace(SEEN, guidance=7.5, steps=10, strength=strength, mode="video")
    expected = their(
        video=[Image.fromarray(frame) for frame in clip],
        prompt=request.prompt,
        negative_prompt=request.negative_prompt,
        height=64,
        width=64,
        num_inference_steps=request.steps,
        guidance_scale=request.guidance,
        strength=strength,
        generator=torch.Generator().manual_seed(request.seed),
        output_type="np",
    ).frames[0]
    prepared = prepare(request, Sources(clip=clip), our.limits)
    *progress, result = our.generate(prepared.request, given=prepared.given)
    assert len(progress) == round(10 * strength)
    assert difference(result.frames, (expected * 255).round().astype(np.uint8)) <= BAR
