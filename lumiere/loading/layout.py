"""Locates model folders (diffusers Stable Diffusion layout), checks their files and reads their limits.

Imports no torch: a request can be refused before weights are loaded.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from safetensors import SafetensorError, safe_open

from lumiere.limits import ServerLimits, variable
from lumiere.loading.hub import fetch
from lumiere.model.motion_files import ADAPTER, MOTION, MOTION_INDEX, read_json
from lumiere.request import Limits


@dataclass(frozen=True)
class Component:
    """A subfolder of a model folder. A shard index may replace the single weights file.

    Attributes:
        name: subfolder, and entry in `model_index.json`.
        classes: supported classes; empty for any.
        config: config file.
        weights: weights file, or None.
    """

    name: str
    classes: tuple[str, ...]
    config: str
    weights: str | None = None


TOKENIZERS = ("CLIPTokenizer", "CLIPTokenizerFast", "PreTrainedTokenizerFast")
COMPONENTS = (
    Component("unet", ("UNet2DConditionModel",), "config.json", "diffusion_pytorch_model.safetensors"),
    Component("vae", ("AutoencoderKL",), "config.json", "diffusion_pytorch_model.safetensors"),
    Component("text_encoder", ("CLIPTextModel",), "config.json", "model.safetensors"),
    Component("tokenizer", TOKENIZERS, "tokenizer_config.json"),
    Component("scheduler", (), "scheduler_config.json"),  # any: only its config is read
)
OF_XL = (
    Component("text_encoder_2", ("CLIPTextModelWithProjection",), "config.json", "model.safetensors"),
    Component("tokenizer_2", TOKENIZERS, "tokenizer_config.json"),
)
INDEX = "model_index.json"
PREVIEW = "preview"  # optional subfolder with a tiny autoencoder (`AutoencoderTiny` of diffusers)
VOCABULARY = "vocabulary.json"  # optional: words of the model, shown on the page
FIRST_FRAME = "first_frame.json"  # optional: prompt rewriting for the first frame
HALF = "fp16"  # weight variant that some models store beside full precision, or instead of it
PACKAGE = Path(__file__).resolve().parents[1]
# In the installed package, else at the top of the repository.
ASSETS = PACKAGE / "assets" if (PACKAGE / "assets").is_dir() else PACKAGE.parent / "assets"
CONFIGS = Path(__file__).parent / "configs"  # of the families whose single-file checkpoints can be read
FAMILIES = {  # folder of the configs -> key that only this family has
    "sd15": "cond_stage_model.transformer.text_model.embeddings.token_embedding.weight",
    "sdxl": "conditioner.embedders.1.model.token_embedding.weight",
}
HUB_ID = r"[\w.-]+/[\w.-]+"


def locate(source: str | Path, revision: str | None = None, weights: bool = True, half: bool = False) -> Path:
    """Returns a model folder or single-file checkpoint: a local one, or the local copy of a hub id.

    Args:
        source: folder, single-file checkpoint or hub id. Missing files of a hub id are downloaded.
        revision: commit, branch or tag on the hub. Defaults to the main branch.
        weights: False downloads only the small files.
        half: downloads the fp16 variant of the weights, for models that have it.

    Raises:
        OSError: the model does not exist or the download failed.
    """
    if str(source).startswith("assets/") and (ASSETS.parent / source).is_dir():
        return ASSETS.parent / source  # the embedded model, from any working directory
    folder = Path(source).expanduser()
    if folder.is_dir() or (folder.is_file() and folder.suffix == ".safetensors"):
        return folder
    if folder.exists() or not re.fullmatch(HUB_ID, str(source)):
        raise FileNotFoundError(f"there is no model folder {source}: give the path of one, or a hub id.")
    wanted = [INDEX, FIRST_FRAME, VOCABULARY, "tokenizer/*", "tokenizer_2/*", MOTION[0], f"*/{MOTION[0]}"]
    wanted += [f"{part.name}/{part.config}" for part in (*COMPONENTS, *OF_XL)] + [f"{PREVIEW}/{ADAPTER[0]}"]
    if weights:
        wanted.append(f"{PREVIEW}/{ADAPTER[1]}")
        stems = {part.weights.removesuffix(".safetensors") for part in COMPONENTS if part.weights}
        ends = ["-*.safetensors", ".safetensors.index.json", ".safetensors"]
        wanted += [f"*/motion{end}" for end in ends]
        ends = [f".{HALF}.safetensors"] if half else ends
        wanted += [f"*/{stem}{end}" for stem in sorted(stems) for end in ends]
    return fetch(str(source), "model", revision, wanted)


def config_folder(place: Path) -> Path:
    """Returns the folder with the configs of a model: its own, or a shipped one for a single-file checkpoint.

    Args:
        place: model folder, or `.safetensors` file with the keys of the original Stable Diffusion code.

    Raises:
        OSError: the file is damaged or of another family than Stable Diffusion 1.x and XL.
    """
    if place.is_dir():
        return place
    try:
        with safe_open(place, "np") as file:
            keys = set(file.keys())
    except (SafetensorError, OSError) as error:
        raise OSError(
            f"cannot read the checkpoint {place}: it is damaged, or no safetensors file."
        ) from error
    for family, key in FAMILIES.items():
        if key in keys or key.replace(".text_model", "") in keys:
            return CONFIGS / family
    raise OSError(f"the checkpoint {place} is of another family: supported are Stable Diffusion 1.x and XL.")


def locate_motion(source: str | Path, revision: str | None = None, weights: bool = True) -> Path:
    """Returns the folder or file of motion weights: a local path, or the local copy from the hub.

    Args:
        source: path, `owner/name` of a repository in our layout or in that of diffusers, or
            `owner/name/file`.
        revision: commit, branch or tag on the hub. Defaults to the main branch.
        weights: False downloads only the small files, and nothing for `owner/name/file`.

    Raises:
        OSError: the motion weights do not exist or the download failed.
    """
    wanted = [MOTION[0], ADAPTER[0]]
    if weights:
        wanted += [MOTION[1], MOTION_INDEX, "motion-*.safetensors", ADAPTER[1]]
    return _locate_part(source, "motion weights", wanted, revision, files=weights)


def locate_file(source: str | Path, kind: str, usual: str) -> Path:
    """Returns a local file, or the local copy of a file on the hub.

    Args:
        source: file, folder with a file named `usual`, `owner/name` of a repository with a file named
            `usual`, or `owner/name/file`.
        kind: noun for error messages, for example "LoRA".
        usual: default file name.

    Raises:
        OSError: the file does not exist or the download failed.
    """
    found = _locate_part(source, kind, [usual])
    file = found / usual if found.is_dir() else found
    if not file.is_file():
        raise FileNotFoundError(f"cannot find the {kind} {source}: there is no file {file.name}.")
    return file


def locate_autoencoder(source: str | Path, kind: str) -> Path:
    """Returns the folder or file of an autoencoder: a local path, or the local copy from the hub.

    Args:
        source: folder, file, `owner/name` or `owner/name/file`.
        kind: noun for error messages, "VAE" or "preview".

    Raises:
        OSError: the autoencoder does not exist or the download failed.
    """
    return _locate_part(source, kind, list(ADAPTER))


def _locate_part(
    source: str | Path, kind: str, wanted: list[str], revision: str | None = None, files: bool = True
) -> Path:
    """Returns a local path, the local copy of `wanted` in `owner/name`, or that of `owner/name/file`.

    Without `files`, nothing is downloaded for `owner/name/file`.
    """
    path = Path(source).expanduser()
    if path.exists():
        return path
    found = re.fullmatch(rf"({HUB_ID})(?:/(.+\.(?:safetensors|ckpt)))?", str(source))
    if not found or ".." in str(source):
        raise FileNotFoundError(
            f"cannot find the {kind} {source}: give the path of a folder or file, a hub id, or a hub id with "
            "the name of a file after it."
        )
    name, file = found.groups()
    if file is None:
        return fetch(name, kind, revision, wanted)
    return fetch(name, kind, revision, [file]) / file if files else path


def is_xl(folder: Path) -> bool:
    """Returns whether the model has two text encoders, like Stable Diffusion XL."""
    return component_class(folder, OF_XL[0].name) in OF_XL[0].classes


def components(folder: Path) -> tuple[Component, ...]:
    """Returns the components that a model of this family needs."""
    return (*COMPONENTS, *OF_XL) if is_xl(folder) else COMPONENTS


def variant(folder: Path, name: str) -> str | None:
    """Returns the variant of a component's weights on disk, or None for full precision, which is preferred.

    Args:
        folder: model folder.
        name: name of the component.
    """
    stem = _stem(name)
    ends = (".safetensors", ".safetensors.index.json")
    whole = any((folder / name / f"{stem}{end}").is_file() for end in ends)
    return HALF if not whole and (folder / name / f"{stem}.{HALF}.safetensors").is_file() else None


def weight_files(folder: Path, name: str) -> list[Path]:
    """Returns the weight files of a component that `from_pretrained` loads: one file or several shards.

    Args:
        folder: model folder.
        name: name of the component.
    """
    stem, kind = _stem(name), variant(folder, name)
    if kind:
        return [folder / name / f"{stem}.{kind}.safetensors"]
    one = folder / name / f"{stem}.safetensors"
    return [one] if one.is_file() else sorted((folder / name).glob(f"{stem}-*-of-*.safetensors"))


def _stem(name: str) -> str:
    """Returns the name of a component's weight files without variant, shard number and extension."""
    part = next(part for part in (*COMPONENTS, *OF_XL) if part.name == name)
    assert part.weights, f"the {name} has no weights"
    return part.weights.removesuffix(".safetensors")


def check(folder: Path) -> None:
    """Checks that a model folder has all files of the base model, in supported classes.

    Args:
        folder: model folder.

    Raises:
        OSError: files are missing (the message names the first three), or a class is not supported.
    """
    missing = [INDEX] if not (folder / INDEX).is_file() else []
    needed = COMPONENTS if missing else components(folder)
    for part in needed:
        for name in [part.config, part.weights] if part.weights else [part.config]:
            file = folder / part.name / name
            if not file.is_file() and not file.with_name(f"{name}.index.json").is_file():
                if name == part.config or not variant(folder, part.name):
                    missing.append(f"{part.name}/{name}")
    if missing:
        more = f" and {len(missing) - 3} more" if len(missing) > 3 else ""
        raise FileNotFoundError(f"the model folder {folder} lacks {', '.join(missing[:3])}{more}.")
    for part in needed:
        if part.classes and component_class(folder, part.name) not in part.classes:
            raise OSError(
                f"the model folder {folder} has a {part.name} of class {component_class(folder, part.name)}: "
                f"supported are {', '.join(part.classes)}."
            )


def component_class(folder: Path, name: str) -> str:
    """Returns the class of a component in `model_index.json`, without its library."""
    entry = read_json(folder / INDEX).get(name)
    return entry[1] if isinstance(entry, list) and len(entry) == 2 else str(entry)


def read_limits(folder: Path, downsample_factor: int) -> Limits:
    """Reads the valid ranges of a request from the UNet config, the VAE config and the operator's limits.

    Args:
        folder: model folder.
        downsample_factor: temporal downsampling factor of the motion weights, 1 or more.

    Raises:
        OSError: the configs do not belong to a latent diffusion model.
        ValueError: the operator's limits are too low for any clip.
    """
    unet, vae = (read_json(folder / name / "config.json") for name in ("unet", "vae"))
    if type(downsample_factor) is not int or downsample_factor < 1:
        raise OSError(f"the motion weights of {folder} do not tell their downsample_factor.")
    try:
        return model_limits(unet, vae, downsample_factor)
    except (KeyError, TypeError) as error:
        raise OSError(
            f"the configs of unet and vae in {folder} are not those of a latent diffusion model."
        ) from error


def model_limits(unet: Mapping, vae: Mapping, downsample_factor: int) -> Limits:
    """Returns the valid ranges of a request.

    Args:
        unet: config of the UNet.
        vae: config of the VAE.
        downsample_factor: temporal downsampling factor of the motion weights, 1 or more.

    Raises:
        ValueError: the operator's bounds are too low for any clip.
    """
    pixels = 2 ** (len(vae["block_out_channels"]) - 1)  # per latent
    multiple = pixels * 2 ** (len(unet["block_out_channels"]) - 1)
    size = unet["sample_size"]
    height, width = (side * pixels for side in (size if isinstance(size, list | tuple) else (size, size)))
    bounds, least = ServerLimits.read(), {"max_frames": downsample_factor, "max_side": max(height, width)}
    least["max_pixels"] = downsample_factor * height * width
    for name, needed in least.items():
        allowed = getattr(bounds, name)
        if allowed < needed:
            raise ValueError(f"{variable(name)} is at least {needed} for this model: received {allowed}.")
    return Limits(
        downsample_factor=downsample_factor,
        size_multiple=multiple,
        min_frames=downsample_factor,
        max_frames=bounds.max_frames,
        max_side=bounds.max_side,
        max_pixels=bounds.max_pixels,
        max_steps=bounds.max_steps,
        default_height=height,
        default_width=width,
    )
