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

from orchestrator.run_folder import lock
from orchestrator.run_folder.lock import NAME, Lock, Owner
from workers import storage
from workers.errors import RequestError, TakenOver


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lock, "BEAT_S", 0.1)
    monkeypatch.setattr(lock, "STALE_S", 0.6)
    monkeypatch.setattr(lock, "SETTLE_S", 0.01)


def held_by(folder: Path, owner: Owner) -> None:
    """Write the lock of an owner in one step, since a run may read it at the same time."""
    folder.mkdir(exist_ok=True)
    written = folder / "written"
    written.write_text(json.dumps(asdict(owner)))
    written.replace(folder / NAME)


def elsewhere(beat: int = 0) -> Owner:
    return Owner("theirs", "node-7", "another boot", 42, "1", beat)


def test_a_released_lock_leaves_no_file_and_no_folder(tmp_path: Path) -> None:
    with Lock(str(tmp_path / "runs" / "a")):
        assert (tmp_path / "runs" / "a" / NAME).exists()
    assert not (tmp_path / "runs").exists()


def test_a_second_run_is_refused_and_its_error_names_the_owner(tmp_path: Path) -> None:
    with Lock(str(tmp_path)), pytest.raises(RequestError, match=rf"in use by another run \(process {os.getpid()} on"):
        Lock(str(tmp_path)).__enter__()
    with Lock(str(tmp_path)):
        pass


@pytest.mark.parametrize("content", [b"", b"[]", b"{}", b"\xff"])
def test_a_file_that_is_no_lock_is_replaced(content: bytes, tmp_path: Path) -> None:
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


def test_an_owner_elsewhere_that_counts_is_alive(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lock, "STALE_S", 60.0)
    held_by(tmp_path, elsewhere())
    timer = threading.Timer(0.2, held_by, (tmp_path, elsewhere(beat=1)))
    timer.start()
    with pytest.raises(RequestError, match=r"process 42 on node-7"):
        Lock(str(tmp_path)).__enter__()
    timer.join()


def test_a_run_whose_lock_was_taken_over_ends(tmp_path: Path) -> None:
    with pytest.raises(TakenOver, match="another run took"), Lock(str(tmp_path)):
        held_by(tmp_path, elsewhere())
        time.sleep(30)  # interrupted, as by Ctrl-C
    assert json.loads((tmp_path / NAME).read_text())["token"] == "theirs"


CONTENDER = """
import os, sys, time
from orchestrator.run_folder import lock
from workers.errors import RequestError
print("ready", flush=True)
fsync = os.fsync
os.fsync = lambda file: (time.sleep(0.6), fsync(file))  # a slow disk
while not os.path.exists(sys.argv[2]):
    time.sleep(0.001)
try:
    with lock.Lock(sys.argv[1]):
        print("got it", flush=True)
        time.sleep(2)
    print("and kept it", flush=True)
except RequestError:
    print("refused", flush=True)
"""


@pytest.mark.parametrize("left", ["no lock", "a dead owner's lock"])
def test_of_several_at_once_one_gets_it(left: str, tmp_path: Path) -> None:
    folder, start = tmp_path / "run", tmp_path / "start"
    if left != "no lock":
        held_by(folder, replace(Lock(str(folder)).me, token="theirs", born="7"))
    command = [sys.executable, "-c", CONTENDER, str(folder), str(start)]
    several = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(4)]
    for process in several:
        assert process.stdout is not None and process.stdout.readline() == "ready\n"
    start.touch()
    ended = sorted(process.communicate(timeout=60)[0] for process in several)
    assert ended == ["got it\nand kept it\n", *["refused\n"] * 3]
    assert not list(folder.glob("run.lock*"))


def test_threads_of_one_process_exclude_each_other(tmp_path: Path) -> None:
    got: list[str] = []
    begun, ended = threading.Barrier(4), threading.Barrier(4)

    def take() -> None:
        begun.wait()
        try:
            with Lock(str(tmp_path / "run")):
                got.append("got it")
                ended.wait(timeout=60)
        except RequestError:
            got.append("refused")
            ended.wait(timeout=60)

    threads = [threading.Thread(target=take) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(got) == ["got it", *["refused"] * 3]


def test_a_claim_that_its_run_left_behind_is_removed(tmp_path: Path) -> None:
    held_by(tmp_path, elsewhere())
    claim = tmp_path / f"{NAME}.{storage.sha256(b'theirs')[:16]}"
    claim.write_text(json.dumps(asdict(replace(elsewhere(), token="a third", host="node-9"))))
    with Lock(str(tmp_path)):
        assert not claim.exists()
