"""Parts under way: in order, by one set of members each, and the same bytes however many pieces and jobs there are."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from concurrent.futures import Future
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import ray
import torch

from orchestrator.teachers import reduction
from orchestrator.teachers.reduction import Assembler, Unmade
from tests.makers import NUMERICS
from workers import ensemble
from workers.data.numbering import Numbering
from workers.errors import RunError
from workers.inference.reduce import Assembly, PartTask, Rule
from workers.targets import soft_targets
from workers.targets.dense import Dense
from workers.targets.layout import PartLayout
from workers.targets.soft_targets import Part

N, CLASSES = 100, 40
P = np.random.default_rng(0).dirichlet(np.full(CLASSES, 0.1), N).astype(np.float32)
SHARES = {"a": 0.25, "b": 0.75}


def made_of(folder: Path, layout: PartLayout, top_k: int | None = 4) -> Assembly:
    return Assembly(str(folder), layout, CLASSES, "arithmetic", "float16", top_k, NUMERICS, Numbering(layout.examples))


def answers(layout: PartLayout, piece: int, names: list[str]) -> dict[int, Any]:
    p = torch.from_numpy(P[layout.piece_ids(piece)])
    share = sum(SHARES[name] for name in names)
    return {
        k: ensemble.contribution(p, SHARES[name] / share, "arithmetic", torch.int32).numpy()
        for k, name in enumerate(names)
    }


def go_on(work: Assembler, names: list[str], most: int = 10**6) -> list[Part]:
    """Answer up to `most` pieces, then let what is under way end."""
    made: list[Part] = []
    while work.unanswered(1) or work.parts:
        if work.unanswered(1) and not work.is_full and most:
            most -= 1
            piece = work.unanswered(1)[0]
            work.begin(piece, names, answers(work.assembly.layout, piece, names))
            assert len(work.jobs) <= work.at_once
        elif work.jobs:
            work.wait(5.0)
        elif not most:
            break
        work.collect(lambda piece: None)
        made += work.finished()
    return made


def bytes_of(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.mark.parametrize("top_k", [4, None])
def test_in_pieces_and_several_at_a_time_it_is_the_same_store(tmp_path: Path, top_k: int | None) -> None:
    whole, cut = PartLayout(N, 32), PartLayout(N, 32, piece=8)
    with Assembler(made_of(tmp_path / "whole", whole, top_k), range(4), near=False, at_once=1) as work:
        one = go_on(work, ["a", "b"])
    with Assembler(made_of(tmp_path / "cut", cut, top_k), range(4), near=False, at_once=3) as work:
        other = go_on(work, ["a", "b"])
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
    with Assembler(made_of(tmp_path, layout), range(4), near=False, at_once=2) as work:
        first = go_on(work, ["a", "b"], most=6)
        assert [part.members for part in first] == [["a", "b"]] and work.unanswered(2) == [6, 7]
        rest = go_on(work, ["b"])
    assert [part.members for part in rest] == [["b"]] * 3
    assert soft_targets.read_part(str(tmp_path), rest[0]).ids.tolist() == layout.ids(1).tolist()
    alone = PartLayout(N, 32)
    expected = made_of(tmp_path / "expected", alone).task(1).part
    assert rest[0] == expected(["b"], *answers(alone, 1, ["b"]).values())


@pytest.mark.parametrize("top_k", [4, None])
def test_in_pieces_each_row_keeps_the_name_that_the_user_gave_it(tmp_path: Path, top_k: int | None) -> None:
    numbering = Numbering(N // 2, views=2, kept=np.arange(0, 80, 2), given=80)
    made = []
    for folder, layout in (("whole", PartLayout(N // 2, 32, 2)), ("cut", PartLayout(N // 2, 32, 2, piece=8))):
        assembly = replace(made_of(tmp_path / folder, layout, top_k), numbering=numbering)
        with Assembler(assembly, range(4), near=False, at_once=2) as work:
            made.append(go_on(work, ["a", "b"]))
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
    monkeypatch.setattr(reduction, "reduced_beside_teachers", Task(reduce, fail or {}))
    monkeypatch.setattr(reduction, "part_beside_teachers", Task(PartTask.part, {}))


def test_what_is_lost_beside_the_teachers_is_asked_for_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    layout = PartLayout(N, 32, piece=8)
    lost = ray.exceptions.ObjectLostError("00" * 28, b"", "")
    beside_teachers(monkeypatch, fail={2: lost})
    with Assembler(made_of(tmp_path / "near", layout), range(4), near=True, at_once=2) as work:
        with pytest.raises(Unmade) as unmade:
            go_on(work, ["a", "b"])
        assert unmade.value.piece == 1 and unmade.value.error is lost and set(unmade.value.answers) == {0, 1}
        assert work.unanswered(1) == [1]
        go_on(work, ["a", "b"])
    with Assembler(made_of(tmp_path / "far", layout), range(4), near=False, at_once=1) as work:
        go_on(work, ["a", "b"])
    assert bytes_of(tmp_path / "near") == bytes_of(tmp_path / "far")


@pytest.mark.parametrize("what", ["near", "reduce", "write"])
def test_what_fails_is_tried_once_more_and_then_ends_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, what: str, caplog: pytest.LogCaptureFixture
) -> None:
    layout, failures, near = PartLayout(N, 32, piece=8), [1], what == "near"

    def failing(call: Any) -> Any:
        def call_or_fail(*arguments: Any) -> Any:
            if failures and failures[0]:
                failures[0] -= 1
                raise OSError("no space left")
            return call(*arguments)

        return call_or_fail

    if near:
        beside_teachers(monkeypatch, failing(Rule.reduce))
    else:
        monkeypatch.setattr(Assembly, what, failing(getattr(Assembly, what)))
    with Assembler(made_of(tmp_path / "once", layout), range(4), near=near, at_once=1) as work:
        assert [part.rows for part in go_on(work, ["a", "b"])] == [32, 32, 32, 4]
    assert caplog.text.count("writing part 0 of the soft targets failed (OSError: no space left); tried again") == 1
    failures[0] = 2
    said = "writing part 0 of the soft targets failed: OSError: no space left"
    again = Assembler(made_of(tmp_path / "twice", layout), range(4), near=near, at_once=1)
    with again as work, pytest.raises(RunError, match=said):
        go_on(work, ["a", "b"])


def test_parts_behind_a_slow_one_do_not_go_on_for_ever(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    released, layout = threading.Event(), PartLayout(1000, 10)
    write = Assembly.write

    def slow(self: Assembly, number: int, *arguments: Any) -> Part:
        if number == 0:
            released.wait(30)
        return write(self, number, *arguments)

    monkeypatch.setattr(Assembly, "write", slow)
    monkeypatch.setattr(Assembly, "reduce", lambda self, *values: Dense(torch.from_numpy(values[0])))
    rows = {0: np.full((10, CLASSES), 1 / CLASSES, np.float16)}
    with Assembler(made_of(tmp_path, layout, None), range(100), near=False, at_once=2) as work:
        while not work.is_full or len(work.jobs) > 1:
            if not work.is_full:
                work.begin(work.unanswered(1)[0], ["a"], rows)
            work.wait(0.05)
            work.collect(lambda piece: None)
        assert not list(work.finished()) and work.unanswered(1) == [4]
        released.set()
        made: list[Part] = []
        while not made:
            work.wait(5.0)
            work.collect(lambda piece: None)
            made += work.finished()
    assert len(made) == 4
