"""Runs that contend for one folder, on a simulated object store: tests the lock and `workers.storage` below it.

The store loses responses to completed writes, and fails temporarily. One kind of store creates files atomically. The
other checks first, so that two writers may both succeed in creating a file.
"""

from __future__ import annotations

import io
import json
import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from random import Random
from types import SimpleNamespace
from typing import Any, TypeVar
from unittest import mock

import fsspec

from orchestrator.run_folder import lock
from orchestrator.run_folder.lock import Lock, Owner
from tests.simulation.promises import Broken, expect, with_seed
from tests.simulation.turns import Deadlock, Process, Task, Turns
from workers import storage
from workers.errors import RequestError, RunError
from workers.storage import retries

T = TypeVar("T")
FOLDER = "simulated://bucket/run"


class Contest:
    """A schedule of runs that start, hold the lock for a while, and end or are killed."""

    def __init__(self, seed: int, trace: Callable[[str], None] | None = None) -> None:
        self.trace = trace
        self.random = Random(seed)
        self.turns = Turns(self.random)
        self.files: dict[str, bytes] = {}
        self.inside: set[Process] = set()
        self.processes: list[Process] = []
        self.entered = 0
        choice = self.random.choice
        self.is_relay = self.random.random() < 0.3
        """Whether short runs on one machine take the lock in quick succession, on a store that fails often."""
        self.decides = self.is_relay or self.random.random() < 0.7
        """Whether the store creates files atomically, for exactly one of several writers."""
        self.machines = 1 if self.is_relay else choice((1, 3))
        self.failing = 0.2 if self.is_relay else choice((0.0, 0.05, 0.15)) if self.decides else 0.0
        """The share of requests, and of responses, that are lost; 0 for a store without atomic creation.

        Such a store with failures admits two runs until the first one's next heartbeat, so the lock makes no promise.
        """
        self.latest_s = choice((0.02, 0.05, 0.5)) if self.decides and not self.is_relay else 0.05

    # The store

    def request(self, what: str, path: str, apply: Callable[[], T]) -> T:
        """Send a request, apply it, and return the response. The request or the response may be lost."""
        r, task = self.random.random, self.turns.task
        self.turns.sleep(self.latest_s * r())
        self.fail(task, "503 slow down")
        result = self.applied(f"{what} {path}", apply)
        self.turns.sleep(self.latest_s * r())
        self.fail(task, "connection reset")
        return result

    def applied(self, request: str, apply: Callable[[], T]) -> T:
        try:
            result = apply()
        except OSError as error:
            self.show(f"{request}: {type(error).__name__}")
            raise
        self.show(f"{request}: {result}")
        return result

    def fail(self, task: Task, how: str) -> None:
        """Raise OSError at random, but less often than the retries of `workers.storage`."""
        recent = [at_s for at_s in task.failed_s if at_s > self.turns.now_s - 10.0]
        if len(recent) < 3 and self.random.random() < self.failing:
            task.failed_s = [*recent, self.turns.now_s]
            self.show(how)
            raise OSError(how)

    def show(self, what: str) -> None:
        if self.trace is not None:
            process = self.turns.process
            self.trace(f"{self.turns.now_s:8.3f}  process {process.pid} on {process.machine}: {what}")

    def create(self, path: str, content: bytes) -> None:
        if path in self.files:
            raise FileExistsError(path)
        self.files[path] = content

    def read(self, path: str) -> bytes:
        if path not in self.files:
            raise FileNotFoundError(path)
        return self.files[path]

    def remove(self, path: str) -> None:
        if path not in self.files:
            raise FileNotFoundError(path)
        del self.files[path]

    # Runs

    def contend(self, process: Process, hold_s: float) -> bool:
        """Acquire the lock, hold it, and release it. Returns whether the process got the lock."""
        try:
            with Lock(FOLDER):
                self.enter(process)
                until_s = self.turns.now_s + hold_s
                while self.turns.now_s < until_s and not process.is_interrupted:
                    self.turns.sleep(0.5)
                self.inside.discard(process)
            return True
        except RequestError as error:
            expect("is in use by another run" in str(error), f"refused for another reason: {error}")
            since_s = self.turns.now_s - 2 * lock.STALE_S  # the other run was alive since then, but may have ended
            others = [other for other in self.processes if other is not process and other.ended_s > since_s]
            expect(bool(others), f"refused, and no other run is alive: {error}")
        except RunError as error:
            raise Broken(f"taken over while it was alive: {error}") from error
        return False

    def enter(self, process: Process) -> None:
        expect(not self.inside, f"process {process.pid} enters beside {[other.pid for other in self.inside]}")
        self.show("enters")
        self.inside.add(process)
        self.entered += 1

    def start(self, at_s: float, hold_s: float) -> Process:
        r = self.random.random
        process = Process(100 + len(self.processes), f"machine {int(self.machines * r())}")
        self.processes.append(process)
        until_s = at_s + (20.0 if self.is_relay or r() < 0.3 else 0.0)
        self.turns.spawn(process, lambda: self._contend(process, hold_s, until_s), at_s)
        return process

    def _contend(self, process: Process, hold_s: float, until_s: float) -> None:
        """Contend, with retries until `until_s` after a refusal, like a script."""
        while not self.contend(process, hold_s) and self.turns.now_s < until_s:
            self.turns.sleep(0.05 if self.is_relay else 0.2)
        self.kill(process)  # the process ends with its run

    def kill(self, process: Process) -> None:
        if not process.is_dead:
            self.show(f"process {process.pid} ends")
            process.is_dead, process.ended_s = True, self.turns.now_s
        self.inside.discard(process)

    def leave_behind(self) -> None:
        """Create the lock of a killed run, and sometimes the claim of another one that was killed in the takeover."""
        dead = [Owner(f"dead {k}", "host", f"machine {k % self.machines}", 90 + k, "1") for k in range(2)]
        content = [(json.dumps(asdict(owner)) + "\n").encode() for owner in dead]
        self.files["bucket/run/run.lock"] = content[0]
        if self.random.random() < 0.7:
            self.files[f"bucket/run/run.lock.{storage.sha256(b'dead 0')[:16]}"] = content[1]

    def run(self) -> None:
        """Execute runs that contend and are killed, and finally a single run, which must get the lock."""
        r = self.random.random
        killer = Process(1, "elsewhere")
        if r() < 0.3:
            self.leave_behind()
        for _ in range(2):
            begin_s, spread_s = self.turns.now_s, (0.1, 0.1, 4.0, 30.0)[int(4 * r())]
            for _ in range(4 if self.is_relay else 1 + int(4 * r())):
                # some start together, like jobs of a cluster, and some while others end
                hold_s = 1.0 + 2.0 * r() if self.is_relay else 0.3 * spread_s + 40.0 * r() ** 3
                process = self.start(begin_s + spread_s * r(), hold_s)
                if r() < (0.1 if self.is_relay else 0.4):
                    at_s = begin_s + (1.5 * r() if r() < 0.5 else 40.0 * r())
                    self.turns.spawn(killer, lambda process=process: self.kill(process), at_s)  # type: ignore[misc]
            self.turns.run()
        entered = self.entered
        self.start(self.turns.now_s, 1.0)
        self.turns.run()
        expect(self.entered == entered + 1, "a run that is alone is refused")
        expect("bucket/run/run.lock" not in self.files, "a lock is left behind")


class SimulatedStore(fsspec.AbstractFileSystem):  # type: ignore[misc]
    """The object store of the current contest."""

    protocol = "simulated"
    cachable = False
    contest: Contest

    def pipe_file(self, path: str, value: bytes, mode: str = "overwrite", **_: Any) -> None:
        assert mode == "create"
        if self.contest.decides:
            self.contest.request("create", path, lambda: self.contest.create(path, value))
            return
        if self.exists(path):
            raise FileExistsError(path)
        self.put(path, value)

    def put(self, path: str, value: bytes) -> None:
        self.contest.request("write", path, lambda: self.contest.files.update({path: value}))

    def cat_file(self, path: str, **_: Any) -> bytes:
        return self.contest.request("read", path, lambda: self.contest.read(path))

    def exists(self, path: str, **_: Any) -> bool:
        return self.contest.request("exists", path, lambda: path in self.contest.files)

    def rm(self, path: str, **_: Any) -> None:
        self.contest.request("remove", path, lambda: self.contest.remove(path))

    def open(self, path: str, mode: str = "rb", **_: Any) -> io.BytesIO:
        assert mode == "wb"
        return _Upload(lambda content: self.put(path, content))


class _Upload(io.BytesIO):
    """An object that becomes visible when it is closed."""

    def __init__(self, put: Callable[[bytes], None]) -> None:
        super().__init__()
        self._put = put

    def __exit__(self, *_: object) -> None:
        self._put(self.getvalue())


class _Event:
    """`threading.Event` on the simulated clock."""

    def __init__(self, turns: Turns) -> None:
        self.turns, self._is_set = turns, False

    def set(self) -> None:
        self._is_set = True

    def is_set(self) -> bool:
        return self._is_set

    def wait(self, timeout_s: float) -> bool:
        self.turns.sleep(timeout_s)
        return self._is_set


class _Thread:
    """`threading.Thread` as a task of the process that starts it."""

    def __init__(self, turns: Turns, target: Callable[[], None]) -> None:
        self.turns, self.target = turns, target
        self.task: Task | None = None

    def start(self) -> None:
        self.task = self.turns.spawn(self.turns.process, self.target)

    def join(self) -> None:
        while self.task is not None and not self.task.is_over:
            self.turns.sleep(0.1)


@contextmanager
def simulated(contest: Contest) -> Iterator[None]:
    """Replace clock, processes and store in `Lock` and storage by the contest's during the block."""
    turns = contest.turns
    SimulatedStore.contest = contest
    fsspec.register_implementation("simulated", SimulatedStore, clobber=True)
    time = SimpleNamespace(sleep=turns.sleep, monotonic=lambda: turns.now_s)
    threads = SimpleNamespace(Event=lambda: _Event(turns), Thread=lambda target, name, daemon: _Thread(turns, target))

    def born(pid: int) -> str | None:
        return next((str(pid) for each in contest.processes if each.pid == pid and not each.is_dead), None)

    def interrupt(pid: int, signal: int) -> None:
        turns.process.is_interrupted = True

    patches: dict[str, Any] = {
        "time": time,
        "threading": threads,
        "machine": lambda: turns.process.machine,
        "_born": born,
        "os": SimpleNamespace(getpid=lambda: turns.process.pid, kill=interrupt),
        "_held": set(),
    }
    with mock.patch.multiple(lock, **patches), mock.patch.object(retries, "time", time):
        logging.disable(logging.WARNING)
        try:
            yield
        finally:
            logging.disable(logging.NOTSET)


def run(seed: int, trace: Callable[[str], None] | None = None) -> Contest:
    """Run one contest. Raises: `Broken` with its seed."""
    contest = Contest(seed, trace)
    with simulated(contest):
        try:
            contest.run()
        except (Exception, Deadlock) as error:
            raise with_seed(error, "--lock", seed) from error
    return contest
