"""The runs of one command: what they share when they start over, and what is refused before the first of them."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from orchestrator import execution, generations, growing, pipeline, prospects, runs
from orchestrator.config import names
from orchestrator.config.run_config import RunConfig
from orchestrator.observers.terminal import Screen
from orchestrator.run_folder import paths
from orchestrator.stages import preflight
from orchestrator.stages.context import Options
from tests.makers import settings, write_config
from tests.unit.test_artifacts import KEY, committed
from workers import storage
from workers.artifacts import store
from workers.errors import RequestError, RunError
from workers.evaluation.prospects import Estimate

DEEP = """

class Deep(nn.Module):
    def __init__(self, layers):
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(8, 8) for _ in range(layers))
        self.head = nn.Linear(8, 3)

    def forward(self, x):
        states = [x]
        for layer in self.layers:
            states.append(layer(states[-1]).relu())
        return {"logits": self.head(states[-1]), "hidden_states": tuple(states)}


def deep(layers=1):
    return Deep(layers)
"""
Log = list[tuple[str, str]]
"""Runs in their order, each with the run that its one artifact comes from; empty: it is computed."""


@pytest.fixture
def log(monkeypatch: pytest.MonkeyPatch) -> Log:
    """`execution.executed` without data and cluster: its only stage obtains one artifact, or computes it."""
    found: Log = []

    def execute(stages: Any, run: Any) -> Any:
        had, uri = run.artifacts.obtain(KEY, paths.network), run.artifacts.uri(paths.network(KEY.digest))
        if had is None:
            storage.write_bytes(storage.join(storage.parent(uri), "model.safetensors"), b"new")
            store.commit(uri, KEY, {"model.safetensors": storage.sha256(b"new")})
            run.artifacts.register(KEY, paths.network(KEY.digest))
        found.append((run.config.name, "" if had is None else had.run or "its own"))
        return {pipeline.REPORT: None}

    dataset = SimpleNamespace(test=SimpleNamespace(x=None), notes=())
    for module, name, result in (
        (execution.preflight, "check", dataset),
        (execution.preflight, "check_placed", dataset),
        (execution.places, "check_shared", None),
        (execution.preflight, "check_further", None),
        (execution.preflight, "beside_bytes", 0),
        (execution.connection, "share", None),
        (execution.tracking_record, "of", None),
        (execution.tracking_record, "write", None),
        (execution.DataFacts, "of", None),
        (execution, "planned", SimpleNamespace(teachers=SimpleNamespace(size=1))),
        (execution, "tokenized", dataset),
        (execution, "without_texts", dataset),
    ):
        monkeypatch.setattr(module, name, lambda *args, _result=result, **kwargs: _result)
    monkeypatch.setattr(execution.preflight, "settled", lambda config, dataset: config)
    monkeypatch.setattr(execution.connection, "connect", lambda *args, **kwargs: nullcontext(SimpleNamespace()))
    monkeypatch.setattr(execution, "Heartbeat", lambda *args: nullcontext(SimpleNamespace(queue=None)))
    monkeypatch.setattr(
        execution, "observers", lambda config, screen, record, fresh: execution.untracked(config, screen, fresh=fresh)
    )
    monkeypatch.setattr(execution, "Context", SimpleNamespace)
    monkeypatch.setattr(execution, "execute", execute)
    return found


def three_students(folder: Path, **changes: Any) -> RunConfig:
    student = settings(folder)["student"]
    of = {
        name: {**student, "model": {**student["model"], "kwargs": {"hidden": hidden}}}
        for name, hidden in (("a", 4), ("b", 6), ("c", 8))
    }
    return RunConfig.load(str(write_config(folder, **{"student": None, "students": of} | changes)))


def earlier(root: Path, *names: str) -> None:
    """Complete runs of an earlier command."""
    for name in names:
        execution.owned.mark(committed(root, name).folder)


def test_the_runs_of_a_command_that_starts_over_share_what_they_compute(tmp_path: Path, log: Log) -> None:
    config, root = three_students(tmp_path), tmp_path / "runs"
    earlier(root, "small", "small-b", "small-c", "another")
    runs.run(config, fresh=True)
    assert log == [("small-b", ""), ("small-c", "small-b"), ("small", "small-b")]
    log.clear()
    runs.run(config)
    assert log == [("small-b", "its own"), ("small-c", "its own"), ("small", "its own")]


def test_the_further_runs_of_a_command_name_the_run_that_they_belong_to(
    tmp_path: Path, log: Log, monkeypatch: pytest.MonkeyPatch
) -> None:
    config, found = three_students(tmp_path, seeds=2), dict[str, str | None]()

    def of(config: RunConfig, dataset: Any, part_of: str | None) -> None:
        found[config.name] = part_of

    monkeypatch.setattr(execution.tracking_record, "of", of)
    runs.run(config)
    assert len(found) == 6
    assert found == {each.name: None if each is config else "small" for each in config.of_command()}


def test_what_is_lost_after_the_first_run_fails_the_command(
    tmp_path: Path, log: Log, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a tracker that goes down while the first of several runs trains."""
    config, after = three_students(tmp_path), 1
    checked = preflight.check

    def check(config: RunConfig, wait_for: Any) -> Any:
        if len(log) >= after:
            raise RequestError("no tracker answers")
        return checked(config, wait_for)

    monkeypatch.setattr(preflight, "check", check)
    with pytest.raises(RunError, match="no tracker answers") as failed:
        runs.run(config)
    assert failed.value.exit_status == 1 and [name for name, _ in log] == ["small-b"]
    log.clear()
    after = 0
    with pytest.raises(RequestError):
        runs.run(config)


def test_all_generations_together_start_over_too(tmp_path: Path, log: Log, monkeypatch: pytest.MonkeyPatch) -> None:
    config, root = RunConfig.load(str(write_config(tmp_path, generations=2))), tmp_path / "runs"
    earlier(root, "small", "small-generation-1", "small-generation-2", "small-generations")
    monkeypatch.setattr(generations, "_figures", lambda *args: None)
    monkeypatch.setattr(generations, "_over", lambda *args: None)
    monkeypatch.setattr(generations.sums, "read", lambda folder: ({"student": None},))
    measured = SimpleNamespace(measured={"ensemble": SimpleNamespace(sums=SimpleNamespace(of_blocks=None))})
    executed = execution.executed
    monkeypatch.setattr(execution, "executed", lambda *args: executed(*args) | {pipeline.PREDICTIONS: measured})
    runs.run(config, fresh=True)
    first = "small-generation-1"
    assert log == [(first, ""), *((name, first) for name in ("small-generation-2", "small-generations", "small"))]


def test_rounds_of_growth_start_over_once(tmp_path: Path, log: Log, monkeypatch: pytest.MonkeyPatch) -> None:
    config, root = RunConfig.load(str(write_config(tmp_path, ensemble__size=5, ensemble__stop_when_flat=0.1))), tmp_path
    earlier(root / "runs", "small", "small-grown", "another")

    def worths(config: RunConfig, count: int, options: Options) -> list[Estimate]:
        execution.executed(config.of_members(count).part(names.GROWN), (), options)
        return [Estimate(0.1, 0.1, 0.1)] * (count - 1)

    monkeypatch.setattr(growing, "_worths", worths)
    monkeypatch.setattr(growing.resources, "place", lambda *args: None)
    monkeypatch.setattr(growing.resources, "at_once", lambda *args: 1)
    runs.run(config, fresh=True, screen=Screen(quiet=True))
    assert log == [
        ("small-grown", ""), ("small-grown", "its own"), ("small-grown", "its own"), ("small", "small-grown")
    ]  # fmt: skip


def test_a_single_member_is_settled_without_a_cluster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = RunConfig.load(str(write_config(tmp_path, ensemble__size=1, ensemble__stop_when_flat=0.1)))
    monkeypatch.setattr(growing.connection, "connect", None)
    assert growing.grown(config, Options(verbose=False, screen=Screen(quiet=True))).config.ensemble.count == 1


def executed_first(config: RunConfig, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The runs that are executed before the message of a refusal."""
    began: list[str] = []
    monkeypatch.setattr(runs, "executed", lambda config, *args: began.append(config.name))
    with pytest.raises(RequestError) as refused:
        runs.run(config)
    assert not Path(config.storage).exists()
    return [*began, str(refused.value)]


@pytest.mark.parametrize("wrong", ["a", "b"])
def test_every_student_is_tried_before_the_first_run(
    wrong: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = three_students(tmp_path)
    three = {
        name: student.model_dump(mode="json", exclude_none=True) for name, student in (config.students or {}).items()
    }
    three[wrong]["model"]["kwargs"] = {"hiden": 4}
    config = RunConfig.load(str(write_config(tmp_path, student=None, students=three)))
    (message,) = executed_first(config, monkeypatch)
    assert message.startswith(f"students.{wrong}: ") and "hiden" in message


def test_terms_of_the_second_generation_are_tried_before_the_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They name layers, and from the second generation on the teacher has those of the student."""
    deep = {"kind": "python", "factory": "models:deep"}
    path = write_config(
        tmp_path,
        generations=2,
        ensemble__model={**deep, "kwargs": {"layers": 3}},
        student__model={**deep, "kwargs": {"layers": 1}},
        distillation={"objective": [{"term": "soft"}, {"term": "hidden_mse", "kwargs": {"layers": [[1, 3]]}}]},
    )
    with (tmp_path / "models.py").open("a") as models:
        models.write(DEEP)
    config = RunConfig.load(str(path))
    (message,) = executed_first(config, monkeypatch)
    assert message.startswith("generation 2, whose teacher is the student of generation 1: ") and "layer 3" in message
    preflight.check_further(config.model_copy(update={"generations": 1}))


@pytest.mark.parametrize(("size", "member", "least"), [(10, 5, 3), (10, 3, 3), (2, 2, 2)])
def test_the_member_beside_a_student_is_one_that_is_surely_trained(
    size: int, member: int, least: int, tmp_path: Path
) -> None:
    def load(member: int) -> RunConfig:
        ensemble = {"ensemble__size": size, "ensemble__stop_when_flat": 0.1}
        return RunConfig.load(str(write_config(tmp_path, distillation__hidden={"member": member}, **ensemble)))

    assert load(least - 1).ensemble.count == size
    with pytest.raises(RequestError, match=f"hidden.member` is {member}, .* expected a number below {least}"):
        load(member)


def test_worth_trains_no_student_and_so_needs_no_member_beside_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It trains three members, and the student of the run proper looks into the sixth."""
    config = RunConfig.load(str(write_config(tmp_path, ensemble__size=10, distillation__hidden={"member": 5})))
    tried: list[RunConfig] = []

    def executed(config: RunConfig, *args: Any) -> Any:
        assert args[-1].part_of == "small"
        tried.append(config)
        raise RequestError("enough")

    monkeypatch.setattr(execution, "executed", executed)
    with pytest.raises(RequestError, match="enough"):
        prospects.prospects(config, prospects.Asked())
    (few,) = tried
    assert few.distillation.hidden.member < (few.ensemble.count or 0) < 5
    assert few.distillation.objective == config.distillation.objective


BELONGS: list[dict[str, Any]] = [
    {},
    {"ensemble__stop_when_flat": 0.1},
    {"seeds": 3, "seed": 8},
    {"generations": 11},
    {"generations": 2, "seeds": 2},
    {"ensemble__stop_when_flat": 0.1, "seeds": 2, "students": 3},
    {"students": 3},
]


def of_command(folder: Path, changes: dict[str, Any]) -> RunConfig:
    several = {name: settings(folder)["student"] for name in ("a", "bb", "ccc")}
    students = {"student": None, "students": several} if "students" in changes else {}
    return RunConfig.load(str(write_config(folder, **changes | students)))


@pytest.mark.parametrize("changes", BELONGS)
def test_the_longest_name_of_a_command_fits(changes: dict[str, Any], tmp_path: Path) -> None:
    config = of_command(tmp_path, changes)
    found = [each.name for each in config.of_command()]
    assert len(set(found)) == len(found)
    ending = config.longest_ending
    assert max(map(len, found)) == len(config.name + ending)
    longest = of_command(tmp_path, {**changes, "name": "n" * (100 - len(ending))})
    for each in longest.of_command():  # as a command reads its folder
        (tmp_path / "again.yaml").write_text(each.to_redacted_yaml())
        assert RunConfig.load(str(tmp_path / "again.yaml")).name == each.name
    with pytest.raises(RequestError, match=f"`name` has .*'{ending}'" if ending else "name: .*at most 100"):
        of_command(tmp_path, {**changes, "name": "n" * (101 - len(ending))})


def test_worth_of_a_long_name_is_refused(tmp_path: Path, log: Log) -> None:
    config = RunConfig.load(str(write_config(tmp_path, name="n" * 95)))
    with pytest.raises(RequestError, match=r"has 95 letters, .*-worth', .* 101; expected at most 100"):
        prospects.prospects(config, prospects.Asked())
    assert log == []


@pytest.mark.parametrize(
    "name", ["grown", "worth", "sweep", "generations", "corrected", "seed-1", "seed-small", "generation-2"]
)
def test_a_students_name_that_another_run_takes(name: str, tmp_path: Path) -> None:
    student = settings(tmp_path)["student"]
    path = write_config(tmp_path, student=None, students={"a": student, name: student})
    with pytest.raises(RequestError, match=f"`students` has the name '{name}', which .* takes; expected another"):
        RunConfig.load(str(path))


def test_names_like_those_that_are_taken(tmp_path: Path) -> None:
    several = dict.fromkeys(("seed", "seeds-1", "grown-up", "generation"), settings(tmp_path)["student"])
    config = RunConfig.load(str(write_config(tmp_path, student=None, students=several)))
    assert len(config.of_students()) == 3


@pytest.mark.parametrize("role", ["student", "baseline"])
def test_a_further_system_has_not_the_name_of_a_students(role: str, tmp_path: Path) -> None:
    student = settings(tmp_path)["student"]
    more = {"student": None, "students": {"a": student, "b": student}}
    for name in ("a", "b"):
        system = {"model": student["model"], "checkpoint": "weights.safetensors"}
        path = str(write_config(tmp_path, evaluation__systems={f"{role}-{name}": system}, **more))
        if name == "a":  # the first student's systems are `student` and `baseline`
            RunConfig.load(path)
        else:
            with pytest.raises(RequestError, match=f"evaluation.systems` has the name '{role}-b', which one of"):
                RunConfig.load(path)
