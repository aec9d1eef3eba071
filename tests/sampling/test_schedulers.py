"""The six schedulers against denoisers that are known in closed form."""

import inspect

import pytest
import torch
from diffusers import DDIMScheduler

from lumiere.model.animatediff import SCHEDULE
from lumiere.request import SCHEDULERS
from lumiere.sampling.noise import correlated, independent
from lumiere.sampling.schedulers import CLASSES, STOCHASTIC, Schedule

SHAPE = (1, 4, 4, 16, 16)
BETAS = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}
ZERO_SNR = {"prediction_type": "v_prediction", "rescale_betas_zero_snr": True}
EPSILON = {"prediction_type": "epsilon", "steps_offset": 1}


def config(kind: dict) -> dict:
    """A config as it comes from a model folder, with clipping on: the sampler has to turn it off."""
    own = {name: value for name, value in kind.items() if name in inspect.signature(DDIMScheduler).parameters}
    other = {name: value for name, value in kind.items() if name not in own}
    return dict(DDIMScheduler(**BETAS, **own, clip_sample=True, thresholding=True).config) | other


def optimal_output(kind: str, x, alpha, sigma, mean, deviation):
    """(model output, its x0) of the best denoiser there can be for Gaussian data: E[x0 | x], in float64."""
    clean = mean + alpha * deviation**2 / (alpha**2 * deviation**2 + sigma**2) * (x - alpha * mean)
    noise = (x - alpha * clean) / sigma
    return (alpha * noise - sigma * clean if kind == "v_prediction" else noise), clean


def unit_noise(*shape):
    return torch.randn(shape, generator=torch.Generator().manual_seed(3))


def run(name, steps, kind, mean, deviation):
    """(result, unit noise it began with, largest error of any x0 estimate, x0 estimate of the last step)."""
    generator = torch.Generator().manual_seed(0)
    sampler = Schedule(name, config(kind), steps, generator)
    noise = torch.randn(SHAPE, generator=generator)
    sample, error = sampler.start(noise), 0.0
    for timestep in sampler.timesteps:
        seen = sampler.scale(sample, timestep)
        product = sampler._scheduler.alphas_cumprod[int(timestep)].double()
        alpha, sigma = product.sqrt(), (1 - product).sqrt()
        output, truth = optimal_output(kind["prediction_type"], seen.double(), alpha, sigma, mean, deviation)
        clean = sampler.pred_x0(output.float(), seen, timestep)
        error = max(error, (clean - truth).abs().max().item())
        sample = sampler.step(output.float(), timestep, sample)
    assert len(sampler.timesteps) == steps
    return sample, noise, error, clean


@pytest.mark.parametrize(
    "variant",
    [
        {"algorithm_type": "sde-dpmsolver++"},
        {"algorithm_type": "dpmsolver"},
        {"solver_order": 3},
        {"solver_type": "heun"},
    ],
)
def test_a_base_does_not_make_another_scheduler_of_the_one_asked_for(variant):
    as_named, _, _, _ = run("dpm++ 2m", 7, EPSILON, 0.5, 1.0)
    varied, _, _, _ = run("dpm++ 2m", 7, EPSILON | variant, 0.5, 1.0)
    assert torch.equal(varied, as_named)


def test_every_name_of_a_request_has_a_scheduler():
    assert tuple(CLASSES) == SCHEDULERS


@pytest.mark.parametrize("kind", [ZERO_SNR, EPSILON], ids=["zero_snr", "epsilon"])
@pytest.mark.parametrize("name", SCHEDULERS)
def test_a_picture_that_is_known_comes_out_exactly(name, kind):
    # Values up to 3: clipping to -1..1 would show. 61 steps are one of the counts that diffusers gets wrong.
    picture = torch.linspace(-3, 3, 4 * 4 * 16 * 16).view(SHAPE).double()
    for steps in (1, 2, 7, 61):
        result, _, error, _ = run(name, steps, kind, picture, 0.0)
        # At one step alpha is 2**-12 rather than 0 for some schedulers.
        assert (result - picture).abs().max() < (2e-3 if steps == 1 else 3e-4), steps
        assert error < 1e-4, steps


@pytest.mark.parametrize("name", [name for name in SCHEDULERS if name not in STOCHASTIC])
def test_deterministic_schedulers_follow_the_flow_of_gaussian_data(name):
    # From pure noise z the exact flow ends in mean + deviation * z.
    errors = []
    for steps in (10, 40, 150):
        result, noise, _, _ = run(name, steps, ZERO_SNR, 1.7, 0.4)
        errors.append((result - (1.7 + 0.4 * noise)).square().mean().sqrt().item())
    assert errors[0] > 2 * errors[1] > 4 * errors[2] and errors[2] < 0.016


def test_the_second_order_schedulers_need_fewer_steps():
    errors = {}
    for name in ("ddim", "euler", "dpm++ 2m", "unipc"):
        result, noise, _, _ = run(name, 20, ZERO_SNR, 1.7, 0.4)
        errors[name] = (result - (1.7 + 0.4 * noise)).square().mean().sqrt().item()
    assert max(errors["dpm++ 2m"], errors["unipc"]) < 0.8 * min(errors["ddim"], errors["euler"])


@pytest.mark.parametrize("name", STOCHASTIC)
def test_stochastic_schedulers_draw_from_gaussian_data(name):
    result, noise, _, _ = run(name, 150, ZERO_SNR, 1.7, 0.4)
    assert abs(result.mean() - 1.7) < 0.02
    # LCM steps from one x0 estimate to the next: with a model that is not distilled it loses variance.
    assert result.std() < 0.45 and result.std() > (0.2 if name == "lcm" else 0.35)
    assert abs(torch.corrcoef(torch.stack([result.flatten(), noise.flatten()]))[0, 1]) < 0.5


@pytest.mark.parametrize("name", SCHEDULERS)
def test_the_last_step_ends_in_its_own_estimate(name):
    result, _, _, clean = run(name, 61, ZERO_SNR, 1.7, 0.4)
    assert (result - clean).abs().max() < 1e-4


@pytest.mark.parametrize("kind", [ZERO_SNR, EPSILON], ids=["zero_snr", "epsilon"])
def test_the_output_that_predicts_a_clip_is_the_inverse(kind):
    sampler = Schedule("dpm++ 2m", config(kind), 10, torch.Generator())
    seen, clean = unit_noise(2, *SHAPE)
    for timestep in sampler.timesteps:
        output = sampler.prediction(clean, seen, timestep)
        torch.testing.assert_close(sampler.pred_x0(output, seen, timestep), clean, atol=1e-4, rtol=1e-3)


@pytest.mark.parametrize("name", SCHEDULERS)
def test_all_step_counts_are_kept_and_start_in_pure_noise(name):
    for steps in range(1, 151):
        timesteps = Schedule(name, config(ZERO_SNR), steps, torch.Generator()).timesteps
        assert len(timesteps) == steps and timesteps[0] == 999 and timesteps[-1] >= 0
        assert (timesteps.diff() < 0).all()


@pytest.mark.parametrize("kind", [{"prediction_type": "v_prediction"}, ZERO_SNR], ids=["v", "v_zero_snr"])
@pytest.mark.parametrize("name", SCHEDULERS)
def test_with_an_adapter_the_exact_velocity_leads_to_the_clean_latents_in_one_step(name, kind):
    """An adapter gives a base its betas; what the output of the base's UNet means stays."""
    sampler = Schedule(name, config(kind) | SCHEDULE, 1, torch.Generator())
    (timestep,), (noise, clean) = sampler.timesteps, unit_noise(2, *SHAPE)
    seen = sampler.scale(sampler.start(noise, clean), timestep)
    product = sampler._scheduler.alphas_cumprod[int(timestep)]
    velocity = product.sqrt() * noise - (1 - product).sqrt() * clean
    linear = torch.linspace(0.00085, 0.012, 1000)
    if kind is not ZERO_SNR:
        torch.testing.assert_close(product, (1 - linear).cumprod(0)[int(timestep)])
    torch.testing.assert_close(sampler.pred_x0(velocity, seen, timestep), clean, atol=1e-4, rtol=1e-3)
    ended = sampler.step(velocity, timestep, sampler.start(noise, clean))
    # Euler's sample is 4096 times the noise with zero terminal SNR: float32 rounds it to 5e-4.
    torch.testing.assert_close(ended, clean, atol=1e-3, rtol=1e-3)


def test_ddim_is_that_of_diffusers_where_that_keeps_to_its_list():
    for kind in (ZERO_SNR, EPSILON):
        ours, theirs = CLASSES["ddim"].from_config(config(kind)), DDIMScheduler.from_config(config(kind))
        ours.set_timesteps(20)
        theirs.set_timesteps(20)
        x, output = torch.randn(2, *SHAPE, generator=torch.Generator().manual_seed(0)).unbind()
        theirs.register_to_config(clip_sample=False, thresholding=False)
        for timestep in theirs.timesteps:
            expected = theirs.step(output, timestep, x).prev_sample
            moved = ours.step(output, timestep, x).prev_sample
            torch.testing.assert_close(moved, expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("name", SCHEDULERS)
def test_a_seed_is_all_that_the_noise_depends_on(name):
    torch.manual_seed(1)
    first = run(name, 5, ZERO_SNR, 1.7, 0.4)[0]
    torch.manual_seed(2)
    assert torch.equal(first, run(name, 5, ZERO_SNR, 1.7, 0.4)[0])


@pytest.mark.parametrize("correlation", [0.0, 0.3, 0.9])
def test_correlated_noise_is_unit_noise_that_frames_share(correlation):
    noise = unit_noise(2, 4, 6, 64, 64)
    frames = correlated(noise, correlation).transpose(1, 2)  # b c t h w -> b t c h w
    for clip in frames.flatten(2):
        covariance = torch.cov(clip)
        expected = torch.full((6, 6), correlation).fill_diagonal_(1.0)
        assert (covariance - expected).abs().max() < 0.05
    torch.testing.assert_close(independent(correlated(noise, correlation), correlation), noise)


@pytest.mark.parametrize("name", SCHEDULERS)
def test_the_noise_of_a_run_keeps_its_correlation(name):
    picture = torch.linspace(-3, 3, 6).view(1, 1, 6, 1, 1).double().expand(1, 4, 6, 64, 64)
    generator = torch.Generator().manual_seed(0)
    sampler = Schedule(name, config(ZERO_SNR), 8, generator, correlation=0.7)
    sample = sampler.start(unit_noise(*picture.shape))
    for timestep in sampler.timesteps:
        seen = sampler.scale(sample, timestep)
        product = sampler._scheduler.alphas_cumprod[int(timestep)].double()
        alpha, sigma = product.sqrt(), (1 - product).sqrt()
        noise = (seen.double() - alpha * picture) / sigma
        covariance = torch.cov(noise[0].transpose(0, 1).flatten(1))
        assert (covariance - torch.full((6, 6), 0.7).fill_diagonal_(1.0)).abs().max() < 0.05
        output = optimal_output("v_prediction", seen.double(), alpha, sigma, picture, 0.0)[0]
        sample = sampler.step(output.float(), timestep, sample)
    assert (sample - picture).abs().max() < 3e-4


@pytest.mark.parametrize("kind", [ZERO_SNR, EPSILON], ids=["zero_snr", "epsilon"])
@pytest.mark.parametrize("name", SCHEDULERS)
def test_a_clip_to_begin_with_gets_the_noise_of_the_first_step(name, kind):
    generator = torch.Generator().manual_seed(0)
    sampler = Schedule(name, config(kind), 20, generator, last=8)
    assert len(sampler.timesteps) == 8
    clean, noise = torch.linspace(-3, 3, 4 * 4 * 16 * 16).view(SHAPE), unit_noise(*SHAPE)
    sample, timestep = sampler.start(noise, clean), sampler.timesteps[0]
    product = sampler._scheduler.alphas_cumprod[int(timestep)]
    alpha, sigma = product.sqrt(), (1 - product).sqrt()
    torch.testing.assert_close(
        sampler.scale(sample, timestep), alpha * clean + sigma * noise, atol=2e-3, rtol=1e-3
    )
    for timestep in sampler.timesteps:  # a model that always sees this picture ends in it
        seen = sampler.scale(sample, timestep)
        sample = sampler.step(sampler.prediction(clean, seen, timestep), timestep, sample)
    assert (sample - clean).abs().max() < 1e-3
