"""The optimiser of the motion weights, how a learning rate goes, and what is faster on which device."""

from collections.abc import Iterable
from contextlib import AbstractContextManager, nullcontext

import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel

DECAY = 0.3  # share of the steps, at the end, over which the learning rate falls to zero


class MatrixOptimizer:
    """Muon (Jordan et al. 2024) for weights, AdamW with a tenth of its rate for biases and gains.

    The weights of a convolution are the matrix from all it sees to its channels. Muon learns motion from half
    as many clips as AdamW does alone.
    """

    def __init__(self, parameters: Iterable[nn.Parameter]):
        parameters = list(parameters)
        self.weights = [weight for weight in parameters if weight.ndim > 1]
        self.matrices = [weight.detach().flatten(1) for weight in self.weights]  # of the same memory
        self.vectors = [vector for vector in parameters if vector.ndim <= 1]
        self.muon = torch.optim.Muon(self.matrices, weight_decay=0.0)
        self.adamw = torch.optim.AdamW(self.vectors, betas=(0.9, 0.99))

    def step(self, rate: float) -> None:
        """Moves all parameters by their gradients, which are gone afterwards."""
        for matrix, weight in zip(self.matrices, self.weights, strict=True):
            matrix.grad, weight.grad = weight.grad.flatten(1), None
        for optimizer, share in ((self.muon, 1.0), (self.adamw, 0.1)):
            optimizer.param_groups[0]["lr"] = share * rate
            optimizer.step()
            optimizer.zero_grad()

    def state_dict(self) -> dict:
        return {"muon": self.muon.state_dict(), "adamw": self.adamw.state_dict()}

    def load_state_dict(self, state: dict) -> None:
        self.muon.load_state_dict(state["muon"])
        self.adamw.load_state_dict(state["adamw"])


def relative_rate(step: int, steps: int, warmup: int, decay: float = DECAY) -> float:
    """Learning rate of a step, 0 to steps - 1, relative to its peak: linear rise, constant, linear decay."""
    return min(1.0, (step + 1) / warmup, (steps - step) / max(1.0, decay * steps))


def plain_attention(device: torch.device) -> AbstractContextManager:
    """On a CPU by plain products, whose gradient takes a tenth of the time with heads as small as here."""
    return sdpa_kernel(SDPBackend.MATH) if device.type == "cpu" else nullcontext()


def faster_precision() -> str:
    """Half precision, but for processors that do not multiply in it: there it is up to twice as slow."""
    cpu = torch.cpu._is_amx_tile_supported() or torch.cpu._is_avx512_bf16_supported()
    return "bf16" if torch.accelerator.is_available() or cpu else "no"


def faster_autocast(device: torch.device) -> AbstractContextManager:
    """Autocast to half precision, where that is faster."""
    return torch.autocast(device.type, torch.bfloat16, enabled=faster_precision() == "bf16")
