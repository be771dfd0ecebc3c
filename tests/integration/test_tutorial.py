"""docs/TUTORIAL.md does what it says: its own blocks of code are executed in their order."""

from __future__ import annotations

import json
import os
import re
import shlex
import sys
from pathlib import Path

import pytest

from orchestrator.cli.command import COMMANDS
from orchestrator.reporting import report
from tests import commands

PAGE = Path(__file__).parents[2] / "docs" / "TUTORIAL.md"
LANGUAGES = {"sh": ["bash", "-e", "-c"], "python": [sys.executable, "-c"]}


def blocks() -> list[tuple[str, str]]:
    """The language and the text of each block that is executed."""
    return re.findall(r"^```(sh|python)\n(.*?)^```$", PAGE.read_text(), re.MULTILINE | re.DOTALL)


def without_guess(text: str) -> str:
    """A text without the accuracy of a guessed network: processors round differently as they train its weights."""
    return re.sub(r"right in [0-9.]+%", "right in N%", text)


def test_its_commands_are_known() -> None:
    lines = [shlex.split(line) for language, block in blocks() if language == "sh" for line in block.splitlines()]
    assert [line[1] for line in lines] == ["init", "doctor", "run", "worth", "export"]
    assert {line[1] for line in lines} <= {*COMMANDS}


@pytest.mark.slow
def test_its_blocks_run_in_their_order(tmp_path: Path) -> None:
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    environment = commands.environment(PATH=path, OMP_NUM_THREADS="1")
    shown = [
        commands.output(*LANGUAGES[language], block, cwd=tmp_path, env=environment) for language, block in blocks()
    ]
    (said,) = re.findall(r"^```\n(Data: .*?)^```$", PAGE.read_text(), re.MULTILINE | re.DOTALL)
    assert [line for line in without_guess(said).splitlines() if line not in without_guess(shown[1])] == []
    found = report.load(str(tmp_path / "runs" / "turbines"))
    accuracy = {system.role: system.test.accuracy for system in found.systems if system.test is not None}
    assert min(accuracy["student"], accuracy["ensemble"]) > accuracy["baseline"]
    assert accuracy["student"] == pytest.approx(accuracy["ensemble"], abs=0.03), "a point on the page's processor"
    about = json.loads((tmp_path / "exported" / "export.json").read_text())
    assert about["measured"]["figures"]["accuracy"] == pytest.approx(accuracy["student"], abs=0.001)
