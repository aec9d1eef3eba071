"""File names of motion weights and checks that the files exist (standard library only).

Tensors are read and written in `motion_weights`.
"""

import json
import re
from pathlib import Path
from typing import Any

MOTION = ("motion.json", "motion.safetensors")
MOTION_INDEX = "motion.safetensors.index.json"  # index of sharded weights
SHARD = r"motion-\d{5}-of-\d{5}\.safetensors"
ALIASES = {"given_channels": "cond_channels"}  # entries of motion.json by version 0.1, accepted until 0.3
ADAPTER = ("config.json", "diffusion_pytorch_model.safetensors")  # of one component in diffusers' layout


def read_json(file: Path) -> dict[str, Any]:
    """Reads a JSON object from a file.

    Raises:
        OSError: the file is missing or is not a JSON object.
    """
    try:
        values = json.loads(file.read_text("utf-8"))
    except FileNotFoundError:
        raise FileNotFoundError(f"the model folder lacks {file}.") from None
    except ValueError:
        values = None
    if not isinstance(values, dict):
        raise OSError(f"{file} is not a JSON object.")
    return values


def read_description(folder: Path) -> dict[str, Any]:
    """Reads `motion.json`, with the present names of its entries.

    Args:
        folder: folder of the weights.

    Raises:
        OSError: the file is missing or is not a JSON object.
    """
    return {ALIASES.get(name, name): value for name, value in read_json(folder / MOTION[0]).items()}


def check_motion(where: Path) -> Path:
    """Checks that a folder contains Lumiere's motion weights.

    Args:
        where: the folder.

    Returns:
        The folder.

    Raises:
        OSError: files of the weights are missing.
    """
    files = [where / MOTION[0], *motion_files(where)]
    missing = [file.name for file in files if not file.is_file()]
    if missing:
        raise FileNotFoundError(
            f"there are no motion weights in {where} (no {' and no '.join(missing[:3])}): "
            "train some, or name their folder."
        )
    return where


def motion_files(where: Path) -> list[Path]:
    """Returns the safetensors files of motion weights: a single file, or the shards named in the index.

    Args:
        where: folder of the weights.

    Raises:
        OSError: the index is unreadable or does not name valid shards.
    """
    index = where / MOTION_INDEX
    if not index.is_file():
        return [where / MOTION[1]]
    shards = read_json(index).get("weight_map")
    names = list(shards.values()) if isinstance(shards, dict) else []
    if not names or not all(isinstance(name, str) and re.fullmatch(SHARD, name) for name in names):
        raise OSError(f"{index} does not tell the shards of motion weights.")
    return [where / name for name in sorted(set(names))]
