"""Small single-file checkpoints: model folders in the keys of the original Stable Diffusion code."""

import re
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

RESNET = {
    "norm1": "in_layers.0",
    "conv1": "in_layers.2",
    "norm2": "out_layers.0",
    "conv2": "out_layers.3",
    "time_emb_proj": "emb_layers.1",
    "conv_shortcut": "skip_connection",
}
UNET = {
    "time_embedding.linear_1": "time_embed.0",
    "time_embedding.linear_2": "time_embed.2",
    "add_embedding.linear_1": "label_emb.0.0",
    "add_embedding.linear_2": "label_emb.0.2",
    "conv_in": "input_blocks.0.0",
    "conv_norm_out": "out.0",
    "conv_out": "out.2",
    "mid_block.resnets.0": "middle_block.0",
    "mid_block.attentions.0": "middle_block.1",
    "mid_block.resnets.1": "middle_block.2",
}
VAE = {
    "mid_block.attentions.0.group_norm": "mid.attn_1.norm",
    "mid_block.attentions.0.to_q": "mid.attn_1.q",
    "mid_block.attentions.0.to_k": "mid.attn_1.k",
    "mid_block.attentions.0.to_v": "mid.attn_1.v",
    "mid_block.attentions.0.to_out.0": "mid.attn_1.proj_out",
    "mid_block.resnets.0": "mid.block_1",
    "mid_block.resnets.1": "mid.block_2",
    "conv_norm_out": "norm_out",
    "conv_shortcut": "nin_shortcut",
}
OPEN_CLIP = {
    "text_model.embeddings.token_embedding.weight": "token_embedding.weight",
    "text_model.embeddings.position_embedding.weight": "positional_embedding",
    "text_model.encoder.layers.": "transformer.resblocks.",
    "text_model.final_layer_norm": "ln_final",
    "layer_norm": "ln_",
    "mlp.fc1": "mlp.c_fc",
    "mlp.fc2": "mlp.c_proj",
    "self_attn.out_proj": "attn.out_proj",
}


def save_checkpoint(folder: Path, file: Path, half: bool = False, ema: bool = False) -> dict[str, Tensor]:
    """Writes a model folder of `tests.bases` as a single file, and its tokenizer beside it."""
    weights = unet_keys(weights_of(folder / "unet")) | vae_keys(weights_of(folder / "vae"))
    xl = (folder / "text_encoder_2").is_dir()
    where = "conditioner.embedders.0" if xl else "cond_stage_model"
    text = weights_of(folder / "text_encoder")
    text = {key.removeprefix("text_model."): weight for key, weight in text.items()}
    weights |= {f"{where}.transformer.text_model.{key}": weight for key, weight in text.items()}
    if xl:
        weights |= open_clip_keys(weights_of(folder / "text_encoder_2"))
    if half:
        weights = {key: weight.half() for key, weight in weights.items()}
    if ema:
        unet = [key for key in weights if key.startswith("model.diffusion_model.")]
        averaged = {
            f"model_ema.{key.removeprefix('model.').replace('.', '')}": weights[key] + 1 for key in unet
        }
        weights |= averaged
    save_file({key: weight.contiguous().clone() for key, weight in weights.items()}, file)
    (file.parent / "tokenizer").mkdir(exist_ok=True)
    for name in ("vocab.json", "merges.txt"):
        (file.parent / "tokenizer" / name).write_bytes((folder / "tokenizer" / name).read_bytes())
    return weights


def weights_of(folder: Path) -> dict[str, Tensor]:
    (file,) = folder.glob("*.safetensors")
    return load_file(file)


def replaced(key: str, names: dict[str, str]) -> str:
    for ours, theirs in names.items():
        key = key.replace(ours, theirs)
    return key


def unet_keys(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """Keys of a UNet with two layers per block."""
    attended = {int(found[1]) for key in weights if (found := re.match(r"up_blocks\.(\d+)\.attentions", key))}
    renamed = {}
    for key, weight in weights.items():
        for ours, theirs in UNET.items():
            if key.startswith(f"{ours}."):
                key = key.replace(ours, theirs, 1)
        if found := re.match(r"(down|up)_blocks\.(\d+)\.(\w+)\.(\d+)\.(.+)", key):
            way, block, kind, layer, rest = found[1], int(found[2]), found[3], int(found[4]), found[5]
            if kind == "downsamplers":
                key = f"input_blocks.{3 * block + 3}.0.{rest.replace('conv', 'op')}"
            elif kind == "upsamplers":
                key = f"output_blocks.{3 * block + 2}.{2 if block in attended else 1}.{rest}"
            else:
                place = 3 * block + layer + (way == "down")
                side = "input" if way == "down" else "output"
                key = f"{side}_blocks.{place}.{int(kind == 'attentions')}.{rest}"
        if "transformer_blocks" not in key:
            key = replaced(key, RESNET)
        renamed[f"model.diffusion_model.{key}"] = weight
    return renamed


def vae_keys(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """Keys of a VAE with four levels."""
    renamed = {}
    for key, weight in weights.items():
        if found := re.match(r"(encoder|decoder)\.(?:down|up)_blocks\.(\d+)\.(\w+)\.(\d+)\.(.+)", key):
            part, block, kind, layer, rest = found[1], int(found[2]), found[3], found[4], found[5]
            level = f"down.{block}" if part == "encoder" else f"up.{3 - block}"
            names = {"downsamplers": "downsample", "upsamplers": "upsample", "resnets": f"block.{layer}"}
            key = f"{part}.{level}.{names[kind]}.{rest}"
        key = replaced(key, VAE)
        if re.search(r"attn_1\.(q|k|v|proj_out)\.weight", key):
            weight = weight[:, :, None, None]
        renamed[f"first_stage_model.{key}"] = weight
    return renamed


def open_clip_keys(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    renamed = {}
    for key, weight in weights.items():
        if key == "text_projection.weight":
            renamed["text_projection"] = weight.T
        elif found := re.match(r"(.+)\.self_attn\.q_proj\.(weight|bias)", key):
            parts = [weights[f"{found[1]}.self_attn.{name}_proj.{found[2]}"] for name in "qkv"]
            renamed[replaced(f"{found[1]}.attn.in_proj_{found[2]}", OPEN_CLIP)] = torch.cat(parts)
        elif not re.search(r"\.self_attn\.[kv]_proj\.", key):
            renamed[replaced(key, OPEN_CLIP)] = weight
    return {f"conditioner.embedders.1.model.{key}": weight for key, weight in renamed.items()}
