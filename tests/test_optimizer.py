import pytest
import torch

from lumiere import optimizer


@pytest.mark.parametrize(("precision", "kind"), [("bf16", torch.bfloat16), ("no", torch.float32)])
def test_products_are_in_half_precision_where_that_is_faster(monkeypatch, precision, kind):
    monkeypatch.setattr(optimizer, "faster_precision", lambda: precision)
    with optimizer.faster_autocast(torch.device("cpu")):
        assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype == kind
