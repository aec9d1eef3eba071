"""Recognises by its keys what kind of model file somebody gave, and renames some keys of LoRAs.

Only names of tensors are looked at; no file is opened here.
"""

import re
from collections.abc import Iterable, Mapping

from torch import Tensor

FACTOR = re.compile(r"[._]lora[._](A|B|down|up)\b|_lora\.(down|up)\b|lora_linear_layer")
MOTION = re.compile(r"motion_modules?\.|motion_modules_|temporal_transformer|temporal_attentions")
LORA, INVERSION = "a LoRA", "a textual inversion embedding"
BLOCKS = ("down_blocks.", "up_blocks.", "mid_block.")  # of the UNet, without its name before them
# Adapters other than LoRA, by a part of their keys; then whole models. The first match counts.
KINDS = (
    (r"dora_scale|lora_magnitude_vector", "a DoRA (weight-decomposed LoRA)"),
    (r"\.hada_w[12]", "a LoHa (LyCORIS, Hadamard products)"),
    (r"\.lokr_w[12]", "a LoKr (LyCORIS, Kronecker products)"),
    (r"\.lora_mid\.", "a LoCon with a CP decomposition (LyCORIS, lora_mid)"),
    (r"\.oft_(blocks|diag)|\.oft_R\.", "an OFT or BOFT adapter"),
    (r"\.ia3_l|\.on_input$", "an IA3 adapter"),
    (r"\.[ab][12]\.weight$", "a GLoRA (LyCORIS)"),
    (r"\.(diff|diff_b)$", "a full difference of weights (LyCORIS)"),
    (r"^(model\.diffusion_model|first_stage_model|cond_stage_model)\.", "a whole checkpoint of a model"),
    (r"^control_model\.|controlnet_cond_embedding|input_hint_block|controlnet_down_blocks", "a ControlNet"),
    (r"^(image_proj|ip_adapter)\.", "an IP-Adapter"),
    (r"double_blocks|single_transformer_blocks|joint_blocks|^transformer\.|lora_transformer_",
     "a LoRA for a diffusion transformer, such as Flux or Stable Diffusion 3"),
    (r"^(string_to_param|emb_params|clip_[lg])\b", INVERSION),
    (r"^(encoder|decoder)\.(conv_in|down|up|mid)", "an autoencoder"),
)  # fmt: skip


def kind_of(keys: Iterable[str]) -> str | None:
    """Returns what a file is by the names of its tensors, None if they are of no known kind.

    Args:
        keys: names of all tensors in the file.

    Returns:
        For example `LORA`, or "a LoHa (LyCORIS, Hadamard products)".
    """
    keys = list(keys)
    moving = [key for key in keys if MOTION.search(key)]
    if len(moving) > len(keys) / 2:
        if any(FACTOR.search(key) for key in moving):
            return "a motion LoRA of AnimateDiff, which changes motion weights and not the base"
        return "a motion adapter of AnimateDiff: give it as the motion weights"
    # A bundled embedding beside LoRA factors makes no other file of a LoRA.
    factors = any(FACTOR.search(key) for key in keys)
    for pattern, name in KINDS:
        if not (factors and name == INVERSION) and any(re.search(pattern, key) for key in keys):
            return name
    return LORA if factors else None


def check_vae(keys: Iterable[str], source: str) -> None:
    """Checks that a file holds an autoencoder, alone or in a whole checkpoint.

    Args:
        keys: names of all tensors in the file.
        source: name of the file, for the message.

    Raises:
        ValueError: the file is of another kind; the message names it.
    """
    keys = list(keys)
    if any(re.match(r"(first_stage_model\.|vae\.)?(encoder|decoder)\.conv_in\.", key) for key in keys):
        return
    kind = kind_of(keys) or "of a kind that is not known"
    raise ValueError(f"{source} is {kind}; it is not supported as a VAE.")


def lora_tensors(weights: Mapping[str, Tensor], source: str) -> dict[str, Tensor]:
    """Returns the tensors of a LoRA file with the names of its components before their keys.

    AnimateDiff's domain adapters name the UNet's blocks without the UNet. Tensors of other kinds, such as a
    bundled embedding, keep their keys.

    Args:
        weights: all tensors of the file.
        source: name of the file, for the message.

    Raises:
        ValueError: the file is of another kind; the message names it.
    """
    kind = kind_of(weights)
    if kind not in (None, LORA):
        raise ValueError(f"{source} is {kind}; it is not supported as a LoRA.")
    renamed = {key.removeprefix("module."): weight for key, weight in weights.items()}
    return {f"unet.{key}" if key.startswith(BLOCKS) else key: weight for key, weight in renamed.items()}
