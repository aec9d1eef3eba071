"""Generates many clips from a file of prompts, distributed over processes and machines, and resumable.

Each process takes every n-th prompt without a finished clip; processes do not communicate. Beside the
clips, each process appends to its own JSON lines file, one line per clip. The last process to finish
merges the files.
On the CPU the last bits of a clip depend on the number of threads. Launchers give each of several processes
one thread: a single process with OMP_NUM_THREADS=1 writes the same files.
"""

import json
import os
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING

from lumiere.errors import GenerationError
from lumiere.events import Result
from lumiere.loading.registry import Model, saved_settings
from lumiere.media.text import read_text
from lumiere.media.video import write_clip
from lumiere.media.whole import replacing
from lumiere.request import SEED, Limits, Request, required

if TYPE_CHECKING:  # imports torch
    from lumiere.pipeline import LumierePipeline

LINES = "clips.jsonl"
PLACE = {"RANK": "0", "WORLD_SIZE": "1", "LOCAL_RANK": "0"}  # set by all torch launchers


def read_prompts(file: str | Path) -> list[str]:
    """Reads one prompt per line; blank lines are skipped.

    Args:
        file: text file in UTF-8 or UTF-16.

    Raises:
        ValueError: the file cannot be read, is not text or has no prompt.
    """
    prompts = [line.strip() for line in read_text(file).splitlines() if line.strip()]
    if not prompts:
        raise ValueError(f"there is no prompt in {file}: write one on each line.")
    return prompts


def requests(prompts: list[str], like: Request, limits: Limits) -> list[Request]:
    """Returns one request per prompt.

    Args:
        prompts: prompts.
        like: request with all other settings. The seed of prompt n is `like.seed + n`, modulo the seed range.
        limits: limits of the model.

    Raises:
        ValueError: a prompt is not valid; the message gives its number.
    """
    made = []
    for number, prompt in enumerate(prompts):
        try:
            request = replace(like, prompt=prompt, seed=(required(like.seed) + number) % (SEED[1] + 1))
            made.append(request.check(limits))
        except ValueError as refusal:
            raise ValueError(f"prompt {number + 1} of {len(prompts)}: {refusal}") from None
    return made


def prompt_notes(pipeline: "LumierePipeline", request: Request) -> list[str]:
    """Returns sentences about words that the model ignores, and about keys of a prompt that are too close.

    Args:
        pipeline: pipeline of the model.
        request: request to be made.
    """
    texts = {"": request.prompt, " of the negative prompt": request.negative_prompt}
    found = {which: pipeline.unknown_words(text) for which, text in texts.items()}
    notes = [
        f"words{which} ignored, because the model does not know or cannot take them: {', '.join(words)}."
        for which, words in found.items()
        if words
    ]
    close = pipeline.close_keys(request)
    return [*notes, close] if close else notes


def place(environment: Mapping[str, str] = os.environ) -> tuple[int, int, int]:
    """Returns rank, world size and local rank, as set by `accelerate launch`. Defaults to (0, 1, 0)."""
    rank, world_size, local_rank = (int(environment.get(name, usual)) for name, usual in PLACE.items())
    return rank, world_size, local_rank


def device(local: int) -> str | None:
    """Returns the accelerator for a local rank, for example "cuda:1".

    Args:
        local: local rank, 0 or more.

    Returns:
        The device name, or None on machines with at most one accelerator.
    """
    import torch

    several = torch.accelerator.is_available() and torch.accelerator.device_count() > 1
    if not several:
        return None
    accelerator = required(torch.accelerator.current_accelerator())
    return f"{accelerator.type}:{local % torch.accelerator.device_count()}"


class Batch:
    """The clips of a list of requests, in one folder.

    A clip is finished if its file exists and its line has the same request, model and model version.

    Args:
        folder: output folder, created if missing.
        wanted: requests.
        model: registry entry that generates the clips.
    """

    def __init__(self, folder: Path, wanted: list[Request], model: Model):
        self.folder, self.wanted, self.model = folder, wanted, model
        facts = asdict(model) | {"version": model.version}
        for name in ("preview", "download", "gigabytes", "licence"):  # change no clip
            del facts[name]
        self.facts = json.loads(json.dumps(facts))  # tuples become lists, as in the lines
        folder.mkdir(parents=True, exist_ok=True)

    def make(
        self, pipeline: "LumierePipeline", process: int, processes: int, told: Callable[[str], object]
    ) -> int:
        """Generates this process's share of the unfinished clips.

        A failed clip does not stop the others. Its line stores the error, and the next run tries it again.

        Args:
            pipeline: pipeline of the model.
            process: rank of this process.
            processes: number of processes.
            told: callback for a progress sentence after each clip.

        Returns:
            The number of failed clips.
        """
        failed, left = 0, [n for n in range(len(self.wanted)) if not self._done(self.lines().get(n))]
        for number in left[process::processes]:
            request, began = self.wanted[number], time.monotonic()
            for sentence in prompt_notes(pipeline, request):
                told(f"{number + 1} of {len(self.wanted)}: {sentence}")
            line = {"number": number + 1, "clip": self.clip(number).name, **self._told(number)}
            try:
                *_, result = pipeline.generate(request)
                assert isinstance(result, Result), "the last item"
                settings = saved_settings(request, self.model)
                write_clip(self.clip(number), result.frames, required(request.fps), settings)
                line["seconds"] = round(time.monotonic() - began, 3)
                told(f"{number + 1} of {len(self.wanted)}: {self.clip(number)}")
            except (GenerationError, ValueError) as error:
                failed, line["clip"], line["error"] = failed + 1, None, str(error)
                told(f"{number + 1} of {len(self.wanted)}: {error}")
            with open(self.folder / f"{LINES}.{process}", "a", encoding="utf-8") as lines:
                # The line break comes first: a killed process may have left an incomplete line.
                lines.write("\n" + json.dumps(line, ensure_ascii=False))
        self.join()
        return failed

    def join(self) -> None:
        """Merges the files of all processes in the order of requests, once every request has a line."""
        lines = self.lines()
        if not all(self._same(lines.get(number), number) for number in range(len(self.wanted))):
            return
        text = "".join(json.dumps(lines[n], ensure_ascii=False) + "\n" for n in range(len(self.wanted)))
        with replacing(self.folder / LINES) as part:
            part.write_text(text, "utf-8")
        for file in self._files()[1:]:
            file.unlink(missing_ok=True)

    def lines(self) -> dict[int, dict]:
        """Returns the newest line of each clip by request index, from 0; incomplete lines are skipped."""
        found = {}
        for file in self._files():
            for text in file.read_text("utf-8", "replace").split("\n") if file.is_file() else []:
                try:
                    line = json.loads(text)
                    found[line["number"] - 1] = line
                except (ValueError, KeyError, TypeError):
                    continue
        return found

    def clip(self, number: int) -> Path:
        """Returns the path of a clip.

        Args:
            number: index of the request, from 0.
        """
        return self.folder / f"{number + 1:05}.mp4"

    def _files(self) -> list[Path]:
        own = [file for file in self.folder.glob(f"{LINES}.*") if file.suffix[1:].isdigit()]
        return [self.folder / LINES, *sorted(own, key=lambda file: file.stat().st_mtime)]

    def _told(self, number: int) -> dict:
        return {"request": json.loads(self.wanted[number].to_json()), "model": self.facts}

    def _same(self, line: dict | None, number: int) -> bool:
        return line is not None and {key: line.get(key) for key in ("request", "model")} == self._told(number)

    def _done(self, line: dict | None) -> bool:
        if line is None or line.get("clip") is None:
            return False
        number = line["number"] - 1
        return number < len(self.wanted) and self._same(line, number) and self.clip(number).is_file()
