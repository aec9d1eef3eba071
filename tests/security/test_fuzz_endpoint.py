"""Anything at all over HTTP: a clip or a refusal, no traceback, no hang, and nobody else is hurt."""

import gc
import json
import resource
import time

import pytest
from hypothesis import given, seed, settings
from hypothesis import strategies as st

from tests.security.stranger import Stranger, finished, sentence
from tests.security.test_fuzz_request import CASES, RIGHT, SLOW, anything, likely

HANG = 2.0  # s
PARTS = 10  # of the cases: hypothesis remembers all of a run, 244 MB of 10 000
PART = settings(SLOW, max_examples=CASES // PARTS)
MOST = 300  # MB that the memory may grow by
ONE_OF = 100  # cases, one of which has nothing wrong in it
pytestmark = [pytest.mark.slow, pytest.mark.soak]
paths = st.sampled_from(
    "call/generate queue/join run/note run/make call/v2/generate cancel reset api/x".split()
)
bodies = st.one_of(
    anything.map(json.dumps).map(str.encode),
    st.binary(max_size=60),
    st.fixed_dictionaries(
        {"data": st.one_of(st.lists(anything, max_size=10), anything)},
        optional={
            "fn_index": st.one_of(st.integers(-2, 60), anything),
            "session_hash": st.one_of(st.just("fuzz"), anything),
            "event_id": anything,
            "trigger_id": anything,
            "event_data": anything,
            "batched": anything,
            "simple_format": anything,
        },
    )
    .map(json.dumps)
    .map(str.encode),
)


class Told:
    """What came of all cases: counts of answers, and the slowest."""

    def __init__(self):
        self.counts, self.slowest = {}, 0.0

    def add(self, kind, seconds):
        self.counts[kind] = self.counts.get(kind, 0) + 1
        self.slowest = max(self.slowest, seconds)

    def __str__(self):
        parts = [f"{count} {kind}" for kind, count in sorted(self.counts.items(), key=str)]
        return f"{sum(self.counts.values())} cases: {', '.join(parts)}; the slowest took {self.slowest:.2f} s"


def timed(case, work=lambda result: 1, again: int = 3):
    """The result of `case()` and the seconds that each piece of its work took.

    A hang is one that is there again: a busy machine is none.
    """
    for _ in range(again):
        began = time.monotonic()
        result = case()
        took = (time.monotonic() - began) / work(result)
        if took < HANG:
            break
    assert took < HANG, f"{took:.1f} s"
    return result, took


def peak() -> float:
    """Memory of this process at its most, in MB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def all_cases_of(fuzz) -> None:
    """In parts, after which nothing is left of what hypothesis remembers and of garbage that waits its turn:
    neither is the server's.
    """
    for part in range(PARTS):
        seed(part)(fuzz)()
        gc.collect()


def _steps(result) -> int:
    """Of a clip, as its settings tell them; a refusal is one piece of work."""
    outcome, answer = result
    return answer[1]["steps"] if outcome == "complete" else 1


def test_fuzz_values_of_the_endpoint(server, stranger, capfd, caplog):
    """Most cases are refused; where all values are right, a clip of at most 16 frames is made, and it is
    its steps that may not hang: there can be 150 of them.
    """
    assert stranger.generate(frames=16)[0] == "complete"  # what a first clip brings into memory stays there
    told, before = Told(), peak()
    names = [each["parameter_name"] for each in stranger.endpoints["/generate"]["parameters"]]
    values = st.fixed_dictionaries({name: likely.get(name, anything) for name in names})
    right = st.fixed_dictionaries({name: RIGHT[name] for name in names})

    @given(values, right)
    @PART
    def fuzz(data, clip):
        data = data if sum(told.counts.values()) % ONE_OF else clip

        def case():
            return stranger.call([data[name] for name in names])

        (outcome, answer), took = timed(case, _steps)
        if outcome == "error":
            sentence(answer)
        else:
            assert answer[1]["seed"] == data["seed"] or data["seed"] is None
        told.add(outcome, took)

    all_cases_of(fuzz)
    assert told.counts["complete"] >= CASES // ONE_OF and told.counts["error"] >= CASES // 2
    assert Stranger(server.address).generate()[0] == "complete"
    assert "Traceback" not in capfd.readouterr().err and "Traceback" not in caplog.text
    assert peak() - before < MOST
    with capfd.disabled():
        print(f"\nendpoint, values: {told}; memory grew by {peak() - before:.0f} MB")


def test_fuzz_bodies_and_paths(server, stranger, capfd, caplog):
    told, before = Told(), peak()

    @given(paths, bodies)
    @PART
    def fuzz(path, body):
        answer, took = timed(lambda: stranger.post(path, body))
        assert answer.status_code < 600 and answer.headers["content-type"].startswith("application/json")
        assert answer.status_code not in (500, 501, 502), answer.text
        assert "Traceback" not in answer.text
        if answer.status_code == 200 and path == "call/generate":
            with stranger.listening(answer.json()["event_id"]) as stream:
                finished(stream)
        told.add(f"answered {answer.status_code}", took)

    all_cases_of(fuzz)
    assert Stranger(server.address).generate()[0] == "complete"
    assert "Traceback" not in capfd.readouterr().err and "Traceback" not in caplog.text
    assert peak() - before < MOST
    with capfd.disabled():
        print(f"\nendpoint, bodies: {told}; memory grew by {peak() - before:.0f} MB")
