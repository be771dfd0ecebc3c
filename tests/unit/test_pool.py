"""The pool executes what its state decides: a pass on a Ray that is not there, whose actors answer, die and hang."""

from __future__ import annotations

import concurrent.futures
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import ray
import torch

from orchestrator.cluster import ray_private, reservation
from orchestrator.config.ensemble import EnsembleSpec
from orchestrator.teachers import actors, pool, slot
from orchestrator.teachers.pool import Hooks, Hosting, TeacherPool
from tests.makers import NUMERICS
from workers import ensemble, processes, telemetry
from workers.data.numbering import Numbering
from workers.errors import RunError
from workers.inference.actor import Started
from workers.inference.reduce import Reduction, Rule
from workers.inference.teacher import Member
from workers.processes import Where
from workers.specs.models import ModelSpec
from workers.targets.layout import PartLayout
from workers.targets.soft_targets import Part, read_part

N, CLASSES, PARTS = 100, 5, 4
LAYOUT = PartLayout(N, 32, piece=8)
NAMES = ("a", "b", "c")
P = np.random.default_rng(0).dirichlet(np.full(CLASSES, 0.5), (len(NAMES), N)).astype(np.float32)


class Ref(Future[Any]):
    """An object reference: of what was made, or of what never comes."""

    def hex(self) -> str:
        return str(id(self))


def made(value: Any) -> Ref:
    ref = Ref()
    ref.set_exception(value) if isinstance(value, BaseException) else ref.set_result(value)
    return ref


class Remote:
    def __init__(self, call: Callable[..., Any]) -> None:
        self.remote = call


class Teacher:
    """The handle of an actor. answers: so many, and then it is dead; is_hung: it never answers."""

    def __init__(self, cluster: Cluster, names: Sequence[str], place: int | None) -> None:
        self.cluster, self.names, self.place = cluster, names, place
        self.answers, self.is_hung = 10**6, False
        self.node = f"node {place}"
        self.ready, self.soften = Remote(self._ready), Remote(self._soften)

    def _ready(self, stacked: bool | None) -> Ref:
        raised = self.cluster.raised_at_start
        probes = {name: P[NAMES.index(name), :4] for name in self.names}
        return made(raised) if raised else made(Started(False, Where(self.node, 7), 0.0, probes))

    def _soften(self, piece: int, t: float, shares: dict[str, float], combine: str, ahead: Sequence[int]) -> Any:
        if self.is_hung:
            return Ref(), Ref()
        self.answers -= 1
        if self.answers < 0:
            return made(ray.exceptions.ActorDiedError()), made(ray.exceptions.ActorDiedError())
        p = torch.from_numpy(P[:, LAYOUT.piece_ids(piece)])
        each = [ensemble.contribution(p[NAMES.index(k)], share, combine, torch.int32) for k, share in shares.items()]
        total = torch.stack(each).sum(dim=0, dtype=torch.int32).numpy()
        return made(len(total)), made(total)


class Cluster:
    """Stands for Ray."""

    exceptions = ray.exceptions
    raised_at_start: BaseException | None = None

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.started: list[Teacher] = []
        self.killed: list[Teacher] = []
        self.ended: list[Where] = []
        self.leaving: set[str] = set()
        for module in (actors, pool):
            monkeypatch.setattr(module, "ray", self)
        monkeypatch.setattr(pool, "POLL_S", 0.02)
        monkeypatch.setattr(ray_private, "actor_id", lambda handle: str(id(handle)))
        monkeypatch.setattr(processes, "end", self.ended.append)
        monkeypatch.setattr(reservation, "leaving", lambda: self.leaving)
        monkeypatch.setattr(reservation, "inventory", lambda: "1 node; 2 CPU; free now: 0.5 CPU")

    def start(self, members: list[Member], place: int | None) -> Teacher:
        self.started.append(Teacher(self, [member.name for member in members], place))
        return self.started[-1]

    def kill(self, teacher: Teacher) -> None:
        self.killed.append(teacher)

    def get(self, refs: Any) -> Any:
        return [ref.result(0) for ref in refs] if isinstance(refs, list) else refs.result(0)

    def wait(self, refs: list[Ref], num_returns: int = 1, timeout: float = 0.0) -> tuple[list[Ref], list[Ref]]:
        how = concurrent.futures.ALL_COMPLETED if num_returns == len(refs) else concurrent.futures.FIRST_COMPLETED
        concurrent.futures.wait(refs, timeout, how)
        return [ref for ref in refs if ref.done()], [ref for ref in refs if not ref.done()]

    def cluster_resources(self) -> dict[str, float]:
        return {"CPU": 2.0}


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> Cluster:
    return Cluster(monkeypatch)


class Pass:
    """A pass of three members on two actors."""

    def __init__(self, cluster: Cluster, policy: str = "wait", **keys: Any) -> None:
        self.cluster, self.notes, self.checks = cluster, list[tuple[str, list[str]]](), 0
        model = ModelSpec(factory="none:at_all")
        spec = {"model": model.model_dump(), "training": {"epochs": 1}, "on_member_loss": policy, **keys}
        members = [Member(name, model, "") for name in NAMES]
        hosting = Hosting(members, [1.0] * 3, [range(2), range(2, 3)])
        hooks = Hooks(lambda action, names, _: self.notes.append((action, list(names))), lambda: None, self.check)
        self.pool = TeacherPool(hosting, cluster.start, EnsembleSpec.model_validate(spec), hooks)

    def check(self, pool: TeacherPool) -> None:
        self.checks += 1
        assert set(pool.probes()) <= set(NAMES) and len(pool.one_of_each_node()) >= 1

    def go(self, folder: Path) -> list[Part]:
        reduction = Reduction(
            folder=str(folder),
            layout=LAYOUT,
            classes=CLASSES,
            rule=Rule("arithmetic", "float32", 4),
            numerics=NUMERICS,
            numbering=Numbering(N),
        )
        with self.pool:
            return list(self.pool.stream(range(PARTS), 2.0, reduction))


@pytest.fixture
def undisturbed(cluster: Cluster, tmp_path: Path) -> list[Part]:
    return Pass(cluster).go(tmp_path / "undisturbed")


def test_it_is_the_mean_of_all_and_every_actor_is_released(cluster: Cluster, tmp_path: Path) -> None:
    run = Pass(cluster)
    parts = run.go(tmp_path)
    assert [part.rows for part in parts] == [32, 32, 32, 4] and {tuple(part.members) for part in parts} == {NAMES}
    for part in parts:
        rows = read_part(str(tmp_path), part)
        top = torch.from_numpy(P.mean(axis=0)[rows.ids]).topk(4, dim=1)
        torch.testing.assert_close(rows.targets.probabilities.float(), top.values, atol=1e-6, rtol=0)  # type: ignore[union-attr]
    assert run.notes == [] and run.checks == 1
    assert cluster.killed == cluster.started and [teacher.place for teacher in cluster.started] == [0, 1]


def let_the_first_actor_die(run: Pass) -> None:
    """The next actor that is started, of `a` and `b`, dies after five answers."""
    cluster, start, first = run.cluster, run.cluster.start, len(run.cluster.started)

    def start_mortal(members: list[Member], place: int | None) -> Teacher:
        teacher = start(members, place)
        teacher.answers = 5 if len(cluster.started) == first + 1 else teacher.answers
        return teacher

    run.pool.actors.start_actor = start_mortal


def test_an_actor_that_dies_is_started_again(cluster: Cluster, tmp_path: Path, undisturbed: list[Part]) -> None:
    run, first = Pass(cluster), len(cluster.started)
    let_the_first_actor_die(run)
    assert run.go(tmp_path) == undisturbed
    assert run.notes == [("restart", ["a", "b"])] and [teacher.place for teacher in cluster.started[first:]] == [
        0,
        1,
        0,
    ]
    assert sorted(map(id, cluster.killed)) == sorted(map(id, cluster.started))


def test_metrics_count_restarts_by_member_and_the_members_that_are_up(
    cluster: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    counted: list[tuple[str, dict[str, str]]] = []
    gauges: dict[str, list[float]] = {}
    monkeypatch.setattr(telemetry, "count", lambda name, **tags: counted.append((name, tags)))
    monkeypatch.setattr(telemetry, "gauge", lambda name, value: gauges.setdefault(name, []).append(value))
    run = Pass(cluster)
    let_the_first_actor_die(run)
    run.go(tmp_path)
    assert counted == [("stillhouse_member_restarts_total", {"member": name}) for name in ("a", "b")]
    live, expected = gauges["stillhouse_members_live"], gauges["stillhouse_members_expected"]
    assert live[:2] == [0, 3] and set(live) == {0, 1, 3} and live[-2:] == [3, 0]
    assert expected == [3] * (len(live) - 1) + [0]


def test_an_actor_that_hangs_is_ended_on_its_node(
    cluster: Cluster, tmp_path: Path, undisturbed: list[Part], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(slot, "PATIENCE_S", 0.1)
    monkeypatch.setattr(slot, "PATIENCE", 0.0)
    run = Pass(cluster)
    start = cluster.start

    def start_hung(members: list[Member], place: int | None) -> Teacher:
        teacher = start(members, place)
        teacher.is_hung = len(members) == 1 and not cluster.ended
        return teacher

    run.pool.actors.start_actor = start_hung
    assert run.go(tmp_path) == undisturbed
    assert run.notes == [("restart", ["c"])] and cluster.ended == [Where("node 1", 7)]


def test_a_teacher_moves_before_its_node_goes(cluster: Cluster, tmp_path: Path, undisturbed: list[Part]) -> None:
    run = Pass(cluster)
    run.pool._looked_s = -1.0
    cluster.leaving = {"node 1"}
    first = len(cluster.started)
    assert run.go(tmp_path) == undisturbed
    assert run.notes == [("moves", ["c"])]
    assert [teacher.place for teacher in cluster.started[first:]] == [0, 1, None]
    assert cluster.started[first + 1] in cluster.killed and len(cluster.killed) == len(cluster.started)


def test_what_ends_the_run_releases_every_actor(cluster: Cluster, tmp_path: Path) -> None:
    run = Pass(cluster)

    def refuse(pool: TeacherPool) -> None:
        raise RunError("a answers NaN")

    run.pool.hooks = replace(run.pool.hooks, check=refuse)
    with pytest.raises(RunError, match="a answers NaN"):
        run.go(tmp_path)
    assert len(cluster.started) == 2 and cluster.killed == cluster.started
    cluster.raised_at_start = RunError("other weights")
    with pytest.raises(RunError, match=r"^other weights$"):
        Pass(cluster).go(tmp_path)
    assert cluster.killed == cluster.started


def test_a_start_that_takes_too_long_shows_what_is_free(
    cluster: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Teacher, "_ready", lambda *_: Ref())
    expected = (
        r"of a, b was not up after `ensemble\.start_timeout_s`, 0\.1 s\. The cluster has 1 node; .* 0\.5 CPU\. Free"
    )
    with pytest.raises(RunError, match=expected):
        Pass(cluster, start_timeout_s=0.1).go(tmp_path)
    assert cluster.killed == cluster.started


def test_a_consumer_that_takes_its_time_makes_no_teacher_late(monkeypatch: pytest.MonkeyPatch) -> None:
    now = SimpleNamespace(s=100.0)
    now.monotonic = lambda: now.s
    monkeypatch.setattr(pool, "time", now)
    clock = pool.Clock(read_s=100.0)
    now.s += 1.0
    assert clock.read() == 1.0
    now.s += 3600.0
    assert clock.read() == 1.0 + 2 * pool.POLL_S
