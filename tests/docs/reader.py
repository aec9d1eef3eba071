"""Reads the commands and Python examples of a page, and runs them from top to bottom in this process.

`STAND_INS`, `TRAINING`, `EVALUATION` and the `check_*` functions say what stands in for downloads, GPUs,
long runs and changes of the machine. Everything else runs as written.
"""

import importlib.util
import re
import shlex
import signal
import threading
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import distribution
from pathlib import Path

import httpx
import pytest
import torch
from accelerate.state import AcceleratorState
from packaging.requirements import Requirement
from torch import nn

from lumiere import __main__ as clips
from lumiere import models, train
from lumiere.model import animatediff
from lumiere.page.server import launch
from lumiere.page.server.service import Service
from lumiere.paperworld import __main__ as paperworld
from lumiere.runtime import jobs
from lumiere.training.config import Settings

ROOT = Path(__file__).resolve().parents[2]
ADDRESS = "http://127.0.0.1:7860"
BASE, ADAPTER = "stand-ins/sd", "stand-ins/adapter"  # small, random, in the published layouts
STAND_INS = {  # text of an example -> text that runs
    "stable-diffusion-v1-5/stable-diffusion-v1-5": BASE,
    "guoyww/animatediff-motion-adapter-v1-5-3": ADAPTER,
    '"animatediff-motion-adapter-v1-5-3"': f'"{ADAPTER}"',
    "height=512, width=512": "height=64, width=64",
    "--height 256 --width 256": "--height 64 --width 64",
    "accelerate launch -m": "python -m",  # launches: tests/runtime/test_batch.py, training/test_train.py
}
TRAINING = "--steps 2 --scenes 2 --frames 8 --size 64 --batch-size 2 --grad-accum 1 --sample-steps 0"
EVALUATION = "--clips 1 --results evaluation.json"  # beside the puppet in conftest.py
ELSEWHERE = "python3 -m venv|source|pip|apt-get|docker|git|ssh|pre-commit|mkdocs|mypy|ruff"  # only checked
PROGRAMS = {
    "lumiere": clips.main,
    "lumiere.train": train.main,
    "lumiere.paperworld": paperworld.main,
    "lumiere.model.animatediff": lambda words: animatediff.convert(*words),
}
IN_TEXT = rf"(?:[A-Z_]+=\S+ )*(?:python|accelerate|curl|{ELSEWHERE}) [^A-Z…]"  # commands in running text


@dataclass(frozen=True)
class Example:
    """A command line or a Python block of a page."""

    where: str
    language: str
    text: str


def examples(page: Path) -> list[Example]:
    """Returns the Python blocks and the commands of a page in order."""
    text, found = page.read_text("utf-8"), []
    for match in re.finditer(r"^```(\w*)\n(.*?)^```$|`([^`\n]+)`", text, re.M | re.S):
        where = f"{page.relative_to(ROOT)}:{text.count(chr(10), 0, match.start()) + 1}"
        language, block, code = match.groups()
        if language == "python":
            found.append(Example(where, "python", block))
        elif language == "bash":
            lines = block.replace("\\\n", " ").splitlines()
            found += [Example(where, "bash", line) for line in lines if line]
        elif code and re.match(IN_TEXT, code):
            found.append(Example(where, "bash", code))
    return found


class Reader:
    """Someone who types a page from top to bottom.

    Args:
        monkeypatch: sets the environment variables that a page exports.
    """

    def __init__(self, monkeypatch: pytest.MonkeyPatch):
        self.patch = monkeypatch
        self.names = {"plain_unet": PlainUnet()}
        self.names |= {"video": torch.randn(2, 3, 4, 64, 64), "times": torch.rand(2)}

    def follow(self, page: Path) -> None:
        """Runs all examples of a page. Examples that talk to the page run last, while it is served."""
        waiting = []
        for example in examples(page):
            text = example.text
            for written, runs in STAND_INS.items():
                text = text.replace(written, runs)
            if "gradio_client" in text or "client." in text or text.startswith("curl"):
                waiting.append(text)
                continue
            try:
                if example.language == "python":
                    exec(compile(text, example.where, "exec"), self.names)
                else:
                    self.type(text)
            except (Exception, SystemExit) as error:
                raise AssertionError(f"{example.where}: {example.text}") from error
        if waiting:
            self.serve([], lambda address: [self.call(text, address) for text in waiting])

    def call(self, text: str, address: str) -> None:
        """Runs an example that talks to the page."""
        text = text.replace(ADDRESS, address.rstrip("/"))
        if text.startswith("curl"):
            assert httpx.get(shlex.split(text)[1]).status_code == 200
        else:
            exec(compile(text, "example", "exec"), self.names)

    def type(self, line: str) -> None:
        """Runs a command line, with the environment variables before each command."""
        for command in line.split(" && "):
            words = shlex.split(command, comments=True)
            with pytest.MonkeyPatch.context() as only_here:
                patch = self.patch if words[:1] == ["export"] else only_here
                words = words[1:] if words[:1] == ["export"] else words
                while words and re.match(r"[A-Z_]+=", words[0]):
                    patch.setenv(*words.pop(0).split("=", 1))
                if words:
                    self.run([words[0].removeprefix(".venv/bin/"), *words[1:]])

    def run(self, words: list[str]) -> None:
        """Runs a command in this process, or checks one of `ELSEWHERE`."""
        if re.match(f"(?:{ELSEWHERE}) ?", " ".join(words)):
            return check_elsewhere(words)
        assert words[0] == "python", words
        if words[1] == "app.py":
            return self.serve(words[2:])
        assert words[1] == "-m", words
        return run_module(words[2], words[3:])

    def serve(self, words: list[str], then: Callable[[str], object] = lambda address: None) -> None:
        """Runs `python app.py` until the model is loaded, then `then`, then ends it as Ctrl+C does.

        Args:
            words: arguments of app.py.
            then: receives the address of the page.
        """
        start, failures = Service.launch, []

        def launched(service: Service, demo, *given, **options):
            start(service, demo, *given, **options)

            def visit():
                try:
                    while not service.loaded():
                        service.ending.wait(0.02)
                    assert httpx.get(f"{demo.local_url}health").status_code == 200
                    then(demo.local_url)
                except BaseException as error:
                    failures.append(error)
                finally:
                    service.ending.set()

            threading.Thread(target=visit, daemon=True).start()

        handlers = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(Service, "launch", launched)
            patch.setattr(jobs, "device", jobs.JobQueue())
            try:
                launch.main(words)
            finally:
                for number, handler in handlers.items():
                    signal.signal(number, handler)
        if failures:
            raise failures[0]


def run_module(name: str, words: list[str]) -> None:
    """Runs `python -m name words`, shortened. A program without arguments is only named, and not run."""
    if name == "pytest" or name.startswith("tests."):
        return check_test_command(name, words)
    program = PROGRAMS[name]
    if words == ["--help"]:
        with pytest.raises(SystemExit) as done:
            program(words)
        assert done.value.code == 0
        return None
    if name == "lumiere.train" and words:
        options = vars(train.parser().parse_args(words))
        Settings(**{key: value for key, value in options.items() if key != "scenes"})  # valid as documented
        AcceleratorState._reset_state(reset_partial_state=True)
        words = [*words, *TRAINING.split()]
    elif words[:1] == ["evaluate"]:
        rows = [] if "--rows" in words else ["--rows", "text16"]  # of all
        words = [*words, *rows, *EVALUATION.split()]
    elif name == "lumiere" and words and "--prompts" not in words:
        options = clips.parser().parse_args(words)
        clips.asked(options, models.chosen(options))  # valid as documented
    assert not words or not program(words)


def check_elsewhere(words: list[str]) -> None:
    """Checks the files, packages and build arguments of a command that changes the machine."""
    for flag, name in zip(words, words[1:], strict=False):
        if flag == "-r":
            assert (ROOT / name).is_file(), name
        if flag == "--build-arg":
            assert f"ARG {name.split('=')[0]}=" in (ROOT / "Dockerfile").read_text("utf-8")
    if words[:2] == ["pip", "install"] and "-r" not in words and words[2:] != ["."]:
        for package in words[2:]:
            assert package == "pre-commit" or distribution(Requirement(package).name)


def check_test_command(name: str, words: list[str]) -> None:
    """Checks a command of the tests, which would run this one again, or a benchmark, which runs nightly."""
    if name == "pytest":
        marks = (ROOT / "pyproject.toml").read_text("utf-8")
        for mark in re.findall(r"\w+", words[words.index("-m") + 1]) if "-m" in words else ():
            assert mark == "not" or f'"{mark}:' in marks, mark
        assert all((ROOT / word).exists() for word in words if word.startswith("tests")), words
        return
    source = Path(importlib.util.find_spec(name).origin).read_text("utf-8")
    assert '__name__ == "__main__"' in source and all(f"def {word}(" in source for word in words)
    assert f"python -m {name}\n" in (ROOT / ".github/workflows/nightly.yml").read_text("utf-8")


class Block(nn.Module):
    """A level of `PlainUnet`."""

    def __init__(self, width: int, out: int):
        super().__init__()
        self.block = nn.Sequential(nn.Conv2d(width, out, 3, padding=1), nn.SiLU())


class PlainUnet(nn.Module):
    """A UNet of torch modules with the names of the docs."""

    def __init__(self):
        super().__init__()
        down, up = Block(3, 8), Block(16, 8)
        down.down = nn.Conv2d(8, 8, 2, stride=2)
        up.up = nn.Upsample(scale_factor=2)
        self.downs, self.ups = nn.ModuleList([down]), nn.ModuleList([up])
        self.mid, self.out = nn.Conv2d(8, 8, 3, padding=1), nn.Conv2d(8, 3, 1)

    def forward(self, x, time):
        """Denoises images at a time."""
        skip = self.downs[0].block(x)
        x = self.ups[0].up(self.mid(self.downs[0].down(skip)))
        return self.out(self.ups[0].block(torch.cat((x, skip), 1))) + time[:, None, None, None]
