"""Output never fails for its encoding, nor for what is behind stdout."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.marks import soak

ROOT = Path(__file__).resolve().parents[2]
TOLD = "from lumiere.runtime.console import lenient_output, tell; lenient_output(); "


def ran(code: str, encoding: str = "utf-8", **options) -> subprocess.CompletedProcess:
    environment = os.environ | {"PYTHONIOENCODING": encoding, "PYTHONUTF8": "0"}
    options = {"capture_output": True} | options
    return subprocess.run([sys.executable, "-c", TOLD + code], cwd=ROOT, env=environment, **options)


@pytest.mark.parametrize("encoding", ["cp1252", "ascii", "latin-1", "cp437", "shift_jis", "ascii:strict"])
def test_escapes_what_the_encoding_lacks(encoding):
    done = ran("import sys; tell('мяч ✓ \\ud800', 7); print('мяч \\U0001f3ac', file=sys.stderr)", encoding)
    assert done.returncode == 0, done.stderr
    assert b"\\u2713" in done.stdout and b"7" in done.stdout and b"\\U0001f3ac" in done.stderr


def test_prints_a_name_that_is_not_utf8():
    done = ran("import os; tell(os.fsdecode(b'clip-\\xff.mp4'))")
    assert done.returncode == 0 and b"clip-\\udcff.mp4" in done.stdout


def test_a_closed_pipe_or_a_full_disk_behind_stdout_is_no_failure():
    with open("/dev/full", "wb") as full:
        assert ran("tell('a'); tell('b')", stdout=full, capture_output=False).returncode == 0
    read, write = os.pipe()
    os.close(read)
    try:
        assert ran("tell('a'); tell('b')", stdout=write, capture_output=False).returncode == 0
    finally:
        os.close(write)


def test_without_a_console_nothing_fails():
    assert ran("import sys; sys.stdout = sys.stderr = None; lenient_output(); tell('a')").returncode == 0


@pytest.mark.slow
@pytest.mark.parametrize("encoding", ["ascii", *soak("cp1252")])
def test_a_clip_with_a_cyrillic_name_is_a_success(tiny_model, tmp_path, encoding):
    words = "a red ball --frames 4 --steps 1 --seed 5 -o".split()
    command = [sys.executable, "-m", "lumiere", " ".join(words[:3]), *words[3:], str(tmp_path / "мяч.mp4")]
    environment = os.environ | {"PYTHONIOENCODING": encoding, "LUMIERE_MODEL": str(tiny_model)}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "мяч.mp4").exists() and b"seed 5" in done.stdout
