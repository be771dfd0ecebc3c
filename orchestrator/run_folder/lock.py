"""One run at a time in a run's folder, however its owner may end.

The lock is a file in the folder, so it works wherever storage does. It is created exclusively, so that of several runs
one gets it. A lock whose owner is dead is replaced by the one run that creates a claim to it. On the machine that wrote
the lock, the owner's process decides whether it still holds. Elsewhere the file does: its owner counts up in it, and
an owner that no longer counts is dead.
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

from orchestrator.run_folder.paths import PLACES, RunFolder
from workers import storage
from workers.errors import RequestError, RunError

logger = logging.getLogger(__name__)

NAME = PLACES["lock"].path(claim="")
BEAT_S = 5.0
"""How often the owner counts."""
STALE_S = 20.0
"""An owner elsewhere that has not counted for so long is dead."""
SETTLE_S = 0.3
"""On a storage that may not create files exclusively: the wait until a second writer's lock would be visible."""
TRIES = 10
"""Attempts to get a lock that other runs release, claim or abandon meanwhile."""

_held: set[str] = set()
"""The tokens of this process's own locks."""


@dataclass(frozen=True)
class Owner:
    """The process that holds a lock. `machine` and `born` tell equal process ids of other machines and times apart."""

    token: str
    host: str
    machine: str
    pid: int
    born: str
    beat: int = 0


UNKNOWN = Owner("", "an unknown host", "", 0, "")
"""Of a lock that Stillhouse did not write, or that its disk lost: dead, unless it turns into a lock meanwhile."""


class Lock:
    """The folder is this process's for as long as the `with` block lasts.

    Raises: `RequestError` where another run that is alive has it; `RunError` at the end where one took it over.
    """

    def __init__(self, folder: str) -> None:
        self.folder, self.uri = folder, RunFolder(folder).lock
        self._made = storage.missing_folders(folder)
        pid = os.getpid()
        self.me = Owner(uuid.uuid4().hex, socket.gethostname(), machine(), pid, _born(pid) or "")
        self.taken_over = False
        self._ended = threading.Event()

    def __enter__(self) -> Lock:
        _held.add(self.me.token)  # before the file is there: another thread of this process may read it at once
        try:
            self._acquire()
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
            raise RequestError(f"'{self.folder}': other runs took and released it {TRIES} times. Start one alone.")
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

        The claim of a run that died is not removed but claimed in turn, so that one run alone goes on in its place:
        another that has found it dead, too, would remove the claim that follows.

        Raises: `RequestError` where another run that is alive is about to.
        """
        claim, outdated = _claim(self.uri, dead), list[str]()
        while not storage.create(claim, self._content()):
            other = self._read(claim)
            if other is None:  # another run was quicker, and is done with its claim
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
            raise RunError(
                f"another run took '{self.folder}' over, since this one did not write its lock for {STALE_S:g} s. The "
                "other continues from what was complete."
            ) from error
        try:
            self._remove()
            storage.remove_empty(self._made)
        except Exception as unremoved:  # of a storage that ended the run, perhaps; it is found dead next time
            logger.warning("'%s' could not be removed: %s", self.uri, unremoved)

    def _remove(self) -> None:
        """Remove the lock, and no lock of another run: one may follow at once where the response alone was lost."""
        for wait_s in (*(() if storage.is_local(self.uri) else storage.BACK_OFF_S), None):
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
        """Whether the run that wrote the lock, or the claim at `uri`, goes on."""
        if owner == UNKNOWN:  # half written, where a storage creates files in two steps
            time.sleep(SETTLE_S)
            now = self._read(uri)
            return now is not None and now != UNKNOWN and self._is_alive(now, uri)
        if owner.machine != self.me.machine:
            return self._counts(owner, uri)
        if owner.pid == self.me.pid:  # a run of ours that could not take its lock away is over all the same
            return owner.token in _held
        return _alive(owner)

    def _counts(self, owner: Owner, uri: str) -> bool:
        """Whether an owner elsewhere is alive: it writes its lock anew every `BEAT_S`, and removes its claim."""
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
                    os.kill(os.getpid(), signal.SIGINT)  # end as after Ctrl-C: what is complete is the other's now
                    return
                beat += 1
                if not self._ended.is_set():
                    self._write(beat)
            except Exception as error:  # of any storage; another run may take the lock over meanwhile
                logger.warning("'%s' could not be written: %s", self.uri, error)

    def _is_another(self, owner: Owner | None) -> bool:
        return owner is not None and owner.token != self.me.token

    def _content(self, beat: int = 0) -> bytes:
        return (json.dumps(asdict(replace(self.me, beat=beat))) + "\n").encode()

    def _write(self, beat: int = 0) -> None:
        storage.write_bytes(self.uri, self._content(beat))

    def _read(self, uri: str = "") -> Owner | None:
        """The owner in a lock or claim (default: the lock); None where there is none, `UNKNOWN` where it is no lock."""
        content = storage.read_if_there(uri or self.uri)
        try:
            return None if content is None else Owner(**json.loads(content))
        except (ValueError, TypeError):
            return UNKNOWN


def _claim(uri: str, dead: Owner) -> str:
    """What the run creates that replaces the lock, or the claim, of a dead owner."""
    return f"{uri}.{storage.sha256(dead.token.encode())[:16]}"


def check_free(folder: str) -> None:
    """Raise `RequestError` where another run on this machine that is alive has the folder.

    Costs one read, so that the refusal comes before Ray starts; an owner elsewhere is found when the lock is taken.
    """
    lock = Lock(folder)
    owner = lock._read()
    if owner is not None and owner.machine == lock.me.machine and lock._is_alive(owner):
        raise lock._in_use(owner)


def machine() -> str:
    """This boot of this machine, and what it numbers processes in."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot} {os.stat('/proc/self/ns/pid').st_ino}"
    except OSError:
        return f"{socket.gethostname()} {uuid.getnode()}"


def _born(pid: int) -> str | None:
    """When a process began, in its kernel's ticks; None where there is none, or only what is left of one."""
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
