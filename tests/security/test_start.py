"""Row 34. A model that is not there: the start ends in words, and no half-alive page stays."""

import json
import os
import shutil
import subprocess
import sys
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import httpx
import pytest

from tests.marks import soak
from tests.security.server import ROOT, Process, wait_for

pytestmark = pytest.mark.slow
SHA = "0123456789abcdef0123456789abcdef01234567"


@contextmanager
def hub(model, fault: str):
    """A hub on this machine that has the tiny model as lumiere/tiny, but for the fault."""
    files = {str(path.relative_to(model)): path for path in model.rglob("*") if path.is_file()}

    class Handler(BaseHTTPRequestHandler):
        def log_message(self, *_):
            pass

        def do_HEAD(self):
            self.do_GET(body=False)

        def do_GET(self, body=True):
            if fault == "down":
                return self.send_error(503)
            if "lumiere/tiny" not in self.path:
                return self.refuse(404, "RepoNotFound")
            if "/revision/" in self.path and not self.path.endswith(("/main", SHA)):
                return self.refuse(404, "RevisionNotFound")
            if "/tree/" in self.path:
                sizes = {name: path.stat().st_size for name, path in files.items()}
                entries = [{"type": "file", "path": n, "size": s, "oid": n} for n, s in sizes.items()]
                return self.answer(json.dumps(entries).encode())
            if self.path.startswith("/api/"):
                told = {"id": "lumiere/tiny", "sha": SHA, "siblings": [{"rfilename": name} for name in files]}
                return self.answer(json.dumps(told).encode())
            name = self.path.split(f"/resolve/{SHA}/", 1)[-1]
            if name not in files:
                return self.refuse(404, "EntryNotFound")
            data = files[name].read_bytes()
            cut = fault == "half" and name.endswith(".safetensors")
            self.answer(data, len(data) // 2 if cut else len(data), body)

        def answer(self, data: bytes, sent: int | None = None, body: bool = True):
            self.send_response(200)
            self.send_header("Content-Length", str(len(data)))
            self.send_header("ETag", f'"{hash(data) & 0xFFFFFFFF:x}"')
            self.send_header("X-Repo-Commit", SHA)
            self.end_headers()
            if body:
                self.wfile.write(data[:sent])
            if sent is not None and sent < len(data):
                self.close_connection = True

        def refuse(self, status: int, code: str):
            self.send_response(status)
            self.send_header("X-Error-Code", code)
            self.send_header("Content-Length", "0")
            self.end_headers()

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as running:
        threading.Thread(target=running.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{running.server_port}"
        running.shutdown()


def ends_in_words(process: Process, *words: str) -> str:
    """The last words of a start that failed: one sentence, status 1, and nothing is served."""
    wait_for(lambda: process.process.poll() is not None)
    assert process.process.returncode == 1
    said = process.said().strip()
    last = said.splitlines()[-1]
    assert last.startswith("The model could not be loaded: ") and last.endswith("."), said
    assert "Traceback" not in said
    for word in words:
        assert word in last, last
    with pytest.raises(httpx.HTTPError):
        httpx.get(f"http://127.0.0.1:{process.port}/health", trust_env=False)
    return last


def online(address: str, folder) -> dict:
    where = {"HF_ENDPOINT": address, "HF_HOME": str(folder / "hub")}
    return where | {"HF_HUB_OFFLINE": "0", "HF_HUB_DISABLE_XET": "1", "no_proxy": "127.0.0.1"}


@pytest.mark.parametrize(
    "name, fault, words",
    [
        ("lumiere/tiny", "half", ("cannot fetch", "network", "local folder")),
        *soak(
            ("lumiere/tiny", "down", ("cannot fetch", "network", "local folder")),
            ("lumiere/none", "", ("cannot fetch", "check the name")),
            ("lumiere/tiny", "offline", ("cannot fetch", "network")),
        ),
    ],
)
def test_a_hub_that_is_down_or_has_no_such_model_or_breaks_off(tiny_model, tmp_path, name, fault, words):
    with hub(tiny_model, fault) as address:
        environment = online(address, tmp_path) if fault != "offline" else {"HF_HOME": str(tmp_path / "hub")}
        with Process(name, tmp_path, wait=False, **environment) as process:
            ends_in_words(process, *words)


def test_a_hub_that_has_it_serves_it(tiny_model, tmp_path):
    """That the hub of these tests is one; and what was fetched once is enough when it is gone."""
    with hub(tiny_model, "") as address:
        with Process("lumiere/tiny", tmp_path, **online(address, tmp_path)) as process:
            assert process.stranger().generate()[0] == "complete"
            assert "Fetching lumiere/tiny: " in process.said()
    with Process("lumiere/tiny", tmp_path, HF_HOME=str(tmp_path / "hub")) as process:
        assert process.stranger().generate()[0] == "complete"


@pytest.mark.parametrize("revision", ["main", "no-such-revision"])
def test_a_wrong_revision(tiny_model, tmp_path, revision):
    program = "from lumiere.loading.layout import locate; "
    program += f"print(locate('lumiere/tiny', revision='{revision}'))"
    with hub(tiny_model, "") as address:
        environment = os.environ | online(address, tmp_path)
        ran = subprocess.run(
            [sys.executable, "-c", program], cwd=ROOT, env=environment, capture_output=True, text=True
        )
    assert (ran.returncode == 0) == (revision == "main"), ran.stderr
    if ran.returncode:
        last = ran.stderr.strip().splitlines()[-1]
        assert "RevisionNotFoundError" in last and "check the name, the revision and the network" in last


@pytest.mark.parametrize(
    "damage, words",
    [
        ("half", ("cannot read the unet",)),
        *soak(
            ("unet/diffusion_pytorch_model.safetensors", ("lacks", "diffusion_pytorch_model.safetensors")),
            ("motion/motion.safetensors", ("motion",)),
            ("model_index.json", ("model_index.json",)),
            ("nothing", ("no model folder",)),
        ),
    ],
)
def test_a_folder_that_is_missing_or_not_whole(tiny_model, tmp_path, damage, words):
    folder = tmp_path / "model"
    if damage != "nothing":
        shutil.copytree(tiny_model, folder)
        if damage == "half":
            file = folder / "unet" / "diffusion_pytorch_model.safetensors"
            file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
        else:
            (folder / damage).unlink()
    with Process(folder, tmp_path, wait=False) as process:
        ends_in_words(process, *words)


@pytest.mark.parametrize(
    "name, value, words",
    [
        ("LUMIERE_QUEUE", "many", "LUMIERE_QUEUE must be a whole number from 1 to 10000: received many."),
        *soak(
            ("LUMIERE_MAX_FRAMES", "0", "LUMIERE_MAX_FRAMES must be a whole number from 4"),
            ("LUMIERE_MAX_SIDE", "7.5", "LUMIERE_MAX_SIDE must be a whole number from 64 to 4096"),
        ),
    ],
)
def test_bounds_that_cannot_be(tiny_model, tmp_path, name, value, words):
    with Process(tiny_model, tmp_path, wait=False, **{name: value}) as process:
        ends_in_words(process, words)
