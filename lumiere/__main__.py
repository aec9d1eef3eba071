"""Generates clips from the command line.

python -m lumiere "a red ball bouncing over green hills" --frames 16 --seed 7 -o clip.mp4

python -m lumiere models

accelerate launch -m lumiere --prompts prompts.txt -o clips/
"""

import argparse
import os
import signal
import sys
import threading
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

import numpy as np

from lumiere.events import Result
from lumiere.limits import ServerLimits
from lumiere.loading import catalogue
from lumiere.loading.registry import saved_settings
from lumiere.media.animations import is_picture
from lumiere.media.header import pace_note, probe
from lumiere.media.images import read_image
from lumiere.media.sound import copy_sound
from lumiere.media.video import read_clip, write_clip
from lumiere.request import CLIP_SKIP, FIRST_FRAMES, FPS, GUIDANCE, SCHEDULERS, SEED, STEPS, Request, required
from lumiere.runtime import batch, model_cache
from lumiere.runtime.console import lenient_output, tell
from lumiere.sampling.allocator import keep_freed_memory

if TYPE_CHECKING:  # imported late: torch, and what imports it
    from lumiere.pipeline import LumierePipeline
    from lumiere.runtime.sources import Prepared

FAILED, REFUSED, INTERRUPTED = 1, 2, 130  # exit statuses


def main(arguments: list[str] | None = None) -> int:
    """Generates clips and returns the exit status. Errors print one sentence on stderr, without a traceback.

    Args:
        arguments: command line arguments. Defaults to `sys.argv[1:]`.
    """
    lenient_output()
    if (sys.argv[1:] if arguments is None else arguments) == ["models"]:
        print(catalogue.table())
        return 0
    options = parser().parse_args(arguments)
    keep_freed_memory()
    try:
        model = model_cache.chosen(options)
        if options.prompts:
            return make_all(options, model)
        request = asked(options, model)
        for sentence in unused(options, request):
            say(sentence)
        # Slow imports and loading come last: torch, then the weights.
        prepared = given_pixels(options, request, model)
        pipeline = model_cache.get(model, options.device)
        output = Path(options.output or f"lumiere-{request.seed}.mp4")
        return make(pipeline, prepared, model, output, options.video)
    except ValueError as refusal:
        return say(refusal, REFUSED)
    except (OSError, RuntimeError) as failure:
        return say(failure, FAILED)
    except KeyboardInterrupt:
        return say("stopped: no clip was written.", INTERRUPTED)


class Parser(argparse.ArgumentParser):
    """Argument parser whose errors are one line."""

    def error(self, message: str) -> NoReturn:
        """Exits with status 2 after a one-line message."""
        self.exit(REFUSED, f"{message}: see python -m lumiere --help.\n")


def parser() -> argparse.ArgumentParser:
    """Returns the argument parser."""
    model = model_cache.entry()
    text = Parser(
        prog="python -m lumiere",
        description="Makes a video clip from a sentence.",
        epilog="python -m lumiere models lists the models: abilities, licence, size, on disk or not.",
    )
    add = text.add_argument
    add(
        "prompt",
        nargs="?",
        help="what should happen; (word:1.3) weights a word, 0: spring | 32: winter is a prompt in time",
    )
    add(
        "--prompts",
        metavar="FILE",
        help="a prompt on each line; seeds count on from --seed",
    )
    add("-o", "--output", metavar="FILE.mp4", help="lumiere-SEED.mp4 unless given; with --prompts a folder")
    add("--negative-prompt", default="", metavar="TEXT", help="what the clip should not show")
    add(
        "--frames",
        type=int,
        metavar="N",
        help=f"length of the clip, for the embedded model a multiple of 4 ({model.frames})",
    )
    add(
        "--fps",
        type=int,
        metavar="N",
        help=f"shown per second, {span(FPS)} ({model.fps})",
    )
    add("--height", type=int, metavar="PIXELS", help="the model's own unless given")
    add("--width", type=int, metavar="PIXELS", help="the model's own unless given")
    add("--steps", type=int, metavar="N", help=f"of denoising, {span(STEPS)} ({model.steps})")
    add("--guidance", type=float, metavar="X", help=f"{span(GUIDANCE)}, 1 for none ({model.guidance:g})")
    add("--scheduler", metavar="NAME", help=f"{', '.join(SCHEDULERS)} ({model.scheduler})")
    add(
        "--first-frame",
        metavar="|".join(FIRST_FRAMES),
        help="none: from noise with the rest, base: drawn by the base model (none)",
    )
    add(
        "--clip-skip",
        type=int,
        metavar="N",
        help=f"last layers of CLIP that are skipped, {span(CLIP_SKIP)}; web UIs count one more (0)",
    )
    add("--seed", type=int, metavar="N", help=f"{span(SEED)}, random unless given")
    group = text.add_argument_group("given pixels", "pictures are cut and scaled to the size of the clip")
    source = group.add_mutually_exclusive_group()
    source.add_argument(
        "--image", metavar="FILE", help="the first frame; with --mask a picture that moves there"
    )
    source.add_argument(
        "--video", metavar="FILE", help="a clip that is made anew where --mask is white, or with a --strength"
    )
    source.add_argument(
        "--continue", dest="beginning", metavar="FILE", help="a clip that goes on; its last frames count, too"
    )
    group.add_argument("--last-image", metavar="FILE", help="the last frame, besides --image")
    group.add_argument("--mask", metavar="FILE", help="a picture, white where the clip is made anew")
    group.add_argument(
        "--strength", type=float, metavar="X", help="how much of --video is made anew, above 0 to 1 (1)"
    )
    model_cache.add_options(text.add_argument_group("model"))
    return text


def asked(options: argparse.Namespace, model: model_cache.Model) -> Request:
    """Returns the validated request, with a seed.

    Args:
        options: parsed arguments.
        model: registry entry, whose small files give the limits.

    Raises:
        ValueError: a value is not valid for the model, or the output path is not a writable .mp4 file.
        OSError: the small files of the model are missing or damaged.
    """
    limits = model_cache.limits(model)
    values = {"prompt": None} | model_cache.own(model, limits)
    values |= {name: value for name, value in vars(options).items() if value is not None}
    values["mode"] = mode(options)
    request = Request(**{name: values[name] for name in Request.__dataclass_fields__ if name in values})
    if options.output is not None and not options.prompts:
        output = Path(options.output)
        if output.suffix.lower() != ".mp4":
            raise ValueError(f"the output must be a file that ends in .mp4: received {output}.")
        if not output.parent.is_dir():
            raise ValueError(f"the output must lie in a folder that exists: received {output}.")
        if output.is_dir() or not os.access(output.parent, os.W_OK):
            raise ValueError(f"the output must lie in a folder that can be written to: received {output}.")
    return request.check(limits).with_seed()


def mode(options: argparse.Namespace) -> str:
    """Returns the mode of the request for the input files: one of `MODES` in request.py.

    Raises:
        ValueError: the input files do not fit together.
    """
    if options.last_image and (not options.image or options.mask):
        raise ValueError("a last image goes with a first one, --image, and without --mask.")
    if options.mask and not (options.image or options.video):
        raise ValueError("a mask goes with --image or --video: received neither.")
    if options.video and not options.mask and options.strength is None:
        raise ValueError("a video is made anew in a --mask, or with a --strength: both are missing.")
    if options.image:
        return "cinemagraph" if options.mask else "images" if options.last_image else "image"
    if options.video:
        return "inpaint" if options.mask else "video"
    return "continue" if options.beginning else "text"


def given_pixels(options: argparse.Namespace, request: Request, model: model_cache.Model) -> "Prepared":
    """Returns the request with the pixels of the input files.

    With `--video`, the clip has as many frames as the file. `--frames` may only lower this number.

    Args:
        options: parsed arguments.
        request: validated request.
        model: registry entry.

    Raises:
        ValueError: a file cannot be read, or does not fit the request.
    """
    from lumiere.runtime.sources import Sources, prepare

    limits, server_limits = model_cache.limits(model), ServerLimits.read()
    size = required(request.height), required(request.width)
    if request.mode in ("inpaint", "video") and options.frames is None:
        request = replace(request, frames=limits.longest(*size))
    clip, fps = options.video or options.beginning, required(request.fps)
    most = limits.longest_given(*size) + 1, server_limits.video_side, server_limits.video_seconds, fps
    frames = read_clip(clip, *most)[0] if clip else None
    count = 0 if frames is None else len(frames)
    if clip:
        for sentence in notes(clip, fps, goes_on=bool(options.beginning)):
            say(sentence)
    if options.video and options.frames and options.frames > count:
        raise ValueError(f"the video has {count} frames: {options.frames} were asked for.")
    side = server_limits.image_side
    image, last_image = (file and read_image(file, side) for file in (options.image, options.last_image))
    region = options.mask and read_image(options.mask, side, "black")  # what is transparent was not drawn
    prepared = prepare(request, Sources(image, last_image, frames, region), limits)
    used = required(prepared.request.frames)
    if options.video and options.frames is None and count > used:
        say(f"the end of {clip} is left out: the clip has its first {used} frames.")
    return prepared


def notes(clip: str, fps: int, goes_on: bool) -> list[str]:
    """Returns sentences about what is changed in or dropped from a given clip.

    Args:
        clip: path of the video.
        fps: frames per second of the request.
        goes_on: whether the clip is continued, so that its sound does not fit any more.
    """
    if is_picture(clip):
        return []
    header, sentences = probe(clip), []
    if pace := pace_note(header.fps, fps):
        sentences.append(pace)
    if header.sound and goes_on:
        sentences.append(f"the sound of {clip} is left out, because the clip goes on without any.")
    return sentences


def unused(options: argparse.Namespace, request: Request) -> list[str]:
    """Returns a sentence for each option that has no effect beside the others.

    Args:
        options: parsed arguments.
        request: validated request.
    """
    rows = (
        (bool(request.negative_prompt) and request.guidance == 1, "--negative-prompt", "at --guidance 1"),
        (options.first_frame is not None and request.mode != "text", "--first-frame", "with given pixels"),
        (options.style_alpha is not None and not options.style_base, "--style-alpha", "without --style-base"),
    )
    return [f"{name} has no effect {why}." for applies, name, why in rows if applies]


def make_all(options: argparse.Namespace, model: model_cache.Model) -> int:
    """Generates a clip for each line of a file, or this process's share of them.

    Args:
        options: parsed arguments, with `prompts` set.
        model: registry entry.

    Returns:
        The exit status.

    Raises:
        ValueError: the arguments or a prompt are not valid.
    """
    if options.prompt is not None or mode(options) != "text":
        raise ValueError("--prompts goes without a prompt and without given pixels.")
    if options.output is None or Path(options.output).is_file():
        raise ValueError(f"--prompts needs a folder, -o FOLDER: received {options.output or 'none'}.")
    prompts = batch.read_prompts(options.prompts)
    options.prompt, options.seed = prompts[0], options.seed or 0
    like = asked(options, model)
    wanted = batch.requests(prompts, like, model_cache.limits(model))
    for sentence in unused(options, like):
        say(sentence)
    process, processes, local = batch.place()
    pipeline = model_cache.get(model, options.device or batch.device(local))
    made = batch.Batch(Path(options.output), wanted, model)
    try:
        failed = made.make(pipeline, process, processes, say)
    except KeyboardInterrupt:
        return say("stopped; the same command goes on from here.", INTERRUPTED)
    return FAILED if failed else 0


def make(
    pipeline: "LumierePipeline",
    prepared: "Prepared",
    model: model_cache.Model,
    output: Path,
    sound_source: str | None = None,
) -> int:
    """Generates a clip with a progress bar and writes it. Ctrl-C writes the partial clip.

    Args:
        pipeline: pipeline of the model.
        prepared: request with its given pixels.
        model: registry entry, stored in the metadata.
        output: path of the .mp4 file.
        sound_source: video whose sound the clip gets.

    Returns:
        The exit status.

    Raises:
        KeyboardInterrupt: interrupted before the first step was finished.
    """
    from tqdm import tqdm

    request, before = prepared.request, prepared.before
    for sentence in batch.prompt_notes(pipeline, request):
        say(sentence)
    stop = threading.Event()
    result: Result | None = None

    def on_interrupt(*_: object) -> None:
        stop.set()
        signal.signal(signal.SIGINT, usual)  # a second Ctrl-C interrupts the running step

    usual = signal.signal(signal.SIGINT, on_interrupt)
    form = "step {n_fmt} of {total_fmt} |{bar:30}| {rate_inv_fmt}, {remaining} left"
    try:
        with tqdm(total=request.steps_run, unit="step", bar_format=form) as bar:
            for item in pipeline.generate(request, stop, prepared.given):
                if isinstance(item, Result):
                    result = item
                else:
                    bar.total = item.steps
                    bar.update()
    finally:
        signal.signal(signal.SIGINT, usual)
    if result is None:
        raise KeyboardInterrupt
    frames = result.frames if before is None else np.concatenate([before, result.frames])
    write_clip(output, frames, required(request.fps), saved_settings(request, model))
    if sound_source and not is_picture(sound_source) and probe(sound_source).sound:
        if not copy_sound(output, sound_source):
            say(f"the sound of {sound_source} is left out, because it cannot be read.")
    tell(output, settings(request))
    if not result.stopped:
        return 0
    told = f"stopped after step {result.steps_done} of {result.steps}: a first impression."
    return say(told, INTERRUPTED)


def settings(request: Request) -> str:
    """Formats the settings of a request in one line, printed after a run."""
    frames, fps = required(request.frames), required(request.fps)
    drawn = request.mode == "text" and request.first_frame == "base"
    parts = (
        f"seed {request.seed}",
        f"{frames} frames at {fps} fps ({frames / fps:.3g} s)",
        f"{request.width} x {request.height}",
        f"{request.steps} steps" + (f" from {request.strength:g}" if request.strength < 1 else ""),
        f"guidance {request.guidance:g}",
        required(request.scheduler),
        "first frame by the base" if drawn else "",
    )
    return " · ".join(filter(None, parts))


def span(limits: tuple) -> str:
    """Formats the first and second entry of `limits` as a range."""
    return f"{limits[0]:g} to {limits[1]:.10g}"


def say(sentence: object, status: int = 0) -> int:
    """Prints a sentence on stderr and returns `status`."""
    print(sentence, file=sys.stderr)
    return status


if __name__ == "__main__":
    sys.exit(main())
