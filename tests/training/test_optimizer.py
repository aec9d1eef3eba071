import pytest
import torch

from lumiere.training import optimizer


@pytest.mark.parametrize(("precision", "kind"), [("bf16", torch.bfloat16), ("no", torch.float32)])
def test_products_are_in_half_precision_where_that_is_faster(monkeypatch, precision, kind):
    monkeypatch.setattr(optimizer, "faster_precision", lambda: precision)
    with optimizer.faster_autocast(torch.device("cpu")):
        assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype == kind


def test_steps_are_those_of_muon_and_adamw():
    def parameters():
        shapes, generator = ((24, 16), (6, 4, 5), (3,)), torch.Generator().manual_seed(0)
        return [torch.nn.Parameter(torch.randn(shape, generator=generator)) for shape in shapes]

    start, ours, theirs = parameters(), parameters(), parameters()
    own = optimizer.MatrixOptimizer(ours)
    matrices = [weight.detach().flatten(1) for weight in theirs[:2]]
    muon = torch.optim.Muon(matrices, lr=0.02, weight_decay=0.0)
    adamw = torch.optim.AdamW(theirs[2:], lr=0.002, betas=(0.9, 0.99))
    for _ in range(3):
        for parameter, other in zip(ours, theirs, strict=True):
            parameter.grad = torch.randn(parameter.shape)
            other.grad = parameter.grad.clone()
        for matrix, weight in zip(matrices, theirs, strict=False):
            matrix.grad = weight.grad.flatten(1)
        own.step(0.02)
        muon.step(), adamw.step()
    for before, parameter, other in zip(start, ours, theirs, strict=True):
        error, moved = (parameter - other).norm(), (other - before).norm()
        assert error < 0.03 * moved  # torch multiplies in bfloat16
    assert all(parameter.grad is None for parameter in ours)
