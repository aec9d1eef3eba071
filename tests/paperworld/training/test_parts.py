"""The trainings of the embedded model's parts: they resume exactly, and they learn."""

import json
import shutil

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from lumiere.model.motion_weights import read_facts
from lumiere.paperworld.__main__ import main
from lumiere.paperworld.training.autoencoder import encode, encode_dataset, new_autoencoder, train_autoencoder
from lumiere.paperworld.training.base import denoising_loss, new_scheduler, new_unet
from lumiere.paperworld.training.fit import Schedule, fit
from lumiere.paperworld.training.text_encoder import train_text_encoder
from lumiere.paperworld.world.dataset import read_scenes, render_dataset
from lumiere.paperworld.world.scene import HELD_OUT, render


@pytest.fixture(scope="module")
def stills(tmp_path_factory):
    folder = tmp_path_factory.mktemp("stills")
    render_dataset(folder, count=6, frames=2, seed=3, workers=1)
    return folder


def line_loss(model, generator):
    x = torch.randn(16, 3, generator=generator)
    return (model(x) - x.sum(1, keepdim=True)).square().mean(), {}


def test_fit_resumes_with_the_same_weights_as_an_unbroken_run(tmp_path):
    def trained(folder, *lengths):
        for steps in lengths:
            torch.manual_seed(0)
            model = nn.Linear(3, 1)
            # A constant rate: with the decay the schedule would depend on the length.
            schedule = Schedule(steps, 0.05, warmup=5, decay=0.0)
            averaged = fit(model, line_loss, schedule, folder)
        return model, averaged

    whole, whole_average = trained(tmp_path / "whole", 60)
    parts, parts_average = trained(tmp_path / "parts", 25, 60)
    assert torch.equal(whole.weight, parts.weight)
    assert torch.equal(whole_average.weight, parts_average.weight)
    assert not torch.equal(whole.weight, whole_average.weight)


def test_fit_learns(tmp_path):
    torch.manual_seed(0)
    averaged = fit(nn.Linear(3, 1), line_loss, Schedule(300, 0.05, warmup=5, ema=0.9), tmp_path)
    assert torch.allclose(averaged.weight, torch.ones(1, 3), atol=0.02)


def test_rendered_data_is_reproducible_and_avoids_what_is_held_out(stills, tmp_path):
    render_dataset(tmp_path, count=3, frames=2, seed=3, workers=1)
    assert np.array_equal(np.load(tmp_path / "pixels.npy"), np.load(stills / "pixels.npy")[:3])
    assert read_scenes(tmp_path) == read_scenes(stills)[:3]
    assert all(scene.combination not in HELD_OUT for scene in read_scenes(stills))
    render_dataset(tmp_path, count=3, frames=1, seed=3, held_out=True, workers=1)
    assert all(scene.combination in HELD_OUT for scene in read_scenes(tmp_path))


def test_rendered_data_can_move_as_asked(tmp_path):
    wanted = ["--motions", "spinning", "spinning", "spinning", "left"]
    main(["render", "--data", str(tmp_path), "--scenes", "24", "--workers", "1", *wanted])
    motions = [scene.motion for scene in read_scenes(tmp_path)]
    assert set(motions) == {"spinning", "left"} and motions.count("spinning") > motions.count("left")


def test_encoded_data_are_the_scaled_latents_of_each_frame(stills):
    torch.manual_seed(0)
    autoencoder = new_autoencoder().eval()
    autoencoder.register_to_config(scaling_factor=0.5)
    encode_dataset(stills, autoencoder)
    latents, pixels = np.load(stills / "latents.npy"), np.load(stills / "pixels.npy")
    assert latents.shape == (6, 2, 4, 16, 16) and latents.dtype == np.float16
    alone = encode(autoencoder, pixels[4, 1][None])[0]
    assert np.allclose(latents[4, 1].astype(np.float32), alone.astype(np.float32), atol=0.02)


@pytest.mark.slow
def test_autoencoder_learns_and_scales_its_latents_to_one(stills, tmp_path):
    trained = train_autoencoder(stills, tmp_path, steps=8, batch=1)
    losses = [json.loads(line)["loss"] for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert losses and np.isfinite(losses[-1])
    deviation = encode(trained, np.load(stills / "pixels.npy")[:, 0]).astype(np.float32).std()
    assert deviation == pytest.approx(1, rel=0.1)


@pytest.mark.slow
@pytest.mark.soak
def test_text_encoder_learns_to_read_captions(tmp_path):
    train_text_encoder(tmp_path, steps=200, batch=64)
    last = (tmp_path / "metrics.jsonl").read_text().splitlines()[-1]
    assert json.loads(last)["all_right"] > 0.9


def test_denoising_loss_is_zero_for_the_true_velocity_and_weighs_the_subject():
    scheduler, generator = new_scheduler(), torch.Generator().manual_seed(0)
    clean = torch.randn(5, 4, 16, 16, generator=generator)
    weight = torch.ones(5, 1, 16, 16)

    def oracle(noisy, timesteps, states, return_dict):
        alpha = scheduler.alphas_cumprod[timesteps].sqrt()[:, None, None, None]
        sigma = (1 - alpha**2).sqrt()
        noise = (noisy - alpha * clean) / sigma
        return (alpha * noise - sigma * clean,)

    value = denoising_loss(oracle, scheduler, clean, None, weight, torch.Generator().manual_seed(1))
    assert value < 1e-3
    wrong_left = lambda *a, **k: (oracle(*a, **k)[0] + (torch.arange(16) < 8).float(),)  # noqa: E731
    weight[..., :8] = 3  # errors where the weight is
    value = denoising_loss(wrong_left, scheduler, clean, None, weight, torch.Generator().manual_seed(1))
    assert value == pytest.approx(0.75, rel=0.01)


def test_motion_of_a_run_is_put_into_the_model_in_half_precision(tiny_model, tmp_path):
    model, run = tmp_path / "model", tmp_path / "run"
    shutil.copytree(tiny_model, model)
    shutil.copytree(tiny_model / "motion", run / "motion")
    shutil.rmtree(model / "motion")
    assert main(["motion", "--model", str(model), "--run", str(run)]) is None
    whole, half = (load_file(f / "motion" / "motion.safetensors") for f in (run, model))
    assert whole.keys() == half.keys() and {weight.dtype for weight in half.values()} == {torch.float16}
    assert all(torch.equal(weight.half(), half[key]) for key, weight in whole.items())
    assert read_facts(model / "motion") == read_facts(run / "motion")


def test_base_sees_text_everywhere_and_has_three_levels():
    torch.manual_seed(0)
    unet = new_unet().eval()
    assert unet.config.block_out_channels == (64, 128, 192)
    latents, states = torch.randn(2, 4, 16, 16), torch.randn(2, 32, 128)
    with torch.no_grad():
        one = unet(latents, 500, states).sample
        other = unet(latents, 500, states.flip(0)).sample
    assert one.shape == latents.shape
    assert not torch.allclose(one, other)


def test_data_from_rest_has_a_still_first_and_then_how_it_moves_from_there(tmp_path):
    asked = ["--scenes", "40", "--frames", "3", "--from-rest", "--workers", "1"]
    main(["render", "--data", str(tmp_path), *asked])
    pixels, scenes = np.load(tmp_path / "pixels.npy"), read_scenes(tmp_path)
    assert pixels.shape == (40, 3, 128, 128, 3)
    assert len({scene.motion for scene in scenes}) == 9
    for clip, scene in zip(pixels, scenes, strict=True):
        assert np.array_equal(clip[1:], render(scene, 2)[0])
        same = np.abs(clip[0].astype(int) - clip[1]).max(-1) < 8
        assert same.all() if scene.motion == "still" else 0.8 < same.mean() < 1, scene
