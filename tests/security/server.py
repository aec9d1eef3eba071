"""The page under test: in this process, where its device can be watched and broken, or in one of its own."""

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

from lumiere.limits import ServerLimits
from lumiere.loading.layout import read_limits
from lumiere.page import controller, events, strings
from lumiere.page.server.site import Site
from lumiere.pipeline import LumierePipeline
from lumiere.request import Request
from lumiere.runtime import jobs
from lumiere.runtime.model_cache import Model
from tests.security.stranger import PATIENCE, Stranger
from tests.security.surroundings import PREFIX

ROOT = Path(__file__).resolve().parents[2]


def files_below(folder: Path) -> set[Path]:
    """All of them; the program may remove some meanwhile."""
    return {Path(where, name) for where, _, names in os.walk(folder) for name in names}


@dataclass
class Server:
    """A running page in this process. folder: where it keeps clips and uploads."""

    app: controller.Controller
    address: str
    folder: Path
    pipeline: LumierePipeline
    prefix: str = ""

    @property
    def line(self) -> tuple[str, int]:
        """Host and port."""
        where = urlsplit(self.address)
        return where.hostname, where.port

    def stranger(self) -> Stranger:
        return Stranger(self.address)

    def files(self) -> set[Path]:
        return files_below(self.folder)


@contextmanager
def serving(pipeline: LumierePipeline, model: Path, folder: Path, server_limits: ServerLimits | None = None):
    """Serves a model that is loaded already, by the page's own code."""
    limits = read_limits(model, pipeline.lumiere.downsample_factor)
    app = controller.Controller(Model(str(model)), limits, server_limits)
    demo = events.blocks(app.controllers)
    app.service.launch(demo, Site.read())
    app.model.set_result(pipeline)
    try:
        prefix = os.environ.get(PREFIX, "")
        yield Server(app, demo.local_url.rstrip("/") + prefix, folder, pipeline, prefix)
    finally:
        demo.close(verbose=False)


@dataclass
class Work:
    """What the parts of a model did since the test began, noted by hooks on them.

    before: called with the number of the UNet's call, on the thread of the job, before it.
    """

    unet: int = 0
    decoder: int = 0
    text: int = 0
    most_at_once: int = 0
    now: int = 0
    before: object = None
    finished: list[float] = field(default_factory=list)
    lock: threading.Lock = field(default_factory=threading.Lock)

    @property
    def any(self) -> bool:
        return bool(self.unet or self.decoder or self.text)

    def begin(self, *_):
        with self.lock:
            self.unet += 1
            self.now += 1
            self.most_at_once = max(self.most_at_once, self.now)
        try:
            if self.before is not None:
                self.before(self.unet)
        except BaseException:
            self.end()
            raise

    def end(self, *_):
        with self.lock:
            self.now -= 1
            self.finished.append(time.monotonic())


@contextmanager
def watched(pipeline: LumierePipeline):
    work = Work()

    def count(name):
        return lambda *_: setattr(work, name, getattr(work, name) + 1)

    unet = pipeline.lumiere.model
    hooks = [
        unet.conv_in.register_forward_pre_hook(work.begin),
        unet.conv_out.register_forward_hook(work.end),
        pipeline.vae.decoder.register_forward_pre_hook(count("decoder")),
        pipeline.base.text_encoder.register_forward_pre_hook(count("text")),
    ]
    try:
        yield work
    finally:
        for hook in hooks:
            hook.remove()


def wait_for(what, patience: float = PATIENCE):
    deadline = time.monotonic() + patience
    while not what() and time.monotonic() < deadline:
        time.sleep(0.005)
    assert what()


def device_is_free():
    wait_for(lambda: len(jobs.device) == 0)


def alone(pipeline: LumierePipeline, settings: dict):
    """The frames of the clip with these settings, made by the pipeline without a page."""
    *_, result = pipeline.generate(Request.from_json(json.dumps(settings)))
    return result.frames


class Process:
    """`python app.py` as an operator runs it, on a free port, offline, in a folder of its own."""

    def __init__(self, model: Path | str, folder: Path, *options: str, wait: bool = True, **environment: str):
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.address = f"http://127.0.0.1:{self.port}{os.environ.get(PREFIX, '')}"
        self.folder, self.log = folder / "clips", folder / "log"
        settings = {
            "LUMIERE_MODEL": str(model),
            "GRADIO_SERVER_PORT": str(self.port),
            "GRADIO_TEMP_DIR": str(self.folder),
            "HF_HUB_OFFLINE": "1",
            "OMP_NUM_THREADS": "1",
        }
        with open(self.log, "w") as log:
            command = [sys.executable, "app.py", *options]
            self.process = subprocess.Popen(
                command, cwd=ROOT, env=os.environ | settings | environment, stdout=log, stderr=log
            )
        if wait:
            try:
                wait_for(lambda: strings.READY in self.said() or self.process.poll() is not None)
                assert self.process.poll() is None, self.said()
            except BaseException:
                self.kill()
                raise

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.kill()

    def kill(self):
        self.process.kill()
        self.process.wait()

    def end(self, patience: float = PATIENCE) -> int:
        """Asks it to end as a supervisor would; its exit status."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(patience)

    def said(self) -> str:
        return self.log.read_text()

    def stranger(self) -> Stranger:
        return Stranger(self.address)

    def files(self) -> set[Path]:
        return files_below(self.folder)

    def status(self, name: str) -> int:
        """A number in /proc/PID/status, such as VmRSS in kB or Threads."""
        text = Path(f"/proc/{self.process.pid}/status").read_text()
        return int(next(line for line in text.splitlines() if line.startswith(f"{name}:")).split()[1])
