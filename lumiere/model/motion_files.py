"""The files of motion weights (standard library only)."""

import json
import re
from pathlib import Path

MOTION = ("motion.json", "motion.safetensors")
MOTION_INDEX = "motion.safetensors.index.json"  # of the shards, where the weights are in several files
SHARD = r"motion-\d{5}-of-\d{5}\.safetensors"
ADAPTER = ("config.json", "diffusion_pytorch_model.safetensors")  # of one part in a folder of diffusers


def read_json(file: Path) -> dict:
    """Raises OSError in words for a file that is not a JSON object."""
    try:
        values = json.loads(file.read_text("utf-8"))
    except FileNotFoundError:
        raise FileNotFoundError(f"the model folder lacks {file}.") from None
    except ValueError:
        values = None
    if not isinstance(values, dict):
        raise OSError(f"{file} is not a JSON object.")
    return values


def check_motion(where: Path) -> Path:
    """Returns a folder of Lumiere's own motion weights. Raises OSError when files of them are missing."""
    files = [where / MOTION[0], *motion_files(where)]
    missing = [file.name for file in files if not file.is_file()]
    if missing:
        raise FileNotFoundError(
            f"there are no motion weights in {where} (no {' and no '.join(missing[:3])}): "
            "train some, or name their folder."
        )
    return where


def motion_files(where: Path) -> list[Path]:
    """The files that hold the numbers of motion weights: one, or the shards that their index names."""
    index = where / MOTION_INDEX
    if not index.is_file():
        return [where / MOTION[1]]
    shards = read_json(index).get("weight_map")
    names = list(shards.values()) if isinstance(shards, dict) else []
    if not names or not all(isinstance(name, str) and re.fullmatch(SHARD, name) for name in names):
        raise OSError(f"{index} does not tell the shards of motion weights.")
    return [where / name for name in sorted(set(names))]
