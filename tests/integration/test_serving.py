"""An export behind MLflow and Ray Serve, by the commands and the code of docs/EXPORT.md themselves."""

from __future__ import annotations

import json
import os
import re
import shlex
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from subprocess import Popen
from typing import Any

import numpy as np
import pytest
from mlflow import MlflowClient
from numpy.typing import NDArray

from orchestrator.cli.command import main
from tests import commands, finished
from tests.commands import free_port

ROOT = Path(__file__).parents[2]
DOC = (ROOT / "docs/EXPORT.md").read_text()
START_S = 300.0
SETTINGS = {"RAY_USAGE_STATS_ENABLED": "0", "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0"}
EXAMPLES = ["river in the very", "goal of the match 7", "atom"]
pytestmark = pytest.mark.filterwarnings("ignore")  # of the exporter


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the registered export of a run of texts, and the tracker beside it."""
    folder = tmp_path_factory.mktemp("served")
    code = {"convolutions.py": (ROOT / "examples/textcnn/models.py").read_text()}
    kwargs = {"classes": 3, "table": None, "vocabulary": 64, "size": 16, "filters": 8}
    model = {"factory": "convolutions:textcnn", "tokenizer": "encoder", "max_length": 12, "kwargs": kwargs}
    run = finished.of_texts(folder, model, code)
    to = str(folder / "exports/digits")
    gate = ["--min-share", "0.1", "--max-latency-ms", "60000"]
    assert main(["export", run, "--to", to, "--format", "onnx", *gate, "--register", "digits-student"]) == 0
    return folder


@pytest.fixture(scope="module")
def expected(place: Path) -> NDArray[np.float32]:
    """The export's probabilities of `EXAMPLES`, by its own `load.py`."""
    script = f"import json; from load import load; print(json.dumps(load('.')({EXAMPLES!r}).tolist()))"
    shown = commands.output(sys.executable, "-c", script, cwd=place / "exports/digits")
    return np.array(json.loads(shown), np.float32)


def blocks(language: str) -> list[str]:
    """The document's blocks of code."""
    found: list[str] = re.findall(rf"```{language}\n(.*?)```", DOC, re.DOTALL)
    return found


@contextmanager
def serving(command: list[str], folder: Path, variables: dict[str, str]) -> Iterator[Popen[str]]:
    """A server, whose output goes to a file in the folder."""
    with (
        (folder / "server.txt").open("ab") as output,
        commands.running(*command, cwd=folder, env=variables, stdout=output, stderr=output) as process,
    ):
        yield process


def answer(server: Popen[str], url: str, asked: Any) -> Any:
    """The server's answer, as soon as it gives one."""
    until = time.monotonic() + START_S
    request = urllib.request.Request(url, json.dumps(asked).encode(), {"Content-Type": "application/json"})
    while True:
        try:
            with urllib.request.urlopen(request, timeout=30.0) as response:
                return json.loads(response.read())
        except (urllib.error.URLError, OSError) as error:
            if time.monotonic() > until or server.poll() is not None:
                raise AssertionError(f"no answer: {error}") from error
            time.sleep(0.5)


def test_the_registered_version_has_the_alias_and_its_figures(place: Path) -> None:
    client = MlflowClient(f"sqlite:///{place}/mlflow.db")
    version = client.get_model_version_by_alias("digits-student", "champion")
    run = client.get_run(version.run_id)
    measured = json.loads((place / "exports/digits/export.json").read_text())["measured"]
    assert run.data.metrics["share_of_ensemble"] == pytest.approx(measured["share"])
    assert run.data.metrics["test_accuracy"] == pytest.approx(measured["figures"]["accuracy"])
    assert run.data.tags["stillhouse.role"] == "export"


def test_a_gate_that_is_not_met_registers_nothing(place: Path, tmp_path: Path) -> None:
    client = MlflowClient(f"sqlite:///{place}/mlflow.db")
    before = client.get_model_version_by_alias("digits-student", "champion").version
    run = str(place / "runs/small")
    assert main(["export", run, "--to", str(tmp_path / "x"), "--format", "torch", "--max-latency-ms", "1e-6",
                 "--register", "digits-student"]) == 3  # fmt: skip
    assert client.get_model_version_by_alias("digits-student", "champion").version == before
    assert len(client.search_model_versions("name = 'digits-student'")) == 1


def test_a_tracker_that_refuses_leaves_no_export(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from mlflow.exceptions import MlflowException

    def refuses(*_: object, **__: object) -> None:
        raise MlflowException("no room")

    monkeypatch.setattr(MlflowClient, "create_model_version", refuses)
    run = str(place / "runs/small")
    assert (
        main(["export", run, "--to", str(tmp_path / "x"), "--format", "torch", "--min-share", "0.1", "--register"]) == 1
    )
    assert "no room" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_pyfunc_answers_as_the_export(place: Path, expected: NDArray[np.float32]) -> None:
    """In a process of its own, since MLflow keeps the tracker that it is told for all later clients."""
    script = (
        "import json, mlflow.pyfunc\n"
        "model = mlflow.pyfunc.load_model('models:/digits-student@champion')\n"
        f"print(json.dumps(model.predict({EXAMPLES!r}).tolist()))"
    )
    variables = commands.environment(MLFLOW_TRACKING_URI=f"sqlite:///{place}/mlflow.db")
    shown = commands.output(sys.executable, "-c", script, env=variables)
    np.testing.assert_allclose(np.array(json.loads(shown.splitlines()[-1])), expected, atol=1e-6)


@pytest.mark.slow
def test_mlflow_serves_it(place: Path, expected: NDArray[np.float32]) -> None:
    port, (serve, ask, *_) = free_port(), blocks("sh")
    tracker, command = serve.strip().splitlines()
    assert tracker == "export MLFLOW_TRACKING_URI=sqlite:///mlflow.db"
    assert "127.0.0.1:5001/invocations" in ask and '{"inputs": [' in ask
    arguments = shlex.split(command.replace("5001", str(port)))
    assert arguments[0] == "mlflow"
    program = [sys.executable, "-m", *arguments]
    uvicorn = place / "bin/uvicorn"  # which MLflow looks for on the path, as in an activated environment
    uvicorn.parent.mkdir()
    uvicorn.write_text(f'#!/bin/sh\nexec {sys.executable} -m uvicorn "$@"\n')
    uvicorn.chmod(0o755)
    variables = commands.environment(
        MLFLOW_TRACKING_URI=f"sqlite:///{place}/mlflow.db", PATH=f"{place}/bin:{os.environ['PATH']}"
    )
    with serving(program, place, variables) as server:
        found = answer(server, f"http://127.0.0.1:{port}/invocations", {"inputs": EXAMPLES})
    np.testing.assert_allclose(np.array(found["predictions"]), expected, atol=1e-6)


@pytest.mark.slow
def test_ray_serves_it(place: Path, expected: NDArray[np.float32]) -> None:
    port = free_port()
    (place / "serve_student.py").write_text(blocks("python")[-1].replace("8000", str(port)))
    program = [sys.executable, "serve_student.py", "exports/digits"]
    with serving(program, place, commands.environment(**SETTINGS)) as server:
        found = [answer(server, f"http://127.0.0.1:{port}/", text) for text in EXAMPLES]
    np.testing.assert_allclose(np.array(found), expected, atol=1e-5)


@pytest.mark.slow
def test_the_benchmark_of_serving_in_small(place: Path, tmp_path: Path) -> None:
    asked = ["--run", str(place / "runs/small"), "--export", str(place / "exports/digits"), "--results", str(tmp_path)]
    command = [sys.executable, "-m", "benchmarks.serving", *asked, "--texts", "20", "--calls", "3", "--turns", "1"]
    commands.output(*command, cwd=ROOT, env=commands.environment(**SETTINGS))
    found = json.loads((tmp_path / "serving.json").read_text())
    assert [row["callers"] for row in found["rows"]] == [1, 4, 16]
    assert all(row["student p99"] > 0 and row["ensemble p99"] > 0 for row in found["rows"])
