"""What a person asks for, and the one place where it is checked (standard library and `bounds` only).

`Request` refuses what no model could do, `Request.check(limits)` what this model cannot. Every refusal is a
`ValueError` of one sentence with the field, the limit and the value received; a value is repeated only as a
number or a length, because everything here may come from strangers and the sentence is shown on a page.
"""

import json
import math
import secrets
import unicodedata
from dataclasses import asdict, dataclass, fields, replace

from lumiere.limits import Bounds

# What a clip is made from besides the prompt; modes.py says what each needs.
MODES = ("text", "image", "images", "inpaint", "cinemagraph", "continue", "video")
FIRST_FRAMES = ("base", "none")  # what draws the first frame of a clip from text alone
SCHEDULERS = ("ddim", "dpm++ 2m", "euler", "euler a", "unipc", "lcm")

STEPS = (1, Bounds.max_steps)  # `check` knows whether the operator allows less
FPS = (1, 60)  # what browsers and screens show; a higher rate only makes the clip shorter
GUIDANCE = (0.0, 30.0)  # far past the values at which colours saturate
SEED = (0, 2**32 - 1)  # survives a number field, JSON and a URL without loss
COUNT = (0, 10**6)  # frames and sides, before `check`, which knows the model and names what would be valid
MAX_TEXT = 2000  # characters of a prompt; text encoders take 20 to 77 tokens of it
MAX_STYLES = 16  # weights of a request, each as far as `Style` takes them
MAX_SETTINGS = 65536  # characters of saved settings: two full prompts, every character escaped, fit
GIVEN = 4  # clips that go on are at most so many times as large as those that are made


@dataclass(frozen=True)
class Limits:
    """What one model can do, and what its operator allows. All are inclusive.

    `max_pixels` bounds frames * height * width; `styles` are the least and the most of each weight in a
    request's `style_weights`. Those of a model: `folder.read_limits`.
    """

    downsample_factor: int = 4
    size_multiple: int = 32
    min_frames: int = 4
    max_frames: int = Bounds.max_frames
    min_side: int = 64
    max_side: int = Bounds.max_side
    max_pixels: int = Bounds.max_pixels
    max_steps: int = Bounds.max_steps
    default_height: int = 128
    default_width: int = 128
    styles: tuple[tuple[float, float], ...] = ()

    def longest(self, height: int, width: int) -> int:
        """The most frames of this size, in pixels, that can be asked for."""
        most = min(self.max_frames, self.max_pixels // (height * width))
        return most // self.downsample_factor * self.downsample_factor

    def longest_given(self, height: int, width: int) -> int:
        """The most frames of a clip that goes on, brought to this size: only the end of it is denoised."""
        return min(self.max_frames, GIVEN * self.max_pixels // (height * width))


@dataclass(frozen=True)
class Request:
    """One clip to be made.

    prompt: 1 to 2000 characters, not blank; negative_prompt: 0 to 2000. frames, height, width: whole numbers,
    whose range depends on the model and is left to `check`. fps: 1 to 60. steps: 1 to 150. guidance: 0 to 30,
    where 1 means none. scheduler: one of `SCHEDULERS`. seed: 0 to 2**32 - 1, or None for a random one
    (`with_seed`). strength: above 0, at most 1; below 1 the clip begins as a given one with noise, and only
    that share of the steps is run. mode: one of `MODES`. first_frame: one of `FIRST_FRAMES`; with base the
    base model draws it and the motion weights make the clip with it given, with none all frames come from
    noise; without effect unless the mode is text and the motion weights take given pixels. style_weights: in
    place of those that the operator gave to the styles of the model, all or none; to be put in by whoever
    runs the request. Where a float is asked an int will do, never a bool or text.

    Raises ValueError for anything else.
    """

    prompt: str
    negative_prompt: str = ""
    frames: int = 16
    fps: int = 16
    height: int = 128
    width: int = 128
    steps: int = 20
    guidance: float = 4.0
    scheduler: str = "dpm++ 2m"
    seed: int | None = None
    strength: float = 1.0
    mode: str = "text"
    first_frame: str = "base"
    style_weights: tuple[float, ...] = ()

    def __post_init__(self):
        _check_text("prompt", self.prompt)
        _check_text("negative_prompt", self.negative_prompt)
        if all(c.isspace() or unicodedata.category(c) in ("Cc", "Cf") for c in self.prompt):
            raise ValueError(f"write a prompt: received {len(self.prompt)} characters, none of them visible.")
        for name in ("frames", "height", "width"):
            _check_whole(name, getattr(self, name), *COUNT)
        _check_whole("fps", self.fps, *FPS)
        _check_whole("steps", self.steps, *STEPS)
        if self.seed is not None:
            _check_whole("seed", self.seed, *SEED)
        low, high = GUIDANCE
        if not _is_number(self.guidance) or not low <= self.guidance <= high:
            raise ValueError(
                f"guidance must be a number from {low:g} to {high:g}: received {_received(self.guidance)}."
            )
        if not _is_number(self.strength) or not 0 < self.strength <= 1:
            raise ValueError(
                f"strength must be a number above 0 and at most 1: received {_received(self.strength)}."
            )
        named = {"scheduler": SCHEDULERS, "mode": MODES, "first_frame": FIRST_FRAMES}
        for name, known in named.items():
            value = getattr(self, name)
            if type(value) is not str or value not in known:
                raise ValueError(f"{name} must be one of {', '.join(known)}: received {_received(value)}.")
        _check_weights("style_weights", self.style_weights)
        object.__setattr__(self, "style_weights", tuple(map(float, self.style_weights)))
        # Equal requests are saved alike: an int accepted as a number becomes the float it stands for.
        object.__setattr__(self, "guidance", float(self.guidance))
        object.__setattr__(self, "strength", float(self.strength))

    @property
    def steps_run(self) -> int:
        """How many of the steps are run: all of them at full strength, and one at least."""
        return max(1, round(self.steps * self.strength))

    def check(self, limits: Limits) -> "Request":
        """Returns self when the model with these limits can do it; raises ValueError when not."""
        _check_multiple("frames", self.frames, limits.downsample_factor, limits.min_frames, limits.max_frames)
        for name in ("height", "width"):
            _check_multiple(name, getattr(self, name), limits.size_multiple, limits.min_side, limits.max_side)
        _check_whole("steps", self.steps, STEPS[0], limits.max_steps)
        if self.style_weights and len(self.style_weights) != len(limits.styles):
            raise ValueError(
                f"style_weights must be as many numbers as the model has styles, {len(limits.styles)}: "
                f"received {len(self.style_weights)}."
            )
        for weight, (low, high) in zip(self.style_weights, limits.styles, strict=False):
            if not low <= weight <= high:
                raise ValueError(f"style_weights must be from {low:g} to {high:g}: received {weight:g}.")
        pixels = self.frames * self.height * self.width
        if pixels > limits.max_pixels:
            raise ValueError(
                f"frames x height x width must be at most {limits.max_pixels}: "
                f"{self.frames} x {self.height} x {self.width} is {pixels}."
            )
        return self

    def with_seed(self) -> "Request":
        """Returns this request with a seed: its own, or one drawn evenly from the full range."""
        return self if self.seed is not None else replace(self, seed=secrets.randbelow(SEED[1] + 1))

    def saved(self) -> dict:
        """All fields by name, those of styles only where there are any."""
        return {name: value for name, value in asdict(self).items() if name != "style_weights" or value}

    def to_json(self) -> str:
        return json.dumps(self.saved(), ensure_ascii=False)

    @classmethod
    def from_json(cls, text: str) -> "Request":
        """Reads what `to_json` wrote, or what a stranger put in its place.

        Keys of other versions are ignored, missing ones take their defaults, values are checked as always.
        Raises ValueError.
        """
        if type(text) is not str or len(text) > MAX_SETTINGS:
            raise ValueError(
                f"settings must be text of at most {MAX_SETTINGS} characters: received {_received(text)}."
            )
        try:
            values = json.loads(text)
        except (ValueError, RecursionError):
            values = None
        if type(values) is not dict or "prompt" not in values:
            raise ValueError(
                f"settings must be a JSON object with a prompt: received {len(text)} characters that are not."
            )
        return cls(**{f.name: values[f.name] for f in fields(cls) if f.name in values})


def _check_text(name: str, value) -> None:
    if type(value) is not str:
        raise ValueError(f"{name} must be text: received {_received(value)}.")
    if len(value) > MAX_TEXT:
        raise ValueError(f"{name} must be at most {MAX_TEXT} characters: received {len(value)}.")
    for position, character in enumerate(value, 1):
        if character == "\0" or "\ud800" <= character <= "\udfff":
            code = f"U+{ord(character):04X}"
            raise ValueError(f"{name} must be readable text: character {position} of {len(value)} is {code}.")


def _check_whole(name: str, value, low: int, high: int) -> None:
    # type() rather than isinstance: a bool is an int.
    if type(value) is not int or not low <= value <= high:
        raise ValueError(f"{name} must be a whole number from {low} to {high}: received {_received(value)}.")


def _check_multiple(name: str, value: int, step: int, low: int, high: int) -> None:
    first, last = -(-low // step) * step, high // step * step
    assert 0 < first <= last, f"no valid {name} from {low} to {high} in steps of {step}"
    if first <= value <= last and value % step == 0:
        return
    below = min(max(value // step * step, first), max(last - step, first))
    near = f"the nearest are {below} and {below + step}" if first < last else f"the only one is {first}"
    span = "" if first <= value <= last else f"from {first} to {last} and "
    raise ValueError(f"{name} must be {span}divisible by {step}: {_received(value)} is not, {near}.")


def _check_weights(name: str, value) -> None:
    if not isinstance(value, list | tuple) or len(value) > MAX_STYLES:
        raise ValueError(f"{name} must be {MAX_STYLES} numbers at most: received {_received(value)}.")
    for weight in value:
        if not _is_number(weight) or abs(weight) > 4:
            raise ValueError(f"{name} must be numbers from -4 to 4: received {_received(weight)}.")


def _is_number(value) -> bool:
    return type(value) is int or (type(value) is float and math.isfinite(value))


def _received(value) -> str:
    """Describes a value without repeating text: a number as it is, anything else by its kind and length."""
    if type(value) is float:
        return repr(value)
    if type(value) is int:
        # Python refuses to write out an int of more than 4300 digits.
        bits = value.bit_length()
        return str(value) if bits <= 100 else f"a number of about {int(bits * math.log10(2)) + 1} digits"
    if value is None:
        return "nothing"
    if type(value) is bool:
        return "true" if value else "false"
    kinds = {str: "text", list: "a list", tuple: "a list", dict: "an object", bytes: "bytes"}
    if type(value) in kinds:
        return f"{kinds[type(value)]} of length {len(value)}"
    return "something else"
