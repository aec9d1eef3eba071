"""Pixels to latents and back, on a tiny random model."""

import copy

import numpy as np
import pytest
import torch

from lumiere.errors import GenerationError
from lumiere.model.conditioning import Given
from lumiere.pipeline import LumierePipeline
from lumiere.sampling import vae as codec
from tests.clips import REQUEST, last, with_unet


def test_given_latents_are_those_of_the_autoencoder(pipeline, picture):
    latents, known = pipeline.encode_given(Given(picture, np.ones((8, 64, 64), bool)))
    assert known.all() and latents.shape == (1, 4, 8, 8, 8)
    assert np.abs(pipeline.decode(latents)[0].astype(int) - pipeline.decode(latents)[-1]).max() <= 1
    nothing, known = pipeline.encode_given(Given(picture, np.zeros((8, 64, 64), bool)))
    assert not known.any() and not nothing.any()


def test_frames_with_a_given_region_are_encoded_and_others_are_not(pipeline, picture):
    mask = np.zeros((8, 64, 64), bool)
    mask[2, :, :32] = True
    latents, known = pipeline.encode_given(Given(picture, mask))
    whole, _ = pipeline.encode_given(Given(picture, np.ones_like(mask)))
    assert known[2, :, :4].all() and known.sum() == 8 * 4
    torch.testing.assert_close(latents[:, :, 2], whole[:, :, 2])
    assert not latents[:, :, :2].any() and not latents[:, :, 3:].any()


@pytest.mark.parametrize("pixels", [64 * 64, 3 * 64 * 64, 2**18])
def test_slices_of_the_decoder_do_not_show(pipeline, monkeypatch, pixels):
    latents = torch.randn(1, 4, 8, 8, 8, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        whole = pipeline.vae.decode(latents[0].transpose(0, 1) / pipeline.vae.config.scaling_factor).sample
    expected = (whole / 2 + 0.5).clamp(0, 1).mul(255).round().byte().permute(0, 2, 3, 1).numpy().astype(int)
    monkeypatch.setattr(codec, "SLICE_PIXELS", pixels)
    assert np.abs(pipeline.decode(latents) - expected).max() <= 1


class Failing(torch.nn.Module):
    """The decoder of a pipeline in front of which something goes wrong."""

    def __init__(self, vae, fault):
        super().__init__()
        self.vae, self.config, self.fault, self.sizes = vae, vae.config, fault, []

    def decode(self, latents, return_dict=True):
        self.sizes.append(len(latents))
        return self.fault(latents, self.vae.decode(latents, return_dict=return_dict))


def with_decoder(pipeline, fault) -> LumierePipeline:
    other = copy.copy(pipeline)
    other.base = copy.copy(pipeline.base)
    other.base.vae = Failing(pipeline.vae, fault)
    return other


def test_a_decoder_short_of_memory_gets_smaller_slices(pipeline):
    def fault(latents, images):
        if len(latents) > 3:
            raise torch.OutOfMemoryError("out of memory")
        return images

    other = with_decoder(pipeline, fault)
    frames = last(other, REQUEST).frames
    assert other.vae.sizes == [8, 4, 2, 2, 2, 2]
    assert np.abs(frames - last(pipeline, REQUEST).frames.astype(int)).max() <= 1


def test_a_decoder_without_memory_for_one_frame_is_an_error_in_words(pipeline):
    def fault(latents, images):
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes")

    with pytest.raises(GenerationError, match="memory .* height or width"):
        last(with_decoder(pipeline, fault), REQUEST)


def test_other_errors_of_the_decoder_are_not_hidden(pipeline):
    def fault(latents, images):
        raise RuntimeError("shapes differ")

    with pytest.raises(RuntimeError, match="shapes differ"):
        last(with_decoder(pipeline, fault), REQUEST)


def test_a_decoder_that_overflows_in_half_precision_is_asked_again_in_full(tiny_model):
    pipeline = LumierePipeline.from_pretrained(tiny_model, device="cpu", dtype=torch.bfloat16)

    def fault(latents, images):
        return (images[0] + torch.inf,) if latents.dtype == torch.bfloat16 else images

    other = with_decoder(pipeline, fault)
    frames = last(other, REQUEST).frames
    assert frames.std() > 5 and np.abs(frames - last(pipeline, REQUEST).frames.astype(int)).mean() < 3
    assert next(other.vae.parameters()).dtype == torch.bfloat16


def test_numbers_that_are_none_are_an_error_and_never_a_black_clip(pipeline):
    with pytest.raises(GenerationError, match="decoder"):
        last(with_decoder(pipeline, lambda latents, images: (images[0] * torch.nan,)), REQUEST)
    other = with_unet(pipeline, lambda clips, *_, **__: (clips * torch.inf,))
    items = other.generate(REQUEST)
    assert next(items).preview().shape == (8, 32, 32, 3)  # a preview of it must not be what fails
    with pytest.raises(GenerationError, match="model"):
        list(items)
