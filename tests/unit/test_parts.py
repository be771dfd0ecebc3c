"""Parts under way: in order, by one set of members each, and the same bytes however many pieces and jobs there are."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import ray
import torch

from orchestrator.teachers import jobs
from orchestrator.teachers.events import Answered, Event, Lost, Open, Stream, Up
from orchestrator.teachers.instructions import Ask, Drop, Fail, Finish, Instruction, Reduce, Retry, Start, Write
from orchestrator.teachers.jobs import Given, Jobs
from orchestrator.teachers.membership import Rules
from orchestrator.teachers.parts import Parts
from orchestrator.teachers.policy import Kind
from orchestrator.teachers.state import PoolState
from tests.makers import NUMERICS
from workers import ensemble
from workers.data.numbering import Numbering
from workers.errors import RunError
from workers.inference.reduce import PartTask, Reduction, Rule
from workers.targets import soft_targets
from workers.targets.dense import Dense
from workers.targets.layout import PartLayout
from workers.targets.soft_targets import Part

N, CLASSES = 100, 40
P = np.random.default_rng(0).dirichlet(np.full(CLASSES, 0.1), 10 * N).astype(np.float32)
SHARES = {"a": 0.25, "b": 0.75}


def made_of(folder: Path, layout: PartLayout, top_k: int | None = 4) -> Reduction:
    return Reduction(
        folder=str(folder),
        layout=layout,
        classes=CLASSES,
        rule=Rule("arithmetic", "float16", top_k),
        numerics=NUMERICS,
        numbering=Numbering(layout.examples),
    )


class Work:
    """The state of a pool of members a and b, with jobs of its own, and actors that answer as soon as they are asked.

    policy: `reweight`, under which lost actors do not come back, or `wait`, under which they do.
    """

    def __init__(
        self, reduction: Reduction, parts: Sequence[int], on_workers: bool, at_once: int, policy: str = "reweight"
    ) -> None:
        self.state = PoolState([["a"], ["b"]], SHARES, Rules(policy, 60.0))
        self.jobs = Jobs(replace(reduction, reduces_on_workers=on_workers), at_once)
        self.asks: dict[int, Ask] = {}
        self.made: list[Part] = []
        self.execute: dict[type[Instruction], Callable[[Any], None]] = {
            Start: lambda wanted: self.started.append(wanted.actor),
            Ask: self.ask,
            Reduce: self.reduce,
            Write: self.jobs.write,
            Retry: self.jobs.retry,
            Drop: self.jobs.drop,
            Finish: lambda wanted: self.made.append(self.jobs.take(wanted.job)),
            Fail: self.fail,
        }
        ups = self.tell(Open(0.0))
        for actor in ups:
            self.tell(Up(0.0, actor, "node", False, 1.0))
        pieces = [(number, reduction.layout.pieces(number)) for number in parts]
        self.tell(Stream(0.0, pieces, on_workers, at_once))

    @property
    def parts(self) -> Parts:
        assert self.state.work is not None
        return self.state.work

    def tell(self, event: Event) -> list[int]:
        """Tell the state, and execute what it returns. Returns the actors that were started."""
        self.started: list[int] = []
        for each in self.state.handle(event):
            self.execute.get(type(each), lambda instruction: None)(each)
        return self.started

    def fail(self, wanted: Fail) -> None:
        raise wanted.error

    def ask(self, wanted: Ask) -> None:
        self.asks[wanted.ask] = wanted

    def reduce(self, wanted: Reduce) -> None:
        self.jobs.reduce(wanted, {ask: self.given(self.asks[ask]) for ask in wanted.asks})

    def given(self, ask: Ask) -> Given:
        """What an actor answers: as many members as it hosts, each [rows, K] int32."""
        p = torch.from_numpy(P[self.jobs.reduction.layout.piece_ids(ask.piece)])
        (share,) = ask.shares.values()
        return Given(ensemble.contribution(p, share, "arithmetic", torch.int32).numpy(), str(ask.ask))

    def answer(self) -> None:
        """Answer the piece at the head."""
        for ask in self.state.awaited():
            self.tell(Answered(0.0, ask))

    def collect(self) -> None:
        """Tell what became of jobs; an actor whose answer is lost is up again at once, unless it is left out."""
        for event in self.jobs.ends(0.0):
            for actor in self.tell(event):
                self.tell(Up(0.0, actor, "node", False, 1.0))

    def go_on(self, most: int = 10**6) -> list[Part]:
        """Answer up to `most` pieces, then let what is under way end. Returns the parts that are made meanwhile."""
        self.made = []
        while not self.state.is_done:
            if self.state.head is not None and most:
                most -= 1
                self.answer()
                assert len(self.jobs.calls) <= self.parts.at_once
            elif self.jobs.calls:
                self.jobs.wait(5.0)
            elif not most:
                break
            self.collect()
        return self.made


@contextmanager
def working(
    reduction: Reduction, parts: Sequence[int], on_workers: bool, at_once: int, policy: str = "reweight"
) -> Iterator[Work]:
    work = Work(reduction, parts, on_workers, at_once, policy)
    with work.jobs:
        yield work


def bytes_of(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.mark.parametrize("top_k", [4, None])
def test_in_pieces_and_several_at_a_time_it_is_the_same_store(tmp_path: Path, top_k: int | None) -> None:
    whole, cut = PartLayout(N, 32), PartLayout(N, 32, piece=8)
    with working(made_of(tmp_path / "whole", whole, top_k), range(4), on_workers=False, at_once=1) as work:
        one = work.go_on()
    with working(made_of(tmp_path / "cut", cut, top_k), range(4), on_workers=False, at_once=3) as work:
        other = work.go_on()
    assert one == other and [part.rows for part in one] == [32, 32, 32, 4]
    assert bytes_of(tmp_path / "whole") == bytes_of(tmp_path / "cut")
    for number, part in enumerate(other):
        assert np.array_equal(soft_targets.read_part(str(tmp_path / "cut"), part).ids, cut.ids(number))


def test_pieces_do_not_depend_on_the_rows_of_a_part() -> None:
    for views in (1, 2):
        layouts = [PartLayout(N, rows, views, 8) for rows in (8, 32)]
        pieces = [[p for part in range(layout.parts) for p in layout.pieces(part)] for layout in layouts]
        assert pieces[0] == pieces[1] == list(range(views * 13))
        for piece in pieces[0]:
            assert np.array_equal(layouts[0].piece_ids(piece), layouts[1].piece_ids(piece))
        for part in range(layouts[1].parts):
            together = np.concatenate([layouts[1].piece_ids(piece) for piece in layouts[1].pieces(part)])
            assert np.array_equal(np.sort(together), layouts[1].ids(part))
            assert {layouts[1].part_of(piece) for piece in layouts[1].pieces(part)} == {part}
    with pytest.raises(ValueError, match="expected a multiple"):
        PartLayout(N, 32, piece=7)


def test_a_part_is_made_by_one_set_of_members(tmp_path: Path) -> None:
    """One is lost in the middle of the second part: the first stays, the second is made anew by the others."""
    layout = PartLayout(N, 32, piece=8)
    with working(made_of(tmp_path, layout), range(4), on_workers=False, at_once=2) as work:
        first = work.go_on(most=6)
        assert [part.members for part in first] == [["a", "b"]] and work.parts.unanswered(2) == [6, 7]
        work.tell(Lost(0.0, 0, Kind.DIED, "ActorDiedError"))
        rest = work.go_on()
    assert [part.members for part in rest] == [["b"]] * 3
    assert soft_targets.read_part(str(tmp_path), rest[0]).ids.tolist() == layout.ids(1).tolist()
    alone = PartLayout(N, 32)
    expected = made_of(tmp_path / "expected", alone).task(1).part
    whole = ensemble.contribution(torch.from_numpy(P[alone.ids(1)]), 1.0, "arithmetic", torch.int32).numpy()
    assert rest[0] == expected(["b"], whole)


@pytest.mark.parametrize("top_k", [4, None])
def test_in_pieces_each_row_keeps_the_name_that_the_user_gave_it(tmp_path: Path, top_k: int | None) -> None:
    numbering = Numbering(N // 2, views=2, kept=np.arange(0, 80, 2), given=80)
    made = []
    for folder, layout in (("whole", PartLayout(N // 2, 32, 2)), ("cut", PartLayout(N // 2, 32, 2, piece=8))):
        reduction = replace(made_of(tmp_path / folder, layout, top_k), numbering=numbering)
        with working(reduction, range(4), on_workers=False, at_once=2) as work:
            made.append(work.go_on())
        for number, part in enumerate(made[-1]):
            ids, table = layout.ids(number), pq.read_table(tmp_path / folder / part.path)
            assert table.column("example_id").to_pylist() == numbering.example_ids(ids).tolist()
            assert table.column("view").to_pylist() == [number // 2] * len(ids)
    assert made[0] == made[1]


class Task:
    """Stands for a Ray task: made at once, lost where that is wanted, and slow where it is held."""

    def __init__(self, call: Any, fail: Mapping[int, Exception]) -> None:
        self.call, self.fail, self.calls = call, dict(fail), 0

    def remote(self, *arguments: Any) -> Future[Any]:
        future: Future[Any] = Future()
        self.calls += 1
        error = self.fail.pop(self.calls, None)
        try:
            future.set_exception(error) if error else future.set_result(self.call(*arguments))
        except OSError as raised:
            future.set_exception(raised)
        return future


def beside_teachers(
    monkeypatch: pytest.MonkeyPatch, reduce: Any = Rule.reduce, fail: Mapping[int, Exception] | None = None
) -> None:
    """No Ray task is started: a part of a single piece, as the last one, is written in this process too."""
    monkeypatch.setattr(jobs, "reduced_beside_teachers", Task(reduce, fail or {}))
    monkeypatch.setattr(jobs, "part_beside_teachers", Task(PartTask.part, {}))


def test_what_is_lost_beside_the_teachers_is_asked_for_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    layout = PartLayout(N, 32, piece=8)
    lost = ray.exceptions.ObjectLostError("lost", b"", "")
    beside_teachers(monkeypatch, fail={2: lost})
    with working(made_of(tmp_path / "on_workers", layout), range(4), on_workers=True, at_once=2, policy="wait") as work:
        (own,) = [ask.ask for ask in work.asks.values() if (ask.piece, *ask.shares) == (1, "b")]
        monkeypatch.setattr(lost, "object_ref_hex", str(own))
        work.answer()
        work.answer()
        while work.parts.unanswered(1) != [1]:
            work.collect()
        again = [ask for ask in work.asks.values() if ask.piece == 1]
        assert [tuple(ask.shares) for ask in again] == [("a",), ("b",), ("b",)]  # the other's answer is still there
        work.go_on()
    with working(made_of(tmp_path / "far", layout), range(4), on_workers=False, at_once=1) as work:
        work.go_on()
    assert bytes_of(tmp_path / "on_workers") == bytes_of(tmp_path / "far")


def test_a_loss_that_no_teacher_explains_ends_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    beside_teachers(monkeypatch, fail={2: ray.exceptions.ObjectLostError("another", b"", "")})
    reduction = made_of(tmp_path, PartLayout(N, 32, piece=8))
    expected = "writing part 0 of the soft targets failed: ObjectLostError"
    with working(reduction, range(4), on_workers=True, at_once=2) as work, pytest.raises(RunError, match=expected):
        work.go_on()


@pytest.mark.parametrize("what", ["on_workers", "reduce", "write"])
def test_what_fails_is_tried_once_more_and_then_ends_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, what: str, caplog: pytest.LogCaptureFixture
) -> None:
    layout, failures, on_workers = PartLayout(N, 32, piece=8), [1], what == "on_workers"

    def failing(call: Any) -> Any:
        def call_or_fail(*arguments: Any) -> Any:
            if failures and failures[0]:
                failures[0] -= 1
                raise OSError("no space left")
            return call(*arguments)

        return call_or_fail

    if on_workers:
        beside_teachers(monkeypatch, failing(Rule.reduce))
    else:
        of = Rule if what == "reduce" else Reduction
        monkeypatch.setattr(of, what, failing(getattr(of, what)))
    with working(made_of(tmp_path / "once", layout), range(4), on_workers=on_workers, at_once=1) as work:
        assert [part.rows for part in work.go_on()] == [32, 32, 32, 4]
    assert caplog.text.count("writing part 0 of the soft targets failed (OSError: no space left); tried again") == 1
    failures[0] = 2
    said = "writing part 0 of the soft targets failed: OSError: no space left"
    again = working(made_of(tmp_path / "twice", layout), range(4), on_workers=on_workers, at_once=1)
    with again as work, pytest.raises(RunError, match=said):
        work.go_on()


def test_parts_behind_a_slow_one_do_not_go_on_for_ever(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    released, layout = threading.Event(), PartLayout(1000, 10)
    write = Reduction.write

    def slow(self: Reduction, number: int, *arguments: Any) -> Part:
        if number == 0:
            released.wait(30)
        return write(self, number, *arguments)

    monkeypatch.setattr(Reduction, "write", slow)
    monkeypatch.setattr(Rule, "reduce", lambda self, members, *values: Dense(torch.from_numpy(values[0])))
    monkeypatch.setattr(ensemble, "contribution", lambda p, *_: p)  # each answer is stored as it is
    with working(made_of(tmp_path, layout, None), range(100), on_workers=False, at_once=2) as work:
        while not work.parts.is_full or len(work.jobs.calls) > 1:
            work.answer()
            work.jobs.wait(0.05)
            work.collect()
        assert not work.made and work.parts.unanswered(1) == [4]
        released.set()
        while not work.made:
            work.jobs.wait(5.0)
            work.collect()
    assert len(work.made) == 4
