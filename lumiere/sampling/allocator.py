"""Configures the C library to reuse the memory of freed tensors. Affects CPU runs only."""

import ctypes

M_TRIM_THRESHOLD, M_MMAP_MAX, M_ARENA_MAX = -1, -4, -8  # from malloc.h
KEPT = 2**30  # maximum number of free bytes kept from the system


def keep_freed_memory() -> bool:
    """Makes the allocator reuse the memory of freed tensors of any size.

    By default glibc returns blocks of more than 32 MiB to the system immediately, and the next block is paged
    in again. This takes a third of the time of a 128-frame clip. The setting affects the whole process:
    programs call this function first, and the library never does. Other C libraries are left unchanged.

    Returns:
        Whether the settings were applied.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):  # musl, macOS, Windows
        return False
    # One arena: per-thread arenas grow in chunks of 64 MiB and still map larger blocks.
    settings = {M_MMAP_MAX: 0, M_TRIM_THRESHOLD: KEPT, M_ARENA_MAX: 1}
    return all([mallopt(name, value) for name, value in settings.items()])


def give_back() -> None:
    """Returns freed memory to the system, for use after an out-of-memory error."""
    try:
        ctypes.CDLL(None).malloc_trim(0)
    except (AttributeError, OSError, TypeError):
        pass
