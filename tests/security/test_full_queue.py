"""Row 26: 100 posts to the queue at once."""

from collections import Counter

from lumiere.limits import ServerLimits
from lumiere.page.events import PLACES
from tests.security.server import wait_for
from tests.security.stranger import finished, sentence

HELD = ServerLimits.queue + PLACES  # requests that are taken at once: waiting, and in the line for the device


def test_a_hundred_posts_at_once_are_answered_busy_after_the_limit(server, work):
    """One program and 100 visitors; whoever was taken gets a clip, and whoever was not may come again."""
    import threading

    go = threading.Event()
    work.before = lambda call: go.wait()  # the device is slow
    first = server.stranger()
    events, answers = [first.begin(steps=1)], []
    wait_for(lambda: work.unet == 1)
    for _ in range(100):
        answer = first.post("call/generate", {"data": first.values(steps=1)})
        answers.append(answer.status_code)
        if answer.status_code == 200:
            events.append(answer.json()["event_id"])
        else:
            assert answer.json()["detail"].startswith("Queue is full. Max size is 16")
    told = Counter(answers)
    assert set(told) == {200, 503} and HELD - 1 <= told[200] <= HELD + 1, told

    visitor = server.stranger()
    refused = visitor.press("make", visitor.form())
    assert refused.status_code == 503  # the page shows the event's failure in words, see tests/browser
    assert work.unet == 1 and work.most_at_once == 1

    go.set()
    done = 0
    for event in events:
        with first.listening(event) as stream:
            done += finished(stream)[0] == "complete"
    assert done == len(events) and work.most_at_once == 1
    assert visitor.make()["state"] == "done"
    assert first.generate()[0] == "complete"


def test_the_page_has_words_for_it(stranger):
    """What the browser shows when the queue does not take an event."""
    from lumiere.page import strings

    failure = [each for each in stranger.config["dependencies"] if ("failure" in str(each["targets"]))]
    assert any(strings.LOST in str(each["js"]) for each in failure)
    assert sentence(strings.LOST.split(". ")[0] + ".")
