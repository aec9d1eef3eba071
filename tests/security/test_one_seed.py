"""Row 13: one seed twice; in a batch; after a stopped run; after a failed run."""

import threading

import pytest

from tests.security.server import alone, wait_for
from tests.security.stranger import finished


def picture(stranger, file) -> bytes:
    return stranger.fetch(file["path"]).content


def test_one_seed_gives_identical_clips_whatever_happened_before(server, stranger, work):
    """Files are compared: the encoder makes the same bytes of the same frames."""
    _, (first, settings) = stranger.generate(steps=4)
    expected = picture(stranger, first)

    _, (again, _) = stranger.generate(steps=4)
    assert picture(stranger, again) == expected

    together = [server.stranger() for _ in range(4)]  # in a batch of others
    events = [each.begin(steps=4, seed=seed) for each, seed in zip(together, (1, 7, 2, 7), strict=True)]
    files = []
    for each, event in zip(together, events, strict=True):
        with each.listening(event) as stream:
            files.append(picture(each, finished(stream)[1][0]))
    assert files[1] == files[3] == expected and files[0] != expected != files[2]

    done = work.unet
    stranger.press("make", stranger.form(steps=150))  # after a run that was stopped
    wait_for(lambda: work.unet > done + 1)
    stranger.press("stop", [])
    list(stranger.news())
    _, (after_stop, _) = stranger.generate(steps=4)
    assert picture(stranger, after_stop) == expected

    calls = work.unet

    def break_down(call):
        if call == calls + 3:
            raise RuntimeError("the device broke")

    work.before = break_down  # after a run that failed
    assert stranger.generate(steps=4)[0] == "error"
    work.before = None
    _, (after_failure, _) = stranger.generate(steps=4)
    assert picture(stranger, after_failure) == expected
    assert alone(server.pipeline, settings).shape == (8, 64, 64, 3)


@pytest.mark.parametrize("threads", [2])
def test_other_threads_at_work_change_nothing(server, stranger, threads):
    """Whatever else the process computes must not draw from the same generator."""
    import torch

    expected = picture(stranger, stranger.generate()[1][0])
    over = threading.Event()

    def disturb():
        while not over.is_set():
            torch.randn(10)
            torch.manual_seed(1)

    others = [threading.Thread(target=disturb) for _ in range(threads)]
    [each.start() for each in others]
    try:
        assert picture(stranger, stranger.generate()[1][0]) == expected
    finally:
        over.set()
        [each.join() for each in others]
