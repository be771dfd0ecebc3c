"""The page of the papers' experiments: figures of reports, their mean and spread, and what is not measured."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from benchmarks import reproduce, reproductions, reproductions_page
from benchmarks.reproductions import Experiments, Measured, Row
from orchestrator.reporting import report as reports
from orchestrator.reporting import sweeps
from orchestrator.reporting.report import DrawnFigure, Report, as_json
from orchestrator.reporting.sweeps import SweptRun
from orchestrator.run_folder.paths import RunFolder
from tests.reports import plain
from workers import storage

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
    assert reproductions.measured(row(), str(tmp_path)) is None
    report = plain(members=(0.94, 0.95))
    written(tmp_path, "small", report)
    found = reproductions.measured(row(), str(tmp_path))
    assert found is not None
    accuracy = {role: report.system(role).test.accuracy for role in reports.COMPARED}
    assert found.values["ensemble.accuracy"] == [accuracy["ensemble"]]
    assert found.values["student - baseline"] == [pytest.approx(accuracy["student"] - accuracy["baseline"])]
    assert found.values["student / ensemble"] == [pytest.approx(accuracy["student"] / accuracy["ensemble"])]
    text = page([row(), row(name="other")], {"digits": found})
    assert f"| ensemble.accuracy | 99% | {accuracy['ensemble']:.2%} |" in text and "1 seed, " in text
    assert "a paper: it holds." in text and "    stillhouse run config.yaml" in text
    assert text.index("## other") < text.index("Not measured yet.")


def test_a_figure_of_training_is_of_its_last_epoch() -> None:
    epochs = [{"epoch": k, "train_loss": 1.0, "validation_accuracy": 0.5, "train_accuracy": k / 4} for k in (1, 2, 3)]
    report = plain(training={"student": epochs, "baseline": [{**epochs[0], "train_accuracy": None}]})
    assert reproductions.figure(report, "student.train_accuracy") == 0.75
    for name in ("baseline", "ensemble"):  # measured by an earlier version, and no training of its own
        with pytest.raises(KeyError, match=f"'{name}' of 'small' has no figure 'train_accuracy'"):
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
    found = reproductions.measured(row(), str(tmp_path))
    assert found is not None and len(found.values["ensemble.accuracy"]) == 3
    mean = first.system("ensemble").test.accuracy + 0.01
    half = 4.302653 * 0.01 / 3**0.5  # Student's t of two degrees of freedom
    expected = f"| {mean:.2%} | {mean - half:.2%} to {mean + half:.2%} | 1.00% |"
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
    found = reproductions.measured(row(figures={"student - other:student": "", "student.accuracy": ""}), str(tmp_path))
    assert found is not None and found.values["student.accuracy"] == pytest.approx([0.5, 0.51, 0.52])
    assert found.values["student - other:student"] == pytest.approx([0.009, 0.018])


def test_a_ratio_of_differences_and_the_most_accurate_member(tmp_path: Path) -> None:
    report = plain(members=(0.94, 0.95)).model_copy(update={"best_member": "member-0"})
    written(tmp_path, "small", report)
    names = ["(student - baseline) / (small:ensemble - baseline)", "ensemble - most accurate member"]
    of = row(figures={name: {"expected": "> 0.5" if "/" in name else "> 0"} for name in names})
    found = reproductions.measured(of, str(tmp_path))
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
    kept = {"digits": Measured(date="2026-01-01", minutes=1.0, values={"ensemble.accuracy": [0.5, 0.6, 0.7]})}
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
    assert reproductions.minutes([first, again]) == pytest.approx(
        15 + 4 + 1
    )  # half an hour of one core is 15 minutes of two
    assert reproductions.minutes([again, first]) == pytest.approx(15 + 4 + 1)


def test_a_figure_that_is_not_there(tmp_path: Path) -> None:
    written(tmp_path, "small", plain(members=(0.94, 0.95)))
    with pytest.raises(KeyError, match="has no system 'tree'"):
        reproductions.measured(row(figures={"tree.accuracy": ""}), str(tmp_path))


def test_the_table_names_examples_and_their_commands() -> None:
    asked = Experiments.model_validate(yaml.safe_load(reproduce.ROWS.read_text()))
    rows = asked.rows
    for each in rows:
        assert (each.folder / "config.yaml").is_file() and each.figures
        commands = reproduce.expanded(" ".join(each.commands), {**asked.variables, "MNIST": "a", "FASHION": "b"})
        assert "$" not in commands
        for word in commands.split():
            assert not word.endswith((".yaml", ".py")) or (each.folder / word).is_file()
    assert len({each.name for each in rows}) == len(rows)


def test_what_a_row_prepares_is_downloaded_before() -> None:
    for each in Experiments.model_validate(yaml.safe_load(reproduce.ROWS.read_text())).rows:
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
    found = Measured(date="2026-01-01", minutes=1.0, values={"gain_transferred": [0.9, float("nan"), 0.95]})
    kept = Measured.model_validate(json.loads(reproduce.as_text({"digits": found}))["digits"])
    text = page([row(figures={"gain_transferred": {"expected": ">= 0.91"}})], {"digits": kept})
    assert "| gain_transferred ≥ 91% |  | none in 1 of 3 seeds |  | not resolved |" in text and "nan" not in text


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
    found = reproductions.measured(row(figures=asked), str(tmp_path))
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
    line = f"| [digits](#digits) | student over baseline, points > 0 | +2.31 | {100 * gain:+.2f} |  |"
    assert gain > 0 and f"{line} yes |" in text
    assert "| missing:ensemble.accuracy ≥ 50% |  | | | not measured |" in text
    assert '    DATA=...\n    MORE="--set x=$DATA"' in text


def swept(**values: Any) -> SweptRun:
    figures = {"validation_accuracy": values.pop("validation"), "student": values.pop("student")}
    return SweptRun(run="a", values=values, **figures)


def test_the_best_point_of_a_sweep_by_the_mean_over_seeds() -> None:
    runs = [
        swept(T=1, hidden=30, **{"student.seed": 0}, validation=0.90, student=0.80),
        swept(T=1, hidden=30, **{"student.seed": 1}, validation=0.99, student=0.81),
        swept(T=4, hidden=30, **{"student.seed": 0}, validation=0.96, student=0.82),
        swept(T=4, hidden=30, **{"student.seed": 1}, validation=0.95, student=0.84),
        swept(T=20, hidden=800, **{"student.seed": 0}, validation=0.98, student=0.97),
        swept(T=20, hidden=800, **{"student.seed": 1}, validation=0.98, student=0.99),
    ]
    sweep = sweeps.collected("a-sweep", ["T", "hidden", "student.seed"], runs)
    assert reproductions.swept_figure(sweep, "best T at hidden=30") == [4]
    assert reproductions.swept_figure(sweep, "student.accuracy at hidden=30") == [0.82, 0.84]
    assert reproductions.swept_figure(sweep, "best T") == [20]
    assert reproductions.swept_figure(sweep, "student.accuracy") == [0.97, 0.99]
    with pytest.raises(KeyError, match="no run at hidden=300"):
        reproductions.swept_figure(sweep, "student.accuracy at hidden=300")
    with pytest.raises(KeyError, match="no figure of a sweep"):
        reproductions.swept_figure(sweep, "teacher.accuracy")


def test_a_sweep_on_the_page(tmp_path: Path) -> None:
    names = {"a-1": 1.0, "a-20": 20.0}
    for name in names:
        written(tmp_path, name, plain(members=(0.94, 0.95)))
    runs = [SweptRun(run=name, values={"T": t}, validation_accuracy=t / 20, student=0.9) for name, t in names.items()]
    record = sweeps.collected("a-sweep", ["T"], runs).model_dump_json()
    storage.write_text(storage.join(str(tmp_path), "a-sweep", sweeps.RECORD), record)
    of = row(run="a-sweep", figures={"best T": "8 and above", "student.accuracy": ""}, note="Why it differs.")
    found = reproductions.measured(of, str(tmp_path))
    assert found is not None and found.values == {"best T": [20.0], "student.accuracy": [0.9]}
    text = page([of], {"digits": found})
    assert "| best T | 8 and above | 20 |  |  |" in text and text.rstrip().endswith("Why it differs.")


def test_the_picture_of_an_experiment(tmp_path: Path) -> None:
    assert reproduce.picture(str(tmp_path / "none")) is None
    drawn = DrawnFigure(title="a tree", image=base64.b64encode(b"png").decode())
    written(tmp_path, "small", plain(figures=[drawn]))
    assert reproduce.picture(str(tmp_path / "small")) == b"png"
    written(tmp_path, "other", plain())
    assert reproduce.picture(str(tmp_path / "other")) is None
