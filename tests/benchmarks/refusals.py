"""python -m tests.benchmarks.refusals

What it takes to refuse a request over HTTP, from the first byte sent to the last one read, one by one.
"""

import os
import statistics
import tempfile
import time
from pathlib import Path

from lumiere.runtime.model_cache import MODELS
from tests.security.server import ROOT, Process

TIMES = 200
BOUND = 50  # ms, the most that a refusal may take


def measure(case) -> list[float]:
    """Milliseconds of each call."""
    took = []
    for _ in range(TIMES):
        began = time.perf_counter()
        case()
        took.append(1000 * (time.perf_counter() - began))
    return sorted(took)


def main() -> None:
    model = os.environ.get("LUMIERE_MODEL") or ROOT / MODELS["paper-world"].source
    with Process(model, Path(tempfile.mkdtemp())) as process:
        stranger = process.stranger()
        values = stranger.values()
        calls = {"data": values[:-1]}, {"data": [{"path": "http://127.0.0.1/x", "meta": {}}, *values[1:]]}
        cases = {
            "a blank prompt": lambda: stranger.generate(prompt=" "),
            "10 000 characters": lambda: stranger.generate(prompt="x" * 10_000),
            "18 frames": lambda: stranger.generate(frames=18),
            "too few values": lambda: stranger.post("call/generate", calls[0]),
            "an address for a file": lambda: stranger.post("call/generate", calls[1]),
            "no such endpoint": lambda: stranger.post("call/nothing", {"data": []}),
            "3 MB of JSON": lambda: stranger.post("call/generate", b"x" * 3_000_000),
            "a file of the server": lambda: stranger.fetch("/etc/passwd"),
        }
        print(f"{'refused':24}{'median':>9}{'slowest of':>12} {TIMES}, ms")
        slowest = 0.0
        for name, case in cases.items():
            case()
            took = measure(case)
            slowest = max(slowest, took[-1])
            print(f"{name:24}{statistics.median(took):9.1f}{took[-1]:12.1f}")
        assert process.stranger().http.get("/health").json()["jobs"] == 0
        print(f"slowest: {slowest:.1f} ms, at most {BOUND} are allowed")


if __name__ == "__main__":
    main()
