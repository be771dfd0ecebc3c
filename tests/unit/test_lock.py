"""The lock of a run's folder: the second run stops while the first is alive, and takes over once it is dead."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from orchestrator import lock
from orchestrator.lock import NAME, Lock, Owner
from workers.errors import RequestError, RunError


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lock, "BEAT_S", 0.1)
    monkeypatch.setattr(lock, "STALE_S", 0.6)
    monkeypatch.setattr(lock, "SETTLE_S", 0.01)


def held_by(folder: Path, owner: Owner) -> None:
    folder.mkdir(exist_ok=True)
    (folder / NAME).write_text(json.dumps(asdict(owner)))


def elsewhere(beat: int = 0) -> Owner:
    return Owner("theirs", "node-7", "another boot", 42, "1", beat)


def test_it_leaves_nothing(tmp_path: Path) -> None:
    with Lock(str(tmp_path / "runs" / "a")):
        assert (tmp_path / "runs" / "a" / NAME).exists()
    assert not (tmp_path / "runs").exists()


def test_the_second_is_refused_and_says_who_has_it(tmp_path: Path) -> None:
    with Lock(str(tmp_path)), pytest.raises(RequestError, match=rf"in use by another run \(process {os.getpid()} on"):
        Lock(str(tmp_path)).__enter__()
    with Lock(str(tmp_path)):
        pass


@pytest.mark.parametrize("content", [b"", b"[]", b"{}", b"\xff"])
def test_what_is_no_lock_holds_nobody_up(content: bytes, tmp_path: Path) -> None:
    (tmp_path / NAME).write_bytes(content)
    with Lock(str(tmp_path)):
        pass


def test_a_dead_process_is_taken_over_at_once(tmp_path: Path) -> None:
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    owner = replace(Lock(str(tmp_path)).me, token="theirs", pid=child.pid, born=lock._born(child.pid) or "")
    held_by(tmp_path, owner)
    with pytest.raises(RequestError, match="in use"):
        Lock(str(tmp_path)).__enter__()
    child.kill()
    child.wait()
    with Lock(str(tmp_path)):
        pass


def test_another_process_of_the_same_number_is_not_the_owner(tmp_path: Path) -> None:
    held_by(tmp_path, replace(Lock(str(tmp_path)).me, token="theirs", born="7"))
    with Lock(str(tmp_path)):
        pass


def test_an_owner_elsewhere_is_dead_once_it_no_longer_counts(tmp_path: Path) -> None:
    held_by(tmp_path, elsewhere())
    began = time.monotonic()
    with Lock(str(tmp_path)):
        assert time.monotonic() - began >= 0.6


def test_an_owner_elsewhere_that_counts_is_alive(tmp_path: Path) -> None:
    held_by(tmp_path, elsewhere())
    timer = threading.Timer(0.2, held_by, (tmp_path, elsewhere(beat=1)))
    timer.start()
    with pytest.raises(RequestError, match=r"process 42 on node-7"):
        Lock(str(tmp_path)).__enter__()
    timer.join()


def test_who_was_taken_over_ends(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="another run took"), Lock(str(tmp_path)):
        held_by(tmp_path, elsewhere())
        time.sleep(5)  # interrupted, as by Ctrl-C
    assert json.loads((tmp_path / NAME).read_text())["token"] == "theirs"
