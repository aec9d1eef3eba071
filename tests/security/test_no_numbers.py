"""Row 30. Values that are no numbers, put into the real weights."""

from contextlib import contextmanager

import numpy as np
import pytest
import torch

from lumiere.media.video import read_clip
from lumiere.pipeline import LumierePipeline
from tests.security.server import serving


@contextmanager
def spoilt(weight: torch.Tensor, value: float):
    kept = weight.detach().clone()
    with torch.no_grad():
        weight.fill_(value)
    try:
        yield
    finally:
        with torch.no_grad():
            weight.copy_(kept)


TOLD = {
    "unet": "The model's output is not a number: try less guidance or another scheduler.",
    "decoder": "The decoder's output is not a number: try another seed.",
}


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
@pytest.mark.parametrize("part", TOLD)
def test_is_an_error_and_never_a_black_clip(server, stranger, part, value):
    files, pipeline = server.files(), server.pipeline
    module = pipeline.lumiere.model if part == "unet" else pipeline.vae.decoder
    with spoilt(module.conv_out.bias, value):
        told = stranger.refusal()
        assert told == TOLD[part]
        assert stranger.make()["text"] == told
    assert server.files() == files
    assert stranger.generate()[0] == "complete"


def test_a_decoder_that_overflows_in_half_precision_is_asked_again_in_full(
    tiny_model, tmp_path, monkeypatch, server
):
    """One of its channels is past what half precision holds, and is scaled down before anything is seen."""
    monkeypatch.setenv("GRADIO_TEMP_DIR", str(tmp_path))
    half = LumierePipeline.from_pretrained(tiny_model, device="cpu", dtype=torch.float16)
    with torch.no_grad():
        half.vae.decoder.conv_in.weight[0] = 60_000.0
    seen = []
    hook = half.vae.decoder.conv_in.register_forward_hook(
        lambda module, arguments, output: seen.append(bool(output.isfinite().all()))
    )
    with serving(half, tiny_model, tmp_path) as page:
        outcome, made = page.stranger().generate(steps=1)
    hook.remove()
    assert outcome == "complete", made
    frames = read_clip(made[0]["path"])[0]
    assert seen[0] is False and seen[-1] is True and frames.shape == (8, 64, 64, 3)
    assert frames.std() > 1 and np.ptp(frames) > 20  # not black
    assert next(half.vae.parameters()).dtype == torch.float16  # for the next one
