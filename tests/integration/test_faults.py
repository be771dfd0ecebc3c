"""Things that break around a run: the tracker, the disk, another run in the same folder."""

from __future__ import annotations

import os
import subprocess
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from mlflow import MlflowClient

from orchestrator import RunConfig, run
from orchestrator.cli import main
from orchestrator.lock import Lock
from orchestrator.tracking import Tracker
from tests.makers import write_config

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


def test_a_folder_that_is_in_use(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = write_config(tmp_path)
    folder = tmp_path / "runs" / "small"
    with Lock(str(folder)):
        before = sorted(tmp_path.rglob("*"))
        assert main(["run", str(path)]) == 2
        assert f"'{folder}' is in use by another run (process {os.getpid()} on" in capsys.readouterr().err
        assert [p for p in sorted(tmp_path.rglob("*")) if "__pycache__" not in p.parts] == before
    assert not folder.exists()


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
