"""Files of a repository on the hub, and who is told how far their fetching is (standard library only)."""

import io
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path

TELL_SECONDS = 1.0  # between two sentences

_told: ContextVar[Callable[[str], None] | None] = ContextVar("told", default=None)


@contextmanager
def telling(told: Callable[[str], None]) -> Iterator[None]:
    """What is fetched meanwhile on this thread is told in sentences, in place of the hub's own bars.

    told: is called on the threads that fetch.
    """
    token = _told.set(told)
    try:
        yield
    finally:
        _told.reset(token)


def fetch(name: str, kind: str, revision: str | None, wanted: list[str]) -> Path:
    """The local copy of the files of these patterns in a repository on the hub. Raises OSError in words."""
    from huggingface_hub import snapshot_download  # half a second, and not needed for a folder

    told = _told.get()
    bars = told and _bars(name, told)
    try:
        return Path(snapshot_download(name, revision=revision, allow_patterns=wanted, tqdm_class=bars))
    except Exception as error:  # of the hub's library, and of those that it uses to reach it
        raise OSError(
            f"cannot fetch the {kind} {name} from the hub ({type(error).__name__}): check the name, the "
            "revision and the network, or give the path of a local folder."
        ) from error
    finally:
        if bars:
            bars.ended = True


def progress(name: str, done: float, total: float) -> str:
    """How many bytes are there, in a sentence: `Fetching a/b: 1.2 of 3.4 GB.`"""
    size, unit = next(((s, u) for s, u in ((1e9, "GB"), (1e6, "MB")) if total >= s), (1e3, "kB"))
    return f"Fetching {name}: {done / size:.1f} of {total / size:.1f} {unit}."


def _bars(name: str, told: Callable[[str], None]):
    """A class of bars that tell a sentence where others draw; those that count files are silent."""
    from tqdm import tqdm

    counting: list[tqdm] = []  # of bytes: received and written ones, which files come both ways or one

    class Bar(tqdm):
        monitor_interval = 0  # no thread that looks after bars
        ended = False  # those of a fetching that failed are closed at any time after it

        def __init__(self, *args, **options):
            super().__init__(
                *args, **options | {"file": io.StringIO(), "mininterval": TELL_SECONDS, "miniters": 1}
            )
            if self.unit == "B":
                counting.append(self)

        def display(self, *_, **__):
            if self.unit == "B" and self.total and not Bar.ended:
                most = max(counting, key=lambda bar: bar.n)
                told(progress(name, most.n, max(most.n, self.total)))

    Bar.set_lock(threading.RLock())  # that of tqdm is for several processes
    return Bar
