"""A wheel that is made of the source distribution runs on a machine that has no clone."""

from __future__ import annotations

import shutil
import site
import sys
from pathlib import Path

import pytest

from tests import commands
from tests.makers import write_config

ROOT = Path(__file__).parents[2]
PACKED = ("orchestrator", "workers", "examples", "stillhouse.py", "pyproject.toml", "README.md", "LICENSE")
"""What a distribution is made of."""


def output(*command: object, cwd: Path) -> str:
    """What a command writes that does not find the clone by PYTHONPATH."""
    variables = {key: value for key, value in commands.environment().items() if key != "PYTHONPATH"}
    return commands.output(*command, cwd=cwd, env=variables)


def copied(place: Path) -> Path:
    """A copy of the clone, since a build writes beside the sources."""
    place.mkdir()
    for name in PACKED:
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, place / name, ignore=shutil.ignore_patterns("__pycache__", "runs", "mlruns"))
        else:
            shutil.copy(ROOT / name, place)
    return place


@pytest.mark.slow
def test_a_wheel_runs_without_the_clone(tmp_path: Path) -> None:
    dist, venv, empty = tmp_path / "dist", tmp_path / "venv", tmp_path / "empty"
    empty.mkdir()
    # Without isolation, which would fetch setuptools from an index.
    output(sys.executable, "-m", "build", "--no-isolation", "--outdir", dist, copied(tmp_path / "clone"), cwd=empty)
    (wheel,) = dist.glob("*.whl")
    output(sys.executable, "-m", "venv", venv, cwd=empty)
    (packages,) = venv.glob("lib/python*/site-packages")
    (packages / "dependencies.pth").write_text("\n".join(site.getsitepackages()))  # not installed once more
    output(venv / "bin/python", "-m", "pip", "install", "--no-deps", "--quiet", wheel, cwd=empty)
    home = output(venv / "bin/python", "-c", "import stillhouse; print(stillhouse.__file__)", cwd=empty)
    assert home.startswith(str(packages))
    assert output(venv / "bin/stillhouse", "--version", cwd=empty).startswith("stillhouse ")
    listed = output(venv / "bin/stillhouse", "examples", cwd=empty).splitlines()
    names = sorted(path.parent.name for path in ROOT.glob("examples/*/config.yaml"))
    assert [line.split()[0] for line in listed] == names
    assert any(line.startswith("speech") and line.endswith("(prepare.py first)") for line in listed)
    output(venv / "bin/stillhouse", "examples", "tabular", cwd=empty)
    assert (empty / "tabular/letters.npz").read_bytes() == (ROOT / "examples/tabular/letters.npz").read_bytes()
    config = write_config(tmp_path / "own")
    shown = output(venv / "bin/stillhouse", "run", config, cwd=empty)
    assert "student" in shown and (tmp_path / "own/runs/small/report.json").exists()
