"""Row 37: training killed with SIGKILL at any moment, disk full while saving."""

import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from accelerate.state import AcceleratorState

from lumiere.training.trainer import train
from tests.security.server import ROOT
from tests.training.test_train import clips, command, lines, result, same, settings, trainer  # noqa: F401

# Names of what is there at that moment, below the folder of the run.
MOMENTS = {
    "in a step": lambda out: len(steps_done(out)) >= 4,
    "at the first step": lambda out: len(steps_done(out)) >= 1,
    "while a checkpoint is written": lambda out: (out / "checkpoint.pt.part").exists(),
}


def steps_done(out: Path) -> list[str]:
    metrics = out / "metrics.jsonl"
    return metrics.read_text().splitlines() if metrics.exists() else []


@pytest.mark.slow
def test_a_training_killed_at_any_moment_has_the_losses_of_an_unbroken_one(settings):  # noqa: F811
    """One run is killed at each of the moments in turn, and goes on by the same command."""
    whole, broken = settings("whole", steps=16), settings("broken", steps=16, save_minutes=0.0)
    list(train(whole))
    start, out = [sys.executable, "-m", "lumiere.train", *command(broken)], Path(broken.out)
    for moment in MOMENTS.values():
        with subprocess.Popen(start, cwd=ROOT, stderr=subprocess.DEVNULL) as process:
            while process.poll() is None and not moment(out):
                time.sleep(0.0005)
            process.send_signal(signal.SIGKILL)
            assert process.wait() == -signal.SIGKILL
    subprocess.run(start, cwd=ROOT, check=True, stderr=subprocess.DEVNULL)
    assert lines(broken) == lines(whole)
    assert same(result(broken), result(whole))
    assert not list(out.rglob("*.part"))


@pytest.mark.slow
def test_a_full_disk_while_saving_keeps_the_last_checkpoint(settings):  # noqa: F811
    made = settings()
    run = trainer(made)
    run.advance()
    run.save()
    kept = (Path(made.out) / "checkpoint.pt").read_bytes()
    run.advance()
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, hard))
    try:
        with pytest.raises(OSError, match="cannot save the step 2 in"):
            run.save()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert (Path(made.out) / "checkpoint.pt").read_bytes() == kept
    AcceleratorState._reset_state(reset_partial_state=True)
    assert trainer(made).step == 1


@pytest.mark.slow
def test_no_checkpoint_says_that_all_is_done_before_the_weights_are_there(settings, monkeypatch):  # noqa: F811
    made = settings(steps=1)
    monkeypatch.setattr("lumiere.training.trainer.save_motion", failing)
    with pytest.raises(OSError, match="cannot save the step 1 in"):
        list(train(made))
    monkeypatch.undo()
    AcceleratorState._reset_state(reset_partial_state=True)
    list(train(made))
    assert (Path(made.out) / "motion" / "motion.json").is_file()


def failing(*_):
    raise OSError("No space left on device")


@pytest.mark.slow
def test_a_damaged_checkpoint_is_refused_in_words(settings):  # noqa: F811
    file = Path(settings().out) / "checkpoint.pt"
    list(train(settings(steps=1)))
    file.write_bytes(file.read_bytes()[:-5000])
    with pytest.raises(OSError, match="cannot read .*checkpoint.pt .*: remove it to begin anew"):
        list(train(settings(steps=2)))
