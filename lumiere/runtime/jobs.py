"""Runs each job on its own worker thread, one job on the device at a time; watchers only read updates.

A web framework may resume a generator on another thread for every item, and may drop it at any moment.
The work therefore never runs in the watcher. One worker thread owns the torch context from the first step
to the last. The device stays reserved until that thread has finished, even if the watcher is gone.
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

UPDATE_SECONDS = 0.15  # between updates for a browser: one that cannot keep up looks like a closed tab
PREVIEW_SECONDS = 0.4  # a preview costs device time; 2.5 per second look smooth enough
TURN_SECONDS = 0.1  # how often a waiting job checks for a stop
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Update:
    """Progress of a job. The last update has `ended` set, and a `result` unless no clip exists.

    Attributes:
        ahead: jobs before this one in the queue.
        step, steps: finished steps and number of steps.
        seconds_per_step: mean of the last five steps.
        seconds_left: estimate from the share of the work in these steps.
        share: finished share of the work, 0 to 1.
        preview: predicted clean clip, uint8 `t h w c`.
        length: number of frames that the preview represents.
        text: description of the work before the first step, such as loading.
        result: the finished or partial clip.
        ended: whether this is the last update.
    """

    ahead: int = 0
    step: int = 0
    steps: int = 0
    seconds_per_step: float | None = None
    seconds_left: float | None = None
    share: float = 0.0
    preview: "np.ndarray | None" = None
    length: int = 0
    text: str = ""
    result: Result | None = None
    ended: bool = False


class Job:
    """A clip in progress.

    Args:
        run: called with the stop event on the worker thread once the device is free. Yields sentences during
            loading, then `Progress` items and one `Result`, like `LumierePipeline.generate`.
        owner: session that may stop the job.
    """

    def __init__(
        self, run: Callable[[threading.Event], Iterable[str | Progress | Result]], owner: str | None = None
    ):
        self.owner = owner
        self._run = run
        self._stop = threading.Event()  # ends the job and keeps the partial clip
        self._abandoned = threading.Event()  # nobody is watching: ends the job without a clip
        self._finished = threading.Event()  # the last update is there
        self._news = threading.Condition()
        self._slot: Update | None = None
        self._error: BaseException | None = None
        self._preview_due = 0.0
        self._thread = threading.Thread(target=self._work, name="lumiere-job", daemon=True)

    def start(self) -> "Job":
        """Joins the queue for the device, which is first come, first served, and starts the worker thread.

        Returns:
            This job.

        Raises:
            Closed: the queue takes no more jobs.
        """
        device.join(self)
        try:
            self._thread.start()
        except BaseException:  # without a thread, the job would never leave the queue
            device.leave(self)
            raise
        return self

    def stop(self) -> None:
        """Stops after the current step, or at once while waiting, and keeps the partial clip. Idempotent."""
        self._stop.set()

    def abandon(self) -> None:
        """Drops the job within one step, without a clip. Only sets a flag, so event loops may call it."""
        self._abandoned.set()

    def join(self, timeout: float | None = None) -> bool:
        """Waits until the worker has released the device.

        Args:
            timeout: seconds. Defaults to no limit.

        Returns:
            False if the timeout expired first.
        """
        self._thread.join(timeout)
        return not self._thread.is_alive()

    def updates(self, every: float = 0.5, least: float = 0.0) -> Iterator[Update | None]:
        """Yields the newest unseen update once it exists, or None after `every` seconds without one.

        Ends after the update with `ended`. Closing the generator early abandons the job.

        Args:
            every: seconds.
            least: seconds between updates. Steps may take a hundredth of a second, and a watcher that sends
                each one over a network would fall behind.

        Raises:
            BaseException: the exception of the worker.
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
                if least:
                    self._finished.wait(least)
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
        # Release the device before the last update: a watcher that reacts to it finds the device free.
        device.leave(self)
        self._finished.set()
        if error is None:
            self._tell(last)
        else:
            with self._news:
                self._error = error
                self._news.notify_all()

    def _follow(self, items: Iterable[str | Progress | Result]) -> Update:
        """Publishes an update for each item and closes the generator; returns the last update unpublished."""
        points = deque([(time.monotonic(), 0.0)], maxlen=6)  # time, finished share of the work
        try:
            for item in items:
                if self._abandoned.is_set():
                    break
                if isinstance(item, str):
                    # Loading cannot be interrupted, but a stopped job ends for its watcher at once.
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
                items.close()  # on this thread, which owns the torch context

    def _preview(self, item: Progress) -> "np.ndarray | None":
        """Returns a preview for the first step, the last, and every `PREVIEW_SECONDS` in between."""
        if item.step == 1 or item.step == item.steps or time.monotonic() >= self._preview_due:
            preview = item.preview()
            self._preview_due = time.monotonic() + PREVIEW_SECONDS
            return preview
        return None

    def _tell(self, update: Update) -> None:
        """Replaces the unseen update with a newer one; keeps the old preview if the new update has none."""
        with self._news:
            if update.preview is None and self._slot is not None:
                update = replace(update, preview=self._slot.preview, length=self._slot.length)
            self._slot = update
            self._news.notify_all()


class Closed(RuntimeError):
    """The queue takes no more jobs."""


class JobQueue:
    """First come, first served queue for the device: the first job holds it."""

    def __init__(self) -> None:
        self._jobs: list[Job] = []
        self._moved = threading.Condition()
        self._closed = False

    def join(self, job: Job) -> None:
        """Appends a job.

        Raises:
            Closed: the queue takes no more jobs.
        """
        with self._moved:
            if self._closed:
                raise Closed("no more jobs are taken")
            self._jobs.append(job)

    def close(self) -> None:
        """Rejects new jobs from now on and stops the queued ones; the running job keeps its partial clip."""
        with self._moved:
            self._closed = True
            left = list(self._jobs)
        for job in left:
            job.stop()

    def leave(self, job: Job) -> None:
        """Removes a job and wakes the waiting ones."""
        with self._moved:
            self._jobs.remove(job)
            self._moved.notify_all()

    def wait_for_turn(self, job: Job) -> bool:
        """Blocks until the job is first in the queue, and sends it an `Update` whenever its position changes.

        Returns:
            False if the job was stopped or abandoned before its turn.
        """
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
        """Stops the waiting and running jobs of one owner.

        Args:
            owner: session of the jobs; None stops none.

        Returns:
            The number of stopped jobs.
        """
        with self._moved:
            own = [job for job in self._jobs if owner is not None and job.owner == owner]
        for job in own:
            job.stop()
        return len(own)

    def __len__(self) -> int:
        with self._moved:
            return len(self._jobs)


def _bare(error: BaseException) -> BaseException:
    """Strips the traceback and chained exceptions, which would keep tensors of the failed step alive."""
    error.__traceback__ = error.__context__ = error.__cause__ = None
    return error


device = JobQueue()  # one per process, like the device itself
