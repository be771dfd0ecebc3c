"""Who hears of a run: the screen, `events.jsonl` and MLflow, from one place.

The pipeline says what happens once, here. Workers say how training goes through a Ray queue, which a thread empties.
"""

from __future__ import annotations

import logging
import queue
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from types import TracebackType
from typing import Any

import ray

from orchestrator.cluster import reservation
from orchestrator.config.run_config import RunConfig
from orchestrator.observers.events import EventLog, last_opened
from orchestrator.observers.mlflow_tracker import Tracker
from orchestrator.observers.terminal import Line, Screen
from orchestrator.observers.tracking_record import TrackingRecord
from orchestrator.reporting.report import Report, Stage
from orchestrator.run_folder import paths
from orchestrator.stages.trained import Trained
from workers import telemetry
from workers.processes import Where
from workers.training.loop import Epoch

logger = logging.getLogger(__name__)

SUSPECTED_S = 10.0
SILENCE_S, SILENCE = 120.0, 10.0
"""A member in training hangs once it was not heard of for so long, and for so many times its slowest epoch. Until its
first epoch is there nobody knows how long one takes, so until then it is not taken for hung."""
HEARD_TIMEOUT_S = 10.0
"""How long what a worker said of its last epoch may be on its way."""


@dataclass
class _Pulse:
    """Where a member is trained, when it was last heard of, and the longest that it was not."""

    where: Where
    heard_s: float
    slowest_s: float = 0.0
    suspected_s: float | None = None


@dataclass
class _Training:
    """The line of a stage that trains, and how many epochs were heard of."""

    line: Line
    expected: int
    heard: int = 0


class Journal:
    """Open from the first stage of a run to its end."""

    def __init__(
        self, config: RunConfig, screen: Screen, record: TrackingRecord | None = None, *, fresh: bool = False
    ) -> None:
        """record: what the tracker is told of code and data. fresh: the run starts over."""
        self.screen = screen
        self.stages: list[Stage] = []
        # First: a tracker that refuses leaves no folder behind.
        self._tracker = Tracker(config, record, earlier=last_opened(config.folder), fresh=fresh)
        try:
            if fresh:
                paths.clear(config.folder)
            self._events = EventLog(config.folder)
            self._events.write("run", name=config.name, mlflow_run=self._tracker.run_id)
            self._events.flush()
        except BaseException:
            self._tracker.close("FAILED")
            raise
        self._training: dict[str, _Training] = {}
        self._told: set[tuple[str, int]] = set()
        self._tracked: set[tuple[str, int]] = set()
        self._pulses: dict[str, _Pulse] = {}
        self._places: dict[str, Where] = {}
        self._epochs: dict[str, int] = {}
        self._inbox: queue.Queue[tuple[str, Epoch] | None] = queue.Queue()

    def __enter__(self) -> Journal:
        from ray.util.queue import Queue

        self.queue: Any = Queue(actor_options={"num_cpus": 0, "max_restarts": -1})
        self._listener = threading.Thread(target=self._listen, name="journal", daemon=True)
        self._listener.start()
        self._writer = threading.Thread(target=self._write_down, name="journal's writer", daemon=True)
        self._writer.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._drain()
        if error is None:
            status, event = "FINISHED", "complete"
        else:
            status = "FAILED" if isinstance(error, Exception) else "KILLED"
            event = "failed"
        try:
            self._events.write(event, error=None if error is None else f"{type(error).__name__}: {error}")
            self._events.flush()
        except OSError as unwritten:  # what ended the run, perhaps; that is what is said then
            if error is None:
                raise
            logger.warning("events.jsonl could not be written: %s", unwritten)
        finally:
            self._tracker.close(status)
            self.queue.shutdown(force=True)

    @contextmanager
    def stage(self, name: str, systems: Sequence[str] = (), epochs: int = 0) -> Iterator[Line]:
        """A stage of the run, timed. `systems`: which are trained in it, for `epochs` epochs each."""
        self.screen.started()
        self._events.write("stage started", stage=name)
        started = time.perf_counter()
        with self.screen.stage(name) as line:
            training = _Training(line, epochs * len(systems))
            self._training |= dict.fromkeys(systems, training)
            self._epochs |= dict.fromkeys(systems, epochs)
            yield line
        seconds = time.perf_counter() - started
        self.stages.append(Stage(name=name, seconds=round(seconds, 3), reused=line.reused))
        self._events.write("stage finished", stage=name, seconds=seconds, reused=line.reused)
        self._events.flush()

    def note(self, text: str) -> None:
        """Something worth knowing happened."""
        self._events.write("note", text=text)
        self.screen.say(text)

    def system(self, name: str, role: str) -> None:
        """A member, the ensemble, the baseline or the student comes into being."""
        self._tracker.system(name, role)

    def trained(self, trained: Trained) -> None:
        """Epochs of an earlier run, and any that were not heard, are told the tracker, so that its run is whole."""
        name = trained.member.name
        if not trained.reused:
            _wait(lambda: (name, len(trained.history) - 1) in self._told, HEARD_TIMEOUT_S)
        for epoch in trained.history:
            self._track(name, epoch)
        self._tracker.trained(name)

    def _track(self, name: str, epoch: Epoch) -> None:
        """Tell the tracker of an epoch, once."""
        if (name, epoch.epoch) not in self._tracked:
            self._tracked.add((name, epoch.epoch))
            self._tracker.epoch(name, epoch)

    def lost(self, action: str, members: Sequence[str], evidence: str) -> None:
        """A teacher was lost, how that showed and what is done about it; or it is `back`, or `moves` in good time."""
        names = ", ".join(members)
        if action == "back":
            self._events.write("teacher back", members=list(members))
            self.screen.say(f"teacher of {names} is back")
        elif action == "moves":
            self._events.write("teacher moves", members=list(members), evidence=evidence)
            self.screen.say(f"teacher of {names} moves to another node ({evidence})")
        else:
            self._events.write("teacher lost", members=list(members), action=action, evidence=evidence)
            self.screen.say(f"teacher of {names} lost ({evidence}): {action}")

    @property
    def page(self) -> str:
        """Of the run in MLflow, behind the tracker's address."""
        return self._tracker.page

    def report(self, report: Report, systems: Sequence[Trained], folder: str) -> None:
        """Tell the tracker what it has missed, the figures, and the models in the run's folder."""
        histories = {system.member.name: system.history for system in systems}
        if self._tracker.missed is not None:
            self._tracker.catch_up(report, histories)
        self._tracker.report(report, histories, folder)

    def _listen(self) -> None:
        while True:
            try:
                heard = self.queue.get()
            except ray.exceptions.ActorUnavailableError:  # it is being started again
                time.sleep(0.2)
                continue
            except Exception:  # gone with Ray, in one of several ways
                return
            if heard is None:
                return
            if isinstance(heard[1], str):
                self.note(heard[1])
                continue
            self._feel(*heard)
            if not isinstance(heard[1], Where):
                self._inbox.put(heard)

    def where(self, name: str) -> Where | None:
        """Where the task of that name last began; None where it was not heard of, as long as there is who hears."""
        return self._places.get(name) if self._listener.is_alive() else reservation.SOMEWHERE

    def hung(self, name: str) -> Where | None:
        """Where a member is trained that should have been heard of again long ago; said once."""
        pulse = self._pulses.get(name)
        if pulse is None or not pulse.slowest_s or not self._listener.is_alive():
            return None
        now = time.monotonic()
        silent_s = now - pulse.heard_s
        if silent_s < max(SILENCE_S, SILENCE * pulse.slowest_s):
            return None
        if pulse.suspected_s is None:  # this process itself may only just have been woken
            pulse.suspected_s = now
        if now - pulse.suspected_s < SUSPECTED_S:
            return None
        self._pulses.pop(name, None)
        self.note(f"{name} was not heard of for {silent_s:.0f} s: its training is begun again")
        return pulse.where

    def _feel(self, system: str, news: Epoch | Where) -> None:
        """Take down that a member in training is alive."""
        now = time.monotonic()
        self._places.setdefault(system, reservation.SOMEWHERE)
        pulse = self._pulses.get(system)
        if isinstance(news, Where):
            self._places[system] = news
            self._pulses[system] = _Pulse(news, now)
        elif pulse is not None:
            pulse.slowest_s, pulse.heard_s, pulse.suspected_s = max(pulse.slowest_s, now - pulse.heard_s), now, None
            if news.epoch + 1 >= self._epochs.get(system, 0):  # what is left is to write its weights
                self._pulses.pop(system, None)

    def _write_down(self) -> None:
        """Record the epochs that workers report, in a thread of its own: a tracker may take its time.

        An error of one observer (file, tracker, screen) is logged once and does not stop the others.
        """
        failed: set[str] = set()
        while (heard := self._inbox.get()) is not None:
            if (heard[0], heard[1].epoch) in self._told:  # a worker that was restarted reports its last epochs again
                continue
            for observer in (self._write_epoch, self._track, self._show_epoch):
                try:
                    observer(*heard)
                except Exception as error:  # a full disk, for example: the next write of the run itself reports it
                    if observer.__name__ not in failed:
                        failed.add(observer.__name__)
                        logger.warning("an epoch could not be recorded: %s: %s", type(error).__name__, error)
            self._told.add((heard[0], heard[1].epoch))

    def _write_epoch(self, system: str, epoch: Epoch) -> None:
        self._events.write("epoch", system=system, **vars(epoch))
        telemetry.count(telemetry.EPOCHS, system=system)

    def _show_epoch(self, system: str, epoch: Epoch) -> None:
        training = self._training.get(system)
        if training is not None:
            training.heard += 1
            training.line.update(
                training.heard,
                training.expected,
                f"{'' if system == training.line.name else f'{system}, '}epoch {epoch.epoch + 1}: "
                f"loss {epoch.train_loss:.4f}, validation {epoch.validation_accuracy:.2%}, "
                f"{epoch.examples / epoch.seconds:,.0f} examples/s",
            )

    def _drain(self) -> None:
        """Let the listener finish what has been said, unless Ray itself is gone."""
        try:
            ray.get(self.queue.actor.put.remote(None, 5), timeout=10)
            self._listener.join(timeout=30)
        except Exception:  # the queue's actor died with Ray
            pass
        self._inbox.put(None)
        self._writer.join(timeout=60)


def _wait(there: Callable[[], bool], timeout_s: float) -> None:
    until = time.monotonic() + timeout_s
    while not there() and time.monotonic() < until:
        time.sleep(0.02)
