"""Downloads files from the hub and reports progress to a callback (standard library only)."""

import io
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import Any

TELL_SECONDS = 1.0  # between two progress reports

_told: ContextVar[Callable[[str], None] | None] = ContextVar("told", default=None)
_offline: ContextVar[bool] = ContextVar("offline", default=False)


@contextmanager
def offline() -> Iterator[None]:
    """Makes `fetch` look at the files on disk only, on this thread."""
    token = _offline.set(True)
    try:
        yield
    finally:
        _offline.reset(token)


def is_offline() -> bool:
    """Returns whether the environment rules downloads out (HF_HUB_OFFLINE)."""
    from huggingface_hub import constants

    return bool(constants.HF_HUB_OFFLINE)


@contextmanager
def telling(told: Callable[[str], None]) -> Iterator[None]:
    """Reports downloads on this thread to `told` as sentences, instead of the hub's progress bars.

    Args:
        told: callback for each sentence. The download threads call it.
    """
    token = _told.set(told)
    try:
        yield
    finally:
        _told.reset(token)


def fetch(name: str, kind: str, revision: str | None, wanted: list[str]) -> Path:
    """Downloads the matching files of a repository on the hub.

    Args:
        name: hub id, `owner/name`.
        kind: noun for the error message, for example "model".
        revision: commit, branch or tag. Defaults to the main branch.
        wanted: glob patterns of files.

    Returns:
        The local folder.

    Raises:
        OSError: the download failed.
    """
    from huggingface_hub import snapshot_download  # takes half a second, and local folders do not need it

    told = _told.get()
    bars = told and _bars(name, told)
    try:
        return Path(
            snapshot_download(
                name,
                revision=revision,
                allow_patterns=wanted,
                tqdm_class=bars,
                local_files_only=_offline.get(),
            )
        )
    except Exception as error:  # huggingface_hub and its HTTP libraries raise many kinds
        advice = "check the name, the revision and the network"
        if isinstance(error, ImportError) and "socks" in str(error).lower():
            advice = "for the SOCKS proxy in the environment, `pip install socksio` or unset ALL_PROXY"
        raise OSError(
            f"cannot fetch the {kind} {name} from the hub ({type(error).__name__}): {advice}, or give the "
            "path of a local folder."
        ) from error
    finally:
        if bars:
            bars.ended = True


def progress(name: str, done: float, total: float) -> str:
    """Formats the progress of a download, as in `Fetching a/b: 1.2 of 3.4 GB`.

    Args:
        name: hub id.
        done: bytes received.
        total: bytes in all.
    """
    size, unit = next(((s, u) for s, u in ((1e9, "GB"), (1e6, "MB")) if total >= s), (1e3, "kB"))
    return f"Fetching {name}: {done / size:.1f} of {total / size:.1f} {unit}."


def _bars(name: str, told: Callable[[str], None]) -> Any:
    """Returns a tqdm class that reports bytes to `told`; bars that count files stay silent."""
    from tqdm import tqdm

    counting: list[tqdm] = []  # bars of bytes received and bytes written: a file may update both or one

    class Bar(tqdm):
        monitor_interval = 0  # no monitor thread
        ended = False  # bars of a failed download may be closed at any later time

        def __init__(self, *args: Any, **options: Any) -> None:
            super().__init__(
                *args, **options | {"file": io.StringIO(), "mininterval": TELL_SECONDS, "miniters": 1}
            )
            if self.unit == "B":
                counting.append(self)

        def display(self, *_: Any, **__: Any) -> None:
            if self.unit == "B" and self.total and not Bar.ended:
                most = max(counting, key=lambda bar: bar.n)
                told(progress(name, most.n, max(most.n, self.total)))

    Bar.set_lock(threading.RLock())  # tqdm's default lock also spans processes
    return Bar
