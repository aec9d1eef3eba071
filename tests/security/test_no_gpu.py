"""Row 36: no GPU, no bf16, CUDA_VISIBLE_DEVICES=""."""

import pytest

from tests.security.server import Process


@pytest.mark.slow
def test_without_a_gpu_it_starts_on_the_processor_and_says_that_it_is_slower(tiny_model, tmp_path):
    with Process(tiny_model, tmp_path, CUDA_VISIBLE_DEVICES="") as process:
        assert "There is no GPU, so clips are made on the processor, which is slower." in process.said()
        assert process.stranger().generate()[0] == "complete"


@pytest.mark.parametrize(
    "device, half, expected",
    [
        ("cpu", True, "float32"),
        ("cuda", True, "bfloat16"),
        ("cuda", False, "float16"),
        ("mps", True, "float16"),
    ],
)
def test_numbers_are_those_that_the_device_has(monkeypatch, device, half, expected):
    import torch

    from lumiere.loading.components import best_dtype

    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda *_, **__: half)
    assert best_dtype(torch.device(device)) == getattr(torch, expected)


def test_a_device_that_is_not_there_is_refused_in_words(tiny_model):
    from lumiere.pipeline import LumierePipeline

    with pytest.raises(ValueError, match="there is no device cuda:7 on this machine: leave it out"):
        LumierePipeline.from_pretrained(tiny_model, device="cuda:7")
