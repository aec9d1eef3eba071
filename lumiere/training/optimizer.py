"""Optimizer of the motion weights, learning rate schedule, and the faster precision of each device."""

import math
from collections import defaultdict
from collections.abc import Iterable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from lumiere.loading.components import multiplies_in_bf16

MOMENTUM = 0.95
DECAY = 0.3  # last share of the steps, over which the learning rate decays to zero


class MatrixOptimizer:
    """Muon (Jordan et al. 2024) for weights, AdamW with a tenth of its learning rate for biases and gains.

    A convolution weight is a matrix from all inputs of its kernel to the output channels. Muon learns motion
    from half as many clips as AdamW alone. `torch.optim.Muon` always multiplies in bfloat16: on processors
    without bfloat16 instructions this took 0.7 of the time of a whole training step.

    Args:
        parameters: parameters to train.
    """

    def __init__(self, parameters: Iterable[nn.Parameter]):
        parameters = list(parameters)
        self.weights = [weight for weight in parameters if weight.ndim > 1]
        self.momenta = [torch.zeros_like(weight) for weight in self.weights]
        self.vectors = [vector for vector in parameters if vector.ndim <= 1]
        self.adamw = torch.optim.AdamW(self.vectors, betas=(0.9, 0.99))

    @torch.no_grad()
    def step(self, rate: float) -> None:
        """Updates all parameters and clears their gradients.

        Args:
            rate: learning rate of Muon.
        """
        same_shape: dict[torch.Size, list[tuple[Tensor, Tensor]]] = defaultdict(list)
        for weight, momentum in zip(self.weights, self.momenta, strict=True):
            assert weight.grad is not None, "every weight is trained"
            momentum.lerp_(weight.grad, 1 - MOMENTUM)
            update = weight.grad.lerp(momentum, MOMENTUM).flatten(1)
            same_shape[update.shape].append((weight, update))
            weight.grad = None
        for (rows, columns), pairs in same_shape.items():
            updates = orthogonalized(torch.stack([update for _, update in pairs]))
            scale = rate * math.sqrt(max(1, rows / columns))
            for (matrix, _), update in zip(pairs, updates, strict=True):
                matrix.sub_(update.view_as(matrix), alpha=scale)
        self.adamw.param_groups[0]["lr"] = 0.1 * rate
        self.adamw.step()
        self.adamw.zero_grad()

    def state_dict(self) -> dict[str, Any]:
        """Returns the momenta of Muon and the state of AdamW."""
        return {"momenta": self.momenta, "adamw": self.adamw.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restores a state from `state_dict`."""
        for momentum, saved in zip(self.momenta, state["momenta"], strict=True):
            momentum.copy_(saved)
        self.adamw.load_state_dict(state["adamw"])


def orthogonalized(matrices: Tensor) -> Tensor:
    """Returns approximately the nearest semi-orthogonal matrices, by the Newton-Schulz iterations of Muon.

    Args:
        matrices: `n rows columns`.
    """
    a, b, c = 3.4445, -4.7750, 2.0315
    wide = matrices.shape[1] <= matrices.shape[2]
    x = matrices if wide else matrices.mT
    x = x / x.norm(dim=(1, 2), keepdim=True).clamp(min=1e-7)
    for _ in range(5):
        gram = x @ x.mT
        x = a * x + (b * gram + c * gram @ gram) @ x
    return x if wide else x.mT


def relative_rate(step: int, steps: int, warmup: int, decay: float = DECAY) -> float:
    """Returns the learning rate relative to its peak: linear warmup, constant, linear decay to zero.

    Args:
        step: training step, 0 to steps - 1.
        steps: number of training steps.
        warmup: number of warmup steps.
        decay: share of the steps in the final decay, 0 to 1.
    """
    return min(1.0, (step + 1) / warmup, (steps - step) / max(1.0, decay * steps))


def plain_attention(device: torch.device) -> AbstractContextManager:
    """Selects the math attention backend on the CPU.

    Its backward pass takes a tenth of the time with heads as small as in our motion layers.
    """
    return sdpa_kernel(SDPBackend.MATH) if device.type == "cpu" else nullcontext()


def faster_precision() -> str:
    """Returns "bf16", or "no" on CPUs without bfloat16 instructions, where it is up to twice as slow."""
    return "bf16" if torch.accelerator.is_available() or multiplies_in_bf16() else "no"


def faster_autocast(device: torch.device) -> AbstractContextManager:
    """Autocasts to bfloat16 where that is faster."""
    return torch.autocast(device.type, torch.bfloat16, enabled=faster_precision() == "bf16")
