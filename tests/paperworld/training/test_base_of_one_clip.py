"""Training on Stable Diffusion: an adapter goes on, and Lumiere's layers are trained beside it or anew."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from accelerate import Accelerator

from lumiere.model.animatediff import load_weights
from lumiere.pipeline import LumierePipeline
from lumiere.sampling.schedulers import predict_x0
from lumiere.training.config import Settings
from lumiere.training.latent_dataset import write_captions
from lumiere.training.loss import noise_and_target
from lumiere.training.trainer import Trainer
from tests.bases import components, save_adapter, save_base
from tests.model.test_animatediff import same_weights
from tests.test_bases import SEEN, frames_of

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """`sd` and `xl` with `<family>-adapter`, and `clips`: latents of four smooth clips."""
    folder = tmp_path_factory.mktemp("training")
    for family in ("sd", "xl"):
        save_base(folder / family, family)
        save_adapter(folder / f"{family}-adapter", components(family)["unet"])
    random = np.random.default_rng(0)
    still, change = random.standard_normal((2, 4, 1, 4, 8, 8))
    (folder / "clips").mkdir()
    times = np.linspace(0, 1, 8).reshape(1, 8, 1, 1, 1)
    np.save(folder / "clips" / "latents.npy", (still + times * change).astype(np.float16))
    write_captions(folder / "clips", [["a red ball"]] * 4)
    return folder


def trainer(folder: Path, out: Path, family: str, **given) -> Trainer:
    small = {"frames": 8, "steps": 3, "batch_size": 2, "warmup": 1, "precision": "no", "sample_steps": 0}
    settings = Settings(str(folder / family), str(folder / "clips"), str(out), **(small | given))
    made = Trainer(settings, Accelerator(cpu=True))
    made.resume()
    return made


@pytest.mark.parametrize("family", ["sd", "xl"])
def test_an_adapter_goes_on_and_makes_clips(folder, tmp_path, family):
    made = trainer(folder, tmp_path / "run", family, init=str(folder / f"{family}-adapter"))
    assert made.scheduler.config.beta_schedule == "linear"  # of the adapter, whatever the base has
    losses = [made.advance()["loss"] for _ in range(3)]
    made.save()
    assert np.isfinite(losses).all()
    before = load_weights(components(family)["unet"], folder / f"{family}-adapter")
    after = load_weights(components(family)["unet"], tmp_path / "run" / "motion")
    assert after.kwargs == before.kwargs and not same_weights(after, before)
    pipeline = LumierePipeline.from_pretrained(folder / family, tmp_path / "run" / "motion", device="cpu")
    assert pipeline.scheduler_config["beta_schedule"] == "linear" and pipeline.notes
    assert frames_of(pipeline, SEEN).std() > 5
    again = trainer(folder, tmp_path / "run", family, init=str(folder / f"{family}-adapter"))
    assert again.step == 3


@pytest.mark.parametrize("zero_snr", [False, True])
def test_an_adapter_is_trained_to_predict_what_the_base_predicts(folder, tmp_path, zero_snr):
    base = tmp_path / "base"
    shutil.copytree(folder / "sd", base)
    file = base / "scheduler" / "scheduler_config.json"
    meaning = {"prediction_type": "v_prediction", "rescale_betas_zero_snr": zero_snr}
    file.write_text(json.dumps(json.loads(file.read_text()) | meaning))
    made = trainer(folder, tmp_path / "run", str(base), init=str(folder / "sd-adapter"))
    assert meaning.items() <= dict(made.scheduler.config).items()
    assert made.scheduler.config.beta_schedule == "linear"
    assert (made.scheduler.alphas_cumprod[-1] < 1e-6) == zero_snr
    clean, noise = torch.randn(2, 1, 4, 8, 8, 8, generator=torch.Generator().manual_seed(0))
    timestep = torch.tensor([999])
    noisy, velocity = noise_and_target(made.scheduler, clean, noise, timestep)
    torch.testing.assert_close(predict_x0(made.scheduler, velocity, noisy, timestep), clean)


@pytest.mark.parametrize("family", ["sd", "xl"])
def test_layers_with_fewer_frames_are_trained_on_a_base(folder, tmp_path, family):
    base = components(family)["unet"].state_dict()
    made = trainer(folder, tmp_path / "run", family, factor=4)
    assert made.lumiere.downsample_factor == 4 and made.scheduler.config.beta_schedule == "scaled_linear"
    before = {key: weight.clone() for key, weight in made.lumiere.state_dict().items()}
    for _ in range(3):
        made.advance()
    made.save()
    assert any(not torch.equal(weight, before[key]) for key, weight in made.lumiere.state_dict().items())
    assert all(torch.equal(weight, base[key]) for key, weight in made.lumiere.model.state_dict().items())
    pipeline = LumierePipeline.from_pretrained(folder / family, tmp_path / "run" / "motion", device="cpu")
    assert pipeline.notes == () and pipeline.limits.downsample_factor == 4
    assert frames_of(pipeline, SEEN).std() > 5
