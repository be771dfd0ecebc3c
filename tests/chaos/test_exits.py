"""After any kind of exit a run leaves no process, and the same command completes it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
import uuid
from pathlib import Path

import pytest

from tests.chaos.monkey import outcome, prepare, processes, run_until_complete
from tests.chaos.nodes import MARK


def begin(folder: Path) -> tuple[subprocess.Popen[str], str]:
    """Start the command in its own process group. Returns the driver, and the mark of its processes."""
    mark = uuid.uuid4().hex
    environment = {k: v for k, v in os.environ.items() if k != "RAY_ADDRESS"} | {MARK: mark}
    command = [sys.executable, "-m", "orchestrator.cli", "run", str(folder / "config.yaml")]
    pipe = subprocess.PIPE
    driver = subprocess.Popen(
        command, env=environment, stdout=pipe, stderr=pipe, text=True, start_new_session=True, preexec_fn=hear_ctrl_c
    )
    return driver, mark


def hear_ctrl_c() -> None:
    """Enable SIGINT, which a shell disables for background processes."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def await_process(mark: str, title: bytes, driver: subprocess.Popen[str]) -> None:
    until = time.monotonic() + 200
    while not processes(mark, title):
        assert driver.poll() is None and time.monotonic() < until, driver.communicate()
        time.sleep(0.1)


def nothing_is_left(mark: str) -> None:
    until = time.monotonic() + 75  # Ray's agents may wait a minute for a lost head
    while processes(mark) and time.monotonic() < until:
        time.sleep(0.2)
    assert not processes(mark), "left behind"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("title", "signals", "status", "most_s"),
    [
        (b"gcs_server", [signal.SIGINT], 130, 60),
        (b"ray::train member", [signal.SIGINT], 130, 30),
        (b"ray::RayTrainWorker", [signal.SIGINT], 130, 30),
        (b"ray::TeacherActor", [signal.SIGTERM], 130, 30),
        (b"ray::RayTrainWorker", [signal.SIGTERM], 130, 30),
        (b"ray::RayTrainWorker", [signal.SIGINT, signal.SIGINT], 130, 3),
        (b"ray::train member", [signal.SIGKILL], -signal.SIGKILL, 3),
    ],
)
def test_what_stops_a_run_leaves_nothing(
    title: bytes, signals: list[signal.Signals], status: int, most_s: float, tmp_path: Path
) -> None:
    folder = prepare(tmp_path)
    driver, mark = begin(folder)
    await_process(mark, title, driver)
    time.sleep(1.0)
    for number, each in enumerate(signals):
        time.sleep(0.5 if number else 0.0)
        driver.send_signal(each)
    pressed = time.monotonic()
    _, said = driver.communicate(timeout=120)
    took_s = time.monotonic() - pressed
    assert driver.returncode == status, said
    assert took_s < most_s
    assert "Traceback" not in said and "Fatal" not in said, said
    if status == 130:
        assert "the same command resumes" in said.lower(), said
    nothing_is_left(mark)
    run_until_complete(folder, None)
    assert outcome(folder)


@pytest.mark.slow
def test_a_signal_to_all_of_its_group_stops_a_run(tmp_path: Path) -> None:
    """Like signals of `timeout`, a shell's `kill %1` and schedulers, which also end Ray's own processes at once."""
    driver, mark = begin(prepare(tmp_path))
    await_process(mark, b"ray::TeacherActor", driver)
    os.killpg(driver.pid, signal.SIGTERM)
    _, said = driver.communicate(timeout=30)
    assert driver.returncode == 130 and "the same command resumes" in said.lower(), said
    nothing_is_left(mark)


@pytest.mark.slow
@pytest.mark.parametrize("who", [b"ray::TrainController", b"ray::_QueueActor", b"ray::train member"])
def test_what_is_stopped_for_good_is_begun_again(who: bytes, tmp_path: Path) -> None:
    driver, mark = begin(prepare(tmp_path))
    await_process(mark, who, driver)
    stopped = processes(mark, who)[0]
    os.kill(stopped, signal.SIGSTOP)
    _, said = driver.communicate(timeout=400)
    assert driver.returncode == 0, said
    assert f"process {stopped} of Ray's was stopped for 60 s, and is ended" in said


@pytest.mark.slow
@pytest.mark.parametrize("vital", [b"raylet/raylet", b"gcs/gcs_server"])
def test_a_ray_that_lost_what_it_stands_on_ends_the_run(vital: bytes, tmp_path: Path) -> None:
    folder = prepare(tmp_path)
    driver, mark = begin(folder)
    await_process(mark, b"ray::TeacherActor", driver)
    (process,) = processes(mark, vital)
    os.kill(process, signal.SIGKILL)
    _, said = driver.communicate(timeout=10)
    assert driver.returncode == 1, said
    assert f"Ray's own process '{vital.decode().split('/')[1]}' is gone" in said and "the same command resumes" in said
    nothing_is_left(mark)
    run_until_complete(folder, None)
    assert outcome(folder)
