"""A plan as tables, sentences and JSON: what `stillhouse plan` shows. Pure."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

from orchestrator.plan.designs import Design
from orchestrator.plan.outlook import Outlook
from orchestrator.plan.what_if import Variation, fastest, smallest
from orchestrator.reporting.content import Rows
from orchestrator.reporting.tables import hours
from workers import json_text
from workers.data.memory import size


@dataclass(frozen=True, kw_only=True)
class Planned:
    """A plan, and what it rests on. probed: training examples of the rehearsal; 0: rates are estimated from shapes."""

    name: str
    outlook: Outlook
    probed: int
    misfits: tuple[str, ...]
    variations: tuple[Variation, ...]
    designs: tuple[Design, ...] = ()


def rows(found: Planned) -> Rows:
    """The plan as a table."""
    header = ["stage", "where", "seconds", "core h", "GPU h", "moved", "stored", "memory of a process"]
    total = found.outlook
    return [
        header,
        *(
            [each.name, each.where, duration(each.seconds), hours(each.core_hours), hours(each.gpu_hours),
             _bytes(each.moved), _bytes(each.stored), _bytes(each.memory)]
            for each in total.stages
        ),
        ["together", "", duration(total.seconds), hours(total.core_hours), hours(total.gpu_hours),
         _bytes(total.moved), _bytes(total.stored), ""],
    ]  # fmt: skip


def what_if(found: Planned) -> Rows:
    """The variations as a table."""

    def row(name: str, of: Outlook) -> list[str]:
        return [name, duration(of.seconds), f"the {of.bound_by}", _bytes(of.moved), _bytes(of.stored)]

    return [
        ["what if", "together", "bound by", "moved", "stored"],
        row("as configured", found.outlook),
        *(row(each.change, each.outlook) for each in found.variations),
    ]


def of_designs(found: Planned) -> Rows:
    """The formats of large soft targets as a table; empty where they are small."""
    named = [
        "soft targets",
        "stored",
        "an epoch reads for",
        "and computes for",
        "streaming saves",
        "together",
        "feasible",
    ]
    rows = [
        [
            f"{each.name} (as configured)" if each.configured else each.name,
            size(each.stored),
            duration(each.read_s),
            duration(each.computed_s),
            duration(each.streamed_s) if each.streamed_s else "-",
            duration(each.seconds),
            "yes" if each.holds else "no",
        ]
        for each in found.designs
    ]
    return [named, *rows] if rows else []


def _of_design(found: Planned) -> list[str]:
    """Whether the configured format of large soft targets is feasible, and which one is otherwise."""
    own = next((each for each in found.designs if each.configured), None)
    if own is None:
        return []
    stated = f"The configured format of soft targets, {own.name}, is"
    if own.holds:
        return [f"{stated} feasible: {_reasons(own)}."]
    other = next((each for each in found.designs if each.holds), None)
    instead = f"A feasible one is {other.name}: {_reasons(other)}." if other else "No other format is feasible."
    return [f"{stated} not feasible: {_reasons(own)}. {instead}"]


def _reasons(of: Design) -> str:
    """The figures by which a design is feasible or not."""
    storage = " and storage has less space" if of.lacks_storage else ""
    read = f"an epoch reads for {duration(of.read_s)} and computes for {duration(of.computed_s)}"
    return f"they take {size(of.stored)}{storage}, {read}"


def verdict(found: Planned) -> str:
    """The plan in sentences."""
    of, lines = found.outlook, []
    basis = (
        f"from a rehearsal on {found.probed:,} training examples"
        if found.probed
        else "from shapes alone, and so within a factor of some three"
    )
    price = "" if of.price is None else f", {of.price:,.2f} at the prices given"
    lines.append(f"About {duration(of.seconds)}{price}, {basis}. Bound by the {of.bound_by}.")
    faster, smaller = fastest(of, found.variations), smallest(of, found.variations)
    if faster is not None:
        lines.append(f"What saves most time: {faster.change}, {duration(faster.outlook.seconds)} instead.")
    if smaller is not None:
        instead = f"{size(smaller.outlook.stored)} instead of {size(of.stored)}"
        lines.append(f"What saves most storage: {smaller.change}, {instead}.")
    lines += _of_design(found)
    lines += [f"Does not fit: {each}" for each in found.misfits]
    return "\n".join(lines)


def as_json(found: Planned) -> str:
    """The plan as JSON: the outlook, what it rests on, what does not fit, and the variations."""
    content: dict[str, Any] = {
        "name": found.name,
        "probed_examples": found.probed,
        **_described(found.outlook),
        "does_not_fit": list(found.misfits),
        "designs": [dataclasses.asdict(each) | {"holds": each.holds} for each in found.designs],
        "what_if": {each.change: _described(each.outlook) for each in found.variations},
    }
    return json_text.dumps(content, indent=2) + "\n"


def _described(of: Outlook) -> dict[str, Any]:
    totals = {"stored": of.stored, "moved": of.moved, "core_hours": of.core_hours, "gpu_hours": of.gpu_hours}
    return {**dataclasses.asdict(of), **totals}


def duration(seconds: float) -> str:
    """Seconds in readable form: `42 s`, `7 min`, `3.1 h`, `12 days`."""
    for limit, unit, digits in ((120, 1, "{:.0f} s"), (7200, 60, "{:.0f} min"), (172800, 3600, "{:.1f} h")):
        if seconds < limit:
            return digits.format(seconds / unit)
    return f"{seconds / 86400:,.1f} days"


def _bytes(count: int) -> str:
    return size(count) if count else "-"
