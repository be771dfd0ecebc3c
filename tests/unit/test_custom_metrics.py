"""Metrics of the user's own with intervals: of units of any number, and of rows that are drawn in groups."""

from __future__ import annotations

import sys
import types

import numpy as np
import pytest

from workers.evaluation import bootstrap, custom_metrics
from workers.evaluation.custom_metrics import Metric
from workers.specs.base import FactorySpec

ROWS = 400
P = np.full((ROWS, 2), 0.5, np.float32)
Y = np.arange(ROWS) // 200  # groups of 8 rows are right or wrong together
GROUPS = np.arange(ROWS) // 8


@pytest.fixture(autouse=True)
def module(monkeypatch: pytest.MonkeyPatch) -> None:
    found = types.ModuleType("metrics_of_a_test")
    right = np.random.default_rng(0).integers(0, 2, ROWS // 8).repeat(8)
    found.__dict__.update(
        rows=lambda p, y: {"rows": (right, np.ones(ROWS))},
        errors=lambda p, y: {"wer": ([1, 0, 3, 2, 0, 1], (4, 3, 5, 5, 2, 6)), "words": 25},
    )
    monkeypatch.setitem(sys.modules, found.__name__, found)


def measured(*names: str) -> dict[str, Metric]:
    specs = [FactorySpec(factory=f"metrics_of_a_test:{name}") for name in names]
    return custom_metrics.call(specs, P, Y, GROUPS)


def test_a_ratio_of_units_has_an_interval() -> None:
    found = measured("errors")
    assert found["words"] == Metric(25.0) and found["wer"].value == pytest.approx(7 / 25)
    interval = found["wer"].interval
    assert interval is not None and interval.low < 0.28 < interval.high


def test_rows_are_drawn_with_their_group() -> None:
    found, alone = measured("rows")["rows"], bootstrap.of_share(200, ROWS)
    assert found.interval is not None
    assert found.interval.error == pytest.approx(np.sqrt(8) * alone.error, rel=0.1)
