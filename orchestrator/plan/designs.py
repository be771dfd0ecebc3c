"""Formats of large soft targets, and which of them are feasible. Pure.

A design is feasible where storage has space for it, and where the student does not wait for it: an epoch reads its soft
targets in less time than it computes. Streaming, the student's training during the teachers' pass, saves time and
stores as much.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from orchestrator.plan.outlook import READ_BYTES_S, epoch_s, read_bytes
from orchestrator.plan.what_if import MUCH, distilled
from orchestrator.plan.whole import Runs, whole
from workers.errors import RequestError

WAYS: tuple[Mapping[str, Any], ...] = (
    {"top_k": None, "dtype": "float32"},
    {"top_k": None, "dtype": "float16"},
    {"top_k": 64, "dtype": "float32"},
    {"top_k": 16, "dtype": "float16"},
)
"""Settings of `distillation`, the most faithful first. With `top_k` the rest of the mass is one class."""


@dataclass(frozen=True, kw_only=True)
class Design:
    """A way to store soft targets.

    configured: whether it is the configuration's own. stored: bytes of soft targets, and of logits where these are
    kept. read_s, computed_s: seconds that an epoch of the student reads and computes. streamed_s: seconds that
    streaming saves. seconds: of the whole run. lacks_storage: whether storage is known to have less space.
    """

    name: str
    configured: bool
    stored: int
    read_s: float
    computed_s: float
    streamed_s: float
    seconds: float
    lacks_storage: bool

    @property
    def waits(self) -> bool:
        """Whether the student waits for its soft targets."""
        return self.read_s > self.computed_s

    @property
    def holds(self) -> bool:
        return not (self.lacks_storage or self.waits)


def designs(runs: Runs, free: int | None) -> tuple[Design, ...]:
    """The designs that these runs allow; none where soft targets are small. free: bytes of storage, if known."""
    sizes = runs.first.case.plan.sizes
    return tuple(_designs(runs, free)) if sizes.soft_targets + sizes.logits > MUCH else ()


def _designs(runs: Runs, free: int | None) -> Iterator[Design]:
    spec, classes = runs.first.case.config.distillation, runs.first.case.data.classes
    own = {"top_k": spec.top_k, "dtype": spec.dtype}
    for way in WAYS if own in WAYS else (own, *WAYS):
        top_k = way["top_k"]
        if top_k is not None and (spec.is_scheduled or top_k >= classes):
            continue
        changed = _changed(runs, way)
        if changed is not None:
            yield _design(way, changed, free, configured=way == own)


def _changed(runs: Runs, way: Mapping[str, Any]) -> Runs | None:
    """The runs with these settings of `distillation`; None where a term cannot learn from it."""
    try:
        return runs.changed(lambda case: distilled(case, **way))
    except RequestError:
        return None


def _design(way: Mapping[str, Any], runs: Runs, free: int | None, *, configured: bool) -> Design:
    first, of = runs.first, whole(runs)
    return Design(
        name="all classes, {dtype}".format(**way) if way["top_k"] is None else "top_k: {top_k}, {dtype}".format(**way),
        configured=configured,
        stored=first.case.plan.sizes.soft_targets + first.case.plan.sizes.logits,
        read_s=read_bytes(first.case) / READ_BYTES_S,
        computed_s=epoch_s(first.case, first.rates),
        streamed_s=sum(stage.seconds for stage in first.outlook.stages) - first.outlook.seconds,
        seconds=of.seconds,
        lacks_storage=free is not None and of.stored > free,
    )
