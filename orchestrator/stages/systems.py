"""A measured system as a row of the report."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from orchestrator.config.schema import CORRECTED
from orchestrator.reporting import by_class
from orchestrator.reporting.report import COMPARED, Calibration, Latency, Role, System, TestMetrics
from orchestrator.stages.context import Context
from workers.evaluation import tasks as jobs
from workers.evaluation.bootstrap import Interval
from workers.evaluation.custom_metrics import Metric
from workers.evaluation.metrics import Sums
from workers.specs.models import SpecialClasses


@dataclass(frozen=True)
class Measured:
    """Metrics of a system's predictions on the test split; `extra`: those of this run alone; `intervals`: of others."""

    sums: Sums
    extra: Mapping[str, Metric]
    intervals: Mapping[str, Interval | None] = field(default_factory=dict)


def special_names(run: Context, special: SpecialClasses | None) -> list[str]:
    """The names of a specialist's classes; their ids where labels are numbers."""
    return [] if special is None else [by_class.name(run.dataset.label_names, k) for k in special.ids]


def row_of(name: str, role: Role, measured: Measured, described: jobs.Described, special: Sequence[str] = ()) -> System:
    """The row. described: its size and latency. special: the names of a specialist's classes."""
    sums = measured.sums
    return System(
        name=name,
        role=role,
        parameters=described.parameters,
        test=TestMetrics(
            examples=sums.examples,
            accuracy=sums.accuracy,
            nll=sums.mean_nll,
            ece=sums.ece,
            brier=sums.brier,
            macro_f1=sums.macro_f1,
            **_by_name(measured),
        ),
        latency_ms=Latency(**described.latency_ms),
        examples_per_second=described.per_second,
        calibration=_calibration(sums),
        confusion=sums.confusion.tolist() if role in COMPARED or name == CORRECTED else [],
        special=list(special),
    )


def _by_name(measured: Measured) -> dict[str, Any]:
    """The further metrics, and the intervals of all, by their names in the report."""
    extra = measured.extra
    intervals = {**measured.intervals, **{name: metric.interval for name, metric in extra.items()}}
    bounds = {f"{name}_interval": of.bounds for name, of in intervals.items() if of is not None}
    return {**{name: metric.value for name, metric in extra.items()}, **bounds}


def _calibration(sums: Sums) -> Calibration:
    count = np.maximum(sums.bin_examples, 1)
    return Calibration(
        examples=[int(n) for n in sums.bin_examples],
        confidence=[float(v) for v in sums.bin_confidence / count],
        accuracy=[float(v) for v in sums.bin_correct / count],
    )
