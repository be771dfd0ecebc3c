"""Dispatches every event of a run to all observers. The first failure of an observer is logged and affects no other.

Observers are set up before a run begins; a failure then rejects the request. Later failures cannot end a run.
"""

from __future__ import annotations

import logging
import queue
import threading
import time
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from types import TracebackType

from orchestrator.observers.events import (
    EpochEnded,
    Event,
    Note,
    Observer,
    RunEnded,
    StageEnded,
    StageProgressed,
    StageStarted,
    SystemTrained,
)
from orchestrator.reporting.report import Stage
from orchestrator.run_folder.history import Ended
from workers.training.loop import Epoch

logger = logging.getLogger(__name__)


class Fanout:
    """Dispatches a run's events to its observers. known: epochs that earlier runs have recorded."""

    def __init__(self, observers: Sequence[Observer], known: Collection[Ended] = ()) -> None:
        self.observers, self._recorded = observers, known
        self.stages: list[Stage] = []
        self._failed: set[int] = set()
        self._epochs: set[tuple[str, int]] = set()
        self._lock = threading.Lock()

    def emit(self, event: Event) -> None:
        """Hand `event` to every observer, in this thread."""
        for observer in self.observers:
            try:
                observer(event)
            except Exception as error:  # a full disk, a closed terminal, a failing tracker
                if id(observer) not in self._failed:
                    self._failed.add(id(observer))
                    logger.warning("an event could not be recorded: %s: %s", type(error).__name__, error)

    def drain(self) -> None:
        """Wait until background observers have processed all events so far."""
        for observer in self.observers:
            if isinstance(observer, Background):
                observer.drain()

    def note(self, text: str) -> None:
        """Emit a note for the user."""
        self.emit(Note(text))

    def epoch(self, system: str, epoch: Epoch) -> None:
        """Emit each epoch only once, since a restarted worker reports its last epochs again."""
        with self._lock:
            known = (system, epoch.epoch) in self._epochs or (system, epoch.epoch, epoch.ended_s) in self._recorded
            self._epochs.add((system, epoch.epoch))
        if not known:
            self.emit(EpochEnded(system, epoch))

    def trained(self, system: str, history: Sequence[Epoch], reused: bool) -> None:
        """Emit the end of a system's training, and epochs whose reports were lost."""
        if not reused:
            for epoch in history:
                self.epoch(system, epoch)
        self.emit(SystemTrained(system, history))

    @contextmanager
    def stage(self, name: str, systems: Sequence[str] = (), epochs: int = 0) -> Iterator[Progress]:
        """A stage of the run, timed. systems: the networks that it trains, for `epochs` epochs each."""
        self.emit(StageStarted(name, systems, epochs))
        progress, started, failed = Progress(name, self), time.perf_counter(), True
        try:
            yield progress
            failed = False
        finally:
            seconds = time.perf_counter() - started
            if not failed:
                self.stages.append(Stage(name=name, seconds=round(seconds, 3), reused=progress.reused))
            self.emit(StageEnded(name, seconds, progress.reused, failed))


@dataclass
class Progress:
    """A stage in progress. reused: set where nothing had to be computed."""

    stage: str
    fanout: Fanout
    reused: bool = False

    def update(self, done: float, total: float, text: str) -> None:
        """`done` of `total` is complete; `text` is shown beside the bar. From any thread."""
        self.fanout.emit(StageProgressed(self.stage, done, total, text))


class Background:
    """Runs an observer in a separate thread during its block. A slow observer delays only the end of the block.

    It gets no `StageProgressed`: these come many times a second, and would fill memory while its server hangs.
    """

    def __init__(self, observer: Observer) -> None:
        self._inner = Fanout([observer])
        self._events: queue.SimpleQueue[Event | threading.Event | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._work, name="observer", daemon=True)

    def __call__(self, event: Event) -> None:
        if not isinstance(event, StageProgressed):
            self._events.put(event)

    def __enter__(self) -> Background:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._events.put(None)
        self._thread.join()

    def drain(self) -> None:
        """Wait until the observer has processed all events so far."""
        reached = threading.Event()
        self._events.put(reached)
        reached.wait()

    def _work(self) -> None:
        while (event := self._events.get()) is not None:
            if isinstance(event, threading.Event):
                event.set()
            else:
                self._inner.emit(event)


def ended_by(error: BaseException | None) -> RunEnded:
    """The `RunEnded` event for an exception, or for None."""
    if error is None:
        return RunEnded("FINISHED")
    return RunEnded("FAILED" if isinstance(error, Exception) else "KILLED", f"{type(error).__name__}: {error}")
