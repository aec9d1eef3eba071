"""Draws the architecture of a model with its real numbers, read from configs and safetensors headers."""

import math
from dataclasses import dataclass
from pathlib import Path

from safetensors import SafetensorError, safe_open

from lumiere.loading.layout import components, weight_files
from lumiere.model.motion_files import MOTION, read_json
from lumiere.page import part, strings

ACROSS, LEFT, TOP = 760, 16, 44  # width and margins of the drawing, in SVG units
INSET, DEEP = 98, 158  # largest horizontal, and vertical offset between levels
GAP = 170  # least distance between the two blocks of the deepest level, which has a label
WIDE, HIGH = 168, 92  # block size on the finest level


@dataclass(frozen=True)
class Level:
    """One UNet level: `height` x `width` latents with `channels` channels, for every `stride`th frame."""

    stride: int
    height: int
    width: int
    channels: int
    attention: bool  # temporal attention; False for temporal convolution only


@dataclass(frozen=True)
class Architecture:
    """Numbers of the architecture.

    Attributes:
        levels: UNet levels, finest first.
        pixels: side of a latent cell in pixels.
        frozen: base parameters; None if a weight file is missing.
        trained: motion parameters; None if their file is missing.
    """

    levels: tuple[Level, ...]
    pixels: int
    frozen: int | None
    trained: int | None


def read(folder: Path, motion: Path) -> Architecture:
    """Reads the architecture from its config files; AnimateDiff adapters do not downsample in time.

    Args:
        folder: folder of the base model (diffusers layout).
        motion: folder of the motion weights.

    Raises:
        OSError: a config file is missing or does not describe a supported model.
    """
    unet, vae = (read_json(folder / name / "config.json") for name in ("unet", "vae"))
    ours = (motion / MOTION[0]).is_file()
    size, widths = unet["sample_size"], unet["block_out_channels"]
    height, width = size if isinstance(size, list) else (size, size)
    placement = read_json(motion / MOTION[0])["placement"] if ours else {"downsamples": (), "attns": ()}
    halved = {name.split(".")[1] for name in placement["downsamples"]}
    attended = {name.split(".")[1] for name in placement["attns"] if name.startswith("down_blocks")}
    levels, stride = [], 1
    for index, channels in enumerate(widths):
        levels.append(
            Level(stride, height >> index, width >> index, channels, not ours or str(index) in attended)
        )
        stride *= 2 if str(index) in halved else 1
    names = [part.name for part in components(folder) if part.weights]
    base = [sum(map(parameters, weight_files(folder, name))) for name in names]
    return Architecture(
        levels=tuple(levels),
        pixels=2 ** (len(vae["block_out_channels"]) - 1),
        frozen=sum(base) if all(base) else None,
        trained=parameters(motion) or None,
    )


def parameters(folder: Path) -> int:
    """Counts parameters from safetensors headers.

    Args:
        folder: a safetensors file, or a folder of safetensors files.

    Returns:
        The number of parameters; 0 for a folder without safetensors files, or with a damaged one.
    """
    total = 0
    for file in [folder] if folder.suffix == ".safetensors" else folder.glob("*.safetensors"):
        try:
            with safe_open(file, "np") as tensors:
                total += sum(math.prod(tensors.get_slice(name).get_shape()) for name in tensors.keys())
        except SafetensorError:  # loading the model says so
            return 0
    return total


def drawing(architecture: Architecture, frames: int) -> str:
    """Returns the HTML section with a description, an SVG and a table of its numbers. Contains no user text.

    Elements with `data-stride` show the frame count of a level; the component's script updates them when the
    clip length changes.

    Args:
        architecture: numbers of the architecture.
        frames: initial clip length.
    """
    changes = strings.ARCHITECTURE_HALVED if architecture.levels[-1].stride > 1 else strings.ARCHITECTURE_KEPT
    why = "".join(
        f"<p>{text}</p>"
        for text in (strings.ARCHITECTURE_BASE, changes, strings.architecture_facts(architecture))
    )
    drawn = f"{_svg(architecture, frames)}{_table(architecture, frames)}"
    made = part("components/architecture/template.html").replace("@title", strings.ARCHITECTURE)
    return made.replace("@why", why).replace("@drawing", drawn)


def _svg(architecture: Architecture, frames: int) -> str:
    """Draws the UNet: block height shows frame size, block width shows time; both shrink on the way down."""
    parts, last = [], len(architecture.levels) - 1
    widths = [max(46, WIDE * level.stride**-0.62) for level in architecture.levels]
    inset = min(INSET, (ACROSS / 2 - LEFT - widths[-1] - GAP / 2) / max(1, last))
    for index, (level, wide) in enumerate(zip(architecture.levels, widths, strict=True)):
        high, deepest = max(30, HIGH * 0.76**index), index == last
        y, left = TOP + DEEP * index, LEFT + inset * index
        right = ACROSS - left - wide
        parts += [_block(x, y, wide, high, level, frames) for x in (left, right)]
        if not deepest:
            top, bottom = y + high + 44, y + DEEP - 6
            parts += [_arrow(left + inset + 20, top, bottom), _arrow(ACROSS - left - inset - 20, bottom, top)]
        parts.append(_across(left + wide + 14, right - 14, y + high / 2, deepest))
    names = f'<text class="end" x="{LEFT}" y="24">{strings.ARCHITECTURE_NOISE}</text>'
    names += (
        f'<text class="end" x="{ACROSS - LEFT}" y="24" text-anchor="end">{strings.ARCHITECTURE_CLIP}</text>'
    )
    height = TOP + DEEP * len(architecture.levels) - 40
    return (
        f'<div class="scroll" tabindex="0" role="img" aria-label="{strings.ARCHITECTURE_LABEL}">'
        f'<svg viewBox="0 0 {ACROSS} {height}" aria-hidden="true">{"".join(parts)}{names}</svg></div>'
    )


def _block(x: float, y: float, wide: float, high: float, level: Level, frames: int) -> str:
    """Draws the frozen layers as one sheet per frame and the trained temporal layers as a strip below."""
    sheets = max(3, round(8 / level.stride))
    step = (wide - 26) / (sheets - 1)
    drawn = "".join(
        f'<path class="sheet" d="M{x + step * n:.1f} {y + 8:.1f}l26 -8v{high:.1f}l-26 8z"/>'
        for n in range(sheets)
    )
    strip = f'x="{x:.1f}" y="{y + high + 15:.1f}" width="{wide - 26:.1f}" height="7" rx="3.5"'
    count = f'<tspan data-stride="{level.stride}">{frames // level.stride}</tspan>'
    label = f'<text x="{x:.1f}" y="{y + high + 40:.1f}">{count} × {level.height}×{level.width}</text>'
    return f'<g>{drawn}<rect class="trained" {strip}/>{label}</g>'


def _across(left: float, right: float, y: float, deepest: bool) -> str:
    """Draws a skip connection or, on the deepest level, the middle block."""
    label, middle = (strings.ARCHITECTURE_MIDDLE, " middle") if deepest else (strings.ARCHITECTURE_SKIP, "")
    return (
        f'<path class="skip{middle}" d="M{left:.0f} {y:.0f}H{right - 8:.0f}"/>'
        f'<path class="tip" d="M{right:.0f} {y:.0f}l-9 -4.5v9z"/>'
        f'<text class="soft" x="{ACROSS / 2:.0f}" y="{y - 9:.0f}" text-anchor="middle">{label}</text>'
    )


def _arrow(x: float, start: float, end: float) -> str:
    back = 8 if end > start else -8
    tip = f"M{x:.0f} {end:.0f}l-4.5 {-back}h9z"
    return f'<path class="way" d="M{x:.0f} {start:.0f}V{end - back:.0f}"/><path class="tip" d="{tip}"/>'


def _table(architecture: Architecture, frames: int) -> str:
    kinds = strings.ARCHITECTURE_CONVOLUTION, strings.ARCHITECTURE_ATTENTION
    rows = "".join(
        f'<tr><td><span data-stride="{level.stride}">{frames // level.stride}</span></td>'
        f"<td>{level.height} × {level.width}</td><td>{level.channels}</td>"
        f"<td>{kinds[level.attention]}</td></tr>"
        for level in architecture.levels
    )
    head = "".join(f'<th scope="col">{name}</th>' for name in strings.ARCHITECTURE_COLUMNS)
    return f"<table><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table>"
