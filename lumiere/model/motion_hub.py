"""Motion weights as a model repository: a folder with a model card, on disk or on the Hugging Face hub."""

import json
from os import PathLike
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from diffusers import UNet2DConditionModel

from lumiere.model.lumiere import Lumiere
from lumiere.model.motion_files import MOTION, MOTION_INDEX
from lumiere.model.motion_weights import load_motion, save_motion

CARD = """---
library_name: lumiere
pipeline_tag: text-to-video
tags: [lumiere, text-to-video]
{base_model}---

# Motion weights for {base}

Temporal layers ({parameters:.1f} M parameters) for a text-to-image model, made with
[Lumiere](https://arxiv.org/abs/2401.12945). Clips have a multiple of {factor} frames.

```python
from lumiere import LumierePipeline

pipe = LumierePipeline.from_pretrained("{base}", motion="PATH OR HUB ID OF THIS REPOSITORY")
frames = pipe("a red ball bouncing over green hills").frames[0]
```
{facts}"""


def save_pretrained(
    lumiere: Lumiere, folder: str | PathLike[str], base: str = "BASE", facts: dict[str, Any] | None = None
) -> None:
    """Saves motion weights with a model card. An existing card is kept.

    Args:
        lumiere: the inflated UNet.
        folder: output folder, created if missing.
        base: hub id of the base model, for the card.
        facts: provenance as JSON data, for the card and `motion.json`.
    """
    folder = Path(folder)
    save_motion(lumiere, folder, facts)
    if not (folder / "README.md").exists():
        (folder / "README.md").write_text(model_card(lumiere, base, facts), encoding="utf-8")


def from_pretrained(
    unet: UNet2DConditionModel, source: str | PathLike[str], revision: str | None = None
) -> Lumiere:
    """Inflates a `UNet2DConditionModel` with the motion weights of a folder or a repository on the hub.

    Args:
        unet: the base UNet.
        source: folder written by `save_pretrained`, or hub id.
        revision: commit, branch or tag on the hub. Defaults to the main branch.

    Returns:
        The inflated UNet.

    Raises:
        OSError: files are missing or damaged, or the download failed.
        ValueError: the weights belong to another UNet.
    """
    folder = Path(source).expanduser()
    if not folder.is_dir():
        from huggingface_hub import snapshot_download

        wanted = [*MOTION, MOTION_INDEX, "motion-*.safetensors"]
        folder = Path(snapshot_download(str(source), revision=revision, allow_patterns=wanted))
    return load_motion(unet, folder)


def push_to_hub(
    lumiere: Lumiere,
    repo_id: str,
    base: str = "BASE",
    facts: dict[str, Any] | None = None,
    private: bool | None = None,
    token: str | None = None,
) -> str:
    """Uploads motion weights with a model card, and creates the repository if it is missing.

    Args:
        lumiere: the inflated UNet.
        repo_id: hub id, `owner/name`.
        base: hub id of the base model, for the card.
        facts: provenance as JSON data, for the card and `motion.json`.
        private: whether a new repository is private. Defaults to the setting of its owner.
        token: access token. Defaults to the stored one.

    Returns:
        The address of the commit.
    """
    from huggingface_hub import HfApi

    api = HfApi(token=token)
    api.create_repo(repo_id, private=private, exist_ok=True)
    with TemporaryDirectory() as folder:
        save_pretrained(lumiere, folder, base, facts)
        return str(api.upload_folder(repo_id=repo_id, folder_path=folder, commit_message="Motion weights"))


def model_card(lumiere: Lumiere, base: str = "BASE", facts: dict[str, Any] | None = None) -> str:
    """Returns the model card of motion weights.

    Args:
        lumiere: the inflated UNet.
        base: hub id of the base model.
        facts: provenance as JSON data.
    """
    known = f"\n## Provenance\n\n```json\n{json.dumps(facts, indent=2)}\n```\n" if facts else ""
    return CARD.format(
        base=base,
        base_model=f"base_model: {base}\n" if "/" in base else "",
        parameters=sum(weight.numel() for weight in lumiere.parameters()) / 1e6,
        factor=lumiere.downsample_factor,
        facts=known,
    )
