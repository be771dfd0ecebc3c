"""After any kind of exit a run leaves no process, and the same command comes to the outcome of an undisturbed run."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests import commands
from tests.chaos.monkey import outcome, prepare, run_until_complete
from tests.commands import processes

pytestmark = pytest.mark.slow
RAYLET, GCS = b"raylet/raylet", b"gcs/gcs_server"


@contextmanager
def begun(folder: Path) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """The command in its own process group: yields the driver, and the mark of its processes."""
    mark = commands.new_mark()
    command = (*commands.STILLHOUSE, "run", folder / "config.yaml")
    with commands.running(*command, mark=mark, start_new_session=True, preexec_fn=commands.restore_ctrl_c) as driver:
        yield driver, mark


def await_process(mark: str, title: bytes, driver: subprocess.Popen[str]) -> None:
    commands.wait_until(lambda: processes(mark, title), 200, f"no process {title!r}", process=driver)


def nothing_is_left(mark: str) -> None:
    # Ray's agents may wait a minute for a lost head.
    commands.wait_until(lambda: not processes(mark), 75, "processes are left behind")


def resumed(folder: Path) -> dict[str, str]:
    """The outcome of the same command."""
    run_until_complete(folder, None)
    return outcome(folder)


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
def test_what_stops_a_run_leaves_nothing_and_changes_no_bit(
    title: bytes,
    signals: list[signal.Signals],
    status: int,
    most_s: float,
    expected: dict[str, str],
    tmp_path: Path,
) -> None:
    folder = prepare(tmp_path)
    with begun(folder) as (driver, mark):
        await_process(mark, title, driver)
        time.sleep(1.0)
        for number, each in enumerate(signals):
            time.sleep(0.5 if number else 0.0)
            driver.send_signal(each)
        pressed = time.monotonic()
        _, shown = driver.communicate(timeout=120)
        took_s = time.monotonic() - pressed
        assert driver.returncode == status, shown
        assert took_s < most_s
        assert "Traceback" not in shown and "Fatal" not in shown, shown
        if status == 130:
            assert "the same command resumes" in shown.lower(), shown
        nothing_is_left(mark)
    assert resumed(folder) == expected


def test_a_signal_to_all_of_its_group_stops_a_run(expected: dict[str, str], tmp_path: Path) -> None:
    """Like signals of `timeout`, a shell's `kill %1` and schedulers, which also end Ray's own processes at once."""
    folder = prepare(tmp_path)
    with begun(folder) as (driver, mark):
        await_process(mark, b"ray::TeacherActor", driver)
        os.killpg(driver.pid, signal.SIGTERM)
        _, shown = driver.communicate(timeout=30)
        assert driver.returncode == 130 and "the same command resumes" in shown.lower(), shown
        nothing_is_left(mark)
    assert resumed(folder) == expected


@pytest.mark.parametrize("title", [b"ray::TrainController", b"ray::_QueueActor", b"ray::train member"])
def test_a_process_that_is_stopped_for_good_is_started_again(
    title: bytes, expected: dict[str, str], tmp_path: Path
) -> None:
    folder = prepare(tmp_path)
    with begun(folder) as (driver, mark):
        await_process(mark, title, driver)
        stopped = processes(mark, title)[0]
        os.kill(stopped, signal.SIGSTOP)
        _, shown = driver.communicate(timeout=400)
        assert driver.returncode == 0, shown
        assert f"process {stopped} of Ray's was stopped for 60 s, and is ended" in shown
        nothing_is_left(mark)
    assert outcome(folder) == expected


@pytest.mark.parametrize(
    ("vital", "number", "most_s"),
    [
        pytest.param(RAYLET, signal.SIGKILL, 10, id="raylet-killed"),
        pytest.param(GCS, signal.SIGKILL, 10, id="head-killed"),
        pytest.param(RAYLET, signal.SIGSTOP, 200, id="raylet-stopped"),
        pytest.param(GCS, signal.SIGSTOP, 200, id="head-stopped"),
    ],
)
def test_a_ray_without_its_raylet_or_head_ends_the_run(
    vital: bytes, number: signal.Signals, most_s: float, expected: dict[str, str], tmp_path: Path
) -> None:
    folder = prepare(tmp_path)
    with begun(folder) as (driver, mark):
        await_process(mark, b"ray::TeacherActor", driver)
        (process,) = processes(mark, vital)
        os.kill(process, number)
        _, shown = driver.communicate(timeout=most_s)
        assert driver.returncode == 1 and "the same command resumes" in shown, shown
        if number == signal.SIGKILL:  # of one that is stopped, the other may be the first that is lost
            assert f"Ray's own process '{vital.decode().split('/')[1]}' is gone" in shown
        nothing_is_left(mark)
    assert resumed(folder) == expected
