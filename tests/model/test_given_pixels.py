"""The base's first convolution grown by given pixels, and training with less memory."""

import pytest
import torch

from lumiere.model import conditioning
from lumiere.model.lumiere import Lumiere
from lumiere.model.motion_weights import load_motion, save_motion
from tests.model.test_lumiere import small_unet, trained, two_clips


@pytest.fixture
def unet():
    return small_unet()


@pytest.fixture
def inputs():
    return two_clips()


def given(video):
    generator = torch.Generator().manual_seed(2)
    clip = torch.randn(video.shape, generator=generator)
    return conditioning.channels(clip, conditioning.first_frame(*video.shape[2:]))


@torch.no_grad()
def test_grown_input_changes_nothing_until_it_is_trained(unet, inputs):
    video, timestep, text = inputs
    plain, grown = Lumiere.from_unet(unet), Lumiere.from_unet(unet, cond_channels=5)
    joined = torch.cat([video, given(video)], dim=1)
    expected = plain(video, timestep, text).sample
    torch.testing.assert_close(grown(joined, timestep, text).sample, expected)
    torch.testing.assert_close(grown(video, timestep, text).sample, expected)
    assert grown.state_dict().keys() - plain.state_dict().keys() == {"conv_in.weight"}
    assert unet.config.in_channels == 4 and unet.conv_in.in_channels == 4


@torch.no_grad()
def test_grown_input_is_a_wider_convolution(inputs):
    video, timestep, text = inputs
    base, wide = small_unet(), small_unet(in_channels=9)
    lumiere = trained(base, cond_channels=5)
    wide.load_state_dict(base.state_dict() | {"conv_in.weight": wide.conv_in.weight})
    wide.conv_in.weight.copy_(torch.cat([base.conv_in.weight, lumiere.conv_in.weight], dim=1))
    twin = Lumiere.from_unet(wide)
    twin.load_state_dict({k: v for k, v in lumiere.state_dict().items() if k != "conv_in.weight"})
    joined = torch.cat([video, given(video)], dim=1)
    seen = lumiere(joined, timestep, text).sample
    torch.testing.assert_close(seen, twin(joined, timestep, text).sample, atol=1e-5, rtol=1e-4)
    assert not torch.allclose(seen, lumiere(video, timestep, text).sample, atol=1e-3)


def test_given_channels_are_refused_where_there_is_no_place_for_them(unet, inputs):
    video, timestep, text = inputs
    joined = torch.cat([video, given(video)], dim=1)
    with pytest.raises(ValueError, match="clips x 4 channels.*received 2 x 9"):
        Lumiere.from_unet(unet)(joined, timestep, text)
    with pytest.raises(ValueError, match="clips x 4 or 9 channels.*received 2 x 8"):
        Lumiere.from_unet(unet, cond_channels=5)(joined[:, :8], timestep, text)


@torch.no_grad()
def test_grown_input_is_saved_and_loaded(unet, inputs, tmp_path):
    video, timestep, text = inputs
    lumiere = trained(unet, cond_channels=5)
    save_motion(lumiere, tmp_path)
    joined = torch.cat([video, given(video)], dim=1)
    expected = lumiere(joined, timestep, text).sample
    assert torch.equal(load_motion(unet, tmp_path)(joined, timestep, text).sample, expected)


@torch.no_grad()
def test_trained_weights_take_given_pixels_later(unet, inputs):
    video, timestep, text = inputs
    lumiere, expected = (trained(unet, at_input=True, cond_channels=count) for count in (0, 5))
    before = lumiere(video, timestep, text).sample
    lumiere.add_cond_channels(5)
    joined = torch.cat([video, given(video)], dim=1)
    for shown in (video, joined):  # layers that were there act once, and those that are new do nothing yet
        torch.testing.assert_close(lumiere(shown, timestep, text).sample, before)
    lumiere.load_state_dict(expected.state_dict())
    torch.testing.assert_close(
        lumiere(joined, timestep, text).sample, expected(joined, timestep, text).sample
    )
    with pytest.raises(ValueError, match="already"):
        lumiere.add_cond_channels(5)


def gradients(lumiere, inputs):
    video, timestep, text = inputs
    lumiere.zero_grad()
    lumiere(video, timestep, text).sample.square().mean().backward()
    return {name: weight.grad.clone() for name, weight in lumiere.named_parameters()}


def test_gradient_checkpointing_gives_the_same_gradients_for_less_memory(inputs):
    lumiere = trained(small_unet(layers_per_block=2))
    kept, kept_bytes = saved_bytes(lambda: gradients(lumiere, inputs))
    lumiere.enable_gradient_checkpointing()
    again, again_bytes = saved_bytes(lambda: gradients(lumiere, inputs))
    assert kept.keys() == again.keys()
    for name in kept:
        torch.testing.assert_close(kept[name], again[name], msg=lambda text, name=name: f"{name}: {text}")
    assert again_bytes < 0.6 * kept_bytes


def saved_bytes(run):
    """The result of `run`, and how many bytes its forward passes kept at once for the backward pass."""
    sizes = {}

    def pack(x):
        sizes[x.data_ptr()] = x.nbytes
        return x

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda x: x):
        result = run()
    return result, sum(sizes.values())
