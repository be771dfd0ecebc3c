"""A lock that allows one run at a time in a run's folder, even after its owner crashes.

The lock is a file in the folder, so it works with every storage backend. It is created exclusively, so only one of
several runs acquires it. A run replaces the lock of a dead owner after it has exclusively created a claim to it. On the
owner's machine, the lock is valid as long as the owner's process lives. Other machines read the heartbeat: the owner
increments a counter in the file, and counts as dead if the counter stops.
"""

from __future__ import annotations

import json
import logging
import os
import signal
import socket
import threading
import time
import uuid
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from types import TracebackType

from orchestrator.run_folder.paths import PLACES, RunFolder, is_written
from workers import storage
from workers.errors import RequestError, TakenOver
from workers.storage import retries

logger = logging.getLogger(__name__)

NAME = PLACES["lock"].path(claim="")
BEAT_S = 5.0
"""Interval of the owner's heartbeat."""
STALE_S = 20.0
"""An owner on another machine counts as dead after this time without a heartbeat."""
SETTLE_S = 0.3
"""Delay until a second writer's lock is visible, on storage that may lack exclusive creation of files."""
TRIES = 10
"""Attempts to acquire a lock that other runs release, claim or abandon meanwhile."""

_held: set[str] = set()
"""Tokens of the locks that this process holds."""


@dataclass(frozen=True)
class Owner:
    """The process that holds a lock. `machine` and `born` distinguish equal process ids of other machines and times."""

    token: str
    host: str
    machine: str
    pid: int
    born: str
    beat: int = 0


UNKNOWN = Owner("", "an unknown host", "", 0, "")
"""The owner of an invalid or truncated lock file: dead, unless the file becomes a valid lock meanwhile."""


class Lock:
    """Holds the lock of a folder during the `with` block.

    Raises: `RequestError` where another living run holds it; `TakenOver` at the end where another run took it over.
    """

    def __init__(self, folder: str) -> None:
        self.folder, self.uri = folder, RunFolder(folder).lock
        self._made = storage.missing_folders(folder)
        pid = os.getpid()
        self.me = Owner(uuid.uuid4().hex, socket.gethostname(), machine(), pid, _born(pid) or "")
        self.taken_over = False
        self._ended = threading.Event()

    def __enter__(self) -> Lock:
        _held.add(self.me.token)  # before the file exists, since another thread may read it at once
        try:
            self._acquire()
            _sweep(self.folder)  # before any thread of this run writes a file there
        except BaseException:
            _held.discard(self.me.token)
            raise
        self._beats = threading.Thread(target=self._beat, name="lock", daemon=True)
        self._beats.start()
        return self

    def _acquire(self) -> None:
        for _ in range(TRIES):
            if storage.create(self.uri, self._content()):
                break
            owner = self._read()
            if owner is None:  # released meanwhile
                continue
            if self._is_alive(owner):
                raise self._in_use(owner)
            if self._take_over(owner):
                break
        else:
            raise RequestError(
                f"'{self.folder}': other runs took and released it {TRIES} times. Expected a folder that no other run "
                "uses: start this run alone, or give it another `name`."
            )
        if not storage.is_local(self.uri):
            time.sleep(SETTLE_S)
        owner = self._read()
        if owner is not None and self._is_another(owner):
            raise self._in_use(owner)

    def _in_use(self, owner: Owner) -> RequestError:
        return RequestError(
            f"'{self.folder}' is in use by another run (process {owner.pid} on {owner.host}). Wait for it or stop it, "
            "or give this one another `name`."
        )

    def _take_over(self, dead: Owner) -> bool:
        """Replace the lock of a dead owner, unless another run does or did.

        The claim of a dead run is not removed but claimed in turn, so that only one run continues in its place. If runs
        removed it, a second run that found it dead could remove the new claim as well.
        Raises: `RequestError` where another living run is about to replace the lock.
        """
        claim, outdated = _claim(self.uri, dead), list[str]()
        while not storage.create(claim, self._content()):
            other = self._read(claim)
            if other is None:  # another run has replaced the lock and removed its claim
                return False
            if self._is_alive(other, claim):
                raise self._in_use(other)
            outdated.append(claim)
            claim = _claim(claim, other)
        try:
            now = self._read()
            is_left = now is not None and now.token == dead.token
            if is_left:
                logger.warning("the earlier run in '%s' is dead; this one continues from what is complete", self.folder)
                self._write()
            for each in outdated:  # the lock names another owner by now
                storage.remove(each)
            return is_left
        finally:
            storage.remove(claim)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ended.set()
        self._beats.join()
        _held.discard(self.me.token)
        if self.taken_over:
            raise TakenOver(
                f"another run took '{self.folder}' over, since this one did not write its lock for {STALE_S:g} s. The "
                "other continues from what was complete."
            ) from error
        try:
            self._remove()
            storage.remove_empty(self._made)
        except Exception as unremoved:  # storage may be down; the next run finds the owner dead
            logger.warning("'%s' could not be removed: %s", self.uri, unremoved)

    def _remove(self) -> None:
        """Remove the own lock. If only the response of a removal was lost, another run may already hold the lock."""
        for wait_s in (*(() if storage.is_local(self.uri) else retries.BACK_OFF_S), None):
            owner = self._read()
            if owner is None or self._is_another(owner):
                return
            try:
                return storage.remove(self.uri, patient=False)
            except Exception:
                if wait_s is None:
                    raise
                time.sleep(wait_s)

    def _is_alive(self, owner: Owner, uri: str = "") -> bool:
        """Whether the run that wrote the lock, or the claim at `uri`, is alive."""
        if owner == UNKNOWN:  # truncated, on storage that creates files in two steps
            time.sleep(SETTLE_S)
            now = self._read(uri)
            return now is not None and now != UNKNOWN and self._is_alive(now, uri)
        if owner.machine != self.me.machine:
            return self._counts(owner, uri)
        if owner.pid == self.me.pid:  # an earlier run of this process may have failed to remove its lock
            return owner.token in _held
        return _alive(owner)

    def _counts(self, owner: Owner, uri: str) -> bool:
        """Whether an owner on another machine is alive: it rewrites its lock every `BEAT_S`, or removes its claim."""
        until = time.monotonic() + STALE_S
        while time.monotonic() < until:
            time.sleep(min(BEAT_S, STALE_S) / 2)
            now = self._read(uri)
            if now is None:
                return False
            if now != owner:
                return True
        return False

    def _beat(self) -> None:
        beat = 0
        while not self._ended.wait(BEAT_S):
            try:
                if self._is_another(self._read()):
                    self.taken_over = True
                    os.kill(os.getpid(), signal.SIGINT)  # stop cleanly, since the folder belongs to the other run
                    return
                beat += 1
                if not self._ended.is_set():
                    self._write(beat)
            except Exception as error:  # from any storage backend; another run may take over
                logger.warning("'%s' could not be written: %s", self.uri, error)

    def _is_another(self, owner: Owner | None) -> bool:
        return owner is not None and owner.token != self.me.token

    def _content(self, beat: int = 0) -> bytes:
        return (json.dumps(asdict(replace(self.me, beat=beat))) + "\n").encode()

    def _write(self, beat: int = 0) -> None:
        storage.write_bytes(self.uri, self._content(beat))

    def _read(self, uri: str = "") -> Owner | None:
        """The owner in a lock or claim (default: the lock); None without a file, `UNKNOWN` for an invalid one."""
        content = storage.read_if_there(uri or self.uri)
        try:
            return None if content is None else Owner(**json.loads(content))
        except (ValueError, TypeError):
            return UNKNOWN


def _sweep(folder: str) -> None:
    """Remove partial files of killed runs; object stores have none."""
    if not storage.is_local(folder):
        return
    try:
        partial = [p for p in storage.files_below(folder) if p.endswith(storage.PARTIAL) and is_written(p)]
        storage.remove_files(folder, partial)
    except OSError as error:  # such files do no harm
        logger.warning("partial files in '%s' could not be removed: %s", folder, error)


def _claim(uri: str, dead: Owner) -> str:
    """URI of the claim for replacing the lock, or the claim, of a dead owner."""
    return f"{uri}.{storage.sha256(dead.token.encode())[:16]}"


def check_free(folder: str) -> None:
    """Raise `RequestError` where another living run on this machine holds the folder.

    It costs one read, so that a rejection comes before Ray starts. Acquiring the lock detects owners on other machines.
    """
    lock = Lock(folder)
    owner = lock._read()
    if owner is not None and owner.machine == lock.me.machine and lock._is_alive(owner):
        raise lock._in_use(owner)


def machine() -> str:
    """Identifier of this boot of this machine, and of its process-id namespace."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot} {os.stat('/proc/self/ns/pid').st_ino}"
    except OSError:
        return f"{socket.gethostname()} {uuid.getnode()}"


def _born(pid: int) -> str | None:
    """Start time of a process in kernel ticks; None where it does not exist, or is a zombie."""
    try:
        after_name = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return None if after_name[0] in "ZX" else after_name[19]
    except OSError:
        if Path("/proc/self").exists():
            return None
    try:
        os.kill(pid, 0)
        return ""
    except ProcessLookupError:
        return None
    except PermissionError:
        return ""


def _alive(owner: Owner) -> bool:
    return _born(owner.pid) == owner.born
