"""The commands in the READMEs of examples: each names a file beside it that loads with its settings."""

from __future__ import annotations

import itertools
import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest

from orchestrator.config.run_config import RunConfig

EXAMPLES = Path(__file__).parents[2] / "examples"
LATER = re.compile(r"FOLDER|\$|\.\.\.")
"""What a reader fills in."""


def commands(readme: Path) -> Iterator[list[str]]:
    """The words of each command in a README's blocks, of one line or several."""
    is_fenced, begun = False, ""
    for line in readme.read_text(encoding="utf-8").splitlines():
        is_fenced ^= line.startswith("```")
        if not begun and not is_fenced and not line.startswith("    "):
            continue
        begun += line.strip().removesuffix("\\") + " "
        try:
            words = shlex.split(begun, comments=True)
        except ValueError:  # a quotation that goes on in the next line
            continue
        if not line.endswith("\\"):
            begun = ""
            yield from [words] if words else []


def asked(readme: Path) -> list[tuple[str, tuple[str, ...]]]:
    """File and settings of each `stillhouse run` and `stillhouse sweep`."""
    found = []
    for words in commands(readme):
        if words[:2] in (["stillhouse", "run"], ["stillhouse", "sweep"]):
            settings = tuple(value for option, value in itertools.pairwise(words) if option == "--set")
            found.append((words[2], settings))
    return found


@pytest.mark.parametrize("readme", sorted(EXAMPLES.glob("*/README.md")), ids=lambda path: path.parent.name)
def test_commands_of_a_readme(readme: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(readme.parent)
    known = [each for each in asked(readme) if not LATER.search(" ".join([each[0], *each[1]]))]
    assert known
    for file, settings in known:
        RunConfig.load(file, settings)
    first = next(words for words in commands(readme) if words[0] in ("cd", "stillhouse"))
    assert first[0] == "cd" and (EXAMPLES.parent / first[1]).is_dir()


def test_a_command_of_several_lines(tmp_path: Path) -> None:
    readme = tmp_path / "README.md"
    readme.write_text(
        "Text.\n\n    pip install x  # once\n    stillhouse run a.yaml --set a=1 \\\n"
        '        --set "b={c: 1,\n      d: 2}"\n\n```\nstillhouse sweep b.yaml --over e=1,2\n```\n'
    )
    assert [(file, [" ".join(each.split()) for each in settings]) for file, settings in asked(readme)] == [
        ("a.yaml", ["a=1", "b={c: 1, d: 2}"]),
        ("b.yaml", []),
    ]
