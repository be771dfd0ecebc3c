"""The pass from teachers to student: streamed or not, interrupted or not, the same bytes and the same student."""

from __future__ import annotations

import json
import signal
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from orchestrator import RunConfig, run
from orchestrator.reporting.report import Report
from tests import commands
from tests.makers import MODELS, blobs, write_config
from workers.errors import RunError

pytestmark = pytest.mark.usefixtures("small_ray")
PARTS = 3
SLOW = """

class Slow(nn.Module):
    def __init__(self):
        super().__init__()
        self.inner = mlp(24)

    def forward(self, x):
        if not self.training and len(x) > 500:
            import time
            time.sleep(0.15)
        return self.inner(x)


def slow():
    return Slow()
"""


def prepared(folder: Path, **changes: Any) -> Path:
    """A run whose transfer set takes several parts, streamed."""
    settings = {"ensemble__size": 2, "student__training__batch_size": 500, "distillation__stream": True}
    path = write_config(folder, **{**settings, **changes})
    x, _ = blobs(20_000, 5)
    np.savez(folder / "more.npz", x=x)
    return path


def go(folder: Path, **changes: Any) -> Report:
    return run(RunConfig.load(str(prepared(folder, data__unlabeled="more.npz", **changes))))


def store_of(folder: Path) -> Path:
    (store,) = (folder / "runs/small/soft_targets").iterdir()
    return store


def bytes_of(folder: Path) -> dict[str, bytes]:
    """The parts and the student: what must never differ."""
    files = [*store_of(folder).glob("*.parquet"), folder / "runs/small/student/model.safetensors"]
    return {file.name: file.read_bytes() for file in files}


@pytest.fixture(scope="module")
def undisturbed(small_ray: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("undisturbed")
    go(folder)
    return folder


def test_a_streamed_and_a_cached_run_give_the_same_student(undisturbed: Path, tmp_path: Path) -> None:
    go(tmp_path, distillation__stream=False)
    assert len(bytes_of(undisturbed)) == PARTS + 1
    assert bytes_of(tmp_path) == bytes_of(undisturbed)


@pytest.mark.slow
def test_what_is_damaged_or_gone_is_made_again_and_nothing_else(
    undisturbed: Path, caplog: pytest.LogCaptureFixture
) -> None:
    before, store = bytes_of(undisturbed), store_of(undisturbed)
    whole, damaged, gone = sorted(store.glob("*.parquet"))
    kept = whole.stat().st_mtime_ns
    damaged.write_bytes(damaged.read_bytes()[:-9] + b"123456789")
    gone.unlink()
    again = run(RunConfig.load(str(undisturbed / "config.yaml")))
    assert bytes_of(undisturbed) == before
    assert whole.stat().st_mtime_ns == kept
    assert damaged.name in caplog.text and "thrown away" in caplog.text
    assert {s.name for s in again.stages if s.reused} == {"members", "predictions", "baseline", "student", "evaluation"}
    manifest = json.loads((store / "manifest.json").read_text())
    assert manifest["complete"] and [part["path"] for part in manifest["parts"]] == sorted(
        p for p in before if p.startswith("part")
    )


@pytest.mark.slow
def test_the_teachers_end_is_the_students_end(tmp_path: Path) -> None:
    """A model that fails in the pass alone: its error is the run's, and the student waits for nothing."""
    path = prepared(tmp_path, data__unlabeled="more.npz", ensemble__model={"factory": "moody:net"})
    (tmp_path / "moody.py").write_text(
        MODELS + "class Net(torch.nn.Linear):\n"
        "    def forward(self, x):\n"
        "        if len(x) > 1000: raise ValueError('too much')\n"
        "        return super().forward(x)\n"
        "def net(): return Net(8, 3)\n"
    )
    started = time.monotonic()
    with pytest.raises(
        Exception, match=r"teacher of member-[01] was lost again in a fresh process at part 0 .*: ValueError: too much"
    ):
        run(RunConfig.load(str(path)))
    assert time.monotonic() - started < 120


def prepared_slow(folder: Path, **changes: Any) -> list[object]:
    """A run whose pass takes long enough to be disturbed: its command, which starts a Ray of its own."""
    path = prepared(folder, data__unlabeled="more.npz", ensemble__model={"factory": "models:slow"}, **changes)
    (folder / "models.py").write_text(MODELS + SLOW)
    return [*commands.STILLHOUSE, "run", path]


def parts_of(folder: Path) -> list[Path]:
    return list((folder / "runs/small/soft_targets").glob("*/part-*.parquet"))


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """What an undisturbed run of `prepared_slow` makes."""
    folder = tmp_path_factory.mktemp("whole")
    commands.output(*prepared_slow(folder))
    return bytes_of(folder)


def test_kill_9_in_the_pass_and_the_same_command(whole: dict[str, bytes], tmp_path: Path) -> None:
    """The driver is killed with the first part written; what was finished is not made again, and no bit differs."""
    command = prepared_slow(tmp_path)
    with commands.running(*command) as driver:
        commands.wait_until(lambda: parts_of(tmp_path), 300, process=driver)
        driver.kill()
        driver.wait()
        first = {path: path.stat().st_mtime_ns for path in parts_of(tmp_path)}
        assert 1 <= len(first) < PARTS and not list((tmp_path / "runs/small/soft_targets").glob("*/manifest.json"))
        commands.output(*command)
    assert {path: path.stat().st_mtime_ns for path in first} == first
    assert bytes_of(tmp_path) == whole


@pytest.mark.slow
@pytest.mark.parametrize("stream", [True, False])
def test_ctrl_c_in_the_pass_stops_at_once_and_changes_no_bit(
    stream: bool, whole: dict[str, bytes], tmp_path: Path
) -> None:
    """Ray Train has handled Ctrl-C before, for the baseline."""
    command = prepared_slow(tmp_path, distillation__stream=stream)
    with commands.running(*command, preexec_fn=commands.restore_ctrl_c) as driver:
        commands.wait_until(lambda: parts_of(tmp_path), 300, process=driver)
        driver.send_signal(signal.SIGINT)
        _, said = driver.communicate(timeout=60)
        assert driver.returncode == 130 and "the same command resumes" in said
    commands.output(*command)
    assert bytes_of(tmp_path) == whole


ODD = """
class Odd(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.inner = mlp(6)

    def forward(self, x):
        if self.training and torch.distributed.is_initialized() and torch.distributed.get_rank() == 1:
            raise ValueError("rank one is broken")
        return self.inner(x)


def odd():
    return Odd()
"""


@pytest.mark.slow
@pytest.mark.usefixtures("small_ray")
def test_what_ends_one_worker_ends_the_run_and_is_named(tmp_path: Path) -> None:
    changes = {"student__model": {"factory": "models:odd"}, "student__num_workers": 2}
    path = prepared(tmp_path, **changes)
    (tmp_path / "models.py").write_text(MODELS + ODD)
    started = time.monotonic()
    with pytest.raises(RunError, match=r"training the baseline .*failed.*: ValueError: rank one is broken"):
        run(RunConfig.load(str(path)))
    assert time.monotonic() - started < 120
