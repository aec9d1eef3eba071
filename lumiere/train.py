"""Trains the motion weights of a frozen base model on clips.

python -m lumiere.train --model assets/models/paper-world --data CLIPS --out RUN

A run may be interrupted at any moment. The same command resumes it from the last checkpoint.
"""

import argparse
import sys
from pathlib import Path

import torch
from accelerate import PartialState

from lumiere.loading.components import load_model
from lumiere.loading.layout import check, locate
from lumiere.runtime.console import lenient_output
from lumiere.sampling.allocator import keep_freed_memory
from lumiere.sampling.memory import is_out_of_memory
from lumiere.training.config import Settings, add_options, unused
from lumiere.training.latent_dataset import CAPTIONS
from lumiere.training.trainer import show

PAPERWORLD = "paperworld"  # value of --data for rendered clips
OUT_OF_MEMORY = (
    "The device ran out of memory: raise --grad-accum (processes x grad-accum divides --batch-size), "
    "set --gradient-checkpointing, or lower --size or --frames; the last checkpoint is kept."
)
EXAMPLES = """examples, which run as they stand:
  python -m lumiere.train --model assets/models/paper-world --data paperworld --scenes 64 \\
      --out runs/first --steps 200
  accelerate launch --num_processes 2 -m lumiere.train --model assets/models/paper-world --data paperworld \\
      --out runs/mixed --frames 32 --min-frames 16 --batch-size 8 --grad-accum 2 --steps 20000
"""


def parser() -> argparse.ArgumentParser:
    """Returns the argument parser."""
    text = argparse.ArgumentParser(
        prog="python -m lumiere.train",
        usage="%(prog)s --model MODEL --data DATA --out OUT [options]",
        description="Trains the motion weights of a frozen text-to-image model on clips.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = text.add_argument_group("what is trained, and on what").add_argument
    add("--model", required=True, help="base model: folder in the diffusers layout, or hub id")
    add(
        "--data",
        required=True,
        help="a folder of clips with metadata.jsonl or .txt files, or of latents (see latent_dataset.py); "
        f"or {PAPERWORLD}: clips that are drawn for this",
    )
    add("--out", required=True, help="folder of the run: checkpoint, metrics, and motion/, the result")
    add("--init", metavar="WEIGHTS", help="motion weights to start from: a folder, file or hub id")
    add("--scenes", type=int, default=2000, metavar="N", help=f"drawn for {PAPERWORLD} (%(default)s)")
    add_options(text)
    return text


def main(arguments: list[str] | None = None) -> int:
    """Trains with a progress bar and returns the exit status. Errors print one sentence on stderr.

    Args:
        arguments: command line arguments. Defaults to `sys.argv[1:]`.
    """
    lenient_output()
    options = vars(parser().parse_args(arguments))
    scenes = options.pop("scenes")
    keep_freed_memory()
    try:
        settings = Settings(**options)
        if settings.data == PAPERWORLD and not Path(PAPERWORLD).exists():
            settings = Settings(**options | {"data": str(_drawn(settings, scenes))})
        if PartialState().is_main_process:
            for sentence in unused(settings, (Path(settings.data) / CAPTIONS).is_file()):
                print(sentence, file=sys.stderr)
        show(settings)
    except (ValueError, OSError) as failure:
        print(failure, file=sys.stderr)
        return 2 if isinstance(failure, ValueError) else 1
    except (RuntimeError, MemoryError) as failure:
        if not is_out_of_memory(failure):
            raise
        print(OUT_OF_MEMORY, file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("stopped; the same command goes on from the last checkpoint.", file=sys.stderr)
        return 130
    return 0


def _drawn(settings: Settings, scenes: int) -> Path:
    """Renders clips of the paper world, with extra frames for random starts, and returns their folder."""
    if scenes < 1:
        raise ValueError(f"scenes must be 1 or more; received {scenes}.")
    from lumiere.paperworld.training.parts import draw_clips  # imported late: other data does not need it

    folder = locate(settings.model)
    check(folder)
    frames = settings.stride * (settings.frames + 8)
    data = Path(settings.out) / f"{PAPERWORLD}-{scenes}x{frames}"
    with PartialState().main_process_first():
        draw_clips(data, scenes, frames, lambda: load_model(folder, "vae", torch.float32))
    return data


if __name__ == "__main__":
    sys.exit(main())
