"""Writes files whole or not at all (standard library only)."""

import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Replaces a file atomically by the one that the `with` block writes; after an error, it is kept.

    Args:
        path: the file.

    Yields:
        The path to write, beside it: `.<random>.part`, which `Disk.remove_parts` finds after a crash.
    """
    part = path.with_name(f".{secrets.token_hex(8)}.part")
    try:
        yield part
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)
