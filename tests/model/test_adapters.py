"""LoRA on the modules that temporal layers follow, injected before or after they are inserted."""

import copy

import pytest
import torch
from peft import LoraConfig
from peft.tuners.lora import LoraLayer

from lumiere.model.lumiere import Lumiere
from tests.model.test_lumiere import small_unet, two_clips

CONV = "down_blocks.0.resnets.0.conv2"
LAYERS = {  # kind of hook -> module that it is on, or in the module that it is on
    "input": "conv_in",
    "embedding": "down_blocks.1.resnets.0.time_emb_proj",
    "convolution": CONV,
    "residual": "up_blocks.2.resnets.0.conv1",
    "attention": "down_blocks.2.attentions.0.transformer_blocks.0.attn1.to_q",
    "downsampler": "down_blocks.0.downsamplers.0.conv",
    "upsampler": "up_blocks.0.upsamplers.0.conv",
}
BAR = 1e-5


def inflated(unet, kind: str) -> Lumiere:
    """The UNet with random temporal layers. The one for "convolution" follows a single convolution."""
    torch.manual_seed(0)
    if kind == "convolution":
        options = {"image_size": 8, "unet_time_kwarg": "timestep", "channels": 4}
        options["dry_run_kwargs"] = {"encoder_hidden_states": torch.zeros(1, 5, 16)}
        lumiere = Lumiere(unet, conv_module_names=[CONV], **options)
    else:
        lumiere = Lumiere.from_unet(unet, 4, at_input=True, embedding_width=4, cond_channels=5)
    with torch.no_grad():
        for weight in lumiere.parameters():
            weight += 0.1 * torch.randn_like(weight)
    return lumiere


def inject(unet, module: str, name: str = "ink") -> None:
    torch.manual_seed(3)
    config = LoraConfig(r=2, lora_alpha=3, target_modules=[module], init_lora_weights=False)
    unet.add_adapter(config, adapter_name=name)


@torch.no_grad()
def merged(unet):
    """A plain UNet with the weights of `unet` and its LoRA."""
    plain, state = small_unet(), {}
    for name, layer in unet.named_modules():
        if isinstance(layer, LoraLayer):
            down, up = layer.lora_A["ink"].weight, layer.lora_B["ink"].weight
            product = (3 / 2) * up.flatten(1) @ down.flatten(1)
            state[f"{name}.weight"] = product.reshape(layer.base_layer.weight.shape)
    assert len(state) == 1
    for name, weight in plain.named_parameters():
        weight += state.get(name, 0)
    return plain


@torch.no_grad()
def output(lumiere: Lumiere, kind: str) -> torch.Tensor:
    video, timestep, text = two_clips()
    if kind != "convolution":
        given = torch.randn(2, 5, 8, 8, 8, generator=torch.Generator().manual_seed(5))
        video = torch.cat([video, given], dim=1)
    return lumiere(video, timestep, encoder_hidden_states=text).sample


@pytest.mark.parametrize("order", ["before", "after"])
@pytest.mark.parametrize("kind", LAYERS)
def test_equals_merged_weights(kind, order):
    unet = small_unet()
    plain = output(inflated(copy.deepcopy(unet), kind), kind)
    if order == "before":
        inject(unet, LAYERS[kind])
    lumiere = inflated(unet, kind)
    if order == "after":
        torch.testing.assert_close(output(lumiere, kind), plain, atol=0, rtol=0)
        inject(unet, LAYERS[kind])
    found = output(lumiere, kind)
    expected = output(inflated(merged(unet), kind), kind)
    difference = (found - expected).abs().max().item()
    print(f"{kind}, {order}: {difference:.1e}; without LoRA {(found - plain).abs().max().item():.1e}")
    assert difference <= BAR < 1e-3 < (found - plain).abs().max()


@pytest.mark.parametrize("kind", ["input", "embedding", "convolution"])
def test_unloading_restores_every_bit(kind):
    unet = small_unet()
    lumiere = inflated(unet, kind)
    before = output(lumiere, kind)
    inject(unet, LAYERS[kind])
    assert not torch.equal(output(lumiere, kind), before)
    unet.unload_lora()
    assert torch.equal(output(lumiere, kind), before)
