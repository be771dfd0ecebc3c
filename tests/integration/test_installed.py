"""A wheel that is made of the source distribution runs on a machine that has no clone."""

from __future__ import annotations

import os
import site
import subprocess
import sys
from pathlib import Path

import pytest

from tests.makers import write_config

ROOT = Path(__file__).parents[2]


def output(*command: str, cwd: Path) -> str:
    environment = {k: v for k, v in os.environ.items() if k not in ("RAY_ADDRESS", "PYTHONPATH")}
    done = subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-1500:] + done.stderr[-1500:]
    return done.stdout


@pytest.mark.slow
def test_a_wheel_runs_without_the_clone(tmp_path: Path) -> None:
    dist, venv, empty = tmp_path / "dist", tmp_path / "venv", tmp_path / "empty"
    empty.mkdir()
    output(sys.executable, "-m", "build", "--outdir", str(dist), str(ROOT), cwd=empty)
    (wheel,) = dist.glob("*.whl")
    output(sys.executable, "-m", "venv", str(venv), cwd=empty)
    (packages,) = venv.glob("lib/python*/site-packages")
    (packages / "dependencies.pth").write_text("\n".join(site.getsitepackages()))  # not installed once more
    output(str(venv / "bin/python"), "-m", "pip", "install", "--no-deps", "--quiet", str(wheel), cwd=empty)
    home = output(str(venv / "bin/python"), "-c", "import stillhouse; print(stillhouse.__file__)", cwd=empty)
    assert home.startswith(str(packages))
    assert output(str(venv / "bin/stillhouse"), "--version", cwd=empty).startswith("stillhouse ")
    listed = output(str(venv / "bin/stillhouse"), "examples", cwd=empty).splitlines()
    names = sorted(path.parent.name for path in ROOT.glob("examples/*/config.yaml"))
    assert [line.split()[0] for line in listed] == names
    assert any(line.startswith("speech") and line.endswith("(prepare.py first)") for line in listed)
    output(str(venv / "bin/stillhouse"), "examples", "tabular", cwd=empty)
    assert (empty / "tabular/letters.npz").read_bytes() == (ROOT / "examples/tabular/letters.npz").read_bytes()
    config = write_config(tmp_path / "own")
    shown = output(str(venv / "bin/stillhouse"), "run", str(config), cwd=empty)
    assert "student" in shown and (tmp_path / "own/runs/small/report.json").exists()
