"""docs/TUTORIAL.md does what it says: its own blocks of code are executed in their order."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from orchestrator.cli.command import COMMANDS
from orchestrator.reporting import report

PAGE = Path(__file__).parents[2] / "docs" / "TUTORIAL.md"
LANGUAGES = {"sh": ["bash", "-e", "-c"], "python": [sys.executable, "-c"]}


def blocks() -> list[tuple[str, str]]:
    """The language and the text of each block that is executed."""
    return re.findall(r"^```(sh|python)\n(.*?)^```$", PAGE.read_text(), re.MULTILINE | re.DOTALL)


def test_its_commands_are_known() -> None:
    lines = [shlex.split(line) for language, block in blocks() if language == "sh" for line in block.splitlines()]
    assert [line[1] for line in lines] == ["init", "doctor", "run", "worth", "export"]
    assert {line[1] for line in lines} <= {*COMMANDS}


@pytest.mark.slow
def test_its_blocks_run_in_their_order(tmp_path: Path) -> None:
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    environment = {**os.environ, "PATH": path, "OMP_NUM_THREADS": "1"}
    environment.pop("RAY_ADDRESS", None)
    shown = []
    for language, block in blocks():
        done = subprocess.run(
            [*LANGUAGES[language], block], cwd=tmp_path, env=environment, capture_output=True, text=True
        )
        assert done.returncode == 0, f"{block}\n{done.stdout[-1500:]}{done.stderr[-1500:]}"
        shown.append(done.stdout)
    said = re.findall(r"^```\n(Data: .*?)^```$", PAGE.read_text(), re.MULTILINE | re.DOTALL)[0]
    assert [line for line in said.splitlines() if line not in shown[1]] == []
    found = report.load(str(tmp_path / "runs" / "turbines"))
    systems = {system.role: system.test.accuracy for system in found.systems if system.test is not None}
    assert systems["ensemble"] > systems["student"] > systems["baseline"]  # as the page promises
