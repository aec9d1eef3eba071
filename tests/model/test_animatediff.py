import copy
import json
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from diffusers import MotionAdapter, UNet2DConditionModel, UNetMotionModel
from safetensors.torch import load_file, save_file

from lumiere.model.animatediff import ORIGINAL, load_adapter
from lumiere.model.motion_weights import load_motion, save_motion
from tests.model.test_motion_weights import refused_when_keys_do_not_fit

pytestmark = pytest.mark.slow

POSITIONS = 6
WEIGHTS = "diffusion_pytorch_model.safetensors"


def small_unet(family: str, seed: int = 0, **options) -> UNet2DConditionModel:
    """Blocks and conditioning of Stable Diffusion 1.x or XL, with few channels."""
    torch.manual_seed(seed)
    config = {"sample_size": 8, "norm_num_groups": 8, "cross_attention_dim": 16}
    if family == "sd":
        config |= {"block_out_channels": (32, 32, 64, 64), "attention_head_dim": 2}
    else:
        config |= {
            "block_out_channels": (32, 32, 64),
            "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
            "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
            "attention_head_dim": (2, 4, 8),
            "transformer_layers_per_block": (1, 2, 3),
            "use_linear_projection": True,
            "addition_embed_type": "text_time",
            "addition_time_embed_dim": 8,
            "projection_class_embeddings_input_dim": 6 * 8 + 16,
        }
    return UNet2DConditionModel(**config | options).eval()


def shaken_adapter(unet: UNet2DConditionModel, middle: bool, seed: int = 1, **options) -> MotionAdapter:
    """An adapter for the UNet in which every number is random, those of the positions too."""
    torch.manual_seed(seed)
    widths = unet.config.block_out_channels
    options = {"motion_max_seq_length": POSITIONS, "motion_norm_num_groups": 8} | options
    options["motion_layers_per_block"] = unet.config.layers_per_block
    adapter = MotionAdapter(block_out_channels=widths, use_motion_mid_block=middle, **options).eval()
    with torch.no_grad():
        for weight in adapter.state_dict().values():
            weight += 0.1 * torch.randn_like(weight)
    return adapter


def inputs(family: str, clips: int = 2, frames: int = 5) -> tuple[tuple, dict]:
    """Clips with a timestep and a text each, and what the family needs besides."""
    generator = torch.Generator().manual_seed(2)
    video = torch.randn(clips, 4, frames, 8, 16, generator=generator)
    text = torch.randn(clips, 7, 16, generator=generator)
    time = torch.tensor([20, 640])[:clips]
    if family == "sd":
        return (video, time, text), {}
    added = {"text_embeds": torch.randn(clips, 16, generator=generator), "time_ids": torch.ones(clips, 6)}
    added["time_ids"] *= torch.tensor([[512.0], [64.0]])[:clips]
    return (video, time, text), {"added_cond_kwargs": added}


def original_keys(weights: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The names of AnimateDiff's own code, written out anew rather than by the table under test."""
    renamed = {}
    for key, weight in weights.items():
        block, rest = key.split(".motion_modules.")
        layer, rest = rest.split(".", 1)
        rest = rest.replace("attn1.", "attention_blocks.0.").replace("attn2.", "attention_blocks.1.")
        for theirs, ours in (("norms.0.", "norm1."), ("norms.1.", "norm2."), ("ff_norm.", "norm3.")):
            rest = rest.replace(ours, theirs)
        names = [rest]
        if "pos_embed.pe" in rest:
            names = [rest.replace("pos_embed", f"attention_blocks.{i}.pos_encoder") for i in range(2)]
        for name in names:
            renamed[f"{block}.motion_modules.{layer}.temporal_transformer.{name}"] = weight.clone()
    return renamed


@pytest.fixture(scope="module")
def unet():
    """The smallest with every kind of block."""
    types = {"down": ("CrossAttnDownBlock2D", "DownBlock2D"), "up": ("UpBlock2D", "CrossAttnUpBlock2D")}
    types = {f"{way}_block_types": blocks for way, blocks in types.items()}
    return small_unet("sd", block_out_channels=(32, 64), layers_per_block=1, **types)


@pytest.fixture(scope="module")
def adapter(unet):
    return shaken_adapter(unet, middle=True)


@pytest.fixture(scope="module")
def lumiere(unet, adapter):
    return load_adapter(unet, adapter)


@pytest.fixture
def file(adapter, tmp_path):
    save_file(adapter.state_dict(), tmp_path / "adapter.safetensors")
    return tmp_path / "adapter.safetensors"


def same_weights(one, other) -> bool:
    one, other = one.state_dict(), other.state_dict()
    return one.keys() == other.keys() and all(torch.equal(weight, other[key]) for key, weight in one.items())


@torch.no_grad()
@pytest.mark.parametrize("middle", [True, False])
@pytest.mark.parametrize("family, heads", [("sd", 4), ("xl", 8)])
def test_gives_what_the_motion_model_of_diffusers_gives(family, heads, middle):
    unet = small_unet(family)
    adapter = shaken_adapter(unet, middle, motion_num_attention_heads=heads)
    (video, time, text), added = inputs(family)
    model = UNetMotionModel.from_unet2d(unet, adapter).eval()
    if family == "xl":  # diffusers 0.42 leaves it random
        model.add_embedding.load_state_dict(unet.add_embedding.state_dict())
    expected = model(video, time, text.repeat_interleave(video.shape[2], dim=0), **added).sample
    lumiere = load_adapter(unet, adapter)
    assert any(name.startswith("mid_block") for name in lumiere.places.attns) == middle
    found = lumiere(video, time, text, **added).sample
    assert (found - expected).abs().max() <= 1e-5
    for layer in lumiere.attns[:1], lumiere.attns[-1:]:  # a layer less is seen
        bias = layer[0].motion_module.proj_out.bias
        bias += torch.linspace(0, 1, len(bias))
        assert (lumiere(video, time, text, **added).sample - found).abs().max() > 1e-3
        bias -= torch.linspace(0, 1, len(bias))


def test_two_blocks_in_a_layer_are_two(unet):
    depth = {"motion_transformer_layers_per_block": 2, "motion_transformer_layers_per_mid_block": 2}
    adapter = shaken_adapter(unet, True, **depth)
    (video, time, text), _ = inputs("sd", clips=1)
    with torch.no_grad():
        expected = UNetMotionModel.from_unet2d(unet, adapter)(video, time, text.expand(5, -1, -1)).sample
        found = load_adapter(unet, adapter)(video, time, text).sample
    assert (found - expected).abs().max() <= 1e-5


def test_every_layout_gives_the_same_weights(unet, adapter, tmp_path):
    weights = adapter.state_dict()
    original = original_keys(weights)
    assert len(original) == len(weights) + sum(key.endswith(".pe") for key in weights)
    hotshot = ("temporal_attentions", "positional_encoding")
    named = [theirs for theirs, _ in ORIGINAL if not any(word in theirs for word in hotshot)]
    assert all(any(theirs in key for key in original) for theirs in named) and len(named) == 8
    save_file(weights, tmp_path / "diffusers.safetensors")
    save_file(original, tmp_path / "original.safetensors")
    save_file({f"module.{key}": w for key, w in original.items()}, tmp_path / "trained.safetensors")
    adapter.save_pretrained(tmp_path / "folder")
    adapter.save_pretrained(tmp_path / "variant", variant="fp16")
    assert not (tmp_path / "variant" / WEIGHTS).exists()
    expected = load_adapter(unet, adapter)
    found = {key.split(".motion_module.")[-1] for key in expected.state_dict()}
    assert found == {key.split(".motion_modules.")[-1].split(".", 1)[1] for key in weights}
    names = ("diffusers.safetensors", "original.safetensors", "trained.safetensors", "folder", "variant")
    for name in names:
        assert same_weights(load_adapter(unet, tmp_path / name), expected), name
    assert same_weights(load_adapter(unet, str(tmp_path / "folder")), expected)


def test_the_adapter_itself_is_not_changed_by_training(unet, adapter, lumiere):
    before = copy.deepcopy(adapter.state_dict())
    with torch.no_grad():
        for weight in load_adapter(unet, adapter).parameters():
            weight.zero_()
    assert all(torch.equal(weight, before[key]) for key, weight in adapter.state_dict().items())
    assert sum(w.numel() for w in lumiere.parameters()) == sum(w.numel() for w in adapter.parameters())
    assert not any(weight.requires_grad for weight in unet.parameters())


def test_more_frames_than_positions_are_refused_in_words(lumiere):
    clip, _ = inputs("sd", frames=POSITIONS + 1)
    with pytest.raises(ValueError, match="know 6 frames at most; received 7"):
        lumiere(*clip)


def test_the_file_tells_the_positions_and_the_middle_and_the_config_the_heads(unet, tmp_path):
    shaken_adapter(unet, True, motion_num_attention_heads=(4, 4)).save_pretrained(tmp_path)
    lies = {"motion_max_seq_length": 32, "use_motion_mid_block": False}
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | lies))
    lumiere = load_adapter(unet, tmp_path)
    assert lumiere.kwargs["attns"] == {"heads": 4, "depth": 1, "positions": POSITIONS, "groups": 8}
    assert "mid_block.attentions.0" in lumiere.places.attns
    assert load_adapter(unet, tmp_path / WEIGHTS).kwargs["attns"]["heads"] == 8
    (tmp_path / "config.json").unlink()
    assert load_adapter(unet, tmp_path).kwargs["attns"]["heads"] == 8


def test_a_middle_that_the_config_claims_must_be_there(unet, tmp_path):
    adapter = shaken_adapter(unet, False)
    adapter.save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    for claim in ({"use_motion_mid_block": True}, {}):
        del config["use_motion_mid_block"]
        config |= claim
        (tmp_path / "config.json").write_text(json.dumps(config))
        with pytest.raises(ValueError, match="lacks mid_block.motion_modules, which its config claims"):
            load_adapter(unet, tmp_path)
    save_file(original_keys(adapter.state_dict()), tmp_path / "original.safetensors")
    for name in (WEIGHTS, "original.safetensors"):
        assert same_weights(load_adapter(unet, tmp_path / name), load_adapter(unet, adapter))


def test_keys_that_do_not_fit_are_an_error_that_lists_the_first(unet, file):
    weights = load_file(file)
    keys = sorted(weights)
    refused_when_keys_do_not_fit(file, lambda: load_adapter(unet, file))
    positions = [key for key in keys if key.endswith(".pe")]
    save_file(weights | {positions[-1]: weights[positions[-1]][:, :4].contiguous()}, file)
    with pytest.raises(ValueError, match=rf"1 misshapen \({positions[-1]}\)"):
        load_adapter(unet, file)
    save_file({key: weight for key, weight in weights.items() if key not in positions[1:]}, file)
    with pytest.raises(ValueError, match=rf"{len(positions) - 1} missing \({positions[1]}, "):
        load_adapter(unet, file)
    first = next(key for key in keys if key.startswith("mid_block."))
    save_file({key: weight for key, weight in weights.items() if key != first}, file)
    with pytest.raises(ValueError, match=rf"1 missing \({first}\)"):
        load_adapter(unet, file)


def test_copies_of_positions_that_disagree_are_refused(unet, adapter, tmp_path):
    original = original_keys(adapter.state_dict())
    key = next(key for key in original if "attention_blocks.1.pos_encoder" in key)
    original[key] += 1
    save_file(original, tmp_path / "original.safetensors")
    with pytest.raises(ValueError, match=f"two different tensors .*{key}"):
        load_adapter(unet, tmp_path / "original.safetensors")


def test_an_adapter_of_another_family_is_refused_in_words(unet, adapter):
    other = small_unet("xl")
    with pytest.raises(ValueError, match="32, 32, 64 channels, those of this UNet 32, 64"):
        load_adapter(unet, shaken_adapter(other, False))
    with pytest.raises(ValueError, match="32, 64 channels, those of this UNet 32, 32, 64"):
        load_adapter(other, adapter)
    wider = small_unet("xl", block_out_channels=(32, 64, 64))
    with pytest.raises(ValueError, match="32, 64, 64 channels, those of this UNet 32, 32, 64"):
        load_adapter(other, shaken_adapter(wider, False))
    with pytest.raises(ValueError, match="unexpected .*motion_modules.1"):
        load_adapter(small_unet("xl", layers_per_block=1), shaken_adapter(other, False))
    with pytest.raises(ValueError, match="received a Linear"):
        load_adapter(torch.nn.Linear(1, 1), adapter)


def test_what_cannot_be_read_is_refused_in_words(unet, adapter, tmp_path):
    torch.save(adapter.state_dict(), tmp_path / "mm.ckpt")
    with pytest.raises(ValueError, match=r"\.safetensors only.*mm\.ckpt"):
        load_adapter(unet, tmp_path / "mm.ckpt")
    (tmp_path / "mm.ckpt").rename(tmp_path / "mm.safetensors")
    with pytest.raises(OSError, match="cannot read the adapter .*mm.safetensors"):
        load_adapter(unet, tmp_path / "mm.safetensors")
    with pytest.raises(FileNotFoundError, match="there is no motion adapter .*nothing"):
        load_adapter(unet, tmp_path / "nothing")
    with pytest.raises(FileNotFoundError, match=f"has no {WEIGHTS}"):
        load_adapter(unet, tmp_path)
    for variant in ("bf16", "fp16"):
        save_file({"a": torch.zeros(1)}, tmp_path / f"diffusion_pytorch_model.{variant}.safetensors")
    with pytest.raises(ValueError, match="several variants"):
        load_adapter(unet, tmp_path)
    save_file(unet.state_dict(), tmp_path / WEIGHTS)
    with pytest.raises(ValueError, match="holds no motion modules"):
        load_adapter(unet, tmp_path)


def test_a_config_or_numbers_that_cannot_be_used_are_refused_in_words(unet, adapter, file):
    save_file(adapter.state_dict(), file.parent / WEIGHTS)
    for heads in ((8, 4), "8", True, 0, None):
        (file.parent / "config.json").write_text(json.dumps({"motion_num_attention_heads": heads}))
        with pytest.raises(ValueError, match="all levels one number of heads"):
            load_adapter(unet, file.parent)
    (file.parent / "config.json").write_text(json.dumps({"motion_num_attention_heads": 5}))
    with pytest.raises(ValueError, match="`heads` must divide the 32 channels; received 5"):
        load_adapter(unet, file.parent)
    weights = load_file(file)
    weights["mid_block.motion_modules.0.norm.bias"][3] = float("nan")
    save_file(weights, file)
    with pytest.raises(
        ValueError, match="no numbers in torch.float32, in mid_block.motion_modules.0.norm.bias"
    ):
        load_adapter(unet, file)


@torch.no_grad()
@pytest.mark.parametrize("middle", [True, False])
def test_save_and_load_are_bit_equal(unet, tmp_path, middle):
    lumiere = load_adapter(unet, shaken_adapter(unet, middle))
    save_motion(lumiere, tmp_path, {"base": "a/base"})
    loaded = load_motion(unet, tmp_path)
    assert same_weights(loaded, lumiere)
    assert loaded.places == lumiere.places and loaded.kwargs == lumiere.kwargs
    clip, _ = inputs("sd")
    assert torch.equal(loaded(*clip).sample, lumiere(*clip).sample)
    with pytest.raises(ValueError, match="other blocks or widths"):
        load_motion(small_unet("xl"), tmp_path)


@torch.no_grad()
def test_clips_do_not_depend_on_their_batch_or_on_other_threads(unet, lumiere):
    clip, _ = inputs("sd")
    twin = copy.deepcopy(lumiere)
    assert twin.model is unet and same_weights(twin, lumiere)
    for weight in twin.parameters():
        weight += 0.1
    alone = [wrapper(*(x[:1] for x in clip)).sample for wrapper in (lumiere, twin)]
    assert (alone[0] - alone[1]).abs().max() > 1e-3
    torch.testing.assert_close(lumiere(*clip).sample[:1], alone[0], atol=1e-5, rtol=0)
    with ThreadPoolExecutor(2) as threads:
        found = threads.map(lambda wrapper: wrapper(*(x[:1] for x in clip)).sample, [lumiere, twin] * 3)
    for i, sample in enumerate(found):
        torch.testing.assert_close(sample, alone[i % 2], atol=1e-5, rtol=0)


def test_trains_every_motion_weight_and_nothing_else(unet, adapter):
    lumiere, (clip, _) = load_adapter(unet, adapter), inputs("sd", clips=1)
    lumiere(*clip).sample.square().mean().backward()
    assert all(weight.grad is not None and weight.grad.any() for weight in lumiere.parameters())
    assert all(weight.grad is None for weight in unet.parameters())


def test_loads_onto_meta_and_in_the_dtype_of_the_base(unet, adapter, lumiere, file, recwarn):
    clip, _ = inputs("sd")
    with torch.device("meta"):
        shapes = UNet2DConditionModel(**unet.config)
    empty = load_adapter(shapes, file)
    assert {weight.device.type for weight in empty.state_dict().values()} == {"meta"}
    assert empty(*(x.to("meta") for x in clip)).sample.shape == clip[0].shape
    assert not [w for w in recwarn if "meta" in str(w.message)]
    half = load_adapter(copy.deepcopy(unet).half(), adapter).state_dict()
    assert all(weight.dtype == torch.float16 for weight in half.values())
    assert all(torch.equal(weight, lumiere.state_dict()[key].half()) for key, weight in half.items())


def test_reads_keys_of_hotshot(unet, adapter, lumiere, tmp_path):
    renamed = {
        key.replace(".temporal_transformer.", ".")
        .replace(".motion_modules.", ".temporal_attentions.")
        .replace(".pos_encoder.pe", ".pos_encoder.positional_encoding"): weight
        for key, weight in original_keys(adapter.state_dict()).items()
    }
    assert not any(".motion_modules." in key for key in renamed)
    save_file(renamed, tmp_path / "hsxl.safetensors")
    assert same_weights(load_adapter(unet, tmp_path / "hsxl.safetensors"), lumiere)


def test_computes_positions_that_a_file_leaves_out(unet, adapter, tmp_path):
    """AnimateLCM's own file has none; its code computes 64 sinusoidal ones."""
    weights = {key: w for key, w in adapter.state_dict().items() if not key.endswith("pos_embed.pe")}
    save_file(weights, tmp_path / "lcm.safetensors")
    found = load_adapter(unet, tmp_path / "lcm.safetensors")
    assert all(layer.positions == 64 for layer in found.attns)
    expected = MotionAdapter(
        block_out_channels=unet.config.block_out_channels,
        motion_layers_per_block=unet.config.layers_per_block,
        motion_norm_num_groups=8,
        motion_max_seq_length=64,
    )
    expected.load_state_dict(weights, strict=False)
    assert same_weights(found, load_adapter(unet, expected))
