"""The optimiser of the motion weights, how a learning rate goes, and what is faster on which device."""

import math
from collections import defaultdict
from collections.abc import Iterable
from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from lumiere.loading.components import multiplies_in_bf16

MOMENTUM = 0.95
DECAY = 0.3  # share of the steps, at the end, over which the learning rate falls to zero


class MatrixOptimizer:
    """Muon (Jordan et al. 2024) for weights, AdamW with a tenth of its rate for biases and gains.

    The weights of a convolution are the matrix from all it sees to its channels. Muon learns motion from half
    as many clips as AdamW does alone. Not `torch.optim.Muon`, which multiplies in bfloat16 whatever the
    processor: without such instructions that took 0.7 of the time of a whole training step.
    """

    def __init__(self, parameters: Iterable[nn.Parameter]):
        parameters = list(parameters)
        self.weights = [weight for weight in parameters if weight.ndim > 1]
        self.momenta = [torch.zeros_like(weight) for weight in self.weights]
        self.vectors = [vector for vector in parameters if vector.ndim <= 1]
        self.adamw = torch.optim.AdamW(self.vectors, betas=(0.9, 0.99))

    @torch.no_grad()
    def step(self, rate: float) -> None:
        """Moves all parameters by their gradients, which are gone afterwards."""
        same_shape = defaultdict(list)
        for weight, momentum in zip(self.weights, self.momenta, strict=True):
            momentum.lerp_(weight.grad, 1 - MOMENTUM)
            update = weight.grad.lerp(momentum, MOMENTUM).flatten(1)
            same_shape[update.shape].append((weight, update))
            weight.grad = None
        for (rows, columns), pairs in same_shape.items():
            updates = orthogonalized(torch.stack([update for _, update in pairs]))
            scale = rate * math.sqrt(max(1, rows / columns))
            for (weight, _), update in zip(pairs, updates, strict=True):
                weight.sub_(update.view_as(weight), alpha=scale)
        self.adamw.param_groups[0]["lr"] = 0.1 * rate
        self.adamw.step()
        self.adamw.zero_grad()

    def state_dict(self) -> dict:
        return {"momenta": self.momenta, "adamw": self.adamw.state_dict()}

    def load_state_dict(self, state: dict) -> None:
        for momentum, saved in zip(self.momenta, state["momenta"], strict=True):
            momentum.copy_(saved)
        self.adamw.load_state_dict(state["adamw"])


def orthogonalized(matrices: Tensor) -> Tensor:
    """The nearest semi-orthogonal matrices, roughly, `n rows columns`: Newton-Schulz iterations of Muon."""
    a, b, c = 3.4445, -4.7750, 2.0315
    wide = matrices.shape[1] <= matrices.shape[2]
    x = matrices if wide else matrices.mT
    x = x / x.norm(dim=(1, 2), keepdim=True).clamp(min=1e-7)
    for _ in range(5):
        gram = x @ x.mT
        x = a * x + (b * gram + c * gram @ gram) @ x
    return x if wide else x.mT


def relative_rate(step: int, steps: int, warmup: int, decay: float = DECAY) -> float:
    """Learning rate of a step, 0 to steps - 1, relative to its peak: linear rise, constant, linear decay."""
    return min(1.0, (step + 1) / warmup, (steps - step) / max(1.0, decay * steps))


def plain_attention(device: torch.device) -> AbstractContextManager:
    """On a CPU by plain products, whose gradient takes a tenth of the time with heads as small as here."""
    return sdpa_kernel(SDPBackend.MATH) if device.type == "cpu" else nullcontext()


def faster_precision() -> str:
    """Half precision, but for processors that do not multiply in it: there it is up to twice as slow."""
    return "bf16" if torch.accelerator.is_available() or multiplies_in_bf16() else "no"


def faster_autocast(device: torch.device) -> AbstractContextManager:
    """Autocast to half precision, where that is faster."""
    return torch.autocast(device.type, torch.bfloat16, enabled=faster_precision() == "bf16")
