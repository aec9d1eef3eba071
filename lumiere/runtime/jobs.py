"""One worker thread per job; one job on the device at a time; a watcher that only relays.

A web framework may resume a generator on another thread for every item and may drop it at any moment, so
the work itself never runs in the watcher: a worker thread owns the torch context from the first step to the
last, and the device belongs to it until that thread has really left, whatever became of the watcher.
"""

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from lumiere.events import Progress, Result

if TYPE_CHECKING:
    import numpy as np

    from lumiere.events import Progress, Result

PREVIEW_SECONDS = 0.4  # a preview costs device time and 2.5 a second already look alive
TURN_SECONDS = 0.1  # how often a waiting job looks whether it was stopped
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Update:
    """What a watcher learns about a job. The last has `ended` set, and `result` unless nothing was made."""

    ahead: int = 0  # jobs that get the device before this one
    step: int = 0
    steps: int = 0
    seconds_per_step: float | None = None  # mean of the last five steps
    seconds_left: float | None = None  # from the share of the work that these did
    share: float = 0.0  # of the work that is done
    preview: "np.ndarray | None" = None  # uint8 (t h w c): the predicted clean clip
    length: int = 0  # frames that the preview stands for
    text: str = ""  # what is done before the first step
    result: Result | None = None
    ended: bool = False


class Job:
    """One clip in the making.

    `run(stop)` is called on the worker thread once the device is free, and yields `Progress` items, then one
    `Result`, as `LumierePipeline.generate` does; before them, sentences about what comes first. `owner` names
    the session that may stop the job.
    """

    def __init__(
        self, run: Callable[[threading.Event], Iterable[str | Progress | Result]], owner: str | None = None
    ):
        self.owner = owner
        self._run = run
        self._stop = threading.Event()  # the partial clip is wanted
        self._abandoned = threading.Event()  # nobody is watching: nothing is wanted
        self._news = threading.Condition()
        self._slot: Update | None = None
        self._error: BaseException | None = None
        self._preview_due = 0.0
        self._thread = threading.Thread(target=self._work, name="lumiere-job", daemon=True)

    def start(self) -> "Job":
        """Joins the line for the device. Jobs are served in the order of their start."""
        device.join(self)
        try:
            self._thread.start()
        except BaseException:  # without a thread nobody would ever leave the line
            device.leave(self)
            raise
        return self

    def stop(self) -> None:
        """Asks for the partial clip: it ends within one step, or at once if it still waits. Idempotent."""
        self._stop.set()

    def abandon(self) -> None:
        """Drops the job within one step, without a clip. Only sets a flag: event loops may call it."""
        self._abandoned.set()

    def join(self, timeout: float | None = None) -> bool:
        """Waits until the worker has left the device; False if it has not within `timeout` seconds."""
        self._thread.join(timeout)
        return not self._thread.is_alive()

    def updates(self, every: float = 0.5) -> Iterator[Update | None]:
        """Yields the newest unseen update as soon as there is one, and None after `every` seconds without.

        Ends after the update with `ended`; raises what the worker raised. Closing it early abandons the job.
        """
        try:
            while True:
                with self._news:
                    self._news.wait_for(lambda: self._slot or self._error is not None, timeout=every)
                    update, self._slot = self._slot, None
                if update is None and self._error is not None:
                    raise self._error
                yield update
                if update is not None and update.ended:
                    return
        finally:
            self.abandon()

    def _work(self) -> None:
        last, error = Update(ended=True), None
        try:
            if device.wait_for_turn(self):
                last = self._follow(self._run(self._stop))
        except BaseException as caught:
            log.exception("a job failed")
            error = _bare(caught)
        # First the device, then the news: whoever reacts to the end of this job finds the device free.
        device.leave(self)
        if error is None:
            self._tell(last)
        else:
            with self._news:
                self._error = error
                self._news.notify_all()

    def _follow(self, items: Iterable[str | Progress | Result]) -> Update:
        """Turns the items into updates and returns the last one, once the generator has been closed."""
        points = deque([(time.monotonic(), 0.0)], maxlen=6)  # time and share of the work
        try:
            for item in items:
                if self._abandoned.is_set():
                    break
                if isinstance(item, str):
                    # What is loaded is loaded to the end, but who stopped it need not wait for that.
                    self._tell(Update(text=item, ended=self._stop.is_set()))
                    points = deque([(time.monotonic(), 0.0)], maxlen=6)
                    continue
                if isinstance(item, Result):
                    return Update(step=item.steps_done, steps=item.steps, result=item, ended=True)
                points.append((time.monotonic(), item.share))
                seconds, share = (last - first for first, last in zip(points[0], points[-1], strict=True))
                self._tell(
                    Update(
                        step=item.step,
                        steps=item.steps,
                        seconds_per_step=seconds / (len(points) - 1),
                        seconds_left=seconds / share * (1 - item.share),
                        share=item.share,
                        preview=self._preview(item),
                        length=item.length,
                    )
                )
            return Update(ended=True)
        finally:
            if hasattr(items, "close"):
                items.close()  # on this thread, which entered the torch context

    def _preview(self, item: Progress) -> "np.ndarray | None":
        """The first step, the last, and what is due in between."""
        if item.step == 1 or item.step == item.steps or time.monotonic() >= self._preview_due:
            preview = item.preview()
            self._preview_due = time.monotonic() + PREVIEW_SECONDS
            return preview
        return None

    def _tell(self, update: Update) -> None:
        """Newest wins: replaces an unseen update, whose preview is kept if the new one brings none."""
        with self._news:
            if update.preview is None and self._slot is not None:
                update = replace(update, preview=self._slot.preview, length=self._slot.length)
            self._slot = update
            self._news.notify_all()


class Closed(RuntimeError):
    """The line takes no more jobs."""


class Line:
    """First come, first served access to the device: the head of the line has it."""

    def __init__(self):
        self._jobs: list[Job] = []
        self._moved = threading.Condition()
        self._closed = False

    def join(self, job: Job) -> None:
        with self._moved:
            if self._closed:
                raise Closed("no more jobs are taken")
            self._jobs.append(job)

    def close(self) -> None:
        """Takes no more jobs and stops those that there are: whoever runs keeps the clip so far. For ever."""
        with self._moved:
            self._closed = True
            left = list(self._jobs)
        for job in left:
            job.stop()

    def leave(self, job: Job) -> None:
        with self._moved:
            self._jobs.remove(job)
            self._moved.notify_all()

    def wait_for_turn(self, job: Job) -> bool:
        """True once the job is at the head, False if it was stopped before; tells it how many are ahead."""
        told = 0
        with self._moved:
            while ahead := self._jobs.index(job):
                if job._stop.is_set() or job._abandoned.is_set():
                    return False
                if ahead != told:
                    job._tell(Update(ahead=ahead))
                    told = ahead
                self._moved.wait(TURN_SECONDS)
        return not (job._stop.is_set() or job._abandoned.is_set())

    def stop(self, owner: str | None) -> int:
        """Stops the jobs of this owner, waiting or running, and nobody else's; returns how many."""
        with self._moved:
            own = [job for job in self._jobs if owner is not None and job.owner == owner]
        for job in own:
            job.stop()
        return len(own)

    def __len__(self) -> int:
        with self._moved:
            return len(self._jobs)


def _bare(error: BaseException) -> BaseException:
    """The error without its frames: a traceback would keep the tensors of the failed step in memory."""
    error.__traceback__ = error.__context__ = error.__cause__ = None
    return error


device = Line()  # one per process, like the device itself
