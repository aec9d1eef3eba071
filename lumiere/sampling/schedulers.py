"""The schedulers of diffusers by name, and conversions between model outputs and clean latents."""

from typing import Any

import torch
from diffusers import (
    DDIMScheduler,
    DPMSolverMultistepScheduler,
    EulerAncestralDiscreteScheduler,
    EulerDiscreteScheduler,
    LCMScheduler,
    SchedulerMixin,
    UniPCMultistepScheduler,
)
from diffusers.schedulers.scheduling_ddim import DDIMSchedulerOutput
from torch import Tensor

from lumiere.sampling.noise import correlated, independent


class Schedule:
    """One run of a scheduler over one clip. All latents are float32 `b c t h w`.

    Args:
        name: one of `SCHEDULERS` in request.py.
        config: scheduler config of the model.
        steps: 1 to 150.
        generator: CPU generator of the noise of "euler a" and "lcm".
        correlation: correlation of the noise between frames (see `correlated`).
        last: number of final, least noisy steps to run. Defaults to all steps.
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

    def start(self, noise: Tensor, latents: Tensor | None = None) -> Tensor:
        """Returns the first sample.

        Args:
            noise: unit noise `b c t h w`, independent between frames.
            latents: scaled latents to start from (SDEdit, Meng et al. 2022), which are noised to the first
                timestep. Defaults to pure noise.
        """
        noise = correlated(noise, self._correlation)
        if latents is None:
            return noise * self._scheduler.init_noise_sigma
        return self._scheduler.add_noise(latents, noise, self.timesteps[:1])

    def noised(self, latents: Tensor, noise: Tensor) -> Tensor:
        """Returns clean latents noised to the last training timestep, as unit noise (FreeInit, section 4.2).

        Args:
            latents: scaled latents `b c t h w`.
            noise: unit noise `b c t h w`.
        """
        alpha, sigma = _alpha_sigma(self._scheduler.alphas_cumprod, torch.tensor(-1))
        return alpha * latents + sigma * noise

    def scale(self, sample: Tensor, timestep: Tensor) -> Tensor:
        """Scales a sample to the model's input, alpha * x0 + sigma * noise."""
        return self._scheduler.scale_model_input(sample, timestep)

    def pred_x0(self, output: Tensor, model_input: Tensor, timestep: Tensor) -> Tensor:
        """Returns the clean latents (x0) predicted by the model's output.

        Args:
            output: output of the model, `b c t h w`.
            model_input: scaled input of the model, `b c t h w`.
            timestep: timestep of the input.
        """
        return predict_x0(self._scheduler, output, model_input, timestep)

    def prediction(self, pred_x0: Tensor, model_input: Tensor, timestep: Tensor) -> Tensor:
        """Returns the model's output that predicts these clean latents, the inverse of `pred_x0`.

        Args:
            pred_x0: clean latents `b c t h w`.
            model_input: scaled input of the model, `b c t h w`.
            timestep: timestep of the input.
        """
        return predict_output(self._scheduler, pred_x0, model_input, timestep)

    def step(self, output: Tensor, timestep: Tensor, sample: Tensor) -> Tensor:
        """Returns the sample at the next timestep, or the clean latents after the last one.

        Schedulers draw noise that is independent between frames. Since they are linear, they run in
        coordinates in which the correlated noise of this run is independent.

        Args:
            output: output of the model, `b c t h w`.
            timestep: timestep of the output.
            sample: unscaled sample, `b c t h w`.
        """
        output, sample = (independent(x, self._correlation) for x in (output, sample))
        following = self._scheduler.step(output, timestep, sample, **self._draws).prev_sample
        return correlated(following, self._correlation)


def predict_x0(scheduler: SchedulerMixin, output: Tensor, model_input: Tensor, timestep: Tensor) -> Tensor:
    """Returns the clean latents (x0) predicted by a model's output, for any scheduler.

    Euler's scheduler stores x0 + (sigma / alpha) * noise, but its scaled model input is alpha * x0 +
    sigma * noise, as for other schedulers. Therefore x0 is computed from the model input, not from the
    sample.

    Args:
        scheduler: a diffusers scheduler.
        output: output of the model.
        model_input: scaled input of the model.
        timestep: a scalar, or one per clip `b`.
    """
    alpha, sigma = _alpha_sigma(scheduler.alphas_cumprod, timestep)
    kind = scheduler.config.prediction_type
    if kind == "v_prediction":
        return alpha * model_input - sigma * output
    if kind == "epsilon":
        return (model_input - sigma * output) / alpha
    assert kind == "sample", f"unknown prediction type {kind}"
    return output


def predict_output(
    scheduler: SchedulerMixin, pred_x0: Tensor, model_input: Tensor, timestep: Tensor
) -> Tensor:
    """Returns the model's output that predicts clean latents, the inverse of `predict_x0`.

    Sigma is never 0 at a timestep.

    Args:
        scheduler: a diffusers scheduler.
        pred_x0: clean latents.
        model_input: scaled input of the model.
        timestep: a scalar, or one per clip `b`.
    """
    alpha, sigma = _alpha_sigma(scheduler.alphas_cumprod, timestep)
    kind = scheduler.config.prediction_type
    if kind == "v_prediction":
        return (alpha * model_input - pred_x0) / sigma
    if kind == "epsilon":
        return (model_input - alpha * pred_x0) / sigma
    assert kind == "sample", f"unknown prediction type {kind}"
    return pred_x0


class ListedDDIM(DDIMScheduler):
    """DDIM (Song et al. 2021, eq. 12 with eta 0) that steps to the next timestep in its list.

    The parent class subtracts `num_train_timesteps // steps`, which misses the listed timesteps unless the
    division is exact. At 150 steps the timestep then always indicates less noise than the sample contains,
    and a mean of 1.70 becomes 1.60.
    """

    def step(self, model_output: Tensor, timestep: Tensor, sample: Tensor, **_: Any) -> DDIMSchedulerOutput:
        """Steps to the next listed timestep.

        Args:
            model_output: output of the model, `b c t h w`.
            timestep: current timestep.
            sample: current sample, `b c t h w`.

        Returns:
            The next sample and the predicted clean latents.
        """
        following = self.timesteps[self.timesteps < timestep]
        product = self.alphas_cumprod[following[0]] if len(following) else self.final_alpha_cumprod
        alpha, sigma = _alpha_sigma(self.alphas_cumprod, timestep)
        pred_x0 = predict_x0(self, model_output, sample, timestep)
        if self.config.prediction_type == "v_prediction":
            noise = alpha * model_output + sigma * sample
        else:
            noise = (sample - alpha * pred_x0) / sigma
        moved = product.sqrt().item() * pred_x0 + (1 - product).sqrt().item() * noise
        return DDIMSchedulerOutput(prev_sample=moved, pred_original_sample=pred_x0)


CLASSES = {
    "ddim": ListedDDIM,
    "dpm++ 2m": DPMSolverMultistepScheduler,
    "euler": EulerDiscreteScheduler,
    "euler a": EulerAncestralDiscreteScheduler,
    "unipc": UniPCMultistepScheduler,
    "lcm": LCMScheduler,
}
STOCHASTIC = ("euler a", "lcm")
# Options fixed by the name, not by the base's config; the base only determines the spacing of steps.
FIXED = {"dpm++ 2m": {"algorithm_type": "dpmsolver++", "solver_order": 2, "solver_type": "midpoint"}}


def _alpha_sigma(alphas_cumprod: Tensor, timestep: Tensor) -> tuple:
    """Returns alpha and sigma: floats for one timestep, tensors `b 1 1 1 1` for one timestep per clip."""
    if getattr(timestep, "ndim", 0):
        product = alphas_cumprod.to(timestep.device)[timestep].view(-1, 1, 1, 1, 1)
        return product.sqrt(), (1 - product).sqrt()
    product = alphas_cumprod[int(timestep)]  # Euler has float timesteps
    return product.sqrt().item(), (1 - product).sqrt().item()


def _overrides(config: dict) -> dict:
    """Returns fixed config entries: no clipping, and a start from pure noise with zero terminal SNR."""
    fixed: dict[str, bool | str] = {"clip_sample": False, "thresholding": False}
    if config.get("rescale_betas_zero_snr"):
        fixed["timestep_spacing"] = "trailing"
    return fixed


def _drop_surplus(scheduler: SchedulerMixin, steps: int) -> None:
    """Drops the timestep -1 that trailing spacing in diffusers adds at 61, 103, 121 and 122 steps of 1000."""
    if len(scheduler.timesteps) == steps:
        return
    scheduler.timesteps = scheduler.timesteps[:steps]
    scheduler.num_inference_steps = steps
    if hasattr(scheduler, "sigmas"):
        scheduler.sigmas = torch.cat([scheduler.sigmas[:steps], scheduler.sigmas[-1:]])


def _lcm_grid(scheduler: SchedulerMixin, steps: int) -> int:
    """Returns the number of points from which LCM selects its steps.

    The points include the last timestep only if they divide the number of training timesteps.
    """
    total, usual = scheduler.config.num_train_timesteps, scheduler.config.original_inference_steps
    return next(n for n in range(max(usual, steps), total + 1) if total % n == 0)
