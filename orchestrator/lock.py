"""One run at a time in a run's folder, however its owner may end.

The lock is a file in the folder, so it works wherever storage does. On the machine that wrote it, the owner's process
says whether it still holds. Elsewhere only the file can: its owner counts up in it, and one that no longer counts is
dead. Nothing here is exact to the second, and need not be: a folder's files are complete or absent whoever writes them.
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

from workers import storage
from workers.errors import RequestError, RunError

logger = logging.getLogger(__name__)

NAME = "run.lock"
BEAT_S = 5.0
"""How often the owner counts."""
STALE_S = 20.0
"""An owner elsewhere that has not counted for so long is dead."""
SETTLE_S = 0.3
"""After taking a lock over, how long until it is sure that nobody else did the same."""

_held: set[str] = set()
"""The tokens of this process's own locks."""


@dataclass(frozen=True)
class Owner:
    """Who holds a lock. `machine` and `born` tell the same process id on another machine, or at another time, apart."""

    token: str
    host: str
    machine: str
    pid: int
    born: str
    beat: int = 0


class Lock:
    """The folder is this process's for as long as the `with` block lasts.

    Raises: `RequestError` where another run that is alive has it; `RunError` at the end where one took it over.
    """

    def __init__(self, folder: str) -> None:
        self.folder, self.uri = folder, storage.join(folder, NAME)
        self._made = storage.missing_folders(folder)
        pid = os.getpid()
        self.me = Owner(uuid.uuid4().hex, socket.gethostname(), machine(), pid, _born(pid) or "")
        self.taken_over = False
        self._ended = threading.Event()

    def __enter__(self) -> Lock:
        owner = self._read()
        if owner is not None:
            if self._is_alive(owner):
                raise RequestError(
                    f"'{self.folder}' is in use by another run (process {owner.pid} on {owner.host}). Wait for it or "
                    "stop it, or give this one another `name`."
                )
            logger.warning("the run that had '%s' is dead; going on from what it left", self.folder)
        self._write()
        time.sleep(SETTLE_S)
        if self._is_another(self._read()):
            raise RequestError(f"'{self.folder}': another run took it at the same moment. Start one alone.")
        _held.add(self.me.token)
        self._beats = threading.Thread(target=self._beat, name="lock", daemon=True)
        self._beats.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ended.set()
        self._beats.join()
        _held.discard(self.me.token)
        if self.taken_over:
            raise RunError(
                f"another run took '{self.folder}' over, since this one had not been heard of for "
                f"{STALE_S:g} s. It goes on from what was complete."
            ) from error
        try:
            if not self._is_another(self._read()):
                storage.remove(self.uri)
                storage.remove_empty(self._made)
        except Exception as unremoved:  # of a storage that ended the run, perhaps; it is found dead next time
            logger.warning("'%s' could not be removed: %s", self.uri, unremoved)

    def _is_alive(self, owner: Owner) -> bool:
        if owner.machine != self.me.machine:
            return self._counts(owner)
        if owner.pid == self.me.pid:  # a run of ours that could not take its lock away is over all the same
            return owner.token in _held
        return _alive(owner)

    def _counts(self, owner: Owner) -> bool:
        """Whether an owner elsewhere is alive."""
        until = time.monotonic() + STALE_S
        while time.monotonic() < until:
            time.sleep(min(BEAT_S, STALE_S) / 2)
            now = self._read()
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
            except Exception as error:  # of any storage; who looks meanwhile takes it for dead, and may be right
                logger.warning("'%s' could not be written: %s", self.uri, error)

    def _is_another(self, owner: Owner | None) -> bool:
        return owner is not None and owner.token != self.me.token

    def _write(self, beat: int = 0) -> None:
        storage.write_text(self.uri, json.dumps(asdict(replace(self.me, beat=beat))) + "\n")

    def _read(self) -> Owner | None:
        try:
            return Owner(**json.loads(storage.read_text(self.uri))) if storage.exists(self.uri) else None
        except (ValueError, TypeError):  # no lock of ours
            return None
        except RequestError:  # unless it is gone since
            if storage.exists(self.uri):
                raise
            return None


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
