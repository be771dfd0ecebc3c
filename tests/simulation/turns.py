"""Processes that take turns on a simulated clock, so that code with threads and waits runs the same way for a seed.

Each task is a thread. One runs at a time until it waits, then the task with the earliest time continues.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from heapq import heappop, heappush
from random import Random

MOST_SECONDS = 1000.0


class Killed(BaseException):
    """Ends the tasks of a killed process, so that they have no further effect."""


class Deadlock(AssertionError):
    """Tasks still wait after the maximal simulated time."""


@dataclass(eq=False)
class Process:
    """One process of a simulated machine."""

    pid: int
    machine: str
    is_dead: bool = False
    is_interrupted: bool = False
    ended_s: float = float("inf")


@dataclass(eq=False)
class Task:
    """A thread of a process."""

    process: Process
    call: Callable[[], None]
    turn: threading.Semaphore = field(default_factory=lambda: threading.Semaphore(0))
    is_over: bool = False
    error: BaseException | None = None
    failed_s: list[float] = field(default_factory=list)
    """Times of its recent failed requests."""


class Turns:
    """All tasks of a schedule, and their clock."""

    def __init__(self, random: Random) -> None:
        self.now_s = 0.0
        self.random = random
        self._waiting: list[tuple[float, float, Task]] = []
        self._back = threading.Semaphore(0)
        self.current: Task | None = None

    @property
    def task(self) -> Task:
        """The task that currently runs."""
        assert self.current is not None
        return self.current

    @property
    def process(self) -> Process:
        return self.task.process

    def spawn(self, process: Process, call: Callable[[], None], at_s: float | None = None) -> Task:
        task = Task(process, call)
        self._wait(task, self.now_s if at_s is None else at_s)
        threading.Thread(target=self._run, args=(task,), daemon=True).start()
        return task

    def sleep(self, seconds: float) -> None:
        """Let other tasks run for this simulated time."""
        task = self.task
        self._wait(task, self.now_s + seconds)
        self._back.release()
        task.turn.acquire()
        if task.process.is_dead:
            raise Killed

    def run(self) -> None:
        """Run until all tasks have ended. Raises: an exception of a task; `Deadlock`."""
        while self._waiting:
            self.now_s, _, task = heappop(self._waiting)
            if self.now_s > MOST_SECONDS:
                raise Deadlock(f"tasks wait after {self.now_s:.0f} s")
            self.current = task
            task.turn.release()
            self._back.acquire()
            if task.error is not None:
                raise task.error

    def _wait(self, task: Task, until_s: float) -> None:
        heappush(self._waiting, (until_s, self.random.random(), task))

    def _run(self, task: Task) -> None:
        task.turn.acquire()
        try:
            if not task.process.is_dead:
                task.call()
        except Killed:
            pass
        except BaseException as error:
            task.error = error
        finally:
            task.is_over = True
            self._back.release()
