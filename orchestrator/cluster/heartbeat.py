"""Reports of worker processes: where each task runs, whether a training is alive, and its epochs.

Tasks report through a Ray queue, which a thread here reads. A member's training without a report for long counts as
hung. Before its first epoch it does not, since the duration of an epoch is still unknown.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import TracebackType
from typing import TYPE_CHECKING, Any

from orchestrator.cluster.watch import SOMEWHERE
from workers.processes import Where

if TYPE_CHECKING:
    from workers.training.loop import Epoch

SILENCE_S, SILENCE = 120.0, 10.0
"""A training counts as hung after this time without a report, and after this multiple of its slowest epoch."""
SUSPECTED_S = 10.0
"""How long a hang must persist, since this process itself may just have been resumed."""


@dataclass
class _Pulse:
    """The process of a training, the time of its last report, and its longest interval between reports."""

    where: Where
    reported_s: float
    slowest_s: float = 0.0
    suspected_s: float | None = None


class Heartbeat:
    """Receives reports during its block. Tasks report to `queue`.

    on_epoch: gets a system's name and its epoch. on_note: gets a worker's notes for the user.
    """

    def __init__(self, on_epoch: Callable[[str, Epoch], None], on_note: Callable[[str], None]) -> None:
        self.on_epoch, self.on_note = on_epoch, on_note
        self._pulses: dict[str, _Pulse] = {}
        self._places: dict[str, Where] = {}
        self._epochs: dict[str, int] = {}

    def __enter__(self) -> Heartbeat:
        from ray.util.queue import Queue

        self.queue: Any = Queue(actor_options={"num_cpus": 0, "max_restarts": -1})
        self._listener = threading.Thread(target=self._listen, name="heartbeat", daemon=True)
        self._listener.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        import ray

        try:
            ray.get(self.queue.actor.put.remote(None, 5), timeout=10)
            self._listener.join(timeout=30)
        except Exception:  # the queue's actor died with Ray
            pass
        self.queue.shutdown(force=True)

    def expect(self, epochs: Mapping[str, int]) -> None:
        """Set the number of epochs of these systems: after its last one, a training only writes its weights."""
        self._epochs |= epochs

    def where(self, name: str) -> Where | None:
        """The process in which the task of that name last began; None before its first report."""
        return self._places.get(name) if self._listener.is_alive() else SOMEWHERE

    def forget(self, name: str) -> None:
        """Forget the process of the task of that name, so that it counts as pending until it begins again."""
        self._places.pop(name, None)
        self._pulses.pop(name, None)

    def hung(self, name: str) -> Where | None:
        """The process of the training of that name if its report is long overdue; returned only once per hang."""
        pulse = self._pulses.get(name)
        if pulse is None or not pulse.slowest_s or not self._listener.is_alive():
            return None
        now = time.monotonic()
        silent_s = now - pulse.reported_s
        if silent_s < max(SILENCE_S, SILENCE * pulse.slowest_s):
            return None
        if pulse.suspected_s is None:
            pulse.suspected_s = now
        if now - pulse.suspected_s < SUSPECTED_S:
            return None
        self.forget(name)
        self.on_note(f"{name} has reported nothing for {silent_s:.0f} s: its training is started again")
        return pulse.where

    def note(self, text: str) -> None:
        """Tell the user."""
        self.on_note(text)

    def _listen(self) -> None:
        import ray

        while True:
            try:
                news = self.queue.get()
            except ray.exceptions.ActorUnavailableError:  # Ray restarts the queue
                time.sleep(0.2)
                continue
            except Exception:  # Ray has died; it raises various types
                return
            if news is None:
                return
            self._take(*news)

    def _take(self, name: str, news: Epoch | Where | str) -> None:
        """One report: a note, where a task begins, or an epoch."""
        if isinstance(news, str):
            self.on_note(news)
            return
        now = time.monotonic()
        if isinstance(news, Where):
            self._places[name], self._pulses[name] = news, _Pulse(news, now)
            return
        self._places.setdefault(name, SOMEWHERE)
        pulse = self._pulses.get(name)
        if pulse is not None:
            pulse.slowest_s, pulse.reported_s = max(pulse.slowest_s, now - pulse.reported_s), now
            pulse.suspected_s = None
            if news.epoch + 1 >= self._epochs.get(name, 0):
                self._pulses.pop(name, None)
        self.on_epoch(name, news)
