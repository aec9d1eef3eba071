"""Requests and their validation (standard library and lumiere.limits only).

`Request` rejects values outside the range of every model. `Request.check` rejects values outside the limits
of one model. Each `ValueError` is one sentence with the field, the limit and the received value. Requests are
untrusted and messages are shown on a page, so values appear only as a number or a length.
"""

import json
import math
import secrets
import unicodedata
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from typing import Any, TypeVar

from lumiere import prompts
from lumiere.limits import ServerLimits

# Inputs of a clip besides the prompt; modes.py lists the inputs of each mode.
MODES = ("text", "image", "images", "inpaint", "cinemagraph", "continue", "video")
FIRST_FRAMES = ("none", "base")  # source of the first frame in text-to-video
SCHEDULERS = ("ddim", "dpm++ 2m", "euler", "euler a", "unipc", "lcm")

STEPS = (1, ServerLimits.max_steps)  # the operator may set a lower maximum, see `check`
FPS = (1, 60)  # range of browsers and screens; a higher rate only shortens the clip
GUIDANCE = (0.0, 30.0)  # far past the values at which colours saturate
SEED = (0, 2**32 - 1)  # survives a number field, JSON and a URL without loss
COUNT = (0, 10**6)  # frames and sides; `check` applies the range of the model
MAX_TEXT = 2000  # characters of a prompt
CLIP_SKIP = (0, 11)  # the smallest text encoder of Stable Diffusion has 12 layers
MAX_STYLES = 16  # number of style weights
MOTION_SCALE = (0.0, 4.0)  # 1 is as trained
FREE_INIT = (1, 10)  # passes
# Ranges of fields that may be None
WHOLE = {"frames": COUNT, "height": COUNT, "width": COUNT, "fps": FPS, "steps": STEPS, "seed": SEED}
WHOLE |= {"free_init": FREE_INIT}
NUMBERS = {"guidance": GUIDANCE, "motion_scale": MOTION_SCALE}
ADAPTER_OPTIONS = ("free_init", "free_noise", "motion_scale")  # fields that `Sampling` has, too
MAX_CAMERAS = 16  # number of camera moves
WEIGHT = 4  # largest weight of a style or camera move, with either sign
MAX_SETTINGS = 65536  # characters of saved settings: two full prompts, every character escaped, fit
GIVEN = 4  # maximum size of a continued clip, relative to a generated clip

T = TypeVar("T")


@dataclass(frozen=True)
class Limits:
    """Limits of one model and its operator, all inclusive (see `folder.read_limits`).

    Attributes:
        downsample_factor: temporal factor of the model. Frames are a multiple of it.
        size_multiple: height and width are a multiple of it.
        min_frames: minimum number of frames.
        max_frames: maximum number of frames.
        min_side: minimum height and width in pixels.
        max_side: maximum height and width in pixels.
        max_pixels: maximum of frames * height * width.
        max_steps: maximum number of denoising steps.
        default_height: pixels.
        default_width: pixels.
        styles: minimum and maximum of each weight in `Request.style_weights`.
        adapter: whether the motion weights are an AnimateDiff adapter, which has the options of one.
        cameras: camera moves that `Request.cameras` may name.
    """

    downsample_factor: int = 4
    size_multiple: int = 32
    min_frames: int = 4
    max_frames: int = ServerLimits.max_frames
    min_side: int = 64
    max_side: int = ServerLimits.max_side
    max_pixels: int = ServerLimits.max_pixels
    max_steps: int = ServerLimits.max_steps
    default_height: int = 128
    default_width: int = 128
    styles: tuple[tuple[float, float], ...] = ()
    adapter: bool = False
    cameras: tuple[str, ...] = ()

    def longest(self, height: int, width: int) -> int:
        """Returns the maximum number of frames at a height and width in pixels."""
        most = min(self.max_frames, self.max_pixels // (height * width))
        return most // self.downsample_factor * self.downsample_factor

    def longest_given(self, height: int, width: int) -> int:
        """Returns the maximum length of a continued clip at a height and width in pixels.

        The limit exceeds `longest`, because only the end of the clip is denoised.
        """
        return min(self.max_frames, GIVEN * self.max_pixels // (height * width))


@dataclass(frozen=True)
class Request:
    """Settings of one clip. Float fields also accept an int, but neither bool nor text.

    Fields that are None take the default of the model that the request is given to (`filled`).

    Attributes:
        prompt: 1 to 2000 characters, not blank.
        negative_prompt: 0 to 2000 characters.
        frames: number of frames. `check` applies the range of the model.
        fps: 1 to 60 frames per second.
        height: pixels. `check` applies the range of the model.
        width: pixels. `check` applies the range of the model.
        steps: 1 to 150 denoising steps.
        guidance: scale from 0 to 30; 1 disables guidance.
        scheduler: one of `SCHEDULERS`.
        seed: 0 to 2**32 - 1, or None for a random seed (`with_seed`).
        strength: above 0 and at most 1. Below 1, the clip starts from a noised clip and runs only this share
            of the steps.
        mode: one of `MODES`.
        first_frame: one of `FIRST_FRAMES`. With "none", all frames start from noise. With "base", the base
            draws the first frame and the motion weights continue it. The field applies to mode "text" and
            motion weights with conditioning channels.
        style_weights: replace the operator's weights of the model's styles, all or none. The caller of the
            pipeline applies them.
        clip_skip: number of last layers of CLIP to skip, 0 to 11, for both prompts.
        cameras: camera moves with their weights from -4 to 4, also as a dict; several add up.
        motion_scale: amount of motion of an AnimateDiff adapter, 0 to 4; 1 as trained.
        free_noise: whether an AnimateDiff adapter makes a long clip by FreeNoise.
        free_init: passes of FreeInit, 1 to 10. Each runs all steps.
        loop: whether the last frame leads to the first one. A loop has no first frame of the base and is not
            split into segments. Mode "continue" has no loops.

    Raises:
        ValueError: a field is out of range.
    """

    prompt: str
    negative_prompt: str = ""
    frames: int | None = None
    fps: int | None = None
    height: int | None = None
    width: int | None = None
    steps: int | None = None
    guidance: float | None = None
    scheduler: str | None = None
    seed: int | None = None
    strength: float = 1.0
    mode: str = "text"
    first_frame: str = FIRST_FRAMES[0]
    style_weights: tuple[float, ...] = ()
    clip_skip: int = 0
    cameras: tuple[tuple[str, float], ...] | None = None
    motion_scale: float | None = None
    free_noise: bool | None = None
    free_init: int | None = None
    loop: bool = False

    def __post_init__(self) -> None:
        for name in ("prompt", "negative_prompt"):
            _check_text(name, getattr(self, name))
        if all(c.isspace() or unicodedata.category(c) in ("Cc", "Cf") for c in self.prompt):
            raise ValueError(f"write a prompt: received {len(self.prompt)} characters, none of them visible.")
        for name in ("prompt", "negative_prompt"):
            prompts.check(name, getattr(self, name))
        _check_whole("clip_skip", self.clip_skip, *CLIP_SKIP)
        for name, span in WHOLE.items():
            if getattr(self, name) is not None:
                _check_whole(name, getattr(self, name), *span)
        for name, (low, high) in NUMBERS.items():
            value = getattr(self, name)
            if value is not None and (not _is_number(value) or not low <= value <= high):
                raise ValueError(
                    f"{name} must be a number from {low:g} to {high:g}: received {_received(value)}."
                )
        if not _is_number(self.strength) or not 0 < self.strength <= 1:
            raise ValueError(
                f"strength must be a number above 0 and at most 1: received {_received(self.strength)}."
            )
        named = {"mode": MODES, "first_frame": FIRST_FRAMES}
        named |= {"scheduler": SCHEDULERS} if self.scheduler is not None else {}
        for name, known in named.items():
            value = getattr(self, name)
            if type(value) is not str or value not in known:
                raise ValueError(f"{name} must be one of {', '.join(known)}: received {_received(value)}.")
        _check_weights("style_weights", self.style_weights)
        object.__setattr__(self, "style_weights", tuple(map(float, self.style_weights)))
        if self.cameras is not None:
            object.__setattr__(self, "cameras", _checked_cameras(self.cameras))
        for name in ("free_noise", "loop"):
            value = getattr(self, name)
            if type(value) is not bool and not (name == "free_noise" and value is None):
                raise ValueError(f"{name} must be true or false: received {_received(value)}.")
        if self.loop and self.mode == "continue":
            raise ValueError("a loop cannot continue a clip: leave out the clip, or the loop.")
        for name in (*NUMBERS, "strength"):
            # Equal requests serialise identically: convert ints to floats.
            if getattr(self, name) is not None:
                object.__setattr__(self, name, float(getattr(self, name)))

    @property
    def steps_run(self) -> int:
        """Number of steps to run: `steps * strength`, at least one. Needs `steps`."""
        return max(1, round(required(self.steps) * self.strength))

    def filled(self, defaults: Mapping[str, object]) -> "Request":
        """Returns this request with defaults in the place of None.

        Args:
            defaults: default values by field.
        """
        absent: dict[str, Any] = {name: x for name, x in defaults.items() if getattr(self, name) is None}
        return replace(self, **absent)

    def check(self, limits: Limits) -> "Request":
        """Checks the fields that are not None against the limits of a model.

        Args:
            limits: limits of the model.

        Returns:
            The request.

        Raises:
            ValueError: a field exceeds the limits.
        """
        sides = (limits.size_multiple, limits.min_side, limits.max_side)
        frames = (limits.downsample_factor, limits.min_frames, limits.max_frames)
        for name, span in {"frames": frames, "height": sides, "width": sides}.items():
            if getattr(self, name) is not None:
                _check_multiple(name, getattr(self, name), *span)
        if self.steps is not None:
            _check_whole("steps", self.steps, STEPS[0], limits.max_steps)
        if self.style_weights and len(self.style_weights) != len(limits.styles):
            raise ValueError(
                f"style_weights must be as many numbers as the model has styles, {len(limits.styles)}: "
                f"received {len(self.style_weights)}."
            )
        for weight, (low, high) in zip(self.style_weights, limits.styles, strict=False):
            if not low <= weight <= high:
                raise ValueError(f"style_weights must be from {low:g} to {high:g}: received {weight:g}.")
        self._check_adapter(limits)
        if self.frames is None:
            return self
        for name in ("prompt", "negative_prompt"):
            last, _ = prompts.keyframes(getattr(self, name))[-1]
            if last >= self.frames:
                raise ValueError(
                    f"frames in {name} must be from 0 to {self.frames - 1}, within the clip: received {last}."
                )
        height, width = self.height or limits.default_height, self.width or limits.default_width
        pixels = self.frames * height * width
        if pixels > limits.max_pixels:
            raise ValueError(
                f"frames x height x width must be at most {limits.max_pixels}: "
                f"{self.frames} x {height} x {width} is {pixels}."
            )
        return self

    def _check_adapter(self, limits: Limits) -> None:
        """Checks the options of AnimateDiff adapters; values without effect pass for other models."""
        for move, _ in self.cameras or ():
            if move not in limits.cameras:
                known = f"one of {', '.join(limits.cameras)}" if limits.cameras else "left out for this model"
                raise ValueError(f"cameras must be {known}: received text of length {len(move)}.")
        if not limits.adapter and (self.motion_scale not in (None, 1.0) or self.free_noise):
            name = "free_noise" if self.free_noise else "motion_scale"
            raise ValueError(f"{name} needs motion weights of AnimateDiff: this model has others.")
        runs = (self.steps or 1) * (self.free_init or 1)
        if self.free_init != 1 and runs > limits.max_steps:
            raise ValueError(
                f"steps x free_init must be at most {limits.max_steps}: {self.steps or 1} x {self.free_init} "
                f"is {runs}."
            )

    def with_seed(self) -> "Request":
        """Returns this request with its own seed, or with a uniformly random seed."""
        return self if self.seed is not None else replace(self, seed=secrets.randbelow(SEED[1] + 1))

    def saved(self) -> dict[str, Any]:
        """Returns all fields by name, without empty `style_weights` and fields left to the model."""
        values = asdict(self)
        if self.cameras is not None:
            values["cameras"] = dict(self.cameras)
        empty = {"style_weights": (), "seed": ...}  # a seed of None is kept
        return {name: value for name, value in values.items() if value != empty.get(name)}

    def to_json(self) -> str:
        """Serialises the request to JSON."""
        return json.dumps(self.saved(), ensure_ascii=False)

    @classmethod
    def from_json(cls, text: str) -> "Request":
        """Parses a request from untrusted JSON.

        Unknown keys are ignored. The model determines missing settings.

        Args:
            text: output of `to_json`.

        Returns:
            The validated request.

        Raises:
            ValueError: the text is not a JSON object with a prompt, or a field is out of range.
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


def required(value: T | None) -> T:
    """Returns a value that is not None by now, such as a field after `Request.filled` or a checked input."""
    assert value is not None, "filled with the model's default, or checked"
    return value


def _check_text(name: str, value: object) -> None:
    if type(value) is not str:
        raise ValueError(f"{name} must be text: received {_received(value)}.")
    if len(value) > MAX_TEXT:
        raise ValueError(f"{name} must be at most {MAX_TEXT} characters: received {len(value)}.")
    for position, character in enumerate(value, 1):
        if character == "\0" or "\ud800" <= character <= "\udfff":
            code = f"U+{ord(character):04X}"
            raise ValueError(f"{name} must be readable text: character {position} of {len(value)} is {code}.")


def _check_whole(name: str, value: object, low: int, high: int) -> None:
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


def _check_weights(name: str, value: object) -> None:
    if not isinstance(value, list | tuple) or len(value) > MAX_STYLES:
        raise ValueError(f"{name} must be {MAX_STYLES} numbers at most: received {_received(value)}.")
    for weight in value:
        if not _is_number(weight) or abs(weight) > WEIGHT:
            raise ValueError(f"{name} must be numbers from -4 to 4: received {_received(weight)}.")


def _checked_cameras(value: Any) -> tuple[tuple[str, float], ...]:
    """Returns camera moves as pairs in the order of their names, without those of weight 0."""
    given = list(value.items()) if type(value) is dict else value
    if not isinstance(given, list | tuple) or len(given) > MAX_CAMERAS:
        raise ValueError(f"cameras must be {MAX_CAMERAS} moves at most: received {_received(value)}.")
    weights: dict[str, float] = {}
    for pair in given:
        if not isinstance(pair, list | tuple) or len(pair) != 2 or type(pair[0]) is not str:
            raise ValueError("cameras must be moves with their weights, as in zoom-in: 0.8.")
        move, weight = pair
        if not _is_number(weight) or abs(weight) > WEIGHT:
            raise ValueError(f"cameras must have weights from -4 to 4: received {_received(weight)}.")
        if move in weights:
            raise ValueError("cameras must name each move once: received one twice.")
        weights[move] = float(weight)
    return tuple(sorted((move, weight) for move, weight in weights.items() if weight))


def _is_number(value: object) -> bool:
    return type(value) is int or (type(value) is float and math.isfinite(value))


def _received(value: Any) -> str:
    """Describes a value without repeating text: numbers as they are, other values by type and length."""
    if type(value) is float:
        return repr(value)
    if type(value) is int:
        # Python does not format an int of more than 4300 digits.
        bits = value.bit_length()
        return str(value) if bits <= 100 else f"a number of about {int(bits * math.log10(2)) + 1} digits"
    if value is None:
        return "nothing"
    if type(value) is bool:
        return "true" if value else "false"
    kinds: dict[type, str] = {str: "text", list: "a list", tuple: "a list", dict: "an object", bytes: "bytes"}
    if type(value) in kinds:
        return f"{kinds[type(value)]} of length {len(value)}"
    return "something else"
