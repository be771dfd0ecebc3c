"""The page of the papers' experiments: figures of reports, their mean and spread, and what is not measured."""

from __future__ import annotations

import base64
import itertools
import json
import math
import re
import shlex
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from benchmarks import reproduce, reproductions, reproductions_page
from benchmarks.reproductions import Experiments, Measured, Row
from orchestrator.config import loading
from orchestrator.config.run_config import RunConfig
from orchestrator.reporting import report as reports
from orchestrator.reporting import sums, sweeps
from orchestrator.reporting.report import DrawnFigure, Report, as_json
from orchestrator.reporting.sweeps import SweptRun
from orchestrator.run_folder.paths import RunFolder
from tests.reports import full, plain
from tests.unit.test_statistics import sums as of_right
from workers import storage
from workers.training.loop import Epoch

FIGURES = {
    "ensemble.accuracy": "99%",
    "student - baseline": "+2.31",
    "student / ensemble": "97%",
    "student.p99_ms": "10",
}


def row(**changes: Any) -> Row:
    values: dict[str, Any] = {
        "name": "digits",
        "paper": "a paper",
        "holds": "it holds",
        "commands": ["stillhouse run config.yaml"],
    }
    values |= {"run": "small", "figures": FIGURES} | changes
    of = {name: {"paper": each} if isinstance(each, str) else each for name, each in values["figures"].items()}
    return Row.model_validate({**values, "figures": of})


def page(rows: list[Row], kept: dict[str, Measured]) -> str:
    return reproductions_page.page(Experiments(variables={"DATA": "", "MORE": "--set x=$DATA"}, rows=rows), kept)


def written(folder: Path, name: str, report: Report) -> None:
    storage.write_text(RunFolder(str(folder / name)).report, as_json(report))


def test_a_run_of_one_seed(tmp_path: Path) -> None:
    assert reproductions.measured(row(), str(tmp_path), 2) is None
    report = plain(members=(0.94, 0.95))
    written(tmp_path, "small", report)
    found = reproductions.measured(row(), str(tmp_path), 2)
    assert found is not None
    accuracy = {role: report.system(role).test.accuracy for role in reports.COMPARED}
    assert found.values["ensemble.accuracy"] == [accuracy["ensemble"]]
    assert found.values["student - baseline"] == [pytest.approx(accuracy["student"] - accuracy["baseline"])]
    assert found.values["student / ensemble"] == [pytest.approx(accuracy["student"] / accuracy["ensemble"])]
    text = page([row(), row(name="other")], {"digits": found})
    assert (
        f"| ensemble.accuracy | 99% | {accuracy['ensemble']:.2%} |" in text and "1 seed, 0 minutes on 2 cores, " in text
    )
    assert "a paper: it holds." in text and "    stillhouse run config.yaml" in text
    assert text.index("## other") < text.index("Not measured yet.")


def test_a_figure_of_training_is_of_its_last_epoch() -> None:
    epochs = [{"epoch": k, "train_loss": 1.0, "validation_accuracy": 0.5, "train_accuracy": k / 4} for k in (1, 2, 3)]
    report = plain(training={"student": epochs, "baseline": [{**epochs[0], "train_accuracy": None}]})
    assert reproductions.figure(report, "student.train_accuracy") == 0.75
    for name in ("baseline", "ensemble"):  # measured by an earlier version, and no training of its own
        with pytest.raises(LookupError, match=f"'{name}' of 'small' has no figure 'train_accuracy'"):
            reproductions.figure(report, f"{name}.train_accuracy")


def test_several_seeds_have_a_mean_and_a_spread(tmp_path: Path) -> None:
    first = plain(members=(0.94, 0.95))
    shifted = [0.0, 0.01, 0.02]
    names = ["small", "small-seed-1", "small-seed-2"]
    seeds = [reports.of_seed(first).model_copy(update={"run": name, "seed": k}) for k, name in enumerate(names)]
    for name, shift in zip(names, shifted, strict=True):
        systems = [
            each.model_copy(update={"test": each.test.model_copy(update={"accuracy": each.test.accuracy + shift})})
            if each.role == "ensemble"
            else each
            for each in first.systems
        ]
        changed = {"systems": systems, "seeds": seeds, "name": name, "seed": names.index(name)}
        written(tmp_path, name, first.model_copy(update=changed))
    found = reproductions.measured(row(), str(tmp_path), 2)
    assert found is not None and len(found.values["ensemble.accuracy"]) == 3
    mean = first.system("ensemble").test.accuracy + 0.01
    half = 4.302653 * 0.01 / 3**0.5  # Student's t of two degrees of freedom
    expected = f"| {mean:.2%} | {mean - half:.2%} to {mean + half:.2%} | seeds | 1.00% |"
    assert expected in page([row()], {"digits": found})


def test_two_runs_are_combined_seed_by_seed(tmp_path: Path) -> None:
    """The README's command of one of them may have run for fewer seeds, or for others."""
    first = plain(members=(0.94, 0.95))
    for name, seeds in (("small", (0, 1, 2)), ("other", (2, 1))):
        names = {seed: name if seed == seeds[0] else f"{name}-seed-{seed}" for seed in seeds}
        every = [reports.of_seed(first).model_copy(update={"run": run, "seed": k}) for k, run in names.items()]
        for seed, run in names.items():
            shift = seed / 100 if name == "small" else seed / 1000
            systems = [
                each.model_copy(update={"test": each.test.model_copy(update={"accuracy": 0.5 + shift})})
                for each in first.systems
            ]
            written(
                tmp_path, run, first.model_copy(update={"systems": systems, "seeds": every, "name": run, "seed": seed})
            )
    of = row(figures={"student - other:student": "", "student.accuracy": ""})
    found = reproductions.measured(of, str(tmp_path), 2)
    assert found is not None and found.values["student.accuracy"] == pytest.approx([0.5, 0.51, 0.52])
    assert found.seeds == {"student - other:student": [1, 2], "student.accuracy": [0, 1, 2]}
    assert found.values["student - other:student"] == pytest.approx([0.009, 0.018])


def test_a_ratio_of_differences_and_the_most_accurate_member(tmp_path: Path) -> None:
    report = plain(members=(0.94, 0.95)).model_copy(update={"best_member": "member-0"})
    written(tmp_path, "small", report)
    names = ["(student - baseline) / (small:ensemble - baseline)", "ensemble - most accurate member"]
    of = row(figures={name: {"expected": "> 0.5" if "/" in name else "> 0"} for name in names})
    found = reproductions.measured(of, str(tmp_path), 2)
    accuracy = {each.name: each.test.accuracy for each in report.systems}
    assert accuracy["member-1"] > accuracy["member-0"] and found is not None
    recovered = (accuracy["student"] - accuracy["baseline"]) / (accuracy["ensemble"] - accuracy["baseline"])
    assert found.values[names[0]] == [pytest.approx(recovered)]
    assert found.values[names[1]] == [pytest.approx(accuracy["ensemble"] - accuracy["member-1"])]
    assert f"| [digits](#digits) | {names[0]} > 50% |  | {recovered:.2%} |" in page([of], {"digits": found})


def test_a_variable_that_is_not_set(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.delenv("MNIST", raising=False)
    monkeypatch.setattr("sys.argv", ["reproduce", "omitted-class", "tabular"])
    monkeypatch.setattr(reproduce, "run", lambda command, folder: pytest.fail(command))
    with pytest.raises(SystemExit, match="2"):
        reproduce.main()
    assert "MNIST: not set; expected a folder" in capsys.readouterr().err


def test_a_trial_of_one_seed_does_not_replace_three(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    kept = {"digits": Measured(date="2026-01-01", minutes=1.0, cores=2, values={"ensemble.accuracy": [0.5, 0.6, 0.7]})}
    rows, page_file, figures = tmp_path / "rows.yaml", tmp_path / "PAGE.md", tmp_path / "figures.json"
    of = row(figures={"ensemble.accuracy": {}, "student.accuracy": {}})  # the second one has been added since
    rows.write_text(yaml.safe_dump(Experiments(variables={}, rows=[of]).model_dump()))
    for name, value in {"ROWS": rows, "KEPT": figures, "PAGE": page_file, "PICTURES": tmp_path / "pictures"}.items():
        monkeypatch.setattr(reproduce, name, value)
    monkeypatch.setattr("sys.argv", ["reproduce", "--runs", str(tmp_path)])
    written(tmp_path, "small", plain(members=(0.94, 0.95)))
    for seeds, stays in ((3, True), (1, False)):
        kept["digits"].values["ensemble.accuracy"] = [0.5, 0.6, 0.7][:seeds]
        figures.write_text(reproduce.as_text(kept))
        reproduce.main()
        assert ("fewer seeds of 'ensemble.accuracy'" in capsys.readouterr().out) is stays
        assert ("0.5" in figures.read_text()) is stays and page_file.read_text()


def test_minutes_count_each_training_once() -> None:
    def spent(**hours: float) -> dict[str, Any]:
        return {name: {"core_hours": each, "gpu_hours": 0.0} for name, each in hours.items()}

    def stages(reused: set[str], **seconds: float) -> list[dict[str, Any]]:
        return [{"name": name, "seconds": each, "reused": name in reused} for name, each in seconds.items()]

    first = plain(cost=spent(members=0.5, student=0.1), stages=stages({"members"}, members=0.1, student=240.0))
    other = stages({"members", "student"}, members=0.1, student=0.1, evaluation=60.0)
    again = plain(cost=spent(members=0.5, student=0.1), stages=other)
    assert reproductions.minutes([first, again], 2) == pytest.approx(15 + 4 + 1)  # half an hour of one core
    assert reproductions.minutes([again, first], 1) == pytest.approx(30 + 4 + 1)


def test_a_figure_that_is_not_there(tmp_path: Path) -> None:
    written(tmp_path, "small", plain(members=(0.94, 0.95)))
    with pytest.raises(LookupError, match="has no system 'tree'"):
        reproductions.measured(row(figures={"tree.accuracy": ""}), str(tmp_path), 2)


ASKED = Experiments.model_validate(yaml.safe_load(reproduce.ROWS.read_text()))


@pytest.mark.parametrize("each", ASKED.rows, ids=lambda each: each.name)
def test_commands_of_a_row_load_and_make_the_runs_of_its_figures(each: Row, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(each.folder)
    made = set()
    for command in each.commands:
        words = shlex.split(reproduce.expanded(command, {**ASKED.variables, "MNIST": "a", "FASHION": "b"}))
        if words[0] == "stillhouse":
            settings = tuple(value for option, value in itertools.pairwise(words) if option == "--set")
            made.add(RunConfig.load(words[2], settings).name + "-sweep" * (words[1] == "sweep"))
    assert {each.run, *(run for name in each.figures for run in reproductions.OTHER_RUN.findall(name))} <= made


def test_the_table_names_examples_and_their_commands() -> None:
    asked, rows = ASKED, ASKED.rows
    for each in rows:
        assert (each.folder / "config.yaml").is_file() and each.figures
        commands = reproduce.expanded(" ".join(each.commands), {**asked.variables, "MNIST": "a", "FASHION": "b"})
        assert "$" not in commands
        for word in commands.split():
            assert not word.endswith((".yaml", ".py")) or (each.folder / word).is_file()
    assert len({each.name for each in rows}) == len(rows)


def test_what_a_row_prepares_is_downloaded_before() -> None:
    for each in ASKED.rows:
        fetched: set[str] = set()
        for words in (command.split() for command in each.commands):
            if "download" in words:
                fetched.add(words[words.index("-d") + 1])
            if words[0] == "python":
                assert words[2] in fetched, f"{each.name}: '{' '.join(words)}' reads a folder that no command fills"


@pytest.mark.parametrize(
    ("expected", "bounds", "found"),
    [
        (">= 0.91", (0.91, 0.95), "yes"),
        (">= 0.91", (0.80, 0.91), "not resolved"),
        (">= 0.91", (0.80, 0.90), "no"),
        ("> 0", (0.0, 0.1), "not resolved"),
        ("> 0", (-0.1, 0.0), "no"),
        ("<= 10", (2.0, 3.0), "yes"),
        ("2.5 to 4", (2.5, 4.0), "yes"),
        ("2.5 to 4", (1.0, 1.0), "no"),
        ("2.5 to 4", (4.5, 8.0), "no"),
        ("2.5 to 4", (2.0, 3.0), "not resolved"),
        ("~ 0", (-0.1, 0.2), "not told apart"),
        ("~ 0", (0.1, 0.2), "no"),
    ],
)
def test_a_relation_from_the_range_of_its_figure(expected: str, bounds: tuple[float, float], found: str) -> None:
    assert reproductions_page.relation(expected).verdict(*bounds) == found


@pytest.mark.parametrize("text", ["", "0.9", ">= 2 to 4", "about 3"])
def test_a_text_that_is_no_relation(text: str) -> None:
    with pytest.raises(ValueError, match="is no relation; expected"):
        reproductions_page.relation(text)


def test_a_share_of_no_gain(tmp_path: Path) -> None:
    """The ensemble of one seed of three is no better than its baseline."""
    found = Measured(date="2026-01-01", minutes=1.0, cores=2, values={"gain_transferred": [0.9, float("nan"), 0.95]})
    kept = Measured.model_validate(json.loads(reproduce.as_text({"digits": found}))["digits"])
    text = page([row(figures={"gain_transferred": {"expected": ">= 0.91"}})], {"digits": kept})
    assert "| gain_transferred ≥ 91% |  | none in 1 of 3 seeds |  |  | not resolved |" in text and "nan" not in text


def test_relations_come_first(tmp_path: Path) -> None:
    report = plain(members=(0.94, 0.95))
    written(tmp_path, "small", report)
    written(tmp_path, "alone", report)
    asked = {
        "student - baseline": {"shown": "student over baseline, points", "paper": "+2.31", "expected": "> 0"},
        "alone:ensemble.accuracy": {"shown": "alone"},
        "missing:ensemble.accuracy": {"expected": ">= 0.5"},
        "student - alone:baseline": "",
        "alone:best member.nll - student.nll": "",
        "student - missing:baseline": "",
    }
    found = reproductions.measured(row(figures=asked), str(tmp_path), 2)
    assert found is not None and set(asked) - set(found.values) == {
        "missing:ensemble.accuracy",
        "student - missing:baseline",
    }
    assert found.values["student - alone:baseline"] == found.values["student - baseline"]
    best = reports.best_member(report)
    of = best.test.nll - report.system("student").test.nll
    assert found.values["alone:best member.nll - student.nll"] == [pytest.approx(of)]
    text = page([row(figures=asked)], {"digits": found})
    gain = found.values["student - baseline"][0]
    line = f"| [digits](#digits) | student over baseline, points > 0 | +2.31 | {100 * gain:+.2f} |  |  |"
    assert gain > 0 and f"{line} yes, one value |" in text
    assert "| missing:ensemble.accuracy ≥ 50% |  | | | | not measured |" in text
    assert '    DATA=...\n    MORE="--set x=$DATA"' in text


def swept(**values: Any) -> SweptRun:
    figures = {"validation_accuracy": values.pop("validation"), "student": values.pop("student")}
    return SweptRun(run="a", values=values, **figures)


def test_the_run_of_each_seed_that_is_best_on_validation() -> None:
    runs = [
        swept(T=1, hidden=30, **{"student.seed": 1}, validation=0.90, student=0.80),
        swept(T=1, hidden=30, **{"student.seed": 0}, validation=0.99, student=0.81),
        swept(T=4, hidden=30, **{"student.seed": 1}, validation=0.96, student=0.82),
        swept(T=4, hidden=30, **{"student.seed": 0}, validation=0.95, student=0.84),
        swept(T=20, hidden=800, **{"student.seed": 0}, validation=0.98, student=0.97),
        SweptRun(run="b", values={"T": 20, "hidden": 800, "student.seed": 1}, problem="no memory"),
    ]
    sweep = sweeps.collected("a-sweep", ["T", "hidden", "student.seed"], runs)
    best = {at: reproductions.best_runs(sweep, at) for at in ("hidden=30", "hidden=800", "")}
    assert {seed: run.values["T"] for seed, run in best["hidden=30"].items()} == {0: 1, 1: 4}
    assert {seed: run.student for seed, run in best["hidden=800"].items()} == {0: 0.97}
    assert {seed: run.student for seed, run in best[""].items()} == {0: 0.81, 1: 0.82}
    with pytest.raises(LookupError, match="'a-sweep' has no complete run at hidden=300"):
        reproductions.best_runs(sweep, "hidden=300")


def test_sweeps_are_combined_by_seed_and_without_failed_runs(tmp_path: Path) -> None:
    """The command of one of them names the seeds in another order; of each a run has failed."""
    accuracy = {"one": {2: 0.92, 1: 0.91, 0: 0.90}, "other": {0: 0.80, 2: 0.83}}
    for name, of_seeds in accuracy.items():
        runs = [SweptRun(run=f"{name}-failed", values={"student.seed": 3}, problem="no memory")]
        for seed, value in of_seeds.items():
            written(tmp_path, f"{name}-{seed}", plain({"baseline": 0.7, "ensemble": 0.95, "student": value}))
            values = {"student.seed": seed}
            runs.append(SweptRun(run=f"{name}-{seed}", values=values, validation_accuracy=0.9, student=value))
        record = sweeps.collected(f"{name}-sweep", ["student.seed"], runs).model_dump_json()
        storage.write_text(storage.join(str(tmp_path), f"{name}-sweep", sweeps.RECORD), record)
    of = row(run="one-sweep", figures={"student - other-sweep:student": "", "student.nll": ""})
    found = reproductions.measured(of, str(tmp_path), 2)
    assert found is not None and found.values["student - other-sweep:student"] == pytest.approx([0.10, 0.09])
    assert found.seeds == {"student - other-sweep:student": [0, 2], "student.nll": [0, 1, 2]}
    for name, message in {"best T": "no run of a sweep over T", "tree.nll": "no system 'tree'"}.items():
        with pytest.raises(LookupError, match=message):
            reproductions.measured(row(run="one-sweep", figures={name: ""}), str(tmp_path), 2)


def test_a_sweep_on_the_page(tmp_path: Path) -> None:
    names = {"a-1": 1.0, "a-20": 20.0}
    for name in names:
        written(tmp_path, name, plain(members=(0.94, 0.95)))
    runs = [SweptRun(run=name, values={"T": t}, validation_accuracy=t / 20, student=0.9) for name, t in names.items()]
    record = sweeps.collected("a-sweep", ["T"], runs).model_dump_json()
    storage.write_text(storage.join(str(tmp_path), "a-sweep", sweeps.RECORD), record)
    of = row(run="a-sweep", figures={"best T": "8 and above", "student.accuracy": ""}, note="Why it differs.")
    found = reproductions.measured(of, str(tmp_path), 2)
    assert found is not None and found.values == {"best T": [20.0], "student.accuracy": [0.94]}
    text = page([of], {"digits": found})
    assert "| best T | 8 and above | 20 |  |  |" in text and text.rstrip().endswith("Why it differs.")


def test_the_picture_of_an_experiment(tmp_path: Path) -> None:
    assert reproduce.picture(str(tmp_path / "none")) is None
    drawn = DrawnFigure(title="a tree", image=base64.b64encode(b"png").decode())
    written(tmp_path, "small", plain(figures=[drawn]))
    assert reproduce.picture(str(tmp_path / "small")) == b"png"
    written(tmp_path, "other", plain())
    assert reproduce.picture(str(tmp_path / "other")) is None


def test_ranges_over_test_examples(tmp_path: Path) -> None:
    """Of a report's own intervals, and of combined accuracies by the sums that its run keeps."""
    report = full()
    written(tmp_path, "small", report)
    right = {"student": of_right(np.arange(800) < 752), "baseline": of_right(np.arange(800) < 720)}
    sums.write(str(tmp_path / "small"), right, "digest")
    names = ["student.accuracy", "student.errors", "student.right[0]", "gain_transferred", "student - baseline"]
    names += ["student / baseline", "student.p99_ms", "student - ensemble"]
    found = reproductions.measured(row(figures=dict.fromkeys(names, "")), str(tmp_path), 2)
    assert found is not None and not {"student.p99_ms", "student - ensemble"} & found.intervals.keys()
    assert found.intervals["student.accuracy"] == [pytest.approx((0.93, 0.95))]
    assert found.intervals["student.errors"] == [pytest.approx((50, 70))]
    assert found.intervals["gain_transferred"] == [(0.4, 0.9)]
    truth = {"student.right[0]": 302 / 306, "student - baseline": 0.04, "student / baseline": 0.94 / 0.9}
    for name, value in truth.items():
        (bounds,) = found.intervals[name]
        assert bounds is not None and value - 0.03 < bounds[0] < value < bounds[1] < value + 0.03
    assert Measured.model_validate(json.loads(reproduce.as_text({"digits": found}))["digits"]) == found
    text = page([row(figures={"student.accuracy": {"expected": "> 0.935"}})], {"digits": found})
    assert "| 94.00% | 93.00% to 95.00% | test | not resolved |" in text
    written(tmp_path, "other", report)
    sums.write(str(tmp_path / "other"), right, "of other test examples")
    of_two = reproductions.measured(row(figures={"student - other:baseline": ""}), str(tmp_path), 2)
    assert of_two is not None and of_two.values and not of_two.intervals


def test_sums_of_further_students_and_generations_are_in_runs_of_their_own(tmp_path: Path) -> None:
    generations = [{"name": "generation 1", "run": "small-generation-1", "accuracy": 0.9, "accuracy_interval": None}]
    students = {"name": "tiny", "student": "student-tiny", "baseline": "baseline-tiny", "run": "small-tiny"}
    students |= {"gain_transferred": None, "gain_transferred_interval": None, "on_front": True}
    report = full(generations=[{**generations[0], "over": None}], students=[students])
    own = reproductions.Ran(report, str(tmp_path / "small"), {})
    assert {
        name: reproductions._place(own, name) for name in ("ensemble", "best member", "generation 1", "baseline-tiny")
    } == {
        "ensemble": (str(tmp_path / "small"), "ensemble"),
        "best member": (str(tmp_path / "small"), "member-1"),
        "generation 1": (str(tmp_path / "small-generation-1"), "student"),
        "baseline-tiny": (str(tmp_path / "small-tiny"), "baseline"),
    }
    assert reproductions.figure(report, "generation 1.accuracy") == 0.9
    with pytest.raises(LookupError, match="'generation 1' of 'small' has no figure 'nll'"):
        reproductions.figure(report, "generation 1.nll")


HALF = 4.302653 * 0.02 / 3**0.5
"""Of the 95% interval of three seeds with a standard deviation of 0.02, by Student's t."""


@pytest.mark.parametrize(
    ("values", "intervals", "half", "over"),
    [
        ([0.80, 0.82, 0.84], [(0.77, 0.83), (0.79, 0.85), (0.81, 0.87)], (HALF**2 + 0.03**2) ** 0.5, "seeds, test"),
        ([0.80, 0.82, 0.84], [(0.77, 0.83)], (HALF**2 + 0.03**2) ** 0.5, "seeds, test of 1 seed"),
        ([0.80, 0.82, 0.84], [], HALF, "seeds"),
        ([0.82, 0.82, 0.82], [(0.79, 0.85), None, (0.79, 0.85)], 0.03, "test of 2 seeds"),
        ([0.82], [(0.79, 0.85)], 0.03, "test"),
        ([0.82, 0.82, 0.82], [], None, ""),  # nothing random differs, so that nothing is known of other seeds
    ],
)
def test_a_range_over_seeds_and_test_examples(values: Any, intervals: Any, half: float | None, over: str) -> None:
    of = {"student.accuracy": values}
    kept = Measured(date="", minutes=1.0, cores=1, values=of, intervals={"student.accuracy": intervals})
    bounds = "" if half is None else f"{0.82 - half:.2%} to {0.82 + half:.2%}"
    text = page([row(figures={"student.accuracy": {"expected": "> 0.5"}})], {"digits": kept})
    assert f"| 82.00% | {bounds} | {over} | yes |" in text
    assert f"seed{'s' * (len(values) > 1)}, 1 minutes on 1 core.\n" in text
    assert ("| 80.00%, 82.00%, 84.00% |" in text) is (values[0] == 0.80)


@pytest.mark.parametrize(
    ("name", "bounds"),
    [
        ("student.accuracy", (0.0, 1.0)),
        ("other:student.train_accuracy at student.seed=1", (0.0, 1.0)),
        ("student.right[3]", (0.0, 1.0)),
        ("student - other:baseline", (-1.0, 1.0)),
        ("student.errors", (0.0, math.inf)),
        ("student / ensemble", (0.0, math.inf)),
        ("gain_transferred", (-math.inf, math.inf)),
        ("student.word_error_rate - baseline.word_error_rate", (-math.inf, math.inf)),
        ("(student - baseline) / (ensemble - baseline)", (-math.inf, math.inf)),
    ],
)
def test_what_a_figure_can_be(name: str, bounds: tuple[float, float]) -> None:
    assert reproductions.possible(name) == bounds


def test_a_range_ends_where_its_figure_does() -> None:
    kept = Measured(date="", minutes=1.0, cores=2, values={"baseline.train_accuracy": [0.90, 0.99, 0.96]})
    assert " to 100.00% | seeds |" in page([row(figures={"baseline.train_accuracy": ""})], {"digits": kept})


@pytest.mark.parametrize(
    ("values", "expected", "here", "holds"),
    [
        ([8.0, 20.0, 8.0], ">= 8", "8, 20, 8", "yes"),
        ([1.0, 2.5, 1.0], "2.5 to 4", "1, 2.5, 1", "not resolved"),
        ([20.0], ">= 8", "20", "yes, one value"),
    ],
)
def test_a_choice_has_to_meet_the_relation_in_each_seed(
    values: list[float], expected: str, here: str, holds: str
) -> None:
    kept = Measured(date="", minutes=1.0, cores=2, values={"best T at hidden=30": values})
    text = page([row(figures={"best T at hidden=30": {"expected": expected}})], {"digits": kept})
    assert f"| {here} |  |  | {holds} |" in text and f"| best T at hidden=30 |  | {here} |  |  |  |  |" in text


def test_what_a_row_rests_on_is_on_the_page() -> None:
    rests = {"varies": "the student alone", "chosen": "T, after test figures of T = 2 were known"}
    asked = Experiments(variables={}, rows=[row(**rests), row(name="other", **rests)], left_out={"Shuttle": "not run"})
    of = {"ensemble.accuracy": [0.5]}
    text = reproductions_page.page(asked, {"digits": Measured(date="", minutes=1.0, cores=2, values=of)})
    assert text.count("\nSeeds vary the student alone.\n") == 2
    assert text.count("\n† Chosen with test figures known: T, after test figures of T = 2 were known.\n") == 2
    assert text.endswith("## Left out\n\n- Shuttle: not run\n")
    marked = row(figures={"ensemble.accuracy": {"expected": ">= 0.5"}}, **rests)
    assert "| yes, one value † |" in page([marked], {"digits": Measured(date="", minutes=1.0, cores=2, values=of)})


def test_one_odd_report_leaves_the_other_rows_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows, page_file, figures = tmp_path / "rows.yaml", tmp_path / "PAGE.md", tmp_path / "figures.json"
    several = [row(name="lacking", figures={"tree.accuracy": ""}), row(name="damaged", run="damaged"), row()]
    rows.write_text(yaml.safe_dump(Experiments(variables={}, rows=several).model_dump()))
    for name, value in {"ROWS": rows, "KEPT": figures, "PAGE": page_file, "PICTURES": tmp_path / "pictures"}.items():
        monkeypatch.setattr(reproduce, name, value)
    monkeypatch.setattr("sys.argv", ["reproduce", "--runs", str(tmp_path), "--cores", "3"])
    written(tmp_path, "small", plain(members=(0.94, 0.95)))
    storage.write_text(RunFolder(str(tmp_path / "damaged")).report, "{}")
    with pytest.raises(SystemExit, match=r"(?s)lacking: 'small' has no system 'tree'.*\ndamaged: .*not a report"):
        reproduce.main()
    kept = json.loads(figures.read_text())
    assert list(kept) == ["digits"] and kept["digits"]["cores"] == 3 and "on 3 cores" in page_file.read_text()


def test_commands_train_where_their_runs_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = row(commands=["python prepare.py wheels", "stillhouse run config.yaml --set data.root=$DATA"])
    files = {name: tmp_path / name.lower() for name in ("ROWS", "KEPT", "PAGE", "PICTURES")}
    files["ROWS"].write_text(yaml.safe_dump(Experiments(variables={"DATA": ""}, rows=[asked]).model_dump()))
    for name, value in files.items():
        monkeypatch.setattr(reproduce, name, value)
    commands: list[list[str]] = []
    monkeypatch.setattr(reproduce, "run", lambda command, folder: commands.append(shlex.split(command)))
    monkeypatch.setenv("DATA", "/my data")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.argv", ["reproduce", "digits", "--runs", "all runs"])
    with pytest.raises(SystemExit, match=f"digits: its commands left no run in {tmp_path}/all runs"):
        reproduce.main()
    prepare, train = commands
    assert prepare == ["python", "prepare.py", "wheels"]
    assert train[:-1] == ["stillhouse", "run", "config.yaml", "--set", "data.root=/my data", "--set"]
    values: dict[str, Any] = {}
    loading.override(values, train[-1])
    assert values == {"storage": f"{tmp_path}/all runs"}


def test_runs_in_another_storage_have_their_date() -> None:
    folder = "memory://reproduce"
    storage.write_text(RunFolder(storage.join(folder, "small")).report, as_json(plain(members=(0.94, 0.95))))
    found = reproductions.measured(row(), folder, 2)
    assert found is not None and abs(date.fromisoformat(found.date) - date.today()).days <= 1


def test_no_two_rows_have_a_run_of_one_name() -> None:
    """With `--runs` all are in one storage, where a row would have the figures of the other."""
    named = [
        (name, each.name)
        for each in Experiments.model_validate(yaml.safe_load(reproduce.ROWS.read_text())).rows
        for name in {name for command in each.commands for name in re.findall(r"--set name=(\S+)", command)}
    ]
    assert len({name for name, _ in named}) == len(named)


def test_the_curves_of_training_are_drawn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written(tmp_path, "small", full())
    place = str(tmp_path / "small")
    assert reproduce.picture(place, "training_curves.png") is None  # no record of a training
    epoch = Epoch(epoch=0, train_loss=0.5, validation_accuracy=0.8, validation_nll=1.0, seconds=1.0, examples=9)
    monkeypatch.setattr(reproduce.trained, "record_in", lambda folder: folder)
    monkeypatch.setattr(reproduce.trained, "epochs", lambda record: [epoch])
    drawn = reproduce.picture(place, "training_curves.png")
    assert drawn is not None and drawn.startswith(b"\x89PNG")
