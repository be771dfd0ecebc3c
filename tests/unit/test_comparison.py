"""Two runs beside each other: what they differ in, and whether their students' difference is resolved."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from orchestrator.cli import differences
from orchestrator.cli.command import main
from orchestrator.config.run_config import RunConfig
from orchestrator.observers import tracking_record
from orchestrator.reporting import sums
from orchestrator.reporting.content import Rows
from orchestrator.reporting.report import as_json
from tests.makers import write_config
from tests.reports import plain
from tests.unit.test_statistics import sums as of_right


def folder(place: Path, right: float, temperature: float, test: str = "abc", code: str = "1") -> str:
    """A run whose student is right for the first examples of 800."""
    place.mkdir()
    config = {"name": place.name, "storage": "x", "seed": 0, "distillation": {"temperature": temperature}}
    (place / "config.yaml").write_text(yaml.safe_dump(config))
    splits = [{"name": "train", "digest": "f00", "source_type": "local", "source": "{}", "profile": "{}"}]
    tags = {"stillhouse.version": "0.1.0", "stillhouse.code.student": code, "mlflow.user": place.name}
    record = {"request": "0123456789abcdef", "tags": tags, "datasets": splits}
    (place / "tracking.json").write_text(json.dumps(record))
    sums.write(str(place), {"student": of_right(np.arange(800) < 800 * right)}, test)
    return str(place)


def differing(one: str, other: str) -> Rows:
    return differences.differing(one, other, plain(), plain())


def test_sums_are_read_as_they_were_written(tmp_path: Path) -> None:
    place = folder(tmp_path / "a", 0.9, 2.0)
    found, test = sums.read(place)
    np.testing.assert_array_equal(found["student"], of_right(np.arange(800) < 720))
    assert test == "abc" and sums.read(str(tmp_path)) == ({}, "")


def test_students_of_the_same_test_examples_are_compared_in_pairs(tmp_path: Path) -> None:
    one, better = folder(tmp_path / "a", 0.90, 2.0), folder(tmp_path / "b", 0.93, 4.0)
    hardly, elsewhere = folder(tmp_path / "c", 0.90125, 2.0), folder(tmp_path / "d", 0.93, 2.0, test="def")
    found = sums.students([one, better, hardly, elsewhere, str(tmp_path)])
    assert found[0] is not None and found[0].resolved and found[0].accuracy == pytest.approx(0.03)
    assert found[0].interval is not None and found[0].interval.error < 0.007  # unpaired it would be 0.014
    assert found[1] is not None and not found[1].resolved and found[2] is None and found[3] is None
    words = differences.verdict("a", "b", found[0])
    assert (
        words.startswith("The student of b over that of a: +3.00 points (95% interval +")
        and "which is resolved" in words
    )
    assert "test examples would resolve it" in differences.verdict("a", "c", found[1])
    assert "their test examples differ" in differences.verdict("a", "d", None)


def test_what_differs_is_listed_without_names_and_places(tmp_path: Path) -> None:
    one, other = folder(tmp_path / "a", 0.9, 2.0), folder(tmp_path / "b", 0.9, 4.0, code="2")
    assert differing(one, other) == [["code.student", "1", "2"], ["distillation.temperature", "2.0", "4.0"]]
    assert differing(one, one) == []


def test_versions_of_packages_are_among_what_differs(tmp_path: Path) -> None:
    one, other = folder(tmp_path / "a", 0.9, 2.0), folder(tmp_path / "b", 0.9, 2.0)
    reports = [plain(origin={"versions": {"torch": torch, "ray": "2.60.0"}}) for torch in ("2.13.0", "2.14.0")]
    assert differences.differing(one, other, *reports) == [["version of torch", "2.13.0", "2.14.0"]]


OWN: list[tuple[str, dict[str, Any]]] = [
    ("data", {"data__augment": {"factory": "mine:made"}}),
    ("ensemble", {"ensemble__weights": {"factory": "mine:made"}}),
    ("distillation", {"distillation": {"objective": [{"term": "mine:made"}]}}),
    (
        "student",
        {"student": {"model": {"kind": "sklearn", "factory": "models:mlp"}, "training": {"fit": "mine:made"}}},
    ),
    ("evaluation", {"evaluation__metrics": [{"factory": "mine:made"}]}),
]
"""Code of the user's beside that of the models, by the section that names it."""


@pytest.mark.parametrize(("section", "changes"), OWN)
def test_code_of_any_section_is_on_record(section: str, changes: dict[str, Any], tmp_path: Path) -> None:
    path, code, found = write_config(tmp_path, **changes), tmp_path / "mine.py", []
    for content in ("def made(): return 1\n", "def made(): return 2\n"):
        code.write_text(content)
        found.append(tracking_record._tags(RunConfig.load(str(path))))
    before, after = found
    assert {name for name in before if before[name] != after[name]} == {f"{tracking_record.CODE}{section}"}
    assert {f"{tracking_record.CODE}ensemble", f"{tracking_record.CODE}student"} <= before.keys() == after.keys()


def test_of_long_values_the_part_is_shown_in_which_they_differ(tmp_path: Path) -> None:
    one, other = folder(tmp_path / "a", 0.9, 2.0), folder(tmp_path / "b", 0.9, 2.0)
    long = "/home/someone/projects/distillation/experiments/digits/data/of/the/year/"
    for place, name in ((one, "first.npz"), (other, "second.npz")):
        config = yaml.safe_load((Path(place) / "config.yaml").read_text())
        (Path(place) / "config.yaml").write_text(yaml.safe_dump(config | {"data": {"train": long + name}}))
    ((key, before, after),) = differing(one, other)
    assert key == "data.train" and before.endswith("/year/first.npz") and after.endswith("/year/second.npz")
    assert before.startswith("...") and max(len(before), len(after)) <= differences.MOST + 6
    assert differences._short("x" * 200, "y" * 200) == ["x" * differences.MOST + "...", "y" * differences.MOST + "..."]


def test_long_values_are_compared_to_their_end(tmp_path: Path) -> None:
    one, other = folder(tmp_path / "a", 0.9, 2.0), folder(tmp_path / "b", 0.9, 2.0)
    for place, last in ((one, "x"), (other, "y")):
        config = yaml.safe_load((Path(place) / "config.yaml").read_text())
        checkpoints = [f"checkpoints/seed-{k}/model.safetensors" for k in range(40)] + [last]
        (Path(place) / "config.yaml").write_text(yaml.safe_dump(config | {"ensemble": {"members": checkpoints}}))
    ((key, before, after),) = differing(one, other)
    assert key == "ensemble.members" and before.endswith("'x']") and after.endswith("'y']")


def test_runs_of_the_same_name_are_distinguished_by_their_folders(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    runs = []
    for place, right in (("a", 0.9), ("b", 0.93)):
        (tmp_path / place).mkdir()
        runs.append(folder(tmp_path / place / "digits", right, 100 * right))
        (Path(runs[-1]) / "report.json").write_text(as_json(plain(name="digits")))
    assert main(["compare", *runs]) == 0
    told = "".join(capsys.readouterr().out.split())
    assert f"Thestudentof{runs[1]}overthatof{runs[0]}:+3.00points" in told
