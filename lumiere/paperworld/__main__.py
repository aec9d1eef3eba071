"""python -m lumiere.paperworld: render the world, train the embedded model's parts, judge clips."""

import argparse
from collections.abc import Callable, Sequence

from lumiere.runtime.console import lenient_output
from lumiere.sampling.allocator import keep_freed_memory

# Other imports are local: render worker processes import this file and need no torch.
TRAINED = {
    "autoencoder": "train the autoencoder on rendered stills",
    "text": "train the text encoder and its tokenizer on captions",
    "base": "train the base text-to-image UNet on encoded stills",
    "decoder": "train the decoder further on what the motion weights predict of encoded clips",
    "preview": "train the tiny autoencoder of the previews on encoded stills",
}


def main(argv: Sequence[str] | None = None) -> int | None:
    """Runs one subcommand.

    Args:
        argv: command line arguments. Defaults to `sys.argv[1:]`.

    Returns:
        Exit status; None for success.
    """
    lenient_output()
    keep_freed_memory()
    from lumiere.paperworld.evaluate.evaluate import add_evaluate_arguments, run_evaluate
    from lumiere.paperworld.judge.judge import add_judge_arguments, run_judge
    from lumiere.paperworld.training.make import add_make_arguments, run_make
    from lumiere.paperworld.training.parts import BATCH, STEPS

    parser = argparse.ArgumentParser(
        prog="python -m lumiere.paperworld",
        description=__doc__,
        epilog="`make` does all: render, autoencoder, text, encode, base, `lumiere.train`, motion, decoder, "
        "preview.",
    )
    commands = parser.add_subparsers(dest="command", required=True)

    def add(name: str, words: str, do: Callable[[argparse.Namespace], int | None]) -> argparse.ArgumentParser:
        command = commands.add_parser(name, help=words, description=words)
        command.set_defaults(do=do)
        return command

    _add_render_arguments(add("render", "draw scenes into a folder: pixels, loss weights, truths", _render))
    encode = add("encode", "write latents and captions beside rendered scenes", _encode)
    _add_folders(encode, data="folder made by render")
    for name, words in TRAINED.items():
        command = add(name, words, _train)
        _add_folders(command, None if name == "text" else "folder made by render (and encode)")
        command.add_argument("--run", required=True, help="folder for checkpoint and metrics, to resume from")
        command.add_argument("--steps", type=int, default=STEPS[name], help="(%(default)s)")
        if name == "base":
            command.add_argument("--further", action="store_true", help="begin with the one that is there")
            command.add_argument("--batch", type=int, default=BATCH, help="stills a step (%(default)s)")
    motion = add("motion", "put what lumiere.train made into the model", _motion)
    _add_folders(motion)
    motion.add_argument("--run", required=True, help="the folder named --out in that training")
    add_make_arguments(add("make", "make the whole model from nothing, or go on making it", run_make))
    add_judge_arguments(add("judge", "measure real renders or generated clips", run_judge))
    add_evaluate_arguments(add("evaluate", "print the model's figures beside their bars", run_evaluate))
    arguments = parser.parse_args(argv)
    return arguments.do(arguments)


def _add_folders(command: argparse.ArgumentParser, data: str | None = None) -> None:
    from lumiere.paperworld.training.model_folder import EMBEDDED

    command.add_argument("--model", default=EMBEDDED, help="model folder to write into (the embedded one)")
    if data:
        command.add_argument("--data", required=True, help=data)


def _add_render_arguments(command: argparse.ArgumentParser) -> None:
    from lumiere.paperworld.world.scene import MOTIONS

    command.add_argument("--data", required=True, help="folder to write")
    command.add_argument("--scenes", type=int, default=40000, help="how many (%(default)s)")
    command.add_argument("--frames", type=int, default=1, help="of each; 1 for stills (%(default)s)")
    command.add_argument("--seed", type=int, default=11, help="which scenes (%(default)s)")
    command.add_argument("--held-out", action="store_true", help="only combinations that no training sees")
    command.add_argument(
        "--motions",
        nargs="+",
        choices=MOTIONS,
        default=MOTIONS,
        metavar="MOTION",
        help=f"only such; one that is named twice is drawn twice as often: {', '.join(MOTIONS)}",
    )
    command.add_argument(
        "--from-rest",
        action="store_true",
        help="the first frame shows it standing still, and the others how it moves from there",
    )
    command.add_argument("--workers", type=int, default=2, help="processes (%(default)s)")


def _render(a: argparse.Namespace) -> None:
    from lumiere.paperworld.world.dataset import render_dataset

    render_dataset(a.data, a.scenes, a.frames, a.seed, a.held_out, a.workers, a.motions, a.from_rest)


def _encode(a: argparse.Namespace) -> None:
    from lumiere.paperworld.training import parts

    parts.latents(a.model, a.data)


def _train(a: argparse.Namespace) -> None:
    from lumiere.paperworld.training import parts

    given = {name: value for name, value in vars(a).items() if name not in ("command", "do")}
    getattr(parts, a.command)(**given)


def _motion(a: argparse.Namespace) -> None:
    from lumiere.paperworld.training.model_folder import save_motion_of

    save_motion_of(a.model, a.run)


if __name__ == "__main__":
    raise SystemExit(main())
