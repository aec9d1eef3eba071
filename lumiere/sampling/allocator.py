"""How the C library keeps the memory of freed tensors; of use on the CPU only."""

import ctypes

M_TRIM_THRESHOLD, M_MMAP_MAX, M_ARENA_MAX = -1, -4, -8  # of malloc.h
KEPT = 2**30  # bytes of free memory, at most, that are not given back


def keep_freed_memory() -> bool:
    """Has freed tensors of any size used again, instead of given back to the system; whether it does.

    By itself glibc returns what had more than 32 MiB at once, and has the next one brought page by page: of
    a clip of 128 frames, that is a third of the time. It concerns the whole process, so programs call it
    before anything else, and the library never does. With another C library nothing changes.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):  # musl, macOS, Windows
        return False
    # One arena: memory of a thread's own arena comes in pieces of 64 MiB, and larger ones as before.
    settings = {M_MMAP_MAX: 0, M_TRIM_THRESHOLD: KEPT, M_ARENA_MAX: 1}
    return all([mallopt(name, value) for name, value in settings.items()])


def give_back() -> None:
    """Returns what is kept to the system, for whoever needs it there: after memory ran out."""
    try:
        ctypes.CDLL(None).malloc_trim(0)
    except (AttributeError, OSError, TypeError):
        pass
