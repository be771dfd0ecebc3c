"""A whole run tracked by a server as teams have one: its runs in PostgreSQL, its artifacts in S3, both behind HTTP."""

from __future__ import annotations

import json
import logging
import tempfile
import urllib.parse
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
import s3fs
from mlflow import MlflowClient
from mlflow.entities import Run
from moto.moto_server.threaded_moto_server import ThreadedMotoServer

from orchestrator import RunConfig, run
from orchestrator.reporting.report import Report
from tests.makers import write_config
from tests.servers import Postgres, Server, postgres_programs

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("small_ray")]

BUCKET = "artifacts"
KEYS = {"AWS_ACCESS_KEY_ID": "me", "AWS_SECRET_ACCESS_KEY": "a-secret-of-the-test", "AWS_DEFAULT_REGION": "us-east-1"}
SYSTEMS = {"member-0", "member-1", "member-2", "ensemble", "baseline", "student"}
TRAINED = SYSTEMS - {"ensemble"}
PNG = b"\x89PNG\r\n"


@pytest.fixture
def database() -> Iterator[str]:
    """The URI of an empty PostgreSQL."""
    pytest.importorskip("psycopg2", reason="without psycopg2 MLflow cannot speak to PostgreSQL")
    programs = postgres_programs()
    if programs is None:
        pytest.skip("there is no PostgreSQL (Debian: `apt-get install postgresql`)")
    with tempfile.TemporaryDirectory(prefix="pg-") as folder:  # pytest's folders are closed to other users
        postgres = Postgres(Path(folder), programs)
        postgres.start()
        yield postgres.uri
        postgres.stop()


@pytest.fixture
def bucket() -> Iterator[s3fs.S3FileSystem]:
    """An S3 server with an empty bucket."""
    logging.getLogger("werkzeug").setLevel(logging.ERROR)  # a line a request
    moto = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    moto.start()
    host, port = moto.get_host_and_port()
    files = s3fs.S3FileSystem(
        endpoint_url=f"http://{host}:{port}",
        key=KEYS["AWS_ACCESS_KEY_ID"],
        secret=KEYS["AWS_SECRET_ACCESS_KEY"],
        use_listings_cache=False,
        skip_instance_cache=True,
    )
    files.mkdir(BUCKET)
    yield files
    moto.stop()


@pytest.fixture
def server(database: str, bucket: s3fs.S3FileSystem, tmp_path: Path) -> Iterator[Server]:
    """It alone knows the bucket's keys; a run knows the server's URL."""
    keys = KEYS | {"MLFLOW_S3_ENDPOINT_URL": bucket.endpoint_url}
    store = database.replace("postgresql:", "postgresql+psycopg2:")  # SQLAlchemy would take its successor
    with Server(tmp_path, store=store, artifacts=f"s3://{BUCKET}/mlflow", environment=keys) as found:
        yield found


def test_a_run_is_with_the_server_its_database_and_its_bucket(
    server: Server, database: str, bucket: s3fs.S3FileSystem, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for key in KEYS:
        monkeypatch.delenv(key, raising=False)
    path = write_config(tmp_path / "config", tracking={"uri": server.uri, "experiment": "tests"})
    report = run(RunConfig.load(str(path)))
    assert report.status == "complete"

    client = MlflowClient(server.uri)
    experiment = client.get_experiment_by_name("tests")
    assert experiment is not None
    (parent,) = client.search_runs([experiment.experiment_id], "tags.`stillhouse.role` = 'run'")
    nested = nested_runs(client, parent)
    check_runs(client, parent, nested, report)
    check_artifacts(client, parent, bucket)
    assert shown_in_a_browser(server, parent, "plots/reliability.png").startswith(PNG)
    assert stored_runs(database) == {parent.info.run_id, *(each.info.run_id for each in nested.values())}


def nested_runs(client: MlflowClient, parent: Run) -> dict[str, Run]:
    found = client.search_runs([parent.info.experiment_id], f"tags.`mlflow.parentRunId` = '{parent.info.run_id}'")
    return {each.data.tags["mlflow.runName"]: each for each in found}


def check_runs(client: MlflowClient, parent: Run, nested: dict[str, Run], report: Report) -> None:
    """The parent has the figures that are compared, each system its own, each that was trained its epochs."""
    assert parent.info.status == "FINISHED" and parent.info.run_name == "small"
    assert parent.data.params["distillation.temperature"] == "2.0"
    assert parent.data.metrics.get("gain_transferred") == pytest.approx(report.gain_transferred), "none of no gain"
    for role in ("ensemble", "baseline", "student"):
        assert parent.data.metrics[f"{role}_test_accuracy"] == report.system(role).test.accuracy

    assert set(nested) == SYSTEMS
    for system in report.systems:
        found = nested[system.name]
        assert found.info.status == "FINISHED" and found.data.tags["stillhouse.role"] == system.role
        assert found.data.metrics["test_accuracy"] == system.test.accuracy
        assert found.data.metrics["parameters"] == system.parameters
        assert {"test_nll", "test_ece", "latency_ms_p50", "latency_ms_p99"} <= set(found.data.metrics)
    for name in TRAINED:
        for metric in ("train_loss", "validation_accuracy"):
            history = client.get_metric_history(nested[name].info.run_id, metric)
            assert [each.step for each in history] == [1, 2]


def check_artifacts(client: MlflowClient, parent: Run, bucket: s3fs.S3FileSystem) -> None:
    """They come through the server, and lie in its bucket with the same bytes."""
    run_id = parent.info.run_id
    plots = {item.path for item in client.list_artifacts(run_id, "plots")}
    assert {"plots/training_curves.png", "plots/accuracy_by_members.png", "plots/reliability.png"} <= plots
    kept = {name.partition(f"{run_id}/artifacts/")[2]: name for name in bucket.find(f"{BUCKET}/mlflow")}
    with tempfile.TemporaryDirectory() as folder:
        for name in ("comparison.json", "report.md", *plots):
            content = Path(client.download_artifacts(run_id, name, folder)).read_bytes()
            assert content and content == bucket.cat(kept[name])
            assert content.startswith(PNG) or not name.startswith("plots/")
    table = json.loads(bucket.cat(kept["comparison.json"]))
    place = table["columns"].index("system")
    assert {row[place] for row in table["data"]} == SYSTEMS


def shown_in_a_browser(server: Server, run: Run, artifact: str) -> bytes:
    """What MLflow's pages, and pictures in a run's description, ask for."""
    query = urllib.parse.urlencode({"path": artifact, "run_uuid": run.info.run_id})
    with urllib.request.urlopen(f"{server.uri}/get-artifact?{query}") as answer:
        content: bytes = answer.read()
        return content


def stored_runs(database: str) -> set[str]:
    """The ids of the runs that PostgreSQL has, asked without MLflow."""
    import psycopg2

    connection = psycopg2.connect(database)
    with connection, connection.cursor() as cursor:
        cursor.execute("select run_uuid from runs where status = 'FINISHED'")
        found = {run_id for (run_id,) in cursor.fetchall()}
    connection.close()
    return found
