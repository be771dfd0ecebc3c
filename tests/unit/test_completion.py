"""Completion in shells, and in editors by the schema."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from orchestrator.cli.command import COMMANDS, main
from orchestrator.config import reference
from workers.losses import TERMS
from workers.training.schedules import SCHEDULES

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("shell", ["bash", "zsh", "tcsh"])
def test_a_shell_gets_the_commands(shell: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["--print-completion", shell])
    script = capsys.readouterr().out
    assert ended.value.code == 0 and all(name in script for name in COMMANDS)


def test_bash_completes_files_and_folders(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["--print-completion", "bash"])
    (tmp_path / "completion").write_text(capsys.readouterr().out)
    (tmp_path / "config.yaml").write_text("")
    (tmp_path / "runs" / "digits").mkdir(parents=True)

    def offered(*words: str) -> list[str]:
        line = " ".join(f"'{word}'" for word in words)
        script = (
            f"source completion; COMP_WORDS=({line}); COMP_CWORD={len(words) - 1}; "
            '_shtab_stillhouse; printf "%s\\n" "${COMPREPLY[@]}"'
        )
        done = subprocess.run(["bash", "-c", script], cwd=tmp_path, capture_output=True, text=True, check=True)
        return done.stdout.split()

    assert offered("stillhouse", "wor") == ["worth"]
    assert offered("stillhouse", "run", "con") == ["config.yaml"]
    assert offered("stillhouse", "report", "runs/") == ["runs/digits"]
    assert offered("stillhouse", "report", "con") == []


def test_shtab_is_imported_for_completion_alone() -> None:
    code = "import sys; from orchestrator.cli.command import main\ntry: main(['--help'])\nexcept SystemExit: pass\n"
    done = subprocess.run(
        [sys.executable, "-c", code + "print('shtab' in sys.modules)"], capture_output=True, text=True
    )
    assert done.stdout.splitlines()[-1] == "False"


def wrong(values: Any) -> list[str]:
    """What an editor underlines, as `a.b: message`."""
    checked = jsonschema.Draft202012Validator(reference.schema())
    return [f"{'.'.join(map(str, e.absolute_path))}: {e.message}" for e in checked.iter_errors(values)]


@pytest.mark.parametrize(
    "path", sorted(ROOT.glob("examples/*/*.yaml")), ids=lambda path: f"{path.parent.name}-{path.stem}"
)
def test_the_schema_accepts_the_examples(path: Path) -> None:
    assert wrong(yaml.safe_load(path.read_text())) == []


TYPOS: dict[str, tuple[tuple[str, ...], Any]] = {
    "ensemble": (("ensemble", "siez"), 3),
    "student.training": (("student", "training", "epohcs"), 3),
    "data.kind": (("data", "kind"), "npy"),
    "distillation": (("distillation", "temprature"), 2.0),
    "": (("sede",), 1),
}


@pytest.mark.parametrize("place", TYPOS)
def test_the_schema_refuses_a_typo(place: str) -> None:
    values = yaml.safe_load((ROOT / "examples/mnist/config.yaml").read_text())
    (*parents, key), value = TYPOS[place]
    inner = values
    for parent in parents:
        inner = inner[parent]
    inner[key] = value
    (found,) = wrong(values)
    assert found.startswith(f"{place}: ")


def test_editors_offer_values_and_show_defaults() -> None:
    definitions = reference.schema()["$defs"]
    training = definitions["TrainingSpec"]["properties"]
    assert training["schedule"]["anyOf"][0]["enum"] == ["constant", "cosine", "linear"]
    assert training["batch_size"]["default"] == 256 and "over all workers" in training["batch_size"]["description"]
    assert definitions["TermSpec"]["properties"]["term"]["examples"] == [*TERMS]
    assert definitions["ScheduleSpec"]["properties"]["schedule"]["examples"] == [*SCHEDULES]
    kinds = definitions["DataSpec"]["properties"]["kind"]["anyOf"][0]["enum"]
    assert "table" in kinds and "images" in kinds


def test_one_student_or_several() -> None:
    values = yaml.safe_load((ROOT / "examples/mnist/config.yaml").read_text())
    student = values.pop("student")
    assert wrong(values) == [f": {values} is not valid under any of the given schemas"]
    assert wrong({**values, "students": {"small": student}}) == []


def test_short_forms_are_known() -> None:
    values = yaml.safe_load((ROOT / "examples/mnist/config.yaml").read_text())
    values["distillation"] = {"temperature": {"from": 4.0, "to": 1.0}, "objective": [{"term": "soft"}]}
    values["ensemble"]["weights"] = "validation"
    assert wrong(values) == []
