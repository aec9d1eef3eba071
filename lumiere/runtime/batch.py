"""Many clips: a file of prompts, shared out to processes and machines, and resumed where it was stopped.

Every process takes each n-th prompt that is left and needs no word with the others. Beside the clips it
writes a file of JSON lines of its own, one line after each clip; whichever process ends last joins them.
On the CPU the last bits of a clip depend on how many threads make it, of which launchers allow each of
several processes one: the same files come of one process with OMP_NUM_THREADS=1.
"""

import json
import os
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, replace
from pathlib import Path

from lumiere.loading.registry import Model, saved_settings
from lumiere.media.video import write_clip
from lumiere.request import SEED, Request

LINES = "clips.jsonl"
PLACE = {"RANK": "0", "WORLD_SIZE": "1", "LOCAL_RANK": "0"}  # as all launchers of torch name them


def read_prompts(file: str | Path) -> list[str]:
    """The lines that are not blank. Raises ValueError in words when there are none or they are no text."""
    try:
        lines = Path(file).read_text("utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"cannot read prompts from {file}: {type(error).__name__}.") from None
    prompts = [line.strip() for line in lines if line.strip()]
    if not prompts:
        raise ValueError(f"there is no prompt in {file}: write one on each line.")
    return prompts


def requests(prompts: list[str], like: Request) -> list[Request]:
    """One request for each prompt; seeds count on from that of `like`. Raises ValueError, naming the line."""
    made = []
    for number, prompt in enumerate(prompts):
        try:
            made.append(replace(like, prompt=prompt, seed=(like.seed + number) % (SEED[1] + 1)))
        except ValueError as refusal:
            raise ValueError(f"prompt {number + 1} of {len(prompts)}: {refusal}") from None
    return made


def place(environment: Mapping[str, str] = os.environ) -> tuple[int, int, int]:
    """Which process this is, of how many, and which on its machine, as `accelerate launch` tells each."""
    return tuple(int(environment.get(name, usual)) for name, usual in PLACE.items())


def device(local: int) -> str | None:
    """The accelerator of a process by its place on the machine; None for whichever there is, or none."""
    import torch

    several = torch.accelerator.is_available() and torch.accelerator.device_count() > 1
    if not several:
        return None
    return f"{torch.accelerator.current_accelerator().type}:{local % torch.accelerator.device_count()}"


class Batch:
    """The clips of some requests in a folder.

    A clip is done when its line has the same request, model and version of the model, and its file exists.
    """

    def __init__(self, folder: Path, wanted: list[Request], model: Model):
        self.folder, self.wanted, self.model = folder, wanted, model
        facts = asdict(model) | {"version": model.version}
        del facts["preview"]  # changes no clip
        self.facts = json.loads(json.dumps(facts))  # tuples become lists, as in the lines
        folder.mkdir(parents=True, exist_ok=True)

    def make(self, pipeline, process: int, processes: int, told: Callable[[str], None]) -> int:
        """Makes this process's share of what is left; returns how many could not be made.

        A clip that fails is told of in its line, is tried again in the next run, and keeps no other back.
        """
        from lumiere.errors import GenerationError

        failed, left = 0, [n for n in range(len(self.wanted)) if not self._done(self.lines().get(n))]
        for number in left[process::processes]:
            request, began = self.wanted[number], time.monotonic()
            line = {"number": number + 1, "clip": self.clip(number).name, **self._told(number)}
            try:
                *_, result = pipeline.generate(request)
                settings = saved_settings(request, self.model)
                write_clip(self.clip(number), result.frames, request.fps, settings)
                line["seconds"] = round(time.monotonic() - began, 3)
                told(f"{number + 1} of {len(self.wanted)}: {self.clip(number)}")
            except (GenerationError, ValueError) as error:
                failed, line["clip"], line["error"] = failed + 1, None, str(error)
                told(f"{number + 1} of {len(self.wanted)}: {error}")
            with open(self.folder / f"{LINES}.{process}", "a", encoding="utf-8") as lines:
                # The line break goes first: a process that was killed leaves a line that is torn off.
                lines.write("\n" + json.dumps(line, ensure_ascii=False))
        self.join()
        return failed

    def join(self) -> None:
        """Once there is a line for every request, puts all into one file in their order."""
        lines = self.lines()
        if not all(self._same(lines.get(number), number) for number in range(len(self.wanted))):
            return
        part = self.folder / f"{LINES}.{os.getpid()}.part"
        text = "".join(json.dumps(lines[n], ensure_ascii=False) + "\n" for n in range(len(self.wanted)))
        part.write_text(text, "utf-8")
        os.replace(part, self.folder / LINES)
        for file in self._files()[1:]:
            file.unlink(missing_ok=True)

    def lines(self) -> dict[int, dict]:
        """The newest line of each clip, by its place among the requests; a torn one is left out."""
        found = {}
        for file in self._files():
            for text in file.read_text("utf-8").split("\n") if file.is_file() else []:
                try:
                    line = json.loads(text)
                    found[line["number"] - 1] = line
                except (ValueError, KeyError, TypeError):
                    continue
        return found

    def clip(self, number: int) -> Path:
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
