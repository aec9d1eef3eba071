"""The clips and uploads of a page on disk: written once, bounded in size and age, never half there."""

import errno
import logging
import os
import secrets
import shutil
import tempfile
import threading
import time
import uuid
from collections.abc import Collection, Iterator
from pathlib import Path

import gradio.mcp
import numpy as np
from gradio.utils import get_upload_folder

from lumiere.limits import Bounds
from lumiere.media.video import write_clip
from lumiere.request import Request

YOUNG = 120  # s in which a file is never removed to make room: somebody is still waiting for it
MOST_FILES = 20_000  # so that empty files do not use up the file system either
MB = 2**20

log = logging.getLogger("lumiere.disk")


def own_folder() -> None:
    """A folder for the pages of this user, where the operator names none: gradio's own is shared by all.

    Raises OSError in words where nothing can be written there.
    """
    user = f"-{os.getuid()}" if hasattr(os, "getuid") else ""
    default = os.path.join(tempfile.gettempdir(), f"lumiere{user}")
    folder = Path(os.environ.get("GRADIO_TEMP_DIR") or default)
    os.environ["GRADIO_TEMP_DIR"] = str(folder)
    gradio.mcp.DEFAULT_TEMP_DIR = str(folder)  # which was decided when that was imported
    try:
        folder.mkdir(0o700, parents=True, exist_ok=True)
        if str(folder) == default and user and folder.stat().st_uid != os.getuid():
            raise PermissionError(errno.EPERM, "it belongs to another user")
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise OSError(
            f"clips cannot be written to {folder} ({error.strerror}): set GRADIO_TEMP_DIR."
        ) from error


class Disk:
    """The folder from which gradio serves files."""

    def __init__(self, bounds: Bounds):
        self.bounds, self.mark = bounds, secrets.token_hex(4)  # how folders of this process begin
        self._sweeping = threading.Lock()

    @property
    def folder(self) -> Path:
        return Path(get_upload_folder())

    def save(self, request: Request, frames: np.ndarray, settings: str) -> str:
        """Writes a clip to where gradio serves it from, so that it is stored once. No user text in its name.

        settings: JSON, kept in the file. Raises OSError in words.
        """
        folder = self.folder / f"{self.mark}{uuid.uuid4().hex}"
        try:
            folder.mkdir(parents=True)
        except OSError as error:
            raise OSError(f"cannot write the clip: its folder cannot be made ({error.strerror}).") from error
        path = folder / f"lumiere-{request.seed}.mp4"
        try:
            write_clip(path, frames, request.fps, settings)
        except OSError:
            folder.rmdir()
            raise
        return str(path)

    def room(self, coming: int = 0, kept: Collection[str] = ()) -> bool:
        """Deletes what is too old, then the oldest past the set size; is there room now for so many bytes?

        kept: paths that stay. What is younger than two minutes stays in any case.
        """
        most = self.bounds.disk_mb * MB
        if coming > most:
            return False
        with self._sweeping:
            now = time.time()
            files = sorted(file for file in found(self.folder) if str(file[2]) not in kept)
            size, count = sum(size for _, size, _ in files), len(files)
            for changed, bytes_, path in files:
                old = now - changed > 60 * self.bounds.keep_minutes
                full = size + coming > most or count > MOST_FILES
                if not old and not (full and now - changed > YOUNG):
                    break
                remove(path, self.folder)
                size, count = size - bytes_, count - 1
        enough = self.free() - coming >= self.bounds.free_mb * MB
        return enough and size + coming <= most and count <= MOST_FILES

    def remove_parts(self, folders: str, age: float = 0) -> None:
        """What was being written in these folders when a server ended, so many seconds ago at least."""
        for path in self.folder.glob(f"{folders}/.*.part"):
            try:
                if time.time() - path.stat().st_mtime >= age:
                    remove(path, self.folder)
            except OSError:  # gone meanwhile
                continue

    def free(self) -> int:
        """Bytes left on the disk."""
        folder = self.folder
        while not folder.exists():
            folder = folder.parent
        return shutil.disk_usage(folder).free


def found(folder: Path) -> Iterator[tuple[float, int, Path]]:
    """Time of change, size and path of every file below a folder; they may vanish meanwhile."""
    for directory, _, names in os.walk(folder):
        for name in names:
            path = Path(directory, name)
            try:
                facts = path.lstat()
            except OSError:
                continue
            yield facts.st_mtime, facts.st_size, path


def remove(path: Path, folder: Path) -> None:
    """A file, and the folder it was alone in."""
    try:
        path.unlink(missing_ok=True)
        if path.parent != folder:
            path.parent.rmdir()
    except OSError:  # not empty, or somebody else's
        log.debug("%s stays", path)
