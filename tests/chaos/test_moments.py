"""`kill -9` between the write of a temporary file and its rename, for every kind of file of a run on arrays.

Others are not renamed into place: `events.jsonl` is appended to (`tests/unit/test_jsonl.py`).
"""

from __future__ import annotations

import signal
from pathlib import Path

import pytest

from tests import commands
from tests.chaos import monkey

HOOK = '''
"""In every Python process of the run: at the chosen file, the driver is killed, and with it the process that writes."""
import fnmatch, os, signal, sys

os.environ.setdefault("TEST_DRIVER", str(os.getpid()))
times = os.environ["TEST_TIMES"]

def watched(real):
    def act(source, target, **rest):
        look(source, target)
        return real(source, target, **rest)
    return act

def look(source, target):
    if fnmatch.fnmatch(os.fspath(target), os.environ["TEST_FILE"]):
        file = os.open(times, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.write(file, b".")
        number = os.lseek(file, 0, os.SEEK_CUR)  # of this write, also where threads write at the same time
        os.close(file)
        if number == int(os.environ["TEST_TIME"]):
            if os.stat(source).st_nlink == 1:  # a hard link is a copy, whose original is complete
                os.truncate(source, os.path.getsize(source) // 2)
            os.kill(int(os.environ["TEST_DRIVER"]), signal.SIGKILL)
            os.kill(os.getpid(), signal.SIGKILL)

os.replace = watched(os.replace)
os.link = watched(os.link)
'''
CASES = {
    "the lock": ("runs/small/run.lock", 1),
    "the tracker's database": ("mlflow.db", 1),
    "the mark of the folder": ("runs/small/stillhouse.json", 1),
    "the configuration": ("runs/small/config.yaml", 1),
    "code and data for the tracker": ("runs/small/tracking.json", 1),
    "the catalogue": ("runs/small/artifacts.json", 3),
    "the state of a member's training": ("runs/small/trained/*/state.pt", 5),
    "a member": ("runs/small/trained/*/model.safetensors", 2),
    "the record of a member": ("runs/small/trained/*/training.json", 2),
    "the copy of a member": ("runs/small/members/*/model.safetensors", 2),
    "predictions": ("runs/small/predictions/*.safetensors", 2),
    "the record of predictions": ("runs/small/predictions/*.json", 2),
    "a member's logits": ("runs/small/logits/*/part-*.parquet", 2),
    "the record of a member's logits": ("runs/small/logits/*/logits.json", 2),
    "a part of the soft targets": ("runs/small/soft_targets/*/part-*.parquet", 1),
    "the manifest of the soft targets": ("runs/small/soft_targets/*/manifest.json", 1),
    "the baseline": ("runs/small/trained/*/model.safetensors", 4),
    "the history of a stage": ("runs/small/*/history.json", 2),
    "a stage of the student": ("runs/small/trained/*/model.safetensors", 5),
    "the student": ("runs/small/trained/*/model.safetensors", 6),
    "sums over test examples": ("runs/small/sums.safetensors", 1),
    "the report as a page": ("runs/small/report.html", 1),
    "the report as text": ("runs/small/report.md", 1),
    "the report": ("runs/small/report.json", 1),
}
"""The path of each kind of file below the configuration's folder, and which of its writes is interrupted, from 1.
Networks are written in this order: three members, the baseline, the student's stages."""


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES)
def test_killed_while_it_writes(case: str, expected: dict[str, str], tmp_path: Path) -> None:
    folder, hook, (file, time) = monkey.prepare(tmp_path / "run"), tmp_path / "hook", CASES[case]
    hook.mkdir()
    (hook / "sitecustomize.py").write_text(HOOK)
    variables = commands.environment(
        PYTHONPATH=str(hook), TEST_TIMES=str(tmp_path / "times"), TEST_FILE=str(folder / file), TEST_TIME=str(time)
    )
    with commands.running(*commands.STILLHOUSE, "run", folder / "config.yaml", env=variables) as driver:
        _, shown = driver.communicate(timeout=300)
        assert driver.returncode == -signal.SIGKILL, f"'{file}' was not written {time} times:\n{shown[-2000:]}"
        monkey.run_until_complete(folder, None)
    assert monkey.outcome(folder) == expected
    assert not list((folder / "runs").rglob("*.partial"))
