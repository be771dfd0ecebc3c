"""`kill -9` between the write of a temporary file and its rename, for every kind of file of a run."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.chaos import monkey

HOOK = '''
"""In every Python process of the run: at the chosen file, the driver dies, and with it whoever writes."""
import fnmatch, os, signal, sys

os.environ.setdefault("TEST_DRIVER", str(os.getpid()))
times = os.environ["TEST_TIMES"]

def watched(real):
    def act(source, target, **rest):
        look(source, target)
        return real(source, target, **rest)
    return act

def look(source, target):
    if fnmatch.fnmatch(os.path.basename(os.fspath(target)), os.environ["TEST_FILE"]):
        file = os.open(times, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.write(file, b".")
        number = os.lseek(file, 0, os.SEEK_CUR)  # of this write, also where threads write at the same time
        os.close(file)
        if number == int(os.environ["TEST_TIME"]):
            os.truncate(source, os.path.getsize(source) // 2)
            os.kill(int(os.environ["TEST_DRIVER"]), signal.SIGKILL)
            os.kill(os.getpid(), signal.SIGKILL)

os.replace = watched(os.replace)
os.link = watched(os.link)
'''


@pytest.fixture(scope="module")
def expected(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    folder = monkey.prepare(tmp_path_factory.mktemp("undisturbed"))
    monkey.run_until_complete(folder, None)
    return monkey.outcome(folder)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("file", "time"),
    [
        ("run.lock", 1),
        ("config.yaml", 1),
        ("mlflow.db", 1),
        ("state.pt", 5),
        ("model.safetensors", 2),
        ("training.json", 2),
        ("part-*", 1),
        ("manifest.json", 1),
        ("model.safetensors", 5),
        ("model.safetensors", 6),
        ("history.json", 2),
        ("report.json", 1),
    ],
)
def test_killed_while_it_writes(file: str, time: int, expected: dict[str, str], tmp_path: Path) -> None:
    folder = monkey.prepare(tmp_path / "run")
    hook = tmp_path / "hook"
    hook.mkdir()
    (hook / "sitecustomize.py").write_text(HOOK)
    own = {
        "PYTHONPATH": str(hook),
        "TEST_TIMES": str(tmp_path / "times"),
        "TEST_FILE": file,
        "TEST_TIME": str(time),
    }
    environment = {k: v for k, v in os.environ.items() if k != "RAY_ADDRESS"} | own
    command = [sys.executable, "-m", "orchestrator.cli", "run", str(folder / "config.yaml")]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == -signal.SIGKILL, f"'{file}' was not written {time} times:\n{done.stderr[-2000:]}"
    monkey.run_until_complete(folder, None)
    assert monkey.outcome(folder) == expected
    assert not list((folder / "runs").rglob("*.partial"))
