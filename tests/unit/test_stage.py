"""Stages in order, each with the results that it names, and one that is still under way when the next begins."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from orchestrator.pipeline import STAGES
from orchestrator.stages.stage import Stage, execute

NO_RUN: Any = None
ONE = Stage("one", lambda run, given: 1)


def test_each_gets_what_it_names() -> None:
    two = Stage("two", lambda run, given: given[ONE] + 1, (ONE,))
    three = Stage("three", lambda run, given: given[ONE] + given[two], (ONE, two))
    found = execute((ONE, two, three), NO_RUN)
    assert (found[ONE], found[two], found[three]) == (1, 2, 3)
    hidden = Stage("hidden", lambda run, given: given[two], (ONE,))
    with pytest.raises(LookupError, match="'two' is not at hand"):
        execute((ONE, two, hidden), NO_RUN)


def test_an_input_that_comes_too_late_is_found_before_anything_runs() -> None:
    ran: list[str] = []
    first = Stage("first", lambda run, given: ran.append("first"))
    two = Stage("two", lambda run, given: None, (ONE,))
    with pytest.raises(ValueError, match="stage 'two' takes the result of 'one', which does not run before it"):
        execute((first, two, ONE), NO_RUN)
    assert not ran


@pytest.mark.parametrize("fails", [False, True])
def test_what_is_under_way_ends_behind_the_last_and_sees_its_error(fails: bool) -> None:
    told: list[str] = []

    @contextmanager
    def under_way(run: Any, given: Any) -> Iterator[str]:
        told.append("begins")
        try:
            yield "made"
        except KeyError:
            told.append("error")
            raise ValueError("instead") from None
        told.append("ends")

    def use(run: Any, given: Any) -> None:
        told.append(given[coming])
        if fails:
            raise KeyError

    coming: Stage[str] = Stage("coming", under_way)
    user = Stage("user", use, (coming,))
    if fails:
        with pytest.raises(ValueError, match="instead"):
            execute((coming, user), NO_RUN)
    else:
        assert execute((coming, user), NO_RUN)[coming] == "made"
    assert told == ["begins", "made", "error" if fails else "ends"]


def test_the_stages_of_a_run_are_in_order() -> None:
    for number, stage in enumerate(STAGES):
        assert set(stage.inputs) <= set(STAGES[:number])
    assert len({stage.name for stage in STAGES}) == len(STAGES)
