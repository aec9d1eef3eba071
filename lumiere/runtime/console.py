"""Console output that never fails after the work is done (standard library only)."""

import os
import sys


def lenient_output() -> None:
    """Has stdout and stderr escape characters that their encoding lacks, in place of an error after the work.

    A clip named `мяч.mp4` is a success on a console in code page 1252, too. Call it first in every command.
    """
    for stream in (sys.stdout, sys.stderr):
        # None without a console, and test runners use streams of their own
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")


def tell(*lines: object) -> None:
    """Prints lines on stdout. A closed pipe or a full disk behind stdout is no failure of the work before.

    Args:
        lines: what to print, one a line.
    """
    try:
        print(*lines, sep="\n", flush=True)
    except (OSError, ValueError):  # ValueError: stdout is closed
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115 - Python flushes stdout once more at exit
