"""`stillhouse submit`: what goes with a job, and how its log is followed."""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from aiohttp import ServerDisconnectedError
from ray.job_submission import JobStatus

from orchestrator.cli import job_folder, submit
from orchestrator.config.run_config import RunConfig
from orchestrator.reporting import sweeps
from orchestrator.run_folder import owned
from tests.makers import settings

LOG = "a line\nanother\n"


class Client:
    """A cluster where the log of a job breaks off by these errors, until the job has ended.

    gone: the error by which the cluster itself stops to answer.
    """

    def __init__(self, *broken: Exception, gone: Exception | None = None) -> None:
        self.broken, self.gone, self.asked = [*broken], gone, 0

    async def tail_job_logs(self, job: str) -> AsyncIterator[str]:
        self.asked += 1
        if self.asked <= len(self.broken):
            yield LOG[: 3 * self.asked]
            raise self.broken[self.asked - 1]
        yield LOG

    def get_job_info(self, job: str) -> Any:
        if self.gone is not None:
            raise self.gone
        status = JobStatus.RUNNING if self.asked < len(self.broken) else JobStatus.FAILED
        return type("Info", (), {"status": status, "message": "no", "driver_exit_code": 3})

    def get_job_logs(self, job: str) -> str:
        return LOG


def test_a_job_is_followed_to_its_own_status(capsys: pytest.CaptureFixture[str]) -> None:
    client: Any = Client()
    assert submit._follow(client, "job") == 3
    assert capsys.readouterr().out == LOG


@pytest.mark.parametrize("times", [1, 3])
@pytest.mark.parametrize("error", [BrokenPipeError("broken"), RuntimeError("closed"), ServerDisconnectedError()])
def test_a_log_that_breaks_off_is_continued(
    error: Exception, times: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(submit, "POLL_S", 0.0)
    client: Any = Client(*[error] * times)
    assert submit._follow(client, "job") == 3 and client.asked == times
    assert capsys.readouterr().out == LOG


def test_a_reader_that_leaves_is_not_taken_for_the_cluster(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    class Closed:
        def write(self, text: str) -> int:
            raise BrokenPipeError

    monkeypatch.setattr(sys, "stdout", Closed())
    client: Any = Client()
    with pytest.raises(BrokenPipeError):
        submit._follow(client, "job")
    assert "cluster" not in capsys.readouterr().err


@pytest.mark.parametrize("error", [ConnectionError("refused"), RuntimeError("no such job")])
def test_a_cluster_that_is_gone_is_named(error: Exception, capsys: pytest.CaptureFixture[str]) -> None:
    client: Any = Client(gone=error)
    assert submit._follow(client, "job") == 1
    assert "the cluster does not answer any more" in capsys.readouterr().err


@pytest.mark.parametrize("storage", ["results", "file://{}/results", "linked"])
def test_results_beside_the_configuration_stay_behind(
    storage: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, elsewhere = tmp_path / "project", tmp_path / "elsewhere"
    for place in (folder / "results", elsewhere):
        place.mkdir(parents=True)
        (place / "weights").write_text("large")
    (folder / "linked").symlink_to(elsewhere)
    (folder / "config.yaml").touch()
    monkeypatch.chdir(folder)
    named = storage.format(folder)
    config = RunConfig.from_mapping(settings(tmp_path) | {"storage": named}, str(folder))
    with job_folder.prepared(folder, (), submit._local_places(config)) as sent:
        assert f"{named.rsplit('/', 1)[-1]}/weights" not in sent.sizes and "config.yaml" in sent.sizes


def test_runs_in_the_folder_of_the_configuration_stay_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """But for those that this run takes an input from."""
    marks = [f"small/{owned.MARK}", f"teacher/{owned.MARK}", f"other-sweep/{sweeps.RECORD}"]
    for name in ("small/weights", "teacher/weights", "other-sweep/sweep.html", "data/more", *marks):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    monkeypatch.chdir(tmp_path)
    values = settings(tmp_path) | {"storage": "."}
    values["student"] = {**values["student"], "initial": "teacher/weights"}
    config = RunConfig.from_mapping(values, str(tmp_path))
    with job_folder.prepared(tmp_path, (), submit._local_places(config)) as sent:
        of_runs = {name for name in sent.sizes if name.split("/")[0] in ("small", "teacher", "other-sweep", "data")}
    assert of_runs == {"data/more", "teacher/weights", marks[1]}


def test_credentials_stay_behind(tmp_path: Path) -> None:
    files = ("id_ed25519", ".kube/config", ".docker/config.json", ".pgpass", ".git-credentials", "sub/.ssh/id_ecdsa")
    for name in (*files, "models.py"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    with job_folder.prepared(tmp_path, submit.LEFT_OUT, []) as sent:
        assert sent.sizes.keys() == {"models.py"}
