"""The schedulers of diffusers by name, set up for one run, and the clean clip that an output predicts."""

import torch
from diffusers import (
    DDIMScheduler,
    DPMSolverMultistepScheduler,
    EulerAncestralDiscreteScheduler,
    EulerDiscreteScheduler,
    LCMScheduler,
    UniPCMultistepScheduler,
)
from diffusers.schedulers.scheduling_ddim import DDIMSchedulerOutput
from torch import Tensor


class Schedule:
    """One run of one scheduler over one clip.

    name: one of `SCHEDULERS` in request.py. config: the model's scheduler config. steps: 1 to 150.
    generator: on the CPU; "euler a" and "lcm" draw their noise from it. correlation: of the noise between
    frames, see `correlated`. last: how many of the steps are run, those with the least noise; all unless
    given. All latents are float32 `b c t h w`.
    """

    def __init__(
        self,
        name: str,
        config: dict,
        steps: int,
        generator: torch.Generator,
        correlation: float = 0.0,
        last: int | None = None,
    ):
        self._scheduler = CLASSES[name].from_config(config, **_overrides(config) | FIXED.get(name, {}))
        self._draws = {"generator": generator} if name in STOCHASTIC else {}
        grid = {"original_inference_steps": _lcm_grid(self._scheduler, steps)} if name == "lcm" else {}
        self._scheduler.set_timesteps(steps, **grid)
        _drop_surplus(self._scheduler, steps)
        skipped = steps - (last or steps)
        self.timesteps = self._scheduler.timesteps[skipped:]
        if skipped and hasattr(self._scheduler, "set_begin_index"):
            self._scheduler.set_begin_index(skipped)
        self._correlation = correlation

    def start(self, noise: Tensor, clean: Tensor | None = None) -> Tensor:
        """The first sample, from unit noise that is independent between frames.

        clean: scaled latents to begin with (SDEdit, Meng et al. 2022): as noisy as the first step expects.
        """
        noise = correlated(noise, self._correlation)
        if clean is None:
            return noise * self._scheduler.init_noise_sigma
        return self._scheduler.add_noise(clean, noise, self.timesteps[:1])

    def scale(self, sample: Tensor, timestep: Tensor) -> Tensor:
        """The sample as the model was trained to see it: alpha * clean + sigma * noise."""
        return self._scheduler.scale_model_input(sample, timestep)

    def pred_x0(self, output: Tensor, model_input: Tensor, timestep: Tensor) -> Tensor:
        """The clean latents (x0) that the model's output at this timestep predicts."""
        return predict_clean(self._scheduler, output, model_input, timestep)

    def prediction(self, clean: Tensor, model_input: Tensor, timestep: Tensor) -> Tensor:
        """The model's output at this timestep that predicts these clean latents: the inverse of `pred_x0`."""
        return predict_output(self._scheduler, clean, model_input, timestep)

    def step(self, output: Tensor, timestep: Tensor, sample: Tensor) -> Tensor:
        """The sample at the next timestep, or the clean one after the last.

        Schedulers add noise that is independent between frames. They do nothing that is not linear, so they
        may work in coordinates in which the noise of this run is.
        """
        output, sample = (independent(x, self._correlation) for x in (output, sample))
        following = self._scheduler.step(output, timestep, sample, **self._draws).prev_sample
        return correlated(following, self._correlation)


def correlated(noise: Tensor, correlation: float) -> Tensor:
    """Unit noise `b c t h w`, independent between frames, made to correlate between any two of them.

    correlation: 0 up to below 1, share of the variance that all frames have in common (the mixed noise of
    PYoCo, Ge et al. 2023, arXiv 2305.10474, 4.1). Each frame for itself stays unit noise.
    """
    return _scale_mean_and_rest(noise, correlation, 0.5)


def independent(noise: Tensor, correlation: float) -> Tensor:
    """The inverse of `correlated`."""
    return _scale_mean_and_rest(noise, correlation, -0.5)


def _scale_mean_and_rest(x: Tensor, correlation: float, power: float) -> Tensor:
    """A power of the matrix of correlations, times x along t; its eigenspaces are the mean and the rest."""
    if correlation == 0:
        return x
    mean = x.mean(2, keepdim=True)
    common = 1 + (x.shape[2] - 1) * correlation
    return common**power * mean + (1 - correlation) ** power * (x - mean)


def predict_clean(scheduler, output: Tensor, model_input: Tensor, timestep: Tensor) -> Tensor:
    """x0 from what the model was shown and what it answered: the same for every scheduler.

    Euler's scheduler keeps clean + (sigma / alpha) * noise, but shows the model alpha * clean + sigma * noise
    as all others do; so x0 is taken from the input and never from the sample.
    """
    alpha, sigma = _alpha_sigma(scheduler.alphas_cumprod, timestep)
    kind = scheduler.config.prediction_type
    if kind == "v_prediction":
        return alpha * model_input - sigma * output
    if kind == "epsilon":
        return (model_input - sigma * output) / alpha
    assert kind == "sample", f"unknown prediction type {kind}"
    return output


def predict_output(scheduler, clean: Tensor, model_input: Tensor, timestep: Tensor) -> Tensor:
    """The inverse of `predict_clean`; sigma is never 0 at a timestep."""
    alpha, sigma = _alpha_sigma(scheduler.alphas_cumprod, timestep)
    kind = scheduler.config.prediction_type
    if kind == "v_prediction":
        return (alpha * model_input - clean) / sigma
    if kind == "epsilon":
        return (model_input - alpha * clean) / sigma
    assert kind == "sample", f"unknown prediction type {kind}"
    return clean


class ListedDDIM(DDIMScheduler):
    """DDIM (Song et al. 2021, eq. 12 with eta 0) that steps to the next timestep of its own list.

    The parent counts back by a whole `num_train_timesteps // steps`, which misses the list wherever the
    division leaves a remainder: at 150 steps the model is always told of less noise than there is, and what
    should come out as 1.70 on average comes out as 1.60.
    """

    def step(self, model_output, timestep, sample, **_):
        following = self.timesteps[self.timesteps < timestep]
        product = self.alphas_cumprod[following[0]] if len(following) else self.final_alpha_cumprod
        alpha, sigma = _alpha_sigma(self.alphas_cumprod, timestep)
        clean = predict_clean(self, model_output, sample, timestep)
        if self.config.prediction_type == "v_prediction":
            noise = alpha * model_output + sigma * sample
        else:
            noise = (sample - alpha * clean) / sigma
        moved = product.sqrt().item() * clean + (1 - product).sqrt().item() * noise
        return DDIMSchedulerOutput(prev_sample=moved, pred_original_sample=clean)


CLASSES = {
    "ddim": ListedDDIM,
    "dpm++ 2m": DPMSolverMultistepScheduler,
    "euler": EulerDiscreteScheduler,
    "euler a": EulerAncestralDiscreteScheduler,
    "unipc": UniPCMultistepScheduler,
    "lcm": LCMScheduler,
}
STOCHASTIC = ("euler a", "lcm")
# What a name means, whatever variant a base's config asks for; how steps are spaced is the base's affair.
FIXED = {"dpm++ 2m": {"algorithm_type": "dpmsolver++", "solver_order": 2, "solver_type": "midpoint"}}


def _alpha_sigma(alphas_cumprod: Tensor, timestep: Tensor) -> tuple:
    """Numbers for one timestep, tensors (b 1 1 1 1) for one of each clip."""
    if getattr(timestep, "ndim", 0):
        product = alphas_cumprod.to(timestep.device)[timestep].view(-1, 1, 1, 1, 1)
        return product.sqrt(), (1 - product).sqrt()
    product = alphas_cumprod[int(timestep)]  # Euler's timesteps are floats
    return product.sqrt().item(), (1 - product).sqrt().item()


def _overrides(config: dict) -> dict:
    """What a config may not decide: latents are never clipped, and zero terminal SNR starts in pure noise."""
    fixed = {"clip_sample": False, "thresholding": False}
    if config.get("rescale_betas_zero_snr"):
        fixed["timestep_spacing"] = "trailing"
    return fixed


def _drop_surplus(scheduler, steps: int) -> None:
    """Rounding in diffusers' trailing spacing adds a timestep of -1 at 61, 103, 121 and 122 steps of 1000."""
    if len(scheduler.timesteps) == steps:
        return
    scheduler.timesteps = scheduler.timesteps[:steps]
    scheduler.num_inference_steps = steps
    if hasattr(scheduler, "sigmas"):
        scheduler.sigmas = torch.cat([scheduler.sigmas[:steps], scheduler.sigmas[-1:]])


def _lcm_grid(scheduler, steps: int) -> int:
    """The points LCM chooses its steps from. They include the last timestep only if they divide the total."""
    total, usual = scheduler.config.num_train_timesteps, scheduler.config.original_inference_steps
    return next(n for n in range(max(usual, steps), total + 1) if total % n == 0)
