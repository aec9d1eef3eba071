"""The public names of the package, and calls in the words of diffusers."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import StableDiffusionPipeline

import lumiere
from lumiere import LumierePipeline, Request, models
from lumiere import __main__ as command
from lumiere.loading.registry import Model
from tests.clips import last

ROOT = Path(__file__).resolve().parent.parent
CALL = {"num_frames": 8, "num_inference_steps": 2, "height": 64, "width": 64}


def test_import_is_cheap_and_without_torch():
    code = (
        "import sys, time; began = time.process_time(); import lumiere; "
        "seconds = time.process_time() - began; print(seconds); "
        "sys.exit('torch' in sys.modules or seconds > 0.1)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def test_every_public_name_is_there():
    assert {"Lumiere", "LumierePipeline", "Request", "models"} <= set(lumiere.__all__)
    for name in lumiere.__all__:
        assert getattr(lumiere, name) is not None
    with pytest.raises(AttributeError, match="no attribute nothing"):
        _ = lumiere.nothing
    assert (Path(lumiere.__file__).parent / "py.typed").is_file()


def test_call_returns_what_the_stream_ends_with(pipeline):
    request = Request("a red ball", frames=8, steps=2, height=64, width=64, seed=3, guidance=2.0)
    expected = last(pipeline, request).frames
    frames = pipeline("a red ball", seed=3, guidance_scale=2.0, output_type="np", **CALL).frames
    assert frames.shape == (1, 8, 64, 64, 3) and frames.dtype == np.float32
    assert np.array_equal((frames[0] * 255).round().astype(np.uint8), expected)
    generator = torch.Generator().manual_seed(3)
    options = {"guidance_scale": 2.0, "generator": generator, **CALL}
    images = pipeline(["a red ball", "a red ball"], **options).frames
    assert np.array_equal(np.stack([np.asarray(image) for image in images[0]]), expected)
    assert images[0][0].size == (64, 64) and images[0] != images[1]  # the generator goes on
    tensor = pipeline("a red ball", seed=3, guidance_scale=2.0, output_type="pt", **CALL).frames
    assert torch.equal(tensor.permute(0, 1, 3, 4, 2), torch.from_numpy(frames))


def test_pipelines_are_composed_of_a_base_and_temporal_layers(tiny_model, pipeline):
    base = StableDiffusionPipeline.from_pretrained(tiny_model, local_files_only=True)
    composed = LumierePipeline(base, lumiere.load_motion(base.unet, tiny_model / "motion"))
    request = Request("a red ball", frames=8, steps=2, seed=3)
    assert np.array_equal(last(composed, request).frames, last(pipeline, request).frames)


def test_call_tells_every_step(pipeline):
    seen = []
    pipeline("a ball", callback_on_step_end=lambda *told: seen.append(told), seed=1, **CALL)
    assert [step for _, step, _, _ in seen] == [0, 1] and all(told[0] is pipeline for told in seen)
    assert seen[0][2] > seen[1][2] and seen[0][3]["latents"].shape == (1, 4, 8, 8, 8)


def test_call_refuses_in_words(pipeline):
    with pytest.raises(ValueError, match="output_type must be one of pil, np, pt: received gif"):
        pipeline("a ball", output_type="gif")
    with pytest.raises(ValueError, match="frames must be divisible by 4: 18 is not"):
        pipeline("a ball", num_frames=18)


def test_requests_take_the_defaults_of_the_model(tiny_model, capsys):
    model = Model(str(tiny_model), frames=12, fps=8, steps=3, guidance=2.5, scheduler="euler")
    checked = LumierePipeline.from_pretrained(model, device="cpu").check(Request("a ball", steps=5))
    expected = {"frames": 12, "fps": 8, "steps": 5, "guidance": 2.5, "scheduler": "euler"}
    expected |= {"height": 64, "width": 64}
    assert {name: getattr(checked, name) for name in expected} == expected
    own = models.own(model, models.limits(model))  # what the page starts with
    assert expected == own | {"steps": 5}
    options = command.parser().parse_args(["a ball", "--steps", "5"])
    asked = command.asked(options, model)
    assert {name: getattr(asked, name) for name in expected} == expected
    assert Request("a ball").steps is None


def test_replacing_the_unet_is_refused(tiny_model):
    pipeline = LumierePipeline.from_pretrained(tiny_model, device="cpu")
    other = LumierePipeline.from_pretrained(tiny_model, device="cpu")
    pipeline.base.unet = other.base.unet
    with pytest.raises(ValueError, match="base.unet is not the UNet that the temporal layers are in"):
        pipeline.generate(Request("a ball"))
    with pytest.raises(ValueError, match="base.unet is not the UNet"):
        LumierePipeline(other.base, pipeline.lumiere)


def test_settings_of_the_base_take_effect(tiny_model):
    """Scheduler config, VAE, VAE slicing and text encoder are read at every run."""
    pipeline = LumierePipeline.from_pretrained(tiny_model, device="cpu")
    request = Request("a red ball", frames=8, steps=2, seed=3)
    expected = last(pipeline, request).frames
    base = pipeline.base

    def changed(change, restore) -> bool:
        change()
        frames = last(pipeline, request).frames
        restore()
        return not np.array_equal(frames, expected)

    scheduler = base.scheduler
    epsilon = type(scheduler).from_config(scheduler.config, prediction_type="epsilon")
    assert changed(lambda: setattr(base, "scheduler", epsilon), lambda: setattr(base, "scheduler", scheduler))
    bias = base.vae.decoder.conv_out.bias.data
    assert changed(lambda: bias.add_(0.5), lambda: bias.sub_(0.5))
    norm = base.text_encoder.final_layer_norm.weight.data
    assert changed(lambda: norm.mul_(2), lambda: norm.div_(2))
    sizes = []
    handle = base.vae.decoder.register_forward_pre_hook(lambda module, args: sizes.append(len(args[0])))
    pipeline.enable_vae_slicing()
    last(pipeline, request)
    handle.remove()
    assert sizes == [1] * 8
