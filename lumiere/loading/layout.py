"""The model folder (diffusers Stable-Diffusion layout): found, checked for gaps, and asked for its limits.

Standard library only, so that a request can be refused before torch is imported and weights are read.
"""

import re
from dataclasses import dataclass
from pathlib import Path

from lumiere.limits import Bounds, variable
from lumiere.loading.hub import fetch
from lumiere.model.motion_files import ADAPTER, MOTION, MOTION_INDEX, read_json
from lumiere.request import Limits


@dataclass(frozen=True)
class Component:
    """One subfolder, the classes it may hold and its files; an index of shards will do for the weights."""

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
PREVIEW = "preview"  # a tiny autoencoder, `AutoencoderTiny` of diffusers, where a model has one
VOCABULARY = "vocabulary.json"  # what the page says that a model knows, where it has such a file
FIRST_FRAME = "first_frame.json"  # how prompts of first frames are written, where a model says so
HALF = "fp16"  # the variant that some models store beside the whole one, or instead of it
HUB_ID = r"[\w.-]+/[\w.-]+"


def locate(source: str | Path, revision: str | None = None, weights: bool = True, half: bool = False) -> Path:
    """The folder of a model: `source` itself, or the local copy of a hub id, fetched where it is missing.

    weights: False fetches the small files only. half: fetches the half as large variant of the weights, for
    models that have it. Raises OSError in words when there is no such model.
    """
    folder = Path(source).expanduser()
    if folder.is_dir():
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


def locate_motion(source: str | Path, revision: str | None = None, weights: bool = True) -> Path:
    """The folder or file of motion weights: `source` itself, or the local copy of what it names on the hub.

    On the hub that is `owner/name`, of a folder of ours or of diffusers, or `owner/name/file`. weights: False
    fetches small files only, and for a file nothing. Raises OSError in words.
    """
    path = Path(source).expanduser()
    if path.exists():
        return path
    name, file = _on_hub(source, "motion weights")
    if file and not weights:
        return path
    wanted = [MOTION[0], ADAPTER[0]]
    if weights:
        wanted = [file] if file else [*wanted, MOTION[1], MOTION_INDEX, "motion-*.safetensors", ADAPTER[1]]
    folder = fetch(name, "motion weights", revision, wanted)
    return folder / file if file else folder


def locate_file(source: str | Path, kind: str, usual: str) -> Path:
    """A file, that of the `usual` name in a folder, or the local copy of one on the hub. Raises OSError.

    On the hub that is `owner/name`, for the file of the usual name, or `owner/name/file`.
    """
    path = Path(source).expanduser()
    path = path / usual if path.is_dir() else path
    if path.is_file():
        return path
    name, file = _on_hub(source, kind)
    fetched = fetch(name, kind, None, [file or usual]) / (file or usual)
    if not fetched.is_file():
        raise FileNotFoundError(f"there is no file {file or usual} in {name} on the hub.")
    return fetched


def locate_tiny(source: str | Path) -> Path:
    """The folder of a tiny autoencoder, or the local copy of what a hub id names. Raises OSError in words."""
    folder = Path(source).expanduser()
    return folder if folder.is_dir() else fetch(_on_hub(source, "preview")[0], "preview", None, list(ADAPTER))


def _on_hub(source: str | Path, kind: str) -> tuple[str, str | None]:
    """The repository on the hub that a source names, and the file in it if it names one."""
    found = re.fullmatch(rf"({HUB_ID})(?:/(.+\.(?:safetensors|ckpt)))?", str(source))
    if not found or ".." in str(source):
        raise FileNotFoundError(
            f"cannot find the {kind} {source}: give the path of a folder or file, a hub id, or a hub id with "
            "the name of a file after it."
        )
    return found[1], found[2]


def is_xl(folder: Path) -> bool:
    """Whether the model has two text encoders, as Stable Diffusion XL."""
    return component_class(folder, OF_XL[0].name) in OF_XL[0].classes


def parts(folder: Path) -> tuple[Component, ...]:
    """The components that a model of this family needs."""
    return (*COMPONENTS, *OF_XL) if is_xl(folder) else COMPONENTS


def variant(folder: Path, name: str) -> str | None:
    """Which variant of the weights of a component is there: None for the whole one, which goes first."""
    stem = _stem(name)
    ends = (".safetensors", ".safetensors.index.json")
    whole = any((folder / name / f"{stem}{end}").is_file() for end in ends)
    return HALF if not whole and (folder / name / f"{stem}.{HALF}.safetensors").is_file() else None


def weight_files(folder: Path, name: str) -> list[Path]:
    """The files of a component's weights that are loaded, where they are there: one or several."""
    stem, kind = _stem(name), variant(folder, name)
    if kind:
        return [folder / name / f"{stem}.{kind}.safetensors"]
    one = folder / name / f"{stem}.safetensors"
    return [one] if one.is_file() else sorted((folder / name).glob(f"{stem}-*-of-*.safetensors"))


def _stem(name: str) -> str:
    """What the files of a component's weights are called, up to their variant or number."""
    part = next(part for part in (*COMPONENTS, *OF_XL) if part.name == name)
    return part.weights.removesuffix(".safetensors")


def check(folder: Path) -> None:
    """Raises OSError, naming the first few, when files of the base model are missing or not supported."""
    missing = [INDEX] if not (folder / INDEX).is_file() else []
    needed = COMPONENTS if missing else parts(folder)
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
    """The class that the index names for a component, without its library."""
    entry = read_json(folder / INDEX).get(name)
    return entry[1] if isinstance(entry, list) and len(entry) == 2 else str(entry)


def read_limits(folder: Path, downsample_factor: int) -> Limits:
    """What the model can be asked for, from the configs of UNet and autoencoder and the operator's bounds.

    Raises OSError in words for configs of another kind, ValueError for bounds that leave it nothing to do.
    """
    unet, vae = (read_json(folder / name / "config.json") for name in ("unet", "vae"))
    if type(downsample_factor) is not int or downsample_factor < 1:
        raise OSError(f"the motion weights of {folder} do not tell their downsample_factor.")
    try:
        pixels = 2 ** (len(vae["block_out_channels"]) - 1)  # per latent
        multiple = pixels * 2 ** (len(unet["block_out_channels"]) - 1)
        size = unet["sample_size"]
    except (KeyError, TypeError) as error:
        raise OSError(
            f"the configs of unet and vae in {folder} are not those of a latent diffusion model."
        ) from error
    height, width = (side * pixels for side in (size if isinstance(size, list) else (size, size)))
    bounds, least = Bounds.read(), {"max_frames": downsample_factor, "max_side": max(height, width)}
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
