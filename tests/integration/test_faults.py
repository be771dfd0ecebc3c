"""Things that break around a run: the tracker, the disk, another run in the same folder."""

from __future__ import annotations

import contextlib
import os
import subprocess
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import ray
from mlflow import MlflowClient

from orchestrator import RunConfig, run
from orchestrator.cli.command import main
from orchestrator.cluster import reservation
from orchestrator.cluster.reservation import Need, Waiting
from orchestrator.cluster.resources import Placement
from orchestrator.cluster.tasks import Task, completed
from orchestrator.observers.events import SystemAdded
from orchestrator.observers.mlflow_tracker import Tracker
from orchestrator.observers.opened import observers
from orchestrator.observers.terminal import Screen
from orchestrator.run_folder.lock import Lock
from tests.makers import write_config
from tests.servers import Server
from workers.errors import RunError
from workers.processes import Where

pytestmark = pytest.mark.usefixtures("small_ray")


def steps(client: MlflowClient) -> dict[str, Counter[int]]:
    """How often each epoch of each system is with the tracker."""
    experiment = client.get_experiment_by_name("tests")
    assert experiment is not None
    found = {}
    for each in client.search_runs([experiment.experiment_id], "tags.`stillhouse.role` != 'run'"):
        history = client.get_metric_history(each.info.run_id, "validation_accuracy")
        found[each.data.tags["mlflow.runName"]] = Counter(metric.step for metric in history)
    return found


@contextlib.contextmanager
def once(condition: Callable[[], bool], act: Callable[[], object]) -> Iterator[None]:
    """In the block, call `act` in a thread once a condition holds. Raises: AssertionError where it never does."""
    over, done = threading.Event(), threading.Event()

    def watch() -> None:
        while not over.wait(0.01):
            if condition():
                act()
                done.set()
                return

    watching = threading.Thread(target=watch, daemon=True)
    watching.start()
    try:
        yield
    finally:
        over.set()
        watching.join(60)
    assert done.is_set(), "the condition never held"


@pytest.mark.slow
def test_a_tracker_that_goes_away_is_told_afterwards(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write_config(tmp_path)
    config = RunConfig.load(str(path))
    with monkeypatch.context() as broken:

        def refuse(*_: object) -> None:
            raise ConnectionError("connection refused")

        broken.setattr(Tracker, "_metrics", refuse)
        broken.setattr(Tracker, "_summarise", refuse)
        report = run(config)
    client = MlflowClient(config.tracking.uri)
    assert report.status == "complete" and not any(found.total() for found in steps(client).values())
    events = (tmp_path / "runs" / "small" / "events.jsonl").read_text()
    assert events.count('"event": "epoch"') == 2 * 5

    for _ in range(2):  # twice, and yet each epoch is there once
        assert main(["report", str(tmp_path / "runs" / "small"), "--push"]) == 0
        trained = {f"member-{k}" for k in range(3)} | {"baseline", "student"}
        there = steps(client)
        assert set(there) == {*trained, "ensemble"}
        assert all(there[name] == Counter([1, 2]) for name in trained)
    experiment = client.get_experiment_by_name("tests")
    assert experiment is not None
    parents = client.search_runs([experiment.experiment_id], "tags.`stillhouse.role` = 'run'")
    assert len(parents) == 1 and parents[0].info.status == "FINISHED"
    assert "student_test_accuracy" in parents[0].data.metrics

    assert main(["report", str(tmp_path / "runs" / "small"), "--push", "--set", "tracking.uri=http://127.0.0.1:9"]) == 2
    assert "no MLflow tracker at 'http://127.0.0.1:9'" in capsys.readouterr().err


def test_what_a_killed_run_left_open_is_ended_by_the_next(tmp_path: Path) -> None:
    config = RunConfig.load(str(write_config(tmp_path)))
    with contextlib.ExitStack() as alive:
        killed, _ = alive.enter_context(observers(config, Screen(quiet=True)))
        killed.emit(SystemAdded("student", "student"))
        killed.drain()
        with observers(config, Screen(quiet=True)):
            pass
        client = MlflowClient(config.tracking.uri)
        experiment = client.get_experiment_by_name("tests")
        assert experiment is not None
        found = [run.info.status for run in client.search_runs([experiment.experiment_id])]
    assert Counter(found) == {"KILLED": 2, "FINISHED": 1}


@pytest.mark.slow
def test_a_server_that_dies_in_the_middle(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with Server(tmp_path) as server:
        path = write_config(tmp_path / "config", tracking={"uri": server.uri, "experiment": "tests"})
        folder = tmp_path / "config" / "runs" / "small"
        events = folder / "events.jsonl"
        with once(lambda: events.exists() and '"epoch"' in events.read_text(), server.kill):
            assert run(RunConfig.load(str(path))).status == "complete"
        assert sum("The run goes on" in record.getMessage() for record in caplog.records) == 1
        server.start()
        client = MlflowClient(server.uri)
        trained = {f"member-{k}" for k in range(3)} | {"baseline", "student"}
        assert not all(found == Counter([1, 2]) for found in steps(client).values())
        assert main(["report", str(folder), "--push"]) == 0
        there = steps(client)
        assert all(there[name] == Counter([1, 2]) for name in trained)


def test_a_folder_that_is_in_use(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = write_config(tmp_path)
    folder = tmp_path / "runs" / "small"
    with Lock(str(folder)):
        before = sorted(tmp_path.rglob("*"))
        assert main(["run", str(path)]) == 2
        assert f"'{folder}' is in use by another run (process {os.getpid()} on" in capsys.readouterr().err
        assert sorted(tmp_path.rglob("*")) == before
    assert not folder.exists()


@ray.remote(num_cpus=3.8)
class Others:
    """Somebody else's work, which leaves next to nothing of the small Ray."""

    def here(self) -> None:
        """Once this returns, it is."""


def test_no_room_is_said_and_given_up_in_the_end(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reservation, "PATIENCE_S", 0.5)
    others = Others.remote()
    ray.get(others.here.remote())
    changes = {"ensemble__start_timeout_s": 3, "ensemble__resources_per_member": {"num_cpus": 1}}
    try:
        with pytest.raises(
            RunError, match=r"no room on the cluster after 3 s for members in training \(3, 1 CPU each\)\..*4 CPU"
        ) as said:
            run(RunConfig.load(str(write_config(tmp_path, **changes))))
        assert "`ensemble.start_timeout_s`" in str(said.value)
        events = (tmp_path / "runs" / "small" / "events.jsonl").read_text()
        assert events.count("waiting for room for members in training (3, 1 CPU each)") == 1
        teachers = reservation.of_teachers(Placement(3, 3, num_cpus=1.0, num_gpus=0.0))
        with pytest.raises(RunError, match=r"teachers \(3, 1 CPU each\)"), reservation.reserved(teachers, 2.0):
            pass
    finally:
        ray.kill(others)
    with reservation.reserved(teachers, 30.0):
        pass


def test_tasks_that_lose_their_room_are_not_waited_for_without_end(small_ray: None) -> None:
    """A node goes while they are on it, and none comes in its place: as long as they were there all was well."""

    @ray.remote
    def nowhere() -> None: ...

    class Heard:
        queue = None

        def where(self, name: str) -> Where | None:
            return Where(here if time.monotonic() - began < 4 else "gone", 1)

        def forget(self, name: str) -> None: ...

        def note(self, text: str) -> None: ...

    began, here = time.monotonic(), ray.get_runtime_context().get_node_id()
    with pytest.raises(RunError, match=r"no room on the cluster after 2 s for predictions \(1, 1 nowhere each\)"):
        task = Task("a", nowhere, (), Placement(1, 1, 0.0, 0.0, {"nowhere": 1.0}))
        need = Need("predictions", 1, task.placement.held, {"nowhere": 1.0})
        list(completed([task], Waiting(need, 2.0, print, least=1), Heard()))
    assert 4.5 < time.monotonic() - began < 20


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of half a megabyte."""
    place = tmp_path / "disk"
    place.mkdir()
    done = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=512k", "tmpfs", str(place)], capture_output=True)
    if done.returncode:
        pytest.skip("a file system can only be mounted by root")
    yield place
    subprocess.run(["umount", str(place)], check=True)


@pytest.mark.slow
def test_a_disk_that_may_not_be_written_any_more_ends_the_run_and_it_resumes(
    small_disk: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    subprocess.run(["mount", "-o", "remount,size=64m", str(small_disk)], check=True)
    path = write_config(tmp_path / "config", storage=str(small_disk / "runs"))
    folder = small_disk / "runs" / "small"

    def forbid() -> None:
        subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)

    with once((folder / "members" / "0" / "training.json").exists, forbid):
        assert main(["run", str(path)]) == 1
    said = capsys.readouterr().err
    assert "Read-only file system" in said and "the same command resumes" in said and "Traceback" not in said
    subprocess.run(["mount", "-o", "remount,rw", str(small_disk)], check=True)
    kept = (folder / "members" / "0" / "model.safetensors").stat().st_mtime_ns
    assert main(["run", str(path)]) == 0
    assert (folder / "members" / "0" / "model.safetensors").stat().st_mtime_ns == kept
    client = MlflowClient(f"sqlite:///{tmp_path}/config/mlflow.db")
    experiment = client.get_experiment_by_name("tests")
    assert experiment is not None
    found = client.search_runs([experiment.experiment_id])
    assert [each.info.status for each in found] == ["FINISHED"] * 7, "the run that failed is the one that finished"
    assert all(count == Counter([1, 2]) for name, count in steps(client).items() if name != "ensemble")


@pytest.mark.slow
def test_a_disk_that_is_full_ends_the_run_and_it_resumes(
    small_disk: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write_config(tmp_path / "config", storage=str(small_disk / "runs"), student__model__kwargs={"hidden": 8000})
    assert main(["run", str(path)]) == 1
    said = capsys.readouterr().err
    assert "No space left on device" in said and "the same command resumes" in said and "Traceback" not in said
    subprocess.run(["mount", "-o", "remount,size=64m", str(small_disk)], check=True)
    assert main(["run", str(path)]) == 0
    assert not list(small_disk.rglob("*.partial")) and (small_disk / "runs" / "small" / "report.json").exists()
