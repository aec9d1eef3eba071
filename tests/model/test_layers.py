import copy

import pytest
import torch
import torch.nn.functional as F
from einops import rearrange

from lumiere.model.layers import (
    AttentionInflationBlock,
    ConvolutionInflationBlock,
    TemporalDownsample,
    TemporalUpsample,
    rotary_angles,
)

LAYERS = (
    lambda **options: ConvolutionInflationBlock(dim=16, groups=4, **options),
    lambda **options: AttentionInflationBlock(dim=16, depth=2, heads=2, dim_head=8, **options),
    lambda **options: TemporalDownsample(16, **options),
    lambda **options: TemporalUpsample(16, **options),
    lambda **options: ConvolutionInflationBlock(dim=16, norm="rms", **options),
    lambda **options: ConvolutionInflationBlock(dim=16, groups=4, norm="clip", **options),
    lambda **options: AttentionInflationBlock(
        dim=16, heads=2, dim_head=8, rotary=True, space_time_depth=1, **options
    ),
)


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)


def shaken(layer):
    """The layer away from its initialisation, where projections are zero and kernels are the identity."""
    with torch.no_grad():
        for weight in layer.parameters():
            weight += 0.2 * torch.randn_like(weight)
    return layer


def clip(b=2, c=16, t=6, h=3, w=5):
    return torch.randn(b, c, t, h, w)


def literal(layer, x):
    """The same arithmetic as in the paper: every pixel a sequence `(b h w) c t`, no view of any kind."""
    b, _, _, h, w = x.shape
    if isinstance(layer, ConvolutionInflationBlock):
        y = layer.spatial_conv(rearrange(x, "b c t h w -> (b t) c h w"))
        y = rearrange(y, "(b t) c h w -> (b h w) c t", b=b)
        conv, norm, act = layer.temporal_conv
        y = conv(y)
        if layer.norm == "clip":  # the same modules, but the norm sees all pixels of a clip at once
            y = norm(rearrange(y, "(b h w) c t -> b c t h w", h=h, w=w))
            y = rearrange(y, "b c t h w -> (b h w) c t")
        else:
            y = norm(y)
        y = layer.proj_out(act(y))
        return x + rearrange(y, "(b h w) c t -> b c t h w", h=h, w=w)
    if isinstance(layer, AttentionInflationBlock):
        y = rearrange(x, "b c t h w -> (b h w) t c")
        times = torch.arange(x.shape[2])
        for residual in (*layer.temporal_attns, *layer.space_time_attns):
            if residual in layer.space_time_attns:  # all pixels of all frames are one sequence
                y = rearrange(y, "(b h w) t c -> b (t h w) c", h=h, w=w)
                times = torch.arange(x.shape[2]).repeat_interleave(h * w)
            norm, attn = residual.fn
            n = norm(y)
            qkv = attn.to_q(n), attn.to_k(n), attn.to_v(n)
            q, k, v = (rearrange(z, "n t (k d) -> n k t d", k=2) for z in qkv)
            if layer.turned:
                q, k = turned(q, times), turned(k, times)
            weights = (q @ k.mT / q.shape[-1] ** 0.5).softmax(-1)
            y = y + attn.to_out(rearrange(weights @ v, "n k t d -> n t (k d)"))
            if residual in layer.space_time_attns:
                y = rearrange(y, "b (t h w) c -> (b h w) t c", h=h, w=w)
        return x + rearrange(layer.proj_out(y), "(b h w) t c -> b c t h w", h=h, w=w)
    y = layer.conv(rearrange(x, "b c t h w -> (b h w) c t"))
    return rearrange(y, "(b h w) c t -> b c t h w", h=h, w=w)


def turned(x, times):
    """Pairs of the first half of a head's 8 channels as complex numbers, turned by an angle per frame."""
    pairs = torch.view_as_complex(x[..., :4].unflatten(-1, (2, 2)).contiguous())
    rates = torch.tensor([1.0, 0.01])
    pairs = pairs * torch.polar(torch.ones(len(times), 2), times[:, None] * rates)
    return torch.cat([torch.view_as_real(pairs).flatten(-2), x[..., 4:]], dim=-1)


@pytest.mark.parametrize("make", LAYERS)
def test_every_layout_gives_the_literal_result(make):
    layer, x = shaken(make()), clip()
    expected = literal(layer, x)
    images = rearrange(x, "b c t h w -> (b t) c h w")
    flat = rearrange(expected, "b c t h w -> (b t) c h w")
    torch.testing.assert_close(layer(x), expected, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(layer(images, batch_size=2), flat, atol=1e-5, rtol=1e-5)
    channels_last = images.contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(layer(channels_last, batch_size=2), flat, atol=1e-5, rtol=1e-5)

    last = make(channel_last=True, time_dim=6)
    last.load_state_dict(layer.state_dict())
    given, expected = (rearrange(z, "b c t h w -> b t h w c") for z in (x, expected))
    torch.testing.assert_close(last(given), expected, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(last(given.flatten(0, 1)), expected.flatten(0, 1), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("make", LAYERS)
def test_gradients_are_those_of_the_literal_result(make):
    layer, x = shaken(make()), clip()
    target = torch.randn_like(literal(layer, x))
    wanted = torch.autograd.grad((literal(layer, x) * target).sum(), list(layer.parameters()))
    found = torch.autograd.grad((layer(x) * target).sum(), list(layer.parameters()))
    for one, other in zip(found, wanted, strict=True):
        torch.testing.assert_close(one, other, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("make", LAYERS)
def test_clips_of_a_batch_do_not_touch(make):
    layer, x = shaken(make()), clip(b=3)
    together = layer(x)
    for i in range(3):
        torch.testing.assert_close(layer(x[i : i + 1]), together[i : i + 1], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("make", (*LAYERS[:2], *LAYERS[4:]))
def test_inflation_starts_as_nothing(make):
    x = clip()
    assert torch.equal(make()(x), x)


def test_resampling_starts_as_nearest_neighbour():
    x = clip()
    assert torch.equal(TemporalDownsample(16)(x), x[:, :, ::2])
    assert torch.equal(TemporalUpsample(16)(x), x.repeat_interleave(2, dim=2))


def test_bilinear_resampling_keeps_a_still_clip_on_every_frame():
    still = clip(t=1).expand(-1, -1, 6, -1, -1)
    torch.testing.assert_close(TemporalDownsample(16, init="bilinear")(still), still[:, :, :3])
    twice = still.repeat_interleave(2, dim=2)
    torch.testing.assert_close(TemporalUpsample(16, init="bilinear")(still), twice)


def test_bilinear_resampling_keeps_a_straight_line():
    line = torch.arange(8.0).view(1, 1, 8, 1, 1).expand(1, 16, 8, 2, 2)
    down = TemporalDownsample(16, init="bilinear")(line)
    torch.testing.assert_close(down[0, 0, :, 0, 0], torch.tensor([0.25, 2, 4, 6]))
    up = TemporalUpsample(16, init="bilinear")(line[:, :, :3])
    torch.testing.assert_close(up[0, 0, :, 0, 0], torch.tensor([0, 0.5, 1, 1.5, 2, 2]))


def test_parameter_names_are_those_of_the_public_checkpoints():
    conv, attn, down, up, rms, clip_norm, _ = (set(make().state_dict()) for make in LAYERS)
    pairs = ("weight", "bias")
    modules = ("spatial_conv.0", "spatial_conv.1", "temporal_conv.0", "temporal_conv.1", "proj_out")
    assert conv == clip_norm == {f"{module}.{name}" for module in modules for name in pairs}
    gains = {f"{module}_conv.1.gamma" for module in ("spatial", "temporal")}
    assert rms == {name for name in conv if "_conv.1." not in name} | gains
    inner = ("0.g", "1.to_q.weight", "1.to_k.weight", "1.to_v.weight", "1.to_out.weight")
    layers = {f"temporal_attns.{i}.fn.{name}" for i in range(2) for name in inner}
    assert attn == layers | {"proj_out.weight", "proj_out.bias"}
    assert down == up == {"conv.weight", "conv.bias"}
    bare = AttentionInflationBlock(dim=16, prenorm=False, residual_attn=False, heads=2, dim_head=8)
    assert "temporal_attns.0.0.to_q.weight" in bare.state_dict()


def test_attention_defaults_are_those_of_x_transformers():
    attention = AttentionInflationBlock(dim=16).temporal_attns[0].fn[1]
    assert (attention.heads, attention.to_q.weight.shape) == (8, (512, 16))


def test_what_does_not_fit_is_refused_in_words():
    with pytest.raises(ValueError, match="received 4"):
        ConvolutionInflationBlock(dim=16, conv1d_kernel_size=4)
    with pytest.raises(ValueError, match="received 2"):
        ConvolutionInflationBlock(dim=16, conv2d_kernel_size=2)
    with pytest.raises(ValueError, match="`groups` must divide the 12 channels; received 8"):
        ConvolutionInflationBlock(dim=12)
    with pytest.raises(ValueError, match="`dim_head` 16, the channels; received 8"):
        AttentionInflationBlock(dim=16, heads=1, dim_head=8)
    with pytest.raises(ValueError, match="received 'cubic'"):
        TemporalDownsample(16, init="cubic")
    with pytest.raises(ValueError, match="received 5"):
        TemporalDownsample(16)(clip(t=5))
    with pytest.raises(ValueError, match="batch_size"):
        TemporalUpsample(16)(torch.randn(6, 16, 2, 2))
    with pytest.raises(ValueError, match="Clips have 3 frames here; received 8"):
        TemporalUpsample(16, time_dim=3)(torch.randn(8, 16, 2, 2))
    with pytest.raises(ValueError, match="5 dimensions and stacks of frames 4; received 3"):
        TemporalUpsample(16)(torch.randn(6, 16, 2), batch_size=2)
    with pytest.raises(ValueError, match="group, rms or clip; received 'batch'"):
        ConvolutionInflationBlock(dim=16, norm="batch")
    with pytest.raises(ValueError, match="7 frames cannot be divided into 2"):
        TemporalUpsample(16)(torch.randn(7, 16, 2, 2), batch_size=2)


@pytest.mark.parametrize("make", LAYERS)
def test_runs_in_bfloat16_and_on_meta(make):
    layer, x = shaken(make()), clip()
    with torch.autocast("cpu", torch.bfloat16):
        assert F.mse_loss(layer(x).float(), layer.float()(x)) < 0.01 * layer(x).float().var()
    with torch.device("meta"):
        assert make()(clip()).shape == layer(x).shape


@torch.no_grad()
@pytest.mark.parametrize("make", LAYERS)
@pytest.mark.parametrize(("dtype", "error"), [(torch.float16, 1e-4), (torch.bfloat16, 1e-2)])
def test_weights_in_half_precision_stand_large_features(make, dtype, error):
    """float16 ends at 65 504: a sum of the squares of such features is beyond."""
    layer, x = shaken(make()).to(dtype), 300 * clip().to(dtype)
    found, expected = layer(x), copy.deepcopy(layer).float()(x.float())
    assert found.dtype == dtype
    assert F.mse_loss(found.float(), expected) < error * expected.var()


def attention(**options):
    return shaken(AttentionInflationBlock(dim=16, depth=2, heads=2, dim_head=8, **options))


@torch.no_grad()
def test_a_convolution_may_see_the_opposite_edge_beyond_an_edge():
    x = clip()
    for mode, same in (("circular", True), ("zeros", False)):
        layer = shaken(ConvolutionInflationBlock(dim=16, norm="clip", padding_mode=mode))
        moved = layer(x.roll((1, 2), (-2, -1)))
        assert torch.allclose(moved, layer(x).roll((1, 2), (-2, -1)), atol=1e-4) is same
    with pytest.raises(ValueError, match="padding_mode"):
        ConvolutionInflationBlock(dim=16, padding_mode="mirror")


@torch.no_grad()
def test_rotary_attention_knows_distance_and_direction_but_not_the_place():
    layer, plain = attention(rotary=True), attention()
    x = clip(t=6)
    swapped = x[:, :, [0, 2, 1, 3, 4, 5]]
    torch.testing.assert_close(plain(swapped)[:, :, 0], plain(x)[:, :, 0])
    assert not torch.allclose(layer(swapped)[:, :, 0], layer(x)[:, :, 0], atol=1e-3)
    assert not torch.allclose(layer(x.flip(2)), layer(x).flip(2), atol=1e-3)
    angles = rotary_angles(torch.arange(9), 8)
    torch.testing.assert_close(angles[:, 5] - angles[:, 3], angles[:, 2] - angles[:, 0])


@torch.no_grad()
def test_a_window_hides_the_frames_beyond_it():
    x = clip(t=8)
    changed = x.clone()
    changed[:, :, 7] += 1
    layer = AttentionInflationBlock(dim=16, heads=2, dim_head=8, rotary=True, window=2)
    moved = (shaken(layer)(changed) - layer(x)).abs().amax((0, 1, 3, 4))
    assert (moved[:5] == 0).all() and (moved[5:] > 1e-4).all()
    unlimited = AttentionInflationBlock(dim=16, heads=2, dim_head=8, rotary=True)
    unlimited.load_state_dict(layer.state_dict())
    torch.testing.assert_close(unlimited(x[:, :, :3]), layer(x[:, :, :3]))
    with pytest.raises(ValueError, match="at least 1 frame; received 0"):
        AttentionInflationBlock(dim=16, window=0)


@torch.no_grad()
def test_attention_over_space_and_time_reaches_other_pixels_within_the_window():
    x = clip(t=8)
    changed = x.clone()
    changed[:, :, 7, 0, 0] += 1
    layer = attention(rotary=True, window=1, space_time_depth=1)
    moved = (layer(changed) - layer(x)).abs().amax((0, 1))
    # Over time in the same pixel: two layers of reach 1; then once more, to all pixels.
    assert (moved[:4] == 0).all() and (moved[4:] > 1e-5).all()


@torch.no_grad()
@pytest.mark.parametrize(
    "make",
    [
        lambda **told: ConvolutionInflationBlock(dim=16, norm="clip", **told),
        lambda **told: AttentionInflationBlock(dim=16, heads=2, dim_head=8, **told),
    ],
)
def test_an_embedding_changes_its_own_clip_and_at_first_nothing(make):
    plain, told = shaken(make()), make(embedding_dim=12)
    missing, _ = told.load_state_dict(plain.state_dict(), strict=False)
    assert {key.split(".")[0] for key in missing} == {"modulation"}
    x, embedding = clip(b=2), torch.randn(2, 12)
    torch.testing.assert_close(told(x, embedding=embedding), plain(x))
    torch.nn.init.normal_(told.modulation.weight, std=0.3)
    expected = told(x, embedding=embedding)
    assert not torch.allclose(expected, plain(x), atol=1e-2)
    other = torch.stack([embedding[0], -embedding[1]])
    changed = (told(x, embedding=other) - expected).abs().amax((1, 2, 3, 4))
    assert changed[0] < 1e-5 and changed[1] > 1e-2
    for given, received in ((None, "None"), (embedding[:1], "1 x 12"), (embedding[:, :4], "2 x 4")):
        with pytest.raises(ValueError, match=f"each clip, 2 x 12; received {received}"):
            told(x, embedding=given)
