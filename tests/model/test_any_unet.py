"""UNets of all kinds: plain ones, KarrasUnet, and the families of Stable Diffusion with their helpers."""

import importlib
import inspect
import subprocess
import sys
import types

import lumiere_pytorch
import pytest
import torch
from diffusers import ControlNetModel, UNet2DConditionModel
from torch import nn

from lumiere.model.lumiere import Lumiere

pytestmark = pytest.mark.slow


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)


def shaken(module, size=0.1):
    with torch.no_grad():
        for weight in module.parameters():
            weight += size * torch.randn_like(weight)
    return module


def frames_of(video):
    return video.transpose(1, 2).flatten(0, 1)  # b c t h w -> (b t) c h w


class Block(nn.Module):
    def __init__(self, before, after):
        super().__init__()
        self.conv, self.embed = nn.Conv2d(before, after, 3, padding=1), nn.Linear(8, after)

    def forward(self, x, emb):
        return torch.tanh(self.conv(x) + self.embed(emb)[:, :, None, None])


class ChannelLast(nn.Module):
    """Attention over the pixels of an image, which has its channels last: b h w c."""

    def __init__(self, dim):
        super().__init__()
        self.attend = nn.MultiheadAttention(dim, 2, batch_first=True)

    def forward(self, x):
        y = x.flatten(1, 2)  # b h w c -> b (h w) c
        return x + self.attend(y, y, y)[0].unflatten(1, x.shape[1:3])


class PlainUnet(nn.Module):
    """A UNet that no library knows: two levels, a skip, a time embedding added in every block."""

    def __init__(self):
        super().__init__()
        self.embed = nn.Linear(1, 8)
        self.first, self.second, self.middle = Block(3, 8), Block(8, 16), ChannelLast(16)
        self.down, self.up = nn.Conv2d(8, 8, 2, stride=2), nn.ConvTranspose2d(16, 8, 2, stride=2)
        self.unused, self.last, self.out = nn.Identity(), Block(16, 8), nn.Conv2d(8, 3, 1)

    def forward(self, x, time):
        emb = self.embed(time[:, None].float())
        skip = self.first(x=x, emb=emb)
        x = self.second(self.down(skip), emb)
        x = self.middle(x.movedim(1, -1)).movedim(-1, 1)
        return self.out(self.last(torch.cat((self.up(x), skip), dim=1), emb))


def inflated(model, **options):
    names = {
        "conv_module_names": ["last", "second", "first"],
        "attn_module_names": ["middle"],
        "attn_inflation_kwargs": {"channel_last": True},
        "downsample_module_names": ["down"],
        "upsample_module_names": ["up"],
    }
    return Lumiere(model, **{"image_size": 8, "unet_time_kwarg": "time", **names, **options})


@torch.no_grad()
def test_inflates_any_unet_by_names():
    model = PlainUnet()
    lumiere = inflated(model)
    assert list(lumiere.places.convs.items()) == [("first", 8), ("second", 16), ("last", 8)]  # as they run
    assert lumiere.places.attns == {"middle": 16}
    assert lumiere.downsample_factor == 2
    time = torch.tensor([3.0, 0.5])
    video = torch.randn(2, 3, 6, 8, 8)
    still = video[:, :, :1].expand(-1, -1, 6, -1, -1)
    expected = model(still[:, :, 0], time).unsqueeze(2).expand_as(still)
    torch.testing.assert_close(lumiere(still, time=time), expected, atol=1e-5, rtol=0)
    torch.testing.assert_close(lumiere(still, time), expected, atol=1e-5, rtol=0)
    assert not torch.allclose(shaken(lumiere)(video, time), lumiere(video.flip(2), time).flip(2), atol=1e-2)
    assert inflated(PlainUnet().to("meta")).places == lumiere.places


def test_the_signature_is_that_of_the_reference():
    ours, theirs = (inspect.signature(klass).parameters for klass in (Lumiere, lumiere_pytorch.Lumiere))
    assert list(ours)[: len(theirs)] == list(theirs)
    for name, parameter in theirs.items():
        assert ours[name].kind == parameter.kind
        assert (ours[name].default is inspect.Parameter.empty) == (
            parameter.default is inspect.Parameter.empty
        )
    lumiere = inflated(PlainUnet())
    for name in ("convs", "attns", "downsamples", "upsamples", "downsample_factor", "channels", "image_size"):
        assert hasattr(lumiere, name)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"conv_module_names": ["nowhere", "first", "unused"]}, "no module named nowhere, unused"),
        ({"conv_module_names": ["first", "first"]}, "first is named more than once"),
        ({"conv_module_names": ["embed"]}, r"feature maps \(b c h w\); embed gives 1 x 8"),
        ({"upsample_module_names": []}, "received 0 and 1"),
        ({"channels": 4}, "cannot take one image of 4 x 8 x 8 with time: RuntimeError"),
        ({"unet_time_kwarg": "t"}, "with t: TypeError"),
        ({"downsample_module_names": ["first"]}, "a clip of 2 frames does not pass"),
        ({"downsample_module_names": ["last"]}, "a clip of 2 frames does not pass"),
        ({"conv_inflation_kwargs": {"embedding_dim": 8}}, "takes a UNet of diffusers; received a PlainUnet"),
        ({"conv_inflation_kwargs": {"groups": 5}}, "divide the 8 channels; received 5"),
    ],
)
def test_places_that_do_not_fit_are_refused_in_words(options, words):
    with pytest.raises(ValueError, match=words):
        inflated(PlainUnet(), **options)


def test_without_layers_there_is_nothing_to_train():
    nothing = dict.fromkeys(("conv", "attn", "downsample", "upsample"), ())
    with pytest.raises(ValueError, match="nothing to train"):
        inflated(PlainUnet(), **{f"{kind}_module_names": names for kind, names in nothing.items()})
    with pytest.raises(ValueError, match="received a PlainUnet"):
        Lumiere.from_unet(PlainUnet())


def test_clips_that_do_not_fit_are_refused_in_words():
    lumiere, time = inflated(PlainUnet()), torch.ones(1)
    for shape, words in {
        (1, 3, 4, 8, 10): "8 x 8 here; received 8 x 10",
        (1, 3, 5, 8, 8): "multiple of 2, as 4 and 6 are; received 5",
        (1, 4, 4, 8, 8): "3 channels.*received 1 x 4 x 4 x 8 x 8",
    }.items():
        with pytest.raises(ValueError, match=words):
            lumiere(torch.zeros(shape), time)
    with pytest.raises(ValueError, match="takes 1 arguments after the video; received 2"):
        lumiere(torch.zeros(1, 3, 4, 8, 8), time, time)


@pytest.fixture(scope="session")
def karras_unet(request):
    """KarrasUnet of denoising-diffusion-pytorch, out of its wheel.

    The package cannot be installed beside torch for CPUs: it brings torchvision, whose builds are for CUDA,
    fail to be imported there, and are imported by transformers as soon as they are there.
    """
    name = "denoising_diffusion_pytorch"
    folder = request.config.cache.mkdir(name)
    if not list(folder.glob("*.whl")):
        command = [sys.executable, "-m", "pip", "download", "--no-deps", "--dest", str(folder)]
        if subprocess.run([*command, "denoising-diffusion-pytorch==2.3.4"]).returncode:
            pytest.skip("The wheel of denoising-diffusion-pytorch cannot be downloaded.")
    package = types.ModuleType(name)  # in place of its __init__, which imports all of it
    package.__path__ = [f"{next(folder.glob('*.whl'))}/{name}"]
    sys.modules[name] = package
    try:
        yield importlib.import_module(f"{name}.karras_unet").KarrasUnet
    finally:
        for module in [module for module in sys.modules if module.split(".")[0] == name]:
            del sys.modules[module]


KARRAS = {
    "image_size": 16,
    "unet_time_kwarg": "time",
    "conv_module_names": ["ups.6", "downs.2", "ups.4", "downs.0"],
    "attn_module_names": ["mids.0", "downs.4", "mids.1.attn"],
    "downsample_module_names": ["downs.3", "downs.1"],
    "upsample_module_names": ["ups.5", "ups.2"],
    "attn_inflation_kwargs": {"heads": 2, "dim_head": 8},
}


def small_karras(klass, **options):
    sizes = {"dim": 8, "channels": 3, "num_downsamples": 2, "num_blocks_per_stage": 1}
    model = klass(image_size=16, attn_res=(8, 4), attn_dim_head=8, **sizes, **options)
    return shaken(model).eval()  # away from its initialisation, where its output is zero


@torch.no_grad()
def test_inflates_karras_unet(karras_unet):
    model = small_karras(karras_unet, num_classes=3)
    lumiere = Lumiere(model, **KARRAS, dry_run_kwargs={"class_labels": torch.tensor([0])})
    assert lumiere.downsample_factor == 4
    assert list(lumiere.places.attns) == ["downs.4", "mids.0", "mids.1.attn"]
    video, time, labels = torch.randn(2, 3, 8, 16, 16), torch.tensor([0.2, 0.9]), torch.tensor([2, 0])
    still = video[:, :, :1].expand_as(video)
    expected = model(still[:, :, 0], time, class_labels=labels).unsqueeze(2).expand_as(video)
    assert expected.std() > 0.01
    torch.testing.assert_close(lumiere(still, time=time, class_labels=labels), expected, atol=1e-5, rtol=0)
    moving = shaken(lumiere)(video, time=time, class_labels=labels)
    assert not torch.allclose(moving, lumiere(video.flip(2), time, class_labels=labels).flip(2), atol=1e-3)


@torch.no_grad()
def test_karras_unet_comes_out_as_with_the_reference(karras_unet):
    model = small_karras(karras_unet)
    theirs = lumiere_pytorch.Lumiere(model, **KARRAS)
    for weight in theirs.parameters():
        weight += 0.1 * torch.randn_like(weight)
    ours = Lumiere(model, **KARRAS, conv_inflation_kwargs={"norm": "rms"})
    motion = {key: weight for key, weight in theirs.state_dict().items() if not key.startswith("model.")}
    ours.load_state_dict(motion)
    video, time = torch.randn(2, 3, 8, 16, 16), torch.tensor([0.2, 0.9])
    torch.testing.assert_close(ours(video, time=time), theirs(video, time=time), atol=1e-5, rtol=0)


FAMILIES = {
    "1.x": {},
    "2.x": {"attention_head_dim": (1, 2, 2, 2), "use_linear_projection": True, "cross_attention_dim": 20},
    "XL": {
        "block_out_channels": (8, 16, 16),
        "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        "attention_head_dim": (1, 2, 2),
        "use_linear_projection": True,
        "transformer_layers_per_block": (1, 1, 2),
        "addition_embed_type": "text_time",
        "addition_time_embed_dim": 8,
        "projection_class_embeddings_input_dim": 6 * 8 + 12,
    },
    "inpainting": {"in_channels": 9},
}


def family(name):
    """A UNet of the blocks of Stable Diffusion, and what it is given with two clips of eight frames."""
    config = {
        "sample_size": 8,
        "block_out_channels": (8, 16, 16, 16),
        "layers_per_block": 1,
        "norm_num_groups": 4,
        "attention_head_dim": 2,
        "cross_attention_dim": 16,
    }
    unet = UNet2DConditionModel(**config | FAMILIES[name]).eval()
    given = {"encoder_hidden_states": torch.randn(2, 5, unet.config.cross_attention_dim)}
    if name == "XL":
        sizes = torch.tensor([[64, 64, 0, 0, 64, 64], [32, 64, 8, 0, 64, 64]])
        given["added_cond_kwargs"] = {"text_embeds": torch.randn(2, 12), "time_ids": sizes}
    return unet, torch.randn(2, unet.config.in_channels, 8, 8, 8), torch.tensor([10, 700]), given


def images_of(unet, video, timestep, encoder_hidden_states, **given):
    """The base on the frames alone; text and residuals have one row per frame, the others one per clip."""
    t = video.shape[2]
    if "added_cond_kwargs" in given:
        rows = {name: x.repeat_interleave(t, 0) for name, x in given["added_cond_kwargs"].items()}
        given = given | {"added_cond_kwargs": rows}
    time = timestep.repeat_interleave(t)
    images = unet(frames_of(video), time, encoder_hidden_states, **given).sample
    return images.unflatten(0, (-1, t)).transpose(1, 2)


@torch.no_grad()
@pytest.mark.parametrize("name", FAMILIES)
def test_families_of_stable_diffusion(name):
    unet, video, timestep, given = family(name)
    text = given.pop("encoder_hidden_states")
    words = torch.randn(16, *text.shape[1:])
    expected = images_of(unet, video, timestep, text.repeat_interleave(8, 0), **given)
    same = Lumiere.from_unet(unet, 1)
    torch.testing.assert_close(same(video, timestep, text, **given).sample, expected, atol=1e-5, rtol=0)
    (found,) = same(video, timestep, encoder_hidden_states=words, return_dict=False, **given)
    expected = images_of(unet, video, timestep, words, **given)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)
    expected = images_of(unet, video, torch.tensor([7, 7]), words, **given)
    torch.testing.assert_close(same(video, 7, words, **given).sample, expected, atol=1e-5, rtol=0)
    # Nearest-neighbour resampling keeps frames 0, k, 2k, ... whole, whatever there is on those between.
    most = 2 ** (len(unet.config.block_out_channels) - 1)
    for factor in (2, 4, 8)[: most.bit_length() - 1]:
        found = Lumiere.from_unet(unet, factor)(video, 7, words, **given).sample
        kept = slice(None, None, factor)
        torch.testing.assert_close(found[:, :, kept], expected[:, :, kept], atol=1e-5, rtol=0)
        assert not torch.allclose(found, expected, atol=1e-3)


@torch.no_grad()
def test_sizes_that_halve_unevenly():
    unet, _, timestep, given = family("1.x")
    video = torch.randn(2, 4, 8, 10, 13)
    words = given["encoder_hidden_states"].repeat_interleave(8, 0)
    found = Lumiere.from_unet(unet, 8)(video, timestep, **given).sample
    expected = images_of(unet, video, timestep, words)
    torch.testing.assert_close(found[:, :, 0], expected[:, :, 0], atol=1e-5, rtol=0)


def control(unet, video, timestep, text):
    """Residuals of a ControlNet, one row per frame."""
    sizes = {"conditioning_embedding_out_channels": (4, 4, 4, 4), "conditioning_channels": 3}
    net = shaken(ControlNetModel.from_unet(unet, **sizes), 0.05)
    time, words = timestep.repeat_interleave(8), text.repeat_interleave(8, 0)
    down, mid = net(frames_of(video), time, words, torch.randn(16, 3, 64, 64), return_dict=False)
    return {"down_block_additional_residuals": down, "mid_block_additional_residual": mid}


def of_frame(residuals, change):
    down = tuple(change(x) for x in residuals["down_block_additional_residuals"])
    return {
        "down_block_additional_residuals": down,
        "mid_block_additional_residual": change(residuals["mid_block_additional_residual"]),
    }


@torch.no_grad()
@pytest.mark.parametrize("factor", [1, 2, 4, 8])
def test_residuals_of_a_controlnet_arrive_at_their_frames(factor):
    unet, video, timestep, given = family("1.x")
    text = given["encoder_hidden_states"]
    residuals, words = control(unet, video, timestep, text), text.repeat_interleave(8, 0)
    lumiere = Lumiere.from_unet(unet, factor)
    kept = slice(None, None, factor)
    expected = images_of(unet, video, timestep, words, **residuals)
    found = lumiere(video, timestep, text, **residuals).sample
    torch.testing.assert_close(found[:, :, kept], expected[:, :, kept], atol=1e-5, rtol=0)
    plain = lumiere(video, timestep, text).sample
    assert not torch.allclose(found, plain, atol=1e-2)

    # A still clip with the residuals of frame 0 on all of its frames, and with one row of them per clip.
    still = video[:, :, :1].expand_as(video)
    per_frame = of_frame(residuals, lambda x: x[::8].repeat_interleave(8, 0))
    expected = images_of(unet, still, timestep, words, **per_frame)
    for given in (per_frame, of_frame(residuals, lambda x: x[::8])):
        found = lumiere(still, timestep, text, **given).sample
        torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)


@torch.no_grad()
@pytest.mark.parametrize(
    ("name", "shapes"),
    [
        ("1.x", [(8, 8), (16, 4), (16, 2), (16, 1)]),
        ("XL", [(8, 4), (16, 4), (16, 2), (16, 2)]),
    ],
)
def test_features_of_a_t2i_adapter_arrive_at_their_frames(name, shapes):
    unet, video, timestep, given = family(name)
    text = given.pop("encoder_hidden_states")
    features = [torch.randn(16, width, size, size) for width, size in shapes]
    words = text.repeat_interleave(8, 0)
    key = "down_intrablock_additional_residuals"
    expected = images_of(unet, video, timestep, words, **given, **{key: list(features)})
    for factor in (1, 2, 4):
        given[key] = features
        found = Lumiere.from_unet(unet, factor)(video, timestep, text, **given).sample
        kept = slice(None, None, factor)
        torch.testing.assert_close(found[:, :, kept], expected[:, :, kept], atol=1e-5, rtol=0)
        assert len(features) == 4  # the base takes them out of the list that it is given


@torch.no_grad()
def test_residuals_that_do_not_fit_are_refused_in_words():
    unet, video, timestep, given = family("1.x")
    text = given["encoder_hidden_states"]
    residuals = control(unet, video, timestep, text)
    lumiere = Lumiere.from_unet(unet, 2)
    with pytest.raises(ValueError, match="_residuals` must have 2 rows.* or 16 .*received 4"):
        lumiere(video, timestep, text, **of_frame(residuals, lambda x: x[:4]))
    residuals["down_block_additional_residuals"] = residuals["down_block_additional_residuals"][:3]
    with pytest.raises(ValueError, match="holds 8 tensors on this base; received 3"):
        lumiere(video, timestep, text, **residuals)
