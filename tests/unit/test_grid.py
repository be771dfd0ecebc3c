"""Points of a sweep: what `--over` means, names of runs, and the order in which they run."""

from __future__ import annotations

import sys
import threading
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from orchestrator.config import grid, loading
from orchestrator.config.grid import Choices, Range
from orchestrator.config.run_config import RunConfig
from orchestrator.observers.terminal import Screen
from orchestrator.reporting import sweeps
from orchestrator.reporting.sweeps import SweptRun
from orchestrator.stages import preflight
from orchestrator.sweep import processes, sweep
from orchestrator.sweep.processes import Job, _problem
from orchestrator.sweep.proposals import of_grid, of_search, side_by_side
from tests.makers import write_config
from workers.errors import RequestError

AXES = [
    ("distillation.temperature=1,2.5,20", Choices("distillation.temperature", (1, 2.5, 20))),
    ("student.initial=teacher_layers", Choices("student.initial", ("teacher_layers",))),
    ("a.b=[1, 2],[3]", Choices("a.b", ([1, 2], [3]))),
    ("t={from: 4, to: 1},2", Choices("t", ({"from": 4, "to": 1}, 2))),
    ("x=true,false", Choices("x", (True, False))),
    ("t=1..20", Range("t", 1, 20, False)),
    ("t=0.5..2.0", Range("t", 0.5, 2.0, False)),
    ("lr=1.0e-4..1.0e-2:log", Range("lr", 1e-4, 1e-2, True)),
    ("lr=1E-4..1e+2:log", Range("lr", 1e-4, 1e2, True)),
    ("k=1,true", Choices("k", (1, True))),
]


@pytest.mark.parametrize(("text", "expected"), AXES, ids=[text for text, _ in AXES])
def test_an_axis_is_values_or_a_range_of_a_key(text: str, expected: grid.Axis) -> None:
    assert grid.axis(text) == expected


WRONG = {
    "temperature": "expected KEY=V1,V2",
    "temperature=": "expected KEY=V1,V2",
    "=1,2": "expected KEY=V1,V2",
    "t=1,1": r"found \[1, 1\]; .* each once",
    "t=[1": "not YAML",
    "name=a,b": "`name` names, places or multiplies runs",
    "students.small=1": "`students.small` names, places or multiplies runs",
    "k=true,true": "each once",
    "t=5..2": r"found 5\.\.2; expected a lower and a higher number",
    "t=0..2:log": "a lower and a higher number, above 0",
}


@pytest.mark.parametrize("text", WRONG)
def test_a_wrong_axis_is_refused_with_the_reason(text: str) -> None:
    with pytest.raises(RequestError, match=WRONG[text]):
        grid.axis(text)


def test_axes_that_do_not_go_together_are_refused() -> None:
    with pytest.raises(RequestError, match="--over t: given twice"):
        grid.axes(["t=1,2", "t=3"], trials=None)
    with pytest.raises(RequestError, match="a range needs a search; expected `--trials N`"):
        grid.axes(["t=1..2"], trials=None)
    with pytest.raises(RequestError, match="--trials: 0; expected at least 1"):
        grid.axes(["t=1,2"], trials=0)


def test_points_and_their_names() -> None:
    axes = grid.axes(["distillation.temperature=1,2.5", "student.model.kwargs.hidden=30,300"], trials=None)
    points = grid.points(axes)
    assert [tuple(point.values()) for point in points] == [(1, 30), (1, 300), (2.5, 30), (2.5, 300)]
    assert grid.overrides(points[2]) == ["distillation.temperature=2.5", "student.model.kwargs.hidden=30"]
    assert grid.overrides({"a": "1", "b": None, "c": "x: y"}) == ["a='1'", "b=null", "c='x: y'"]  # texts stay texts
    assert len(grid.name_of("n" * 90, {"a.b": "c" * 80})) <= 100
    assert grid.names("mnist", points)[2] == "mnist-temperature-2.5-hidden-30"
    alike = [{"a.x": "A/B"}, {"a.x": "a b"}, {"a.x": "a:b"}]
    assert grid.names("n", alike) == ["n-x-a-b", "n-x-a-b--2", "n-x-a-b--3"]
    assert grid.names("n", alike[:1], taken=["n-x-a-b"]) == ["n-x-a-b--2"]


@pytest.mark.parametrize(
    "value", [".inf", "1e-5", "{from: 4, to: 1}", "'a, b'", "'no'", "😀", "[a#b, '']", "null", "010x"]
)
def test_a_run_gets_the_value_that_was_given(value: str) -> None:
    (point,) = grid.points(grid.axes([f"a.b={value}"], trials=None))
    found: dict[str, Any] = {}
    loading.override(found, *grid.overrides(point))
    assert found == {"a": {"b": point["a.b"]}}


NAMED: list[tuple[dict[str, Any], str]] = [
    ({"student.seed": 1}, "x-student-seed-1"),  # `x-seed-1` is a repetition of `x`
    ({"seed": 1}, "x-run-seed-1"),
    ({"distillation.temperature": 2, "seed": 1}, "x-temperature-2-run-seed-1"),
    ({"seed": 1, "student.seed": 2}, "x-run-seed-1-student-seed-2"),
    ({"student.model.kwargs.generation": 2}, "x-kwargs-generation-2"),
    (
        {"ensemble.training.epochs": 1, "student.training.epochs": 2},
        "x-ensemble-training-epochs-1-student-training-epochs-2",
    ),
    ({"student.training.epochs": 2}, "x-epochs-2"),
    ({"data.shift": -1}, "x-shift-minus1"),  # `x-shift-1` is another point
    ({"data.shift": [-0.5, 1e-5]}, "x-shift-minus0.5-1e-05"),
]


@pytest.mark.parametrize(("point", "expected"), NAMED, ids=[expected for _, expected in NAMED])
def test_a_name_has_as_many_words_as_tell_it_from_others(point: dict[str, Any], expected: str) -> None:
    assert grid.name_of("x", point) == expected


def test_names_leave_room_for_the_endings_of_further_runs() -> None:
    assert grid.names("n" * 60, [{"a.b": "c" * 80}] * 2, most=72) == [
        f"{'n' * 60}-b-{'c' * 10}", f"{'n' * 60}-b-{'c' * 10}--2"
    ]  # fmt: skip


def waves(*axes: Choices) -> list[list[tuple[Any, ...]]]:
    """The points of a grid as they run: the values of those that are side by side."""
    (left,), done, found = list(of_grid(axes)), list[Any](), []
    while left:
        now = [left[place] for place in side_by_side(left, done)]
        done, left = done + now, [point for point in left if point not in now]
        found.append([tuple(point.values()) for point in now])
    return found


def test_a_grid_begins_with_what_others_share() -> None:
    temperature, hidden = (
        Choices("distillation.temperature", (1, 2, 5)),
        Choices("student.model.kwargs.hidden", (30, 300)),
    )
    assert waves(temperature, hidden) == [
        [(1, 30)],  # makes the members
        [(1, 300), (2, 30), (5, 30)],  # make the other baseline, and the other soft targets
        [(2, 300), (5, 300)],
    ]
    assert waves(Choices("distillation.temperature", (1, 2))) == [[(1,)], [(2,)]]
    assert waves(Choices("ensemble.size", (1, 2, 3)), hidden) == [
        [(1, 30)],
        [(1, 300), (2, 30), (3, 30)],
        [(2, 300), (3, 300)],
    ]


def test_runs_side_by_side_make_no_two_of_anything() -> None:
    """Each run makes what no earlier one has made: an ensemble, a baseline, soft targets."""
    names = ("ensemble.training.epochs", "student.seed", "distillation.temperature", "seed")
    done: set[Any] = set()
    for wave in waves(*(Choices(name, (0, 1)) for name in names)):
        made = [what for epochs, own, t, seed in wave for what in
                (("ensemble", epochs, seed), ("baseline", own, seed), ("targets", epochs, t, seed))]  # fmt: skip
        new = [each for each in made if each not in done]
        assert len(new) == len({*new})
        done |= {*new}
    assert len(done) == 4 + 4 + 8


def test_the_first_trials_share_and_a_failed_run_has_made_nothing() -> None:
    trials = [{"distillation.temperature": t} for t in (1.0, 2.0, 3.0)]
    assert side_by_side(trials, []) == [0] and side_by_side(trials[1:], trials[:1]) == [0, 1]
    asked = [{"t": t} for t in (1, 2, 3)]
    tried: list[list[str]] = []

    class Runner:
        def run(self, jobs: list[Job], at_once: int) -> list[str]:
            tried.append([job.name for job in jobs])
            return ["broken"] * len(jobs)

    of: Any = SimpleNamespace(processes=Runner(), path="", digest="", common=[], at_once=4, screen=Screen(quiet=True))
    of.base = SimpleNamespace(storage="")
    found = sweep._batch(asked, ["a", "b", "c"], [], of)
    assert tried == [["a"], ["b"], ["c"]] and [run.run for run in found] == ["a", "b", "c"]


def outcome(value: float | None) -> SweptRun:
    return SweptRun(run="x", values={}, validation_accuracy=value, problem="" if value is not None else "broken")


def searched(seed: int, score: Any) -> list[dict[str, Any]]:
    axes = grid.axes(["t=1.0..20.0:log", "h=30,300", "n=1..8"], trials=12)
    search = of_search(axes, 12, 3, seed)
    batch, found = next(search), []
    while True:
        found += [dict(point) for point in batch]
        try:
            batch = search.send([outcome(score(point)) for point in batch])
        except StopIteration:
            return found


def test_a_search_follows_from_its_seed_and_outcomes() -> None:
    def score(point: Any) -> float | None:
        return None if point["n"] == 3 else -abs(point["t"] - 4.0)

    found = searched(0, score)
    assert len(found) == 12 and found == searched(0, score) != searched(1, score)
    assert all(1 <= point["t"] <= 20 and point["h"] in (30, 300) and point["n"] in range(1, 9) for point in found)
    assert isinstance(found[0]["n"], int)


def test_the_best_run_is_chosen_on_validation() -> None:
    runs = [
        SweptRun(
            run="a",
            values={"t": 1, "h": 3},
            validation_accuracy=0.90,
            student=0.80,
            gain_transferred=0.5,
            member_core_hours=1.5,
        ),
        SweptRun(run="b", values={"t": 2, "h": 3}, validation_accuracy=0.85, student=0.99, gain_transferred=None),
        SweptRun(run="c", values={"t": 1, "h": 4}, problem="no such layer"),
    ]
    found = sweeps.collected("s", ["distillation.t", "student.h"], [
        run.model_copy(update={"values": {"distillation.t": run.values["t"], "student.h": run.values["h"]}})
        for run in runs
    ])  # fmt: skip
    assert found.best == "a"
    header, first, second, failed = sweeps.rows(found)
    assert header[:4] == ["t", "h", "validation", "student"]
    assert header[-2] == "members, core h" and (first[-2], second[-2]) == ("1.5", "-")
    assert first[-1] == "best" and second[-1] == "" and failed[-1] == "failed: no such layer"
    drawn = sweeps.heat_map(found)
    assert drawn is not None and {text.get_text() for text in drawn.axes[0].texts} == {"80.00", "99.00"}
    (frame,) = drawn.axes[0].patches  # on test figures the other is better
    assert frame.get_xy() == (-0.46, -0.44) and drawn.axes[0].get_title().endswith("framed: best on validation")
    assert sweeps.heat_map(sweeps.collected("s", ["distillation.t"], [])) is None
    assert sweeps.collected("s", ["t"], runs[2:]).best is None


def test_equal_cells_of_a_heat_map_have_white_numbers_on_the_darkest_colour() -> None:
    runs = [SweptRun(run=f"r{k}", values={"t": k, "h": 1}, student=0.8) for k in range(2)]
    drawn = sweeps.heat_map(sweeps.collected("s", ["t", "h"], runs))
    assert drawn is not None and [text.get_color() for text in drawn.axes[0].texts] == ["white", "white"]
    assert not drawn.axes[0].patches  # nothing was measured on validation


def test_the_problem_of_a_run_is_the_last_message() -> None:
    assert (
        _problem("stillhouse: a note\nmembers ...\nstillhouse: data.x:\n no such file.\n", 2) == "data.x: no such file."
    )
    assert _problem("Killed", -9) == "exit status -9"


def test_an_interrupt_stops_the_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of the process of the sweep alone, as a SIGTERM; a run that has started is asked to stop at once."""
    running = processes.Processes("127.0.0.1:1", "")
    stopped: list[str] = []

    class Slow:
        returncode = -15

        def __init__(self, *_: object, **__: object) -> None:
            self.ended = threading.Event()

        def communicate(self) -> tuple[str, str]:
            assert self.ended.wait(20)
            return "", "stillhouse: stopped."

        def terminate(self) -> None:
            stopped.append("run")
            self.ended.set()

    def interrupted(self: object, job: Job) -> str:
        if job.name == "interrupts":
            while not running.running:
                time.sleep(0.01)
            raise KeyboardInterrupt
        return original(running, job)

    original = processes.Processes._run
    monkeypatch.setattr(processes.subprocess, "Popen", Slow)
    monkeypatch.setattr(processes.Processes, "_run", interrupted)
    jobs = [Job("no.yaml", name, [], "") for name in ("interrupts", "slow", "never")]
    with pytest.raises(KeyboardInterrupt):
        running.run(jobs, 2)
    assert stopped and not running.running


def test_a_run_does_not_begin_with_a_changed_configuration(tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    path.write_text("seed: 1\n")
    job = Job(str(path), "x", [], processes.digest(str(path)))
    path.write_text("seed: 2\n")
    (problem,) = processes.Processes("127.0.0.1:1", "").run([job], 1)
    assert "config.yaml' has changed since the sweep began" in problem


def test_a_search_draws_whole_numbers_where_a_key_takes_no_others(tmp_path: Path) -> None:
    path, texts = write_config(tmp_path), ("batch_size=1e1..1e2:log", "epochs=1.0..5.0", "learning_rate=1.0..2.0")
    axes = grid.axes([f"student.training.{text}" for text in texts], trials=2)
    found = sweep._as_taken(str(path), (), axes)
    assert [each.is_whole for each in found if isinstance(each, Range)] == [True, True, False]
    assert found == axes  # with equal ends


def test_a_search_without_optuna_is_refused_before_anything_starts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "optuna", None)
    monkeypatch.setattr(preflight, "check", None)  # which a run would come to next
    path = write_config(tmp_path)
    asked = sweep.Asked(path=str(path), over=["student.training.epochs=1..3"], trials=2)
    with pytest.raises(RequestError, match="--trials: a search needs Optuna"):
        sweep.sweep(RunConfig.load(str(path)), asked)
    assert not (tmp_path / "runs").exists() and not (tmp_path / "mlflow.db").exists()


def test_a_search_checks_each_value_once() -> None:
    axes = grid.axes(["a=1,2", "b=3,4,5", "c=0.5..1.5"], trials=2)
    assert [tuple(point.values()) for point in grid.each_value(grid.ends(axes))] == [
        (1, 3, 0.5), (2, 3, 0.5), (1, 4, 0.5), (1, 5, 0.5), (1, 3, 1.5)
    ]  # fmt: skip


def test_a_base_need_not_have_what_every_point_sets(tmp_path: Path) -> None:
    path = write_config(tmp_path, student__model={"factory": "models:needy"})
    with (tmp_path / "models.py").open("a") as code:
        code.write("\ndef needy(hidden):\n    return mlp(hidden=hidden)\n")
    base, axes = RunConfig.load(str(path)), [grid.axis("student.model.kwargs.hidden=4,8")]
    first = sweep._check(str(path), base, (), axes, Screen(quiet=True))
    assert first.name == base.name and first.student.model.kwargs == {"hidden": 4}  # type: ignore[union-attr]
    with pytest.raises(RequestError, match=r"other=1: student.model: factory 'models:needy' raised TypeError"):
        sweep._check(str(path), base, (), [grid.axis("student.model.kwargs.other=1")], Screen(quiet=True))


CODE: dict[str, dict[str, Any]] = {
    "data": {"data": {"kind": "python", "factory": "models:splits", "kwargs": {"sed": 1}}},
    "augment": {"data__augment": {"factory": "models:noise", "kwargs": {"scal": 1}}},
    "metric": {"evaluation__metrics": [{"factory": "models:metric", "kwargs": {"kk": 1}}]},
    "term": {"distillation": {"objective": [{"term": "soft", "kwargs": {"kk": 1}}]}},
    "weights": {"ensemble__weights": {"factory": "models:rule", "kwargs": {"kk": 1}}},
    "model": {"ensemble__model__kwargs__hiden": 3},
}


@pytest.mark.parametrize("what", CODE)
def test_arguments_that_a_function_does_not_take_are_found_without_data(what: str, tmp_path: Path) -> None:
    path = write_config(tmp_path, **CODE[what])
    with (tmp_path / "models.py").open("a") as code:
        code.write(
            "\ndef splits(seed=0): return {}\ndef noise(x, draws, scale=1.0): return x\n"
            "def metric(probabilities, labels, k=1): return {}\ndef rule(probabilities, k=1): return probabilities\n"
        )
    with pytest.raises(RequestError):
        preflight.check_code(RunConfig.load(str(path)), set())
