"""Row 14: two users in the same second."""

import threading

import numpy as np

from lumiere.media.video import read_clip, write_clip
from tests.security.server import alone


def test_users_in_the_same_second_get_their_solo_runs_one_job_at_a_time(server, work, tmp_path):
    """On the page and over the API at once, with different schedulers, lengths and prompts."""
    asked = [
        {"seed": 1, "steps": 4, "scheduler": "ddim"},
        {"seed": 2, "steps": 5, "frames": 12, "prompt": "a blue star spinning"},
        {"seed": 3, "steps": 4, "scheduler": "euler a", "guidance": 1.0},
        {"seed": 1, "steps": 4, "scheduler": "ddim", "prompt": "a green fish"},
    ]
    strangers, made = [server.stranger() for _ in asked], {}
    starting = threading.Barrier(len(asked) + 1)

    def ask(number):
        starting.wait()
        made[number] = strangers[number].generate(**asked[number])

    def look():
        starting.wait()
        made["page"] = server.stranger().make(steps=3)

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(len(asked))]
    threads.append(threading.Thread(target=look))
    [thread.start() for thread in threads]
    [thread.join() for thread in threads]
    assert work.most_at_once == 1 and work.unet == 4 + 5 + 4 + 4 + 3
    assert made["page"]["state"] == "done"
    for number in range(len(asked)):
        outcome, (file, settings) = made[number]
        assert outcome == "complete" and settings["seed"] == asked[number]["seed"]
        write_clip(tmp_path / "alone.mp4", alone(server.pipeline, settings), settings["fps"])
        assert np.array_equal(read_clip(file["path"])[0], read_clip(tmp_path / "alone.mp4")[0])
