import copy
import gc
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from diffusers import UNet2DConditionModel

from lumiere.model.lumiere import Lumiere
from lumiere.model.placement import KINDS
from tests.marks import soak


def small_unet(**options) -> UNet2DConditionModel:
    """The family of the embedded base, smaller: three levels, text in the time embedding, attention below."""
    torch.manual_seed(0)
    config = {
        "sample_size": 8,
        "in_channels": 4,
        "out_channels": 4,
        "layers_per_block": 1,
        "block_out_channels": (16, 32, 32),
        "norm_num_groups": 8,
        "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        "cross_attention_dim": 16,
        "attention_head_dim": 2,
        "addition_embed_type": "text",
        "addition_embed_type_num_heads": 4,
        "resnet_time_scale_shift": "scale_shift",
    }
    return UNet2DConditionModel(**config | options).eval()


@pytest.fixture(scope="module")
def unet():
    return small_unet()


@pytest.fixture
def inputs():
    return two_clips()


def two_clips():
    """Two clips of eight frames, each with its own timestep and text."""
    generator = torch.Generator().manual_seed(1)
    video = torch.randn(2, 4, 8, 8, 8, generator=generator)
    return video, torch.tensor([10, 700]), torch.randn(2, 5, 16, generator=generator)


def trained(unet, factor=4, seed=0, **options):
    """A wrapper whose layers all matter."""
    torch.manual_seed(seed)
    lumiere = Lumiere.from_unet(unet, factor, **options)
    with torch.no_grad():
        for weight in lumiere.parameters():
            weight += 0.1 * torch.randn_like(weight)
    return lumiere


def images_of(unet, video, timestep, text):
    """The base model on each frame alone."""
    frames = [unet(frame, timestep, text).sample for frame in video.unbind(2)]
    return torch.stack(frames, dim=2)


@torch.no_grad()
@pytest.mark.parametrize("factor", [1, 2, 4, 8])
def test_a_still_clip_comes_out_as_the_image(inputs, factor):
    levels = {
        "block_out_channels": (16, 32, 32, 32),
        "down_block_types": ("DownBlock2D", *("CrossAttnDownBlock2D",) * 3),
        "up_block_types": (*("CrossAttnUpBlock2D",) * 3, "UpBlock2D"),
    }
    unet, (video, timestep, text) = small_unet(**levels), inputs
    still = video[:, :, :1].expand(-1, -1, 8, -1, -1)
    found = Lumiere.from_unet(unet, factor)(still, timestep, text).sample
    difference = (found - images_of(unet, still, timestep, text)).abs().max().item()
    print(f"still clip, factor {factor}: {difference:.1e} from the image")
    assert difference <= 1e-5


@torch.no_grad()
def test_a_still_clip_stays_itself_with_bilinear_resampling(unet, inputs):
    video, timestep, text = inputs
    still = video[:, :, :1].expand(-1, -1, 8, -1, -1)
    kernels = {"downsample_kwargs": {"init": "bilinear"}, "upsample_kwargs": {"init": "bilinear"}}
    found = Lumiere.from_unet(unet, 4, **kernels)(still, timestep, text).sample
    torch.testing.assert_close(found, images_of(unet, still, timestep, text), atol=1e-5, rtol=0)


@torch.no_grad()
def test_without_resampling_every_clip_comes_out_as_its_images(unet, inputs):
    found = Lumiere.from_unet(unet, 1)(*inputs).sample
    torch.testing.assert_close(found, images_of(unet, *inputs), atol=1e-5, rtol=0)


@torch.no_grad()
def test_a_clip_does_not_depend_on_its_batch(unet, inputs):
    lumiere = trained(unet)
    together = lumiere(*inputs).sample
    for i in range(2):
        alone = lumiere(*(x[i : i + 1] for x in inputs)).sample
        torch.testing.assert_close(alone, together[i : i + 1], atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_conditioning_per_clip_is_conditioning_of_each_frame(unet, inputs):
    video, timestep, text = inputs
    lumiere = trained(unet)
    per_clip = lumiere(video, timestep, text).sample
    per_frame = lumiere(video, timestep, text.repeat_interleave(8, dim=0)).sample
    torch.testing.assert_close(per_clip, per_frame, atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_text_of_a_frame_reaches_that_frame_only_without_motion_weights(unet, inputs):
    video, timestep, text = inputs
    words = text.repeat_interleave(8, dim=0)
    lumiere = Lumiere.from_unet(unet, 1)
    before = lumiere(video, timestep, words).sample
    words[3] += 1
    changed = (lumiere(video, timestep, words).sample - before).abs().amax(dim=(1, 3, 4)) > 1e-4
    assert changed.nonzero().tolist() == [[0, 3]]


@torch.no_grad()
def test_masks_and_class_labels_have_one_row_per_clip(inputs):
    unet = small_unet(num_class_embeds=3)
    given = {"class_labels": torch.tensor([0, 2]), "encoder_attention_mask": torch.ones(2, 5)}
    given["encoder_attention_mask"][1, 2:] = 0
    video, timestep, text = inputs
    expected = torch.stack([unet(x, timestep, text, **given).sample for x in video.unbind(2)], dim=2)
    lumiere = Lumiere.from_unet(unet, 1)
    torch.testing.assert_close(lumiere(*inputs, **given).sample, expected, atol=1e-5, rtol=0)
    text = text.repeat_interleave(8, dim=0)
    torch.testing.assert_close(lumiere(video, timestep, text, **given).sample, expected, atol=1e-5, rtol=0)


@torch.no_grad()
def test_timesteps_and_results_come_in_the_ways_of_diffusers(unet, inputs):
    video, _, text = inputs
    lumiere = trained(unet)
    expected = lumiere(video, torch.tensor([10, 10]), text).sample
    for timestep in (10, 10.0, torch.tensor(10), torch.tensor([10])):
        torch.testing.assert_close(lumiere(video, timestep, text).sample, expected, atol=1e-5, rtol=1e-5)
    (found,) = lumiere(video, 10, encoder_hidden_states=text, return_dict=False)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)
    assert lumiere.config is unet.config and lumiere.dtype == torch.float32 and lumiere.device.type == "cpu"


def test_the_places_are_those_of_the_paper(unet):
    lumiere = Lumiere.from_unet(unet, 4)
    assert lumiere.downsample_factor == 4
    assert list(lumiere.places.convs) == [
        "down_blocks.0.resnets.0",
        "down_blocks.1.attentions.0",
        "up_blocks.1.attentions.0",
        "up_blocks.1.attentions.1",
        "up_blocks.2.resnets.0",
        "up_blocks.2.resnets.1",
    ]
    assert list(lumiere.places.attns) == [
        "down_blocks.2.attentions.0",
        "mid_block",
        "up_blocks.0.attentions.0",
        "up_blocks.0.attentions.1",
    ]
    downsamplers = ["down_blocks.0.downsamplers.0", "down_blocks.1.downsamplers.0"]
    assert list(lumiere.places.downsamples) == downsamplers
    assert list(lumiere.places.upsamples) == ["up_blocks.0.upsamplers.0", "up_blocks.1.upsamplers.0"]
    half = Lumiere.from_unet(unet, 2)
    assert list(half.places.downsamples) == ["down_blocks.0.downsamplers.0"]
    assert list(half.places.upsamples) == ["up_blocks.1.upsamplers.0"]


@torch.no_grad()
def test_time_is_compressed_where_space_is(unet, inputs):
    rows = {}
    names = ("down_blocks.0.resnets.0", "down_blocks.1.resnets.0", "mid_block", "up_blocks.1", "conv_out")
    lumiere = Lumiere.from_unet(unet, 4)
    handles = [
        unet.get_submodule(name).register_forward_pre_hook(
            lambda module, args, kwargs, name=name: rows.update({name: len((args or [*kwargs.values()])[0])}),
            with_kwargs=True,
        )
        for name in names
    ]
    lumiere(*inputs)
    for handle in handles:
        handle.remove()
    assert [rows[name] for name in names] == [16, 8, 4, 8, 16]


@torch.no_grad()
def test_the_base_stays_as_it_was(inputs):
    unet = small_unet()
    video, timestep, text = inputs
    keys, before = set(unet.state_dict()), unet(video[:, :, 0], timestep, text).sample
    first, second = trained(unet, seed=1), trained(unet, seed=2)
    first(*inputs)
    assert set(unet.state_dict()) == keys
    assert torch.equal(unet(video[:, :, 0], timestep, text).sample, before)
    assert not torch.allclose(first(*inputs).sample, second(*inputs).sample, atol=1e-3)
    assert not any(weight.requires_grad for weight in unet.parameters())


def hooks_of(unet):
    return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in unet.modules())


def test_hooks_go_with_their_wrapper():
    unet = small_unet()
    before = hooks_of(unet)
    lumiere = Lumiere.from_unet(unet)
    assert hooks_of(unet) > before
    del lumiere
    gc.collect()
    assert hooks_of(unet) == before


@torch.no_grad()
def test_a_failed_call_leaves_nothing_behind(unet, inputs):
    video, timestep, text = inputs
    lumiere = trained(unet)
    with pytest.raises(RuntimeError):
        lumiere(video, timestep, text[..., :3])
    found = unet(video[:, :, 0], timestep, text).sample
    torch.testing.assert_close(found, small_unet()(video[:, :, 0], timestep, text).sample, atol=1e-6, rtol=0)


@torch.no_grad()
def test_two_threads_use_two_wrappers_of_one_base(unet, inputs):
    video, timestep, text = inputs
    wrappers = [trained(unet, factor=4, seed=1), trained(unet, factor=1, seed=2)]
    clips = [(video[:1], timestep[:1], text[:1]), (video, timestep, text)]
    expected = [lumiere(*clip).sample for lumiere, clip in zip(wrappers, clips, strict=True)]
    image = unet(video[:, :, 0], timestep, text).sample
    start = threading.Barrier(3)

    @torch.no_grad()  # grad mode is of a thread, too
    def work(i):
        start.wait(timeout=60)
        if i == 2:
            return [unet(video[:, :, 0], timestep, text).sample for _ in range(12)]
        return [wrappers[i](*clips[i]).sample for _ in range(4)]

    with ThreadPoolExecutor(3) as pool:
        results = list(pool.map(work, range(3)))
    for found, wanted in zip(results, [*expected, image], strict=True):
        for one in found:
            torch.testing.assert_close(one, wanted, atol=1e-5, rtol=1e-5)


def test_parameters_are_the_motion_weights(unet):
    lumiere = Lumiere.from_unet(unet)
    names = {name for name, _ in lumiere.named_parameters()}
    assert names == set(lumiere.state_dict()) and {name.split(".")[0] for name in names} == set(KINDS)
    ours = {id(weight) for weight in lumiere.parameters()}
    assert ours.isdisjoint(id(weight) for weight in unet.parameters())
    assert lumiere.model is unet
    lumiere.train()
    assert lumiere.training and not unet.training


def test_moving_the_wrapper_moves_the_base(inputs):
    unet = small_unet()
    lumiere = Lumiere.from_unet(unet).to(torch.float64)
    assert {weight.dtype for weight in [*unet.parameters(), *lumiere.parameters()]} == {torch.float64}
    with torch.no_grad():
        video, timestep, text = inputs
        assert lumiere(video.double(), timestep, text.double()).sample.dtype == torch.float64


def test_a_deep_copy_shares_the_base_and_owns_its_weights(unet, inputs):
    lumiere = trained(unet)
    twin = copy.deepcopy(lumiere)
    with torch.no_grad():
        expected = lumiere(*inputs).sample
        for weight in lumiere.parameters():
            weight.zero_()
        del lumiere
        gc.collect()
        assert twin.model is unet
        assert torch.equal(twin(*inputs).sample, expected)


def test_an_optimiser_trains_only_motion_weights(unet, inputs):
    torch.manual_seed(0)
    lumiere = Lumiere.from_unet(unet)
    base = {name: weight.clone() for name, weight in unet.state_dict().items()}
    target = torch.randn_like(inputs[0])
    optimiser = torch.optim.Adam(lumiere.parameters(), lr=1e-3)
    losses = []
    for _ in range(8):
        loss = (lumiere(*inputs).sample - target).square().mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    assert losses[-1] < 0.95 * losses[0]
    assert all(weight.grad is None for weight in unet.parameters())
    assert all(weight.grad is not None for weight in lumiere.parameters())
    assert all(torch.equal(weight, base[name]) for name, weight in unet.state_dict().items())


def test_gradients_agree_with_finite_differences(inputs):
    lumiere = trained(small_unet()).double()
    video, timestep, text = inputs[0].double(), inputs[1], inputs[2].double()
    target = torch.randn_like(video)

    def loss():
        return (lumiere(video, timestep, text).sample * target).mean()

    loss().backward()
    for kind in KINDS:
        weight = next(w for w in getattr(lumiere, kind)[-1].parameters() if w.ndim > 1)
        way, step = torch.randn_like(weight), 1e-5
        with torch.no_grad():
            weight += step * way
            above = loss()
            weight -= 2 * step * way
            slope = (above - loss()) / (2 * step)
            weight += step * way
        torch.testing.assert_close((weight.grad * way).sum(), slope, atol=1e-9, rtol=1e-4)


def test_bfloat16_stays_near_float32(unet, inputs):
    lumiere = trained(unet)
    with torch.no_grad():
        expected = lumiere(*inputs).sample
    with torch.autocast("cpu", torch.bfloat16):
        found = lumiere(*inputs).sample.float()
    found.square().mean().backward()
    assert (found - expected).square().mean() < 1e-3 * expected.square().mean()
    assert all(weight.grad.isfinite().all() for weight in lumiere.parameters())


@torch.no_grad()
def test_adapters_of_the_embedding_start_as_nothing_and_reach_every_residual_layer(unet, inputs):
    plain, adapted = trained(unet), Lumiere.from_unet(unet, embedding_width=4)
    adapted.load_state_dict(plain.state_dict(), strict=False)
    assert {name.split(".")[0] for name in adapted.state_dict().keys() - plain.state_dict().keys()} == {
        "embeddings"
    }
    expected = plain(*inputs).sample
    assert torch.equal(adapted(*inputs).sample, expected)
    resnets = [
        name for name, _ in unet.named_modules() if name.rpartition(".")[2].isdigit() and "resnets" in name
    ]
    assert len(adapted.embeddings) == len(resnets) == 11
    for adapter in adapted.embeddings:
        torch.nn.init.ones_(adapter.fn[2].bias)
        assert not torch.allclose(adapted(*inputs).sample, expected, atol=1e-4)
        torch.nn.init.zeros_(adapter.fn[2].bias)
    images = images_of(unet, *inputs)
    torch.nn.init.ones_(adapted.embeddings[0].fn[2].bias)
    assert torch.equal(images_of(unet, *inputs), images)  # the base alone knows nothing of them


@torch.no_grad()
def test_conditioned_layers_are_told_timestep_and_text_of_their_clip(unet, inputs):
    told, seen = trained(unet, at_input=True, conditioned=True), []
    layers = [*told.convs, *told.attns]
    for layer in layers:
        layer.register_forward_pre_hook(
            lambda _, args, kwargs: seen.append(kwargs["embedding"]), with_kwargs=True
        )
    video, timestep, text = inputs
    result = told(video, timestep, text).sample
    assert len(seen) == len(layers) and len({id(embedding) for embedding in seen}) == 1
    time = unet.time_embedding(unet.time_proj(timestep))
    expected = [2 * x / x.norm(dim=-1, keepdim=True) for x in (time, text.mean(1))]
    torch.testing.assert_close(seen[0], torch.cat(expected, dim=-1))
    assert told.kwargs["convs"]["embedding_dim"] == 64 + 16
    per_frame = told(video, timestep, text.repeat_interleave(8, 0)).sample
    torch.testing.assert_close(per_frame, result, atol=1e-5, rtol=1e-5)
    alone = told(video[1:], timestep[1:], text[1:]).sample
    torch.testing.assert_close(alone, result[1:], atol=1e-5, rtol=1e-5)
    number = told(video[1:], 700, text[1:]).sample
    torch.testing.assert_close(number, alone, atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_a_layer_at_the_input_sees_what_is_given_and_nothing_of_the_base(unet, inputs):
    lumiere = trained(unet, at_input=True, cond_channels=5)
    assert list(lumiere.places.convs)[0] == "conv_in" and lumiere.convs[0].proj_out.in_channels == 16
    seen = []
    lumiere.convs[0].register_forward_pre_hook(lambda module, args: seen.append(args[0]))
    video, *rest = inputs
    joined = torch.cat([video, torch.ones(2, 5, 8, 8, 8)], dim=1)
    lumiere(joined, *rest)
    images = joined.transpose(1, 2).flatten(0, 1)
    expected = unet.conv_in(images[:, :4]) + lumiere.conv_in(images[:, 4:])
    torch.testing.assert_close(seen[0], expected)


@pytest.mark.slow
@torch.no_grad()
@pytest.mark.parametrize(
    "conditioned, backend", [(True, "eager"), *soak((True, "aot_eager"), (False, "aot_eager"))]
)
def test_compiles_as_one_graph(inputs, conditioned, backend):
    lumiere = trained(small_unet(), conditioned=conditioned)  # hooks that go meanwhile confuse the compiler
    expected = lumiere(*inputs, return_dict=False)[0]
    torch._dynamo.reset()
    compiled = torch.compile(lumiere, backend=backend, fullgraph=True)  # raises where a graph breaks
    torch.testing.assert_close(compiled(*inputs, return_dict=False)[0], expected, atol=1e-5, rtol=1e-5)
    shorter = inputs[0][:, :, :4], *inputs[1:]  # is compiled anew, not refused
    torch.testing.assert_close(
        compiled(*shorter, return_dict=False)[0],
        lumiere(*shorter, return_dict=False)[0],
        atol=1e-5,
        rtol=1e-5,
    )
    torch._dynamo.reset()


def test_inflates_and_runs_on_meta(inputs):
    with torch.device("meta"):
        unet = small_unet()
    lumiere = Lumiere.from_unet(unet)
    assert {weight.device.type for weight in lumiere.parameters()} == {"meta"}
    assert lumiere(*(x.to("meta") for x in inputs)).sample.shape == inputs[0].shape


def test_what_does_not_fit_is_refused_in_words(unet, inputs):
    video, timestep, text = inputs
    lumiere = Lumiere.from_unet(unet)
    with pytest.raises(ValueError, match="multiple of 4, as 4 and 8 are; received 6"):
        lumiere(video[:, :, :6], timestep, text)
    with pytest.raises(ValueError, match="as 4 and 8 are; received 1"):
        lumiere(video[:, :, :1], timestep, text)
    with pytest.raises(ValueError, match="4 channels.*received 2 x 3 x 8 x 8 x 8"):
        lumiere(video[:, :3], timestep, text)
    with pytest.raises(ValueError, match="4 channels.*received 2 x 4 x 8 x 8"):
        lumiere(video[:, :, 0], timestep, text)
    with pytest.raises(ValueError, match="`encoder_hidden_states` must have 2 rows.* or 16 .*received 3"):
        lumiere(video, timestep, text[:1].expand(3, -1, -1))
    with pytest.raises(ValueError, match="`timestep` must have 2 rows.*received 3"):
        lumiere(video, torch.tensor([1, 2, 3]), text)
    for factor in (0, 3, 8):
        with pytest.raises(ValueError, match=f"power of two up to 4 .*received {factor}"):
            Lumiere.from_unet(unet, factor)
