"""Freed memory is used again, on every thread; in processes of their own, because there is no way back."""

import subprocess
import sys

import pytest

PAGES = """
import ctypes, resource, sys, threading
from lumiere.sampling.allocator import keep_freed_memory

def faults():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt

def use():
    for size in (96, 80, 64):  # MiB: each fits in where the one before was
        before, memory = faults(), bytearray(size * 2**20)
        memory[::4096] = bytes(len(memory[::4096]))
        print(size, faults() - before)
        del memory

assert sys.argv[1] == "given back" or keep_freed_memory()
use()
thread = threading.Thread(target=use)
thread.start()
thread.join()
"""


def faults(how: str) -> list[int]:
    """New pages for three blocks one after the other, on the main thread and then on another."""
    done = subprocess.run([sys.executable, "-c", PAGES, how], capture_output=True, text=True, check=True)
    return [int(line.split()[1]) for line in done.stdout.splitlines()]


@pytest.mark.skipif(sys.platform != "linux", reason="counts pages of Linux")
def test_freed_memory_is_used_again():
    given_back, kept = faults("given back"), faults("kept")
    if min(given_back) < 5_000:
        pytest.skip("this system gives huge pages, or keeps memory anyway")
    assert kept[0] > 10_000  # 96 MiB in pages of 4 KiB have to come once
    assert max(kept[1:]) < 1_000


HELD = """
from pathlib import Path
from lumiere.sampling.allocator import give_back, keep_freed_memory

def resident():
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096

keep_freed_memory()
memory = bytearray(96 * 2**20)
memory[::4096] = bytes(len(memory[::4096]))
del memory
kept = resident()
give_back()
print(kept - resident())
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_kept_memory_can_be_given_back():
    done = subprocess.run([sys.executable, "-c", HELD], capture_output=True, text=True, check=True)
    assert int(done.stdout) > 80 * 2**20
