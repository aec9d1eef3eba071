"""Clips and uploads on disk: stored once, written atomically, limited in total size and age."""

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

import numpy as np

from lumiere.limits import ServerLimits
from lumiere.media.video import write_clip
from lumiere.page.server import gradio_private
from lumiere.request import Request, required

YOUNG = 120  # s; a younger file is never removed to make room, because a client may still need it
MOST_FILES = 20_000  # keeps empty files from exhausting the file system
MB = 2**20

log = logging.getLogger("lumiere.disk")


def own_folder() -> None:
    """Sets gradio's folder for files: GRADIO_TEMP_DIR, or a private one, as all users share gradio's default.

    Raises:
        OSError: the folder cannot be created or written, or belongs to another user.
    """
    user = f"-{os.getuid()}" if hasattr(os, "getuid") else ""
    default = os.path.join(tempfile.gettempdir(), f"lumiere{user}")
    folder = Path(os.environ.get("GRADIO_TEMP_DIR") or default)
    os.environ["GRADIO_TEMP_DIR"] = str(folder)
    gradio_private.set_temp_folder(str(folder))
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
    """The folder from which gradio serves files.

    Args:
        limits: limits of the server.
    """

    def __init__(self, limits: ServerLimits):
        self.limits, self.mark = limits, secrets.token_hex(4)  # prefix of this process's folders
        self._sweeping = threading.Lock()

    @property
    def folder(self) -> Path:
        """Gradio's upload folder."""
        return Path(gradio_private.upload_folder())

    def save(self, request: Request, frames: np.ndarray, settings: str) -> str:
        """Writes a clip into gradio's folder, so that it is stored once. The file name contains no user text.

        Args:
            request: provides the fps and the seed of the file name.
            frames: uint8 `t h w c`.
            settings: JSON, stored in the file's metadata.

        Returns:
            The path of the MP4 file.

        Raises:
            OSError: the folder cannot be created or the clip cannot be written.
        """
        folder = self.folder / f"{self.mark}{uuid.uuid4().hex}"
        try:
            folder.mkdir(parents=True)
        except OSError as error:
            raise OSError(f"cannot write the clip: its folder cannot be made ({error.strerror}).") from error
        path = folder / f"lumiere-{request.seed}.mp4"
        try:
            write_clip(path, frames, required(request.fps), settings)
        except OSError:
            folder.rmdir()
            raise
        return str(path)

    def room(self, coming: int = 0, kept: Collection[str] = ()) -> bool:
        """Deletes expired files, then the oldest beyond the size limit. Files under two minutes old are kept.

        Args:
            coming: bytes about to be written.
            kept: paths that are never deleted.

        Returns:
            Whether `coming` bytes fit within the size limit and the free disk space.
        """
        most = self.limits.disk_mb * MB
        if coming > most:
            return False
        with self._sweeping:
            now = time.time()
            files = sorted(file for file in found(self.folder) if str(file[2]) not in kept)
            size, count = sum(size for _, size, _ in files), len(files)
            for changed, bytes_, path in files:
                old = now - changed > 60 * self.limits.keep_minutes
                full = size + coming > most or count > MOST_FILES
                if not old and not (full and now - changed > YOUNG):
                    break
                remove(path, self.folder)
                size, count = size - bytes_, count - 1
        enough = self.free() - coming >= self.limits.free_mb * MB
        return enough and size + coming <= most and count <= MOST_FILES

    def remove_parts(self, folders: str, age: float = 0) -> None:
        """Deletes partial files that a terminated server left behind.

        Args:
            folders: glob pattern of folder names.
            age: minimum seconds since the last write.
        """
        for path in self.folder.glob(f"{folders}/.*.part"):
            try:
                if time.time() - path.stat().st_mtime >= age:
                    remove(path, self.folder)
            except OSError:  # already removed
                continue

    def free(self) -> int:
        """Returns the free bytes on the disk."""
        folder = self.folder
        while not folder.exists():
            folder = folder.parent
        return shutil.disk_usage(folder).free


def found(folder: Path) -> Iterator[tuple[float, int, Path]]:
    """Yields modification time, size in bytes and path of every file below a folder.

    Other threads may delete files during the walk.
    """
    for directory, _, names in os.walk(folder):
        for name in names:
            path = Path(directory, name)
            try:
                facts = path.lstat()
            except OSError:
                continue
            yield facts.st_mtime, facts.st_size, path


def remove(path: Path, folder: Path) -> None:
    """Deletes a file, and its parent if that is now empty and not `folder` itself."""
    try:
        path.unlink(missing_ok=True)
        if path.parent != folder:
            path.parent.rmdir()
    except OSError:  # not empty, or owned by another user
        log.debug("%s stays", path)
