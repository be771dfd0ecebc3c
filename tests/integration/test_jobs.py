"""Runs as jobs of a Ray cluster: submitted, followed, stopped, resumed; and the metrics that Prometheus collects.

The cluster is as Ray starts it in the home of somebody who used Ray before: it asks for a token.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import sys
import tempfile
import time
import urllib.parse
import urllib.request
from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass
from pathlib import Path
from subprocess import Popen
from typing import Any

import pytest
import yaml
from mlflow import MlflowClient

from tests import commands
from tests.commands import free_port, wait_until
from tests.makers import write_config

DASHBOARDS = Path(__file__).parents[2] / "dashboards"
RAY = Path(sys.executable).with_name("ray")


@dataclass(frozen=True)
class Head:
    """A cluster of one node on loopback: where jobs are handed in and runs join, and its temporary folder."""

    address: str
    folder: Path
    gcs: str = ""

    @property
    def home(self) -> Path:
        """Of who started it, and hands in jobs."""
        return self.folder / "home"


def environment(home: Path | None = None) -> dict[str, str]:
    """With Ray's defaults; `home`: another one than ours."""
    if home is not None:
        home.mkdir(exist_ok=True)
    own = {
        **({} if home is None else {"HOME": str(home)}),
        "PYTHONPATH": str(DASHBOARDS.parent),
        "RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S": "0",
        "RAY_metrics_report_interval_ms": "1000",
        "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
        "RAY_USAGE_STATS_ENABLED": "0",
    }
    others = ("RAY_ADDRESS", "RAY_API_SERVER_ADDRESS", "RAY_AUTH_")
    return {k: v for k, v in os.environ.items() if not k.startswith(others)} | own


def answers(url: str) -> bool:
    try:
        urllib.request.urlopen(url, timeout=2).close()
        return True
    except OSError:
        return False


@pytest.fixture(scope="module")
def head() -> Iterator[Head]:
    folder = Path(tempfile.mkdtemp(prefix="jobs-"))  # short: sockets are in it
    port, dashboard = free_port(), free_port()
    found = Head(f"http://127.0.0.1:{dashboard}", folder, f"127.0.0.1:{port}")
    # What any `ray.init` leaves in a home, and every later `ray start --head` asks for.
    commands.output(RAY, "get-auth-token", "--generate", env=environment(found.home))
    command: list[object] = [RAY, "start", "--head", "--block", "--num-cpus", "4"]
    command += ["--port", str(port), "--dashboard-port", str(dashboard), "--temp-dir", str(folder)]
    command += ["--object-store-memory", str(300 * 2**20), "--dashboard-agent-listen-port", str(free_port())]
    command += ["--ray-client-server-port", str(free_port())]
    try:
        with (
            (folder / "head.txt").open("wb") as output,
            commands.running(*command, env=environment(found.home), stdout=output, stderr=output, cwd=folder),
        ):
            wait_until(lambda: answers(f"{found.address}/api/authentication_mode"))
            yield found
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def submitting(
    head: Head, path: Path, *words: str, cwd: Path | None = None, home: Path | None = None, **variables: str
) -> AbstractContextManager[Popen[str]]:
    command = [sys.executable, "-P", "-m", "orchestrator.cli", "submit", path, "--address", head.address, *words]
    return commands.running(*command, env=environment(home or head.home) | variables, cwd=cwd)


def submit(head: Head, path: Path, *words: str, **how: Any) -> tuple[int, str, str]:
    with submitting(head, path, *words, **how) as process:
        out, err = process.communicate(timeout=400)
    return process.returncode, out, err


@pytest.fixture(scope="module")
def prometheus(head: Head, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str | None]:
    """The URL of a Prometheus with the shipped rules and scrape configuration; None where this machine has none.

    Only the address of the head and the intervals differ.
    """
    if shutil.which("prometheus") is None:
        yield None
        return
    folder = tmp_path_factory.mktemp("prometheus")
    config = yaml.safe_load((DASHBOARDS / "prometheus.yml").read_text())
    config["global"] = {"scrape_interval": "1s", "evaluation_interval": "1s"}
    (found,) = config["scrape_configs"][0]["file_sd_configs"]
    found["files"] = [name.replace("/tmp/ray/", f"{head.folder}/") for name in found["files"]]
    (folder / "prometheus.yml").write_text(yaml.safe_dump(config))
    shutil.copy(DASHBOARDS / "alerts.yml", folder)
    port = free_port()
    command = ["prometheus", f"--config.file={folder}/prometheus.yml", f"--storage.tsdb.path={folder}/data"]
    command += [f"--web.listen-address=127.0.0.1:{port}"]
    with (folder / "output.txt").open("wb") as output, commands.running(*command, stdout=output, stderr=output):
        wait_until(lambda: answers(f"http://127.0.0.1:{port}/-/ready"))
        yield f"http://127.0.0.1:{port}"


def query(prometheus: str, expression: str) -> list[dict[str, Any]]:
    url = f"{prometheus}/api/v1/query?" + urllib.parse.urlencode({"query": expression})
    with urllib.request.urlopen(url, timeout=10) as answer:
        said = json.load(answer)
    assert said["status"] == "success", said
    return list(said["data"]["result"])


def panels() -> dict[str, list[str]]:
    """The queries of each panel, as Grafana would ask them."""
    dashboard = json.loads((DASHBOARDS / "grafana.json").read_text())
    values = {"$run": ".*", "$__rate_interval": "30s", "$__range": "5m", "$price_gpu_hour": "2", "$price_cpu_hour": "1"}
    found = {}
    for panel in dashboard["panels"]:
        if panel["type"] != "row":
            found[panel["title"]] = [target["expr"] for target in panel["targets"]]
            for key, value in values.items():
                found[panel["title"]] = [e.replace(key, value) for e in found[panel["title"]]]
    return found


def shadow(folder: Path) -> None:
    """Files named as modules of the standard library, of Ray's needs and of Stillhouse; to import one is an error."""
    (folder / "orchestrator").mkdir()
    for name in ("queue", "logging", "types", "csv", "ray", "workers", "orchestrator/__init__"):
        (folder / f"{name}.py").write_text(f"raise RuntimeError('the {name} of the user was imported')\n")


@pytest.fixture(scope="module")
def followed(head: Head, prometheus: str | None, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """A folder whose configuration was executed as a job, and stdout of `submit --follow`.

    It depends on `prometheus`, so that Prometheus, where there is one, collects the job's metrics.
    """
    folder = tmp_path_factory.mktemp("followed")
    path = write_config(
        folder,
        name="followed",
        storage="runs",
        tracking={"uri": "sqlite:///mlflow.db", "experiment": "jobs"},
        student__training={"epochs": 40, "batch_size": 16, "learning_rate": 2.0e-3},
    )
    (folder / "runs").mkdir()
    (folder / "runs" / "old").write_bytes(bytes(2**20))  # what is not to go with the job
    shadow(folder)
    status, out, err = submit(head, path, "--follow", "--set", "seed=3", cwd=folder)
    assert status == 0, out + err
    return folder, out


def test_a_job_leaves_its_results_beside_its_configuration(head: Head, followed: tuple[Path, str]) -> None:
    folder, out = followed
    assert "Again:  stillhouse report" in out
    run = folder / "runs" / "followed"
    assert json.loads((run / "report.json").read_text())["status"] == "complete"
    assert yaml.safe_load((run / "config.yaml").read_text())["seed"] == 3
    client = MlflowClient(f"sqlite:///{folder}/mlflow.db")
    experiment = client.get_experiment_by_name("jobs")
    assert experiment is not None
    (parent,) = client.search_runs([experiment.experiment_id], "tags.`stillhouse.role` = 'run'")
    assert parent.info.status == "FINISHED" and "student_test_accuracy" in parent.data.metrics
    uploads = [p for p in head.folder.rglob("working_dir_files/*/*/config.yaml")]
    assert uploads and not any((upload.parent / "runs").exists() for upload in uploads)


def test_prometheus_collects_the_metrics_of_a_job(followed: tuple[Path, str], prometheus: str | None) -> None:
    if prometheus is None:
        pytest.skip("there is no prometheus on this machine")
    expected = {
        "stillhouse_soft_target_examples_total": 600.0,
        "stillhouse_student_examples_total": 600.0 * 40,
    }
    for name, value in expected.items():
        wait_until(lambda n=name, v=value: _sum(prometheus, f'ray_{n}{{run="followed"}}') == v, 30)
    busy = query(prometheus, 'sum by (member) (ray_stillhouse_teacher_busy_seconds_total{run="followed"})')
    assert {each["metric"]["member"] for each in busy} == {f"member-{k}" for k in range(3)}
    assert all(float(each["value"][1]) > 0 for each in busy)
    for name in ("stillhouse_student_wait_seconds_total", "stillhouse_soft_target_bytes_total"):
        assert _sum(prometheus, f'ray_{name}{{run="followed"}}') > 0
    gauges: dict[str, list[float]] = {}
    for name in ("live", "expected"):  # a gauge is there only as long as its process
        samples = _range(prometheus, f'sum(ray_stillhouse_members_{name}{{run="followed"}})')
        gauges[name] = [float(value) for _, value in samples]
        assert set(gauges[name]) <= {0.0, 1.0, 2.0, 3.0} and gauges[name][-1:] == [0.0], name
    assert 3.0 in gauges["expected"], "teachers take longer to start than a scrape interval"
    for title, asked in panels().items():
        for expression in asked:  # the panel of cost samples every 15 s
            wait_until(lambda e=expression: _range(prometheus, e), 40, f"{title}: no value of {expression}")


def _sum(prometheus: str, expression: str) -> float:
    return sum(float(each["value"][1]) for each in query(prometheus, expression))


def _range(prometheus: str, expression: str) -> list[tuple[float, str]]:
    now = time.time()
    asked = {"query": expression, "start": now - 300, "end": now, "step": 1}
    with urllib.request.urlopen(
        f"{prometheus}/api/v1/query_range?" + urllib.parse.urlencode(asked), timeout=10
    ) as said:
        results = json.load(said)["data"]["result"]
    return [tuple(point) for each in results for point in each["values"]]


def test_a_wrong_request_comes_back_as_such(head: Head, tmp_path: Path) -> None:
    path = write_config(tmp_path)
    (tmp_path / "train.npz").unlink()  # what only the job can see
    status, out, err = submit(head, path, "--follow")
    assert status == 2 and "train.npz': no such file" in out and "failed with exit code 2" in err
    assert not (tmp_path / "runs").exists()
    status, _, err = submit(head, path, "--set", "ensemble.size=0")
    assert status == 2 and "ensemble.size: found 0" in err
    status, _, err = submit(Head("http://127.0.0.1:9", head.folder), path)
    assert status == 2 and "no Ray cluster takes jobs at 'http://127.0.0.1:9'" in err


@pytest.mark.slow
def test_without_its_token_a_cluster_is_not_joined(head: Head, tmp_path: Path) -> None:
    path, home = write_config(tmp_path), tmp_path / "home"
    status, _, err = submit(head, path, home=home)
    assert status == 2 and f"the Ray cluster at '{head.address}' asks for a token, and none is here" in err
    status, _, err = submit(head, path, home=home, RAY_AUTH_TOKEN="0123456789abcdef")
    assert status == 2 and "the one of RAY_AUTH_TOKEN is refused" in err and "0123456789abcdef" not in err
    joining = environment(home) | {"RAY_ADDRESS": head.gcs}
    done = commands.run(*commands.STILLHOUSE, "run", path, env=joining, timeout_s=120)
    assert done.returncode == 2 and f"the Ray cluster at '{head.gcs}' asks for a token, and none is here" in done.stderr
    assert not (tmp_path / "runs").exists()


@pytest.mark.slow
def test_the_commands_that_submit_prints_work(head: Head, tmp_path: Path) -> None:
    path = write_config(tmp_path / "my experiment", data__train="gone.npz")
    shadow(path.parent)
    status, _, err = submit(head, path)
    assert status == 0
    (follow,) = re.findall("^follow it: (.*)$", err, re.MULTILINE)
    path_of_ray = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    own = environment(head.home) | {"PATH": path_of_ray}
    done = commands.run("sh", "-c", follow, env=own, timeout_s=120)
    assert "gone.npz': no such file" in done.stdout + done.stderr


@pytest.mark.slow
def test_a_folder_that_is_too_large_is_not_sent(head: Head, tmp_path: Path) -> None:
    path = write_config(tmp_path)
    with (tmp_path / "videos.bin").open("wb") as file:
        file.truncate(600_000_000)
    status, _, err = submit(head, path)
    assert status == 2 and "The largest: videos.bin (600 MB)" in err and "`.rayignore`" in err


@pytest.mark.slow
def test_a_laptop_first_and_then_a_cluster(head: Head, tmp_path: Path) -> None:
    """A run beside another Ray, in a folder of misleading names, with a deep TMPDIR; then one that joins that Ray."""
    path = write_config(tmp_path / "my runs", ensemble__size=2)
    shadow(path.parent)
    temporary = tmp_path / ("t" * max(1, 57 - len(str(tmp_path))))
    (temporary / "ray").mkdir(parents=True)
    (temporary / "ray" / "ray_current_cluster").write_text(head.gcs)
    home = tmp_path / "home"
    alone = environment(home) | {"TMPDIR": str(temporary)}
    command = [sys.executable, "-P", "-m", "orchestrator.cli", "run", "config.yaml"]
    done = commands.run(*command, env=alone, cwd=path.parent)
    assert done.returncode == 0, done.stderr
    assert "(raylet)" not in done.stderr and "Traceback" not in done.stderr
    cleaners = [log for log in temporary.glob("ray/session_2*/logs/worker-*.err") if "Cleaner" in log.read_text()]
    assert cleaners and not any("Connecting to latest cluster" in log.read_text() for log in cleaners)
    assert not (home / ".ray").exists(), "Ray in place left a token"
    assert answers(f"{head.address}/api/authentication_mode")

    joining = environment(head.home) | {"RAY_ADDRESS": head.gcs}
    command += ["--set", "name=joined"]
    commands.output(*command, env=joining, cwd=path.parent)
    runs = path.parent / "runs"
    weights = [(runs / name / "student" / "model.safetensors").read_bytes() for name in ("small", "joined")]
    assert weights[0] == weights[1]


@pytest.mark.slow
def test_a_job_that_is_stopped_goes_on_by_the_same_command(head: Head, tmp_path: Path) -> None:
    recipe = {"epochs": 2, "batch_size": 16, "learning_rate": 2.0e-3}
    path = write_config(tmp_path, student__training=recipe | {"epochs": 150}, student__baseline_training=recipe)
    shadow(tmp_path)
    events = tmp_path / "runs" / "small" / "events.jsonl"
    with submitting(head, path, "--follow") as first:
        is_trained = '"event": "epoch", "system": "student"'
        wait_until(lambda: events.exists() and is_trained in events.read_text(), 200, process=first)
        (job,) = set(re.findall(r"small-[0-9a-f]{8}", _jobs(head, "small")))
        own = environment(head.home) | {"RAY_AUTH_MODE": "token"}
        commands.output(RAY, "job", "stop", "--address", head.address, job, env=own)
        _, err = first.communicate(timeout=60)
        assert first.returncode == 130 and "was stopped. The same command resumes" in err
    said = [json.loads(line) for line in events.read_text().splitlines()]
    assert said[-1]["event"] == "failed" and not (tmp_path / "runs" / "small" / "run.lock").exists()
    seen = max(e["epoch"] for e in said if e["event"] == "epoch" and e["system"] == "student")
    status, out, err = submit(head, path, "--follow")
    assert status == 0, out + err
    again = [json.loads(line) for line in events.read_text().splitlines()][len(said) :]
    first_again = min(e["epoch"] for e in again if e["event"] == "epoch" and e["system"] == "student")
    assert first_again >= seen - 1 and not any(e.get("system", "").startswith("member") for e in again)


@pytest.mark.slow
def test_several_at_once_share_the_cluster(head: Head, tmp_path: Path) -> None:
    """Each wants all its cores for its teachers: they take turns, and neither waits for ever."""
    running = []
    with ExitStack() as started:
        for name in ("one", "two", "three"):
            changes = {"name": name, "ensemble__resources_per_member": {"num_cpus": 1}, "ensemble__size": 4}
            path = write_config(tmp_path / name, **changes)
            running.append(started.enter_context(submitting(head, path, "--follow")))
        for process in running:
            out, err = process.communicate(timeout=400)
            assert process.returncode == 0, out + err


def _jobs(head: Head, run: str) -> str:
    token = {"Authorization": f"Bearer {(head.home / '.ray' / 'auth_token').read_text()}"}
    asked = urllib.request.Request(f"{head.address}/api/jobs/", headers=token)
    with urllib.request.urlopen(asked, timeout=10) as answer:
        jobs = json.load(answer)
    mine = [job for job in jobs if job["metadata"].get("stillhouse.run") == run and job["status"] == "RUNNING"]
    return " ".join(job["submission_id"] for job in mine)
