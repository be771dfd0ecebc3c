"""Several students of the same soft targets: the configuration, the front, and their systems in one report."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from orchestrator.config.run_config import RunConfig
from orchestrator.observers import layout
from orchestrator.reporting import several, tables, verdict
from orchestrator.reporting.report import System
from orchestrator.stages import preflight
from tests.makers import settings, write_config
from tests.reports import difference, full, plain, system
from workers.errors import RequestError


def several_settings(folder: Path, **changes: Any) -> Path:
    student = settings(folder)["student"]
    wide = {**student, "model": {**student["model"], "kwargs": {"hidden": 32}}}
    return write_config(folder, **{"student": None, "students": {"small": student, "wide": wide}} | changes)


def test_the_first_is_the_runs_own(tmp_path: Path) -> None:
    config = RunConfig.load(str(several_settings(tmp_path)))
    assert config.students is not None and config.student == config.students["small"]
    (other,) = config.of_students().values()
    assert other.name == f"{config.name}-wide" and other.students is None
    assert other.student == config.students["wide"] and other.ensemble == config.ensemble
    path = tmp_path / "again.yaml"
    path.write_text(config.to_redacted_yaml())
    assert RunConfig.load(str(path)) == config
    changed = RunConfig.load(str(path), ["students.small.num_workers=2"])
    assert changed.student.num_workers == 2 and changed.student == (changed.students or {})["small"]
    with pytest.raises(RequestError, match=r"`students` takes the place of `student`.*`students\.small\.num_workers`"):
        RunConfig.load(str(path), ["student.num_workers=2"])
    assert RunConfig.load(str(write_config(tmp_path))).of_students() == {}


@pytest.mark.parametrize("first", ["small", "wide"])
def test_a_runs_own_configuration_is_loaded_again(first: str, tmp_path: Path) -> None:
    """As a run writes it, with the classes of its data in every model."""
    student = settings(tmp_path)["student"]
    of = {"kind": "transformers", "tokenizer": "tokenizer"}
    several = {
        name: {**student, "model": {**of, "config": {"model_type": "bert", "hidden_size": size}}}
        for name, size in (("small", 16), ("wide", 32))
    }
    order = sorted(several, key=lambda name: name != first)
    values = settings(tmp_path, student=None, students={name: several[name] for name in order})
    config = RunConfig.from_mapping(values, str(tmp_path)).for_classes(3, ("a", "b", "c"))
    again = tmp_path / "again.yaml"
    again.write_text(config.to_redacted_yaml())
    found = RunConfig.load(str(again))
    assert found == config and [*(found.students or {})] == [*(config.students or {})]
    assert {getattr(each.model, "classes", None) for each in (config.students or {}).values()} == {3}


WRONG: list[tuple[dict[str, Any], str]] = [
    ({"students": {}}, "`students` is empty"),
    ({"students__Big": {}}, "students"),
    ({"students__wide__model__kwarg": 1}, "students.wide.model.kwarg: unknown key; did you mean 'kwargs'"),
    (
        {"students__wide__stages": [{"name": "a", "soft_weight": 0, "hard_weight": 0}]},
        r"students\.wide\.stages\.0 \('a'\): .*both 0",
    ),
    ({"students__wide__stages": [{"name": "a", "objective": []}]}, r"students\.wide\.stages\.0 .*`objective` is empty"),
    ({"students__wide__model__special": {"classes": [0]}}, r"`students\.wide\.model\.special` is given"),
    ({"evaluation__systems": {"old": {"model": {"kwarg": 1}}}}, "evaluation.systems.old.model"),
]


def test_a_student_may_have_the_name_of_a_key_of_code(tmp_path: Path) -> None:
    student = settings(tmp_path)["student"]
    config = RunConfig.load(str(write_config(tmp_path, student=None, students={"factory": student})))
    assert config.students is not None and [*config.students] == ["factory"]


@pytest.mark.parametrize(("changes", "expected"), WRONG)
def test_wrong_settings_of_several_students_are_refused(changes: dict[str, Any], expected: str, tmp_path: Path) -> None:
    with pytest.raises(RequestError, match=expected):
        RunConfig.load(str(several_settings(tmp_path, **changes)))


LATE = "class Late:\n    def __call__(self, done):\n        return 1.0 if done < 0.5 else -1.0\n"


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        (
            {"students__wide__training": {"epochs": 2, "batch_size": 64, "schedule": "late:Late"}},
            r"^students\.wide: student\.training\.schedule: its schedule gives -1 ",
        ),
        (
            {"students__wide__stages": [{"name": "a", "objective": [{"term": "sof"}]}]},
            r"^students\.wide: student\.stages\.0\.objective: ",
        ),
    ],
)
def test_what_a_further_student_learns_by_is_tried_before_the_first_run(
    changes: dict[str, Any], expected: str, tmp_path: Path
) -> None:
    path = several_settings(tmp_path, **changes)
    (tmp_path / "late.py").write_text(LATE)
    with pytest.raises(RequestError, match=expected):
        preflight.check_further(RunConfig.load(str(path)))


def test_both_forms_at_once(tmp_path: Path) -> None:
    student = settings(tmp_path)["student"]
    other = {**student, "num_workers": 2}
    with pytest.raises(RequestError, match="`students` takes the place of `student`"):
        RunConfig.load(str(several_settings(tmp_path, student=other)))


def made(accuracy: float, p99: float, parameters: int) -> System:
    of = System.model_validate(system("student", "student", accuracy))
    return of.model_copy(update={"parameters": parameters, "latency_ms": of.latency_ms.model_copy(update={"p99": p99})})


FRONTS = [
    ([(0.9, 1.0, 10)], [True]),
    ([(0.9, 1.0, 10), (0.8, 2.0, 20)], [True, False]),
    ([(0.9, 2.0, 20), (0.8, 1.0, 10)], [True, True]),
    ([(0.9, 1.0, 10), (0.9, 1.0, 10)], [True, True]),  # equal ones do not beat each other
    ([(0.9, 1.0, 10), (0.9, 1.0, 11)], [True, False]),
]


@pytest.mark.parametrize(("figures", "expected"), FRONTS)
def test_the_front_has_each_student_that_no_other_surpasses(
    figures: list[tuple[float, float, int]], expected: list[bool]
) -> None:
    assert several.pareto([made(*each) for each in figures]) == expected


def test_one_report_has_all_systems() -> None:
    own, other = plain(resolved=True), plain(resolved=False)
    found = several.merged(own, "small", {"tiny": other})
    assert [s.name for s in found.systems if s.role in ("baseline", "student")] == [
        "baseline", "student", "baseline-tiny", "student-tiny"
    ]  # fmt: skip
    assert found.system("student") == own.system("student")
    assert [(each.name, each.student, each.baseline) for each in found.students] == [
        ("small", "student", "baseline"),
        ("tiny", "student-tiny", "baseline-tiny"),
    ]
    assert [each.resolved for each in found.students] == [True, False]
    header, *rows = tables.front(found)
    assert len(rows) == 2 and all(len(row) == len(header) for row in rows)
    assert tables.front(own) == []


def test_each_student_has_the_intervals_of_its_own_report() -> None:
    """On a terminal of 80 columns, in two parts that keep each figure and its interval together."""
    other = full(differences=[difference("student", "baseline", 4.0, (1.0, 7.0))], gain_transferred_interval=None)
    header, *rows = found = tables.front(several.merged(full(), "small", {"tiny": other}))
    assert header[5:9] == ["over its baseline", "95% interval", "gain transferred", "95% interval"]
    assert [row[5:9] for row in rows] == [
        ["+4.00", "+2.00 to +6.00", "66.7%", "40.0% to 90.0%"],
        ["+4.00", "+1.00 to +7.00", "66.7%", "-"],
    ]
    assert [[column.number for column in part] for part in layout.parts(found, 80)] == [[*range(7)], [0, 7, 8, 9, 10]]


@pytest.mark.parametrize(
    ("interval", "expected"), [((0.5, 8.0), "66.7%"), ((-1.0, 8.0), "not resolved"), (None, "not resolved")]
)
def test_the_share_of_a_student_is_shown_as_in_its_own_report(
    interval: tuple[float, float] | None, expected: str
) -> None:
    """Also where it has no interval: its bound may be infinite, or the test examples too few."""
    report = plain(differences=[difference("ensemble", "baseline", 3.0, interval)])
    _, *rows = tables.front(several.merged(report, "small", {"tiny": report}))
    assert [row[7] for row in rows] == [expected, expected]
    cell = verdict.transferred(tables.accuracies(report))
    assert cell == expected
