"""Descriptions and parameters of runs in MLflow.

MLflow shows only about the first 120 pixels of a collapsed description. So the verdict comes first, then the table.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from orchestrator.config.run_config import RunConfig
from orchestrator.config.schema import CORRECTED
from orchestrator.reporting import tables
from orchestrator.reporting.content import Rows
from orchestrator.reporting.markdown import literal
from orchestrator.reporting.plots import OVERVIEW
from orchestrator.reporting.report import COMPARED, SPECIALISTS, Report, Role, SoftTargets, System
from workers.errors import first_few
from workers.redact import HIDDEN, redacted

NOT_OF_THE_EXPERIMENT = ("name", "storage", "tracking", "report")
"""Sections of a configuration that do not affect results. They are left out, so that comparisons show real changes."""
LINKED = 20
MOST = 500
"""Most characters of a parameter's value."""
LONGEST = 250
"""Most characters of a parameter's name in MLflow."""
REFUSED = re.compile(r"[^\w.\- :]")
"""Characters that it refuses there, and `/`, which may stand only between the parts of a path."""


def params(config: RunConfig) -> dict[str, str]:
    """The configuration of the experiment, by dotted keys."""
    found = flat(config.model_dump(mode="json", exclude_none=True))
    return {key: value for key, value in found.items() if key.split(".")[0] not in NOT_OF_THE_EXPERIMENT}


def params_of(role: Role | Literal["stage"], config: RunConfig, name: str = "") -> dict[str, str]:
    """The configuration of one system, under the same keys for all systems. name: of the system."""
    config = config.of_students().get(name.partition("-")[2], config) if role in ("baseline", "student") else config
    ensemble, student = config.ensemble, config.student
    number = int(name.rpartition("-")[2]) if role == "member" and name else 0
    own = ensemble.of_each(number + 1)[number]
    every = ensemble.model or {f"group-{k}": group.model.label for k, group in enumerate(ensemble.groups)}
    sample = None if own.sample == "all" else own.sample
    recipes: dict[str, dict[str, Any]] = {
        "member": {
            "model": own.model,
            "training": own.training,
            "sample": sample,
            "initial": own.initial,
            "specialists": own.specialists,
        },
        "ensemble": {"model": every, "combine": ensemble.combine, "weights": ensemble.weights},
        "baseline": {"model": student.model, "training": student.baseline_recipe},
    }
    if role == "further":
        given = config.evaluation.systems.get(name)  # none for the student with a bias
        recipes["further"] = {"model": student.model if given is None else given.model}
    for stage in config.training_stages:
        recipes[stage.system] = {"model": student.model, "training": stage.training, "distillation": stage.loss}
    found = {key: value.model_dump(mode="json", exclude_none=True) if hasattr(value, "model_dump") else value
             for key, value in recipes[name if role == "stage" else role].items() if value is not None}  # fmt: skip
    return flat(found)


def flat(values: Mapping[str, Any], prefix: str = "", most: int | None = MOST) -> dict[str, str]:
    """Nested keys as dotted ones, which MLflow can search and compare. most: characters of a value; None: all."""
    found: dict[str, str] = {}
    for key, value in values.items():
        if isinstance(value, list) and any(isinstance(each, Mapping) for each in value):
            value = {str(number): each for number, each in enumerate(value)}
        if isinstance(value, Mapping):
            found |= flat(value, f"{prefix}{key}.", most)
        elif "kwargs." in prefix or (key not in ("folder", "depends_on") and f"{prefix}{key}" != "data.root"):
            found[f"{prefix}{key}"] = _told(key, str(value))[:most]
    return found


def param_name(key: str) -> str:
    """A dotted key without what MLflow refuses in the name of a parameter, such as `C++` among keyword arguments."""
    return REFUSED.sub("_", key)[:LONGEST]


def _told(key: str, value: str) -> str:
    """A value without secrets, which are detected by the key as well."""
    told = redacted(f"{key}={value}").removeprefix(f"{key}=")
    return HIDDEN if told.startswith(HIDDEN) else told


def note(report: Report, runs: Mapping[str, str], experiment: str, parent: str) -> str:
    """The description of a whole run, in Markdown: the verdict, then the comparison.

    runs: each system's MLflow run, by its name.
    """
    base = f"#/experiments/{experiment}/runs"
    rows = tables.comparison(report)
    compared = [rows[0], *rows[:0:-1]]  # ensemble, baseline and student first
    lost = f"**Members lost on the way: {', '.join(report.lost_members)}.** " if report.lost_members else ""
    soft = report.soft_targets
    return "\n\n".join(
        [
            f"{lost}**{tables.verdict(report)}**",
            *report.notes,
            "```\n" + _aligned(compared) + "\n```",
            f"![the same in pictures](get-artifact?path=plots%2F{OVERVIEW}&run_uuid={parent})",
            " · ".join(_link(report.system(role), base, runs) for role in COMPARED),
            f"{soft.examples:,} soft targets at T = {soft.temperature:g} of {len(report.members)} members: "
            + _links(report.members, base, runs)
            + f". {tables.cost(report)} [The whole report]({base}/{parent}/artifacts/report.html).",
        ]
    )


def note_of(system: System, report: Report, runs: Mapping[str, str], experiment: str, parent: str) -> str:
    """The description of one system's run: what it learned from, with links."""
    base = f"#/experiments/{experiment}/runs"
    members = _links(report.members, base, runs)
    soft = report.soft_targets
    of: dict[Role, str] = {
        "member": "Learned from hard labels, from a seed of its own; one of the ensemble.",
        "ensemble": f"{_joined(soft)} of {members}.",
        "baseline": "The student's architecture on hard labels alone.",
        "student": f"Learned from {soft.examples:,} soft targets at T = {soft.temperature:g}, made by {members}.",
        "further": "A finished model that is measured beside them.",
    }
    if system.special:
        shown = ", ".join(map(literal, system.special[:LINKED]))
        of["member"] = f"A specialist of {len(system.special)} classes: {shown}."
    what = "The student with a bias for some classes." if system.name == CORRECTED else of[system.role]
    return f"{what} Part of [{report.name}]({base}/{parent})."


def _joined(soft: SoftTargets) -> str:
    return "The joint answer" if soft.rule == SPECIALISTS else f"The {soft.combine} mean"


def _links(systems: Sequence[System], base: str, runs: Mapping[str, str]) -> str:
    """Links to the systems; MLflow's descriptions have space for at most `LINKED`."""
    return first_few(systems, LINKED, lambda system: _link(system, base, runs))


def _link(system: System, base: str, runs: Mapping[str, str]) -> str:
    return f"[{system.name}]({base}/{runs[system.name]})" if system.name in runs else system.name


def _aligned(rows: Rows) -> str:
    """A table in fixed-width text, since MLflow renders Markdown tables without lines or column spacing."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    first = widths[0]
    return "\n".join(
        row[0].ljust(first) + "".join(f"  {cell:>{width}}" for cell, width in zip(row[1:], widths[1:], strict=True))
        for row in rows
    )
