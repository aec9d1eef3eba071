"""Row 33. Five hundred clips for visitors who stop, hang up and come again: nothing grows."""

import os
import random
import threading
from pathlib import Path

import pytest

from tests.security.server import Process, wait_for
from tests.security.stranger import status

pytestmark = [pytest.mark.slow, pytest.mark.soak]
CLIPS, VISITORS = 500, 4
ASKED = [
    {"seed": seed, "steps": steps, "frames": frames, "prompt": prompt}
    for seed, steps, frames, prompt in (
        (1, 2, 8, "a red ball bouncing"),
        (2, 3, 4, "a blue star spinning"),
        (3, 2, 12, "a green fish over the sea"),
        (4, 4, 8, "a yellow rocket at night"),
    )
]
MIXED = ("program", "program", "page", "stops", "hangs up")  # what a visitor does, one as often as another
SETTLED = 150  # clips after which caches are full
DISK = 8  # MB of clips that the operator allows here: about 200
MOST = {"memory, MB": 15, "file handles": 6, "threads": 8}  # growth from then on


def sizes(process: Process) -> dict:
    """What must stay as it is."""
    files = process.files()
    return {
        "memory, MB": process.status("VmRSS") // 1024,
        "file handles": len(os.listdir(f"/proc/{process.process.pid}/fd")),
        "threads": process.status("Threads"),
        "files": len(files),
        "disk, MB": sum(map(size, files)) // 2**20,
    }


def size(path: Path) -> int:
    """Bytes; none of a file that the program has removed meanwhile."""
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0


class Visitor:
    """Asks for clips in turn, and notes each that is not what its settings gave alone."""

    def __init__(self, number: int, process: Process, expected: list[bytes], todo):
        self.process, self.expected, self.todo = process, expected, todo
        self.chance, self.did, self.wrong = random.Random(number), dict.fromkeys(MIXED, 0), []

    def run(self):
        for _ in self.todo:
            self.one(self.chance.choice(MIXED), self.chance.randrange(len(ASKED)))

    def one(self, what: str, which: int):
        stranger, asked = self.process.stranger(), ASKED[which]
        self.did[what] += 1
        if what == "program":
            outcome, told = stranger.generate(**asked)
            right = outcome == "complete" and stranger.fetch(told[0]["path"]).content == self.expected[which]
            self.wrong += [] if right else [(what, told)]
        elif what == "page":
            last = stranger.make(**asked)
            self.wrong += [] if last["state"] == "done" else [(what, last)]
        elif what == "hangs up":
            event = stranger.begin(**asked | {"steps": 50})
            with stranger.listening(event):
                pass
        else:
            stranger.press("make", stranger.form(**asked | {"steps": 50}))
            messages = []
            for message in stranger.news():
                messages.append(message)
                if len(messages) == 4:
                    stranger.press("stop", [])
            last = status(messages)
            self.wrong += [] if last["text"].startswith(("Stopped", "Done")) else [(what, last)]
        stranger.http.close()


def test_five_hundred_clips_in_a_row(tiny_model, tmp_path, capfd):
    with Process(tiny_model, tmp_path, LUMIERE_KEEP_MINUTES="1", LUMIERE_DISK_MB=str(DISK)) as process:
        stranger = process.stranger()
        expected = [stranger.fetch(stranger.generate(**asked)[1][0]["path"]).content for asked in ASKED]
        table, done, lock = [], [0], threading.Lock()

        def todo():
            while True:
                with lock:
                    if done[0] == CLIPS:
                        return
                    done[0] += 1
                yield

        visitors = [Visitor(number, process, expected, todo()) for number in range(VISITORS)]
        threads = [threading.Thread(target=visitor.run) for visitor in visitors]
        [thread.start() for thread in threads]
        for clips in range(SETTLED, CLIPS, 50):
            wait_for(lambda clips=clips: done[0] >= clips, 600)
            table.append((clips, sizes(process)))
        [thread.join() for thread in threads]
        wait_for(lambda: stranger.http.get("/health").json()["jobs"] == 0)
        table.append((CLIPS, sizes(process)))
        process.end()
        said = process.said()
        wrong = [each for visitor in visitors for each in visitor.wrong]
        did = {what: sum(visitor.did[what] for visitor in visitors) for what in MIXED}
        report = [f"{CLIPS} clips by {VISITORS} visitors: {did}"]
        report += [f"{'after clips':14}" + "".join(f"{clips:>8}" for clips, _ in table)]
        report += [
            f"{name:14}" + "".join(f"{values[name]:>8}" for _, values in table) for name in table[0][1]
        ]
        with capfd.disabled():
            print("\n" + "\n".join(report))
    assert wrong == [] and sum(did.values()) == CLIPS
    assert said.count("outcome=") >= CLIPS - did["hangs up"] and "Traceback" not in said
    first, last = table[0][1], table[-1][1]
    for name, most in MOST.items():
        assert last[name] - first[name] <= most, name
    assert last["disk, MB"] <= DISK
