"""python -m lumiere.paperworld: render the world, train the embedded model's parts, judge clips."""

import argparse
from pathlib import Path

import numpy as np

MODEL = Path(__file__).resolve().parents[2] / "assets/models/paper-world"


def main(argv=None):
    parser = argparse.ArgumentParser(
        prog="python -m lumiere.paperworld",
        description=__doc__,
        epilog="`make` does all: render, autoencoder, text, encode, base, preview, `lumiere.train`, motion.",
    )
    commands = parser.add_subparsers(dest="command", required=True)
    _add_render(commands.add_parser("render", help="draw scenes into a folder: pixels, loss weights, truths"))
    _add_encode(commands.add_parser("encode", help="write latents and captions beside rendered scenes"))
    for name, steps, words in (
        ("autoencoder", 2800, "train the autoencoder on rendered stills"),
        ("text", 400, "train the text encoder and its tokenizer on captions"),
        ("base", 5000, "train the base text-to-image UNet on encoded stills"),
    ):
        command = commands.add_parser(name, help=words)
        _add_model(command)
        if name != "text":
            command.add_argument("--data", required=True, help="folder made by render (and encode)")
        command.add_argument("--run", required=True, help="folder for checkpoint and metrics, to resume from")
        command.add_argument("--steps", type=int, default=steps)
        command.set_defaults(do=_TRAINERS[name])
    motion = commands.add_parser("motion", help="put what lumiere.train made into the model")
    _add_model(motion)
    motion.add_argument("--run", required=True, help="the folder named --out in that training")
    motion.set_defaults(do=_motion)
    preview = commands.add_parser("preview", help="fit the latent-to-pixels map of the previews")
    _add_model(preview)
    preview.add_argument("--data", required=True, help="folder made by render")
    preview.set_defaults(do=_preview)
    from .make import add_make_arguments, run_make

    make = commands.add_parser("make", help="make the whole model from nothing, or go on making it")
    add_make_arguments(make)
    make.set_defaults(do=run_make)
    from .judge import add_judge_arguments, run_judge

    judge = commands.add_parser("judge", help="measure real renders or generated clips")
    add_judge_arguments(judge)
    judge.set_defaults(do=run_judge)
    from .evaluate import add_evaluate_arguments, run_evaluate

    evaluate = commands.add_parser("evaluate", help="generate clips of random prompts and measure them")
    add_evaluate_arguments(evaluate)
    evaluate.set_defaults(do=run_evaluate)
    arguments = parser.parse_args(argv)
    return arguments.do(arguments)


def _add_model(command):
    command.add_argument("--model", default=MODEL, help="model folder to write into (the embedded one)")


def _add_render(command):
    command.add_argument("--data", required=True, help="folder to write")
    command.add_argument("--scenes", type=int, default=24000)
    command.add_argument("--frames", type=int, default=1)
    command.add_argument("--seed", type=int, default=11)
    command.add_argument("--held-out", action="store_true", help="only combinations that no training sees")
    command.add_argument("--workers", type=int, default=2)
    command.set_defaults(do=_render)


def _render(arguments):
    from .dataset import render_dataset

    a = arguments
    render_dataset(a.data, a.scenes, a.frames, a.seed, a.held_out, a.workers)


def _add_encode(command):
    command.add_argument("--data", required=True, help="folder made by render")
    _add_model(command)
    command.set_defaults(do=_encode)


def _encode(arguments):
    from .autoencoder import encode_dataset
    from .model_folder import load_vae

    encode_dataset(arguments.data, load_vae(arguments.model))


def _autoencoder(arguments):
    from .autoencoder import train_autoencoder
    from .model_folder import save_component

    trained = train_autoencoder(arguments.data, arguments.run, arguments.steps)
    save_component(arguments.model, "vae", trained)


def _text(arguments):
    from .model_folder import save_component
    from .text import train_text_encoder

    encoder, tokenizer = train_text_encoder(arguments.run, arguments.steps)
    save_component(arguments.model, "text_encoder", encoder)
    save_component(arguments.model, "tokenizer", tokenizer)


def _base(arguments):
    from .base import train_base
    from .model_folder import load_text, save_component

    trained = train_base(arguments.data, *load_text(arguments.model), arguments.run, arguments.steps)
    save_component(arguments.model, "unet", trained)


def _motion(arguments):
    from .model_folder import save_motion_of

    save_motion_of(arguments.model, arguments.run)


def _preview(arguments):
    from .model_folder import save_preview

    pixels = np.load(Path(arguments.data) / "pixels.npy", mmap_mode="r")
    save_preview(arguments.model, pixels[:256, 0])


_TRAINERS = {"autoencoder": _autoencoder, "text": _text, "base": _base}

if __name__ == "__main__":
    raise SystemExit(main())
