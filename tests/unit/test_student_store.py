"""Where a student finds its soft targets: one look into the folder shows all, and none is taken twice."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tests.makers import stored
from workers import faults, storage
from workers.targets import soft_targets, student_store
from workers.targets.student_store import PassEnded, Store

P = np.random.default_rng(0).dirichlet(np.ones(4), 25).astype(np.float32)


@pytest.fixture
def looked(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The folders that are listed from here on."""
    found: list[str] = []
    names = storage.names
    monkeypatch.setattr(storage, "names", lambda folder: (found.append(folder), names(folder))[1])  # type: ignore[func-returns-value]
    return found


def test_one_look_shows_all_that_is_there(tmp_path: Path, looked: list[str]) -> None:
    layout, parts = stored(tmp_path, P)
    store = Store(str(tmp_path), layout, {0: parts[0]}, coming=True)
    assert store.part(0) is parts[0] and not looked
    assert [store.part(number).path for number in (1, 2)] == [parts[1].path, parts[2].path] and len(looked) == 1


def test_it_looks_less_often_the_longer_it_waits(
    tmp_path: Path, looked: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    layout, parts = stored(tmp_path, P)
    hidden = (tmp_path / parts[2].path).rename(tmp_path / "hidden")
    waits: list[float] = []

    def wait(seconds: float) -> None:
        waits.append(seconds)
        if len(waits) == 12:
            hidden.rename(tmp_path / parts[2].path)

    monkeypatch.setattr("time.sleep", wait)
    store = Store(str(tmp_path), layout, {}, coming=True)
    assert store.part(2).path == parts[2].path
    assert len(looked) == 13 and waits == sorted(waits) and (waits[0], waits[-1]) == student_store.POLL_S


def test_what_will_not_come_is_not_waited_for(tmp_path: Path, looked: list[str]) -> None:
    layout, parts = stored(tmp_path, P)
    (tmp_path / parts[2].path).unlink()
    soft_targets.abandon(str(tmp_path))
    store = Store(str(tmp_path), layout, {}, coming=True)
    assert store.part(1).path == parts[1].path  # it had come before
    with pytest.raises(PassEnded, match="before part 2 of the soft targets was written"), faults.caught("student"):
        store.part(2)  # as in the fit of an estimator, which is not tried again
    assert len(looked) == 2
    with pytest.raises(PassEnded):
        Store(str(tmp_path), layout, {}, refused=frozenset({parts[0].path})).part(0)
