"""A report as Markdown, `report.md`."""

from __future__ import annotations

from orchestrator.reporting import by_class
from orchestrator.reporting.report import COMPARED, Report, SoftTargets, as_json
from orchestrator.reporting.tables import (
    Rows,
    beside_paper,
    comparison,
    cost,
    differences,
    each_member,
    front,
    number,
    over_seeds,
    percent,
    speed,
    stages,
    verdict,
    worth,
)
from orchestrator.run_folder.paths import RunFolder
from workers import storage


def write(report: Report, folder: str) -> None:
    storage.write_text(RunFolder(folder).report_text, markdown(report))
    storage.write_text(RunFolder(folder).report, as_json(report))


def markdown(report: Report) -> str:
    lost = f"Members lost on the way: {', '.join(report.lost_members)}.\n\n" if report.lost_members else ""
    parts = [f"# {report.name}\n", lost + verdict(report) + "\n", table(comparison(report))]
    if report.paper is not None:
        parts += [f"## Beside {report.paper.source}\n", table(beside_paper(report))]
    if report.differences:
        parts += ["## How sure the differences are\n", table(differences(report))]
    if report.students:
        parts += ["## Students: accuracy against latency and size\n", table(front(report))]
    if report.seeds:
        parts += [f"## Over {len(report.seeds)} seeds\n", table(over_seeds(report))]
    parts += ["## Members\n", table(each_member(report))]
    parts += ["## Speed\n", table(speed(report))]
    curve = [["members", report.accuracy_name, "nll"]] + [
        [str(p.members), number("accuracy", p.accuracy), number("nll", p.nll)] for p in report.curve
    ]
    parts += [
        "## What each further member was worth\n",
        "Mean over as many choices of members as there are members (each run of neighbours in their ring)"
        f"{_without_weight(report.soft_targets)}.\n",
        table(curve),
    ]
    if report.worth:
        parts += [
            "Members in the order in which each helps those before it most on the validation split, of equal weights. "
            f"Two members disagree on {percent(report.disagreement)} of the test examples.\n",
            table(worth(report)),
        ]
    soft = report.soft_targets
    parts += [
        "## How it went and what it cost\n",
        f"{soft.examples:,} soft targets at {soft.schedule or f'T = {soft.temperature:g}'}, {_mean(soft)}, "
        f"{soft.bytes / 1e6:.1f} MB, "
        f"{'reused' if soft.reused else f'{soft.seconds:.1f} s'}; the run was bound by the {report.bound_by}.\n",
        table(stages(report)),
        cost(report) + "\n",
        table(
            [["computed", "core hours", "GPU hours"]]
            + [[name, f"{s.core_hours:.3g}", f"{s.gpu_hours:.3g}"] for name, s in report.cost.items()]
        ),
    ]
    confusions = {role: report.system(role).confusion for role in COMPARED}
    if all(confusions.values()):
        macro = ", ".join(f"{role} {number('macro_f1', report.system(role).test.macro_f1)}" for role in COMPARED)
        parts += [
            f"## Classes\n\nHow many of each class are right. Macro-F1: {macro}.\n",
            table(by_class.accuracy(report.labels, confusions)),
            "The student's most frequent errors, and how often the others make them:\n",
            table(by_class.errors(report.labels, confusions, "student")),
        ]
    return "\n".join(parts)


def _mean(soft: SoftTargets) -> str:
    """The rule of the mean in words, with weights that differ."""
    if soft.rule:
        return f"{soft.combine} mean, weights of each example by {soft.rule}"
    if len(set(soft.weights.values())) < 2:
        return f"{soft.combine} mean"
    listed = ", ".join(f"{name} {weight:.3g}" for name, weight in soft.weights.items())
    return f"{soft.combine} mean with the weights {listed}"


def _without_weight(soft: SoftTargets) -> str:
    """Names the members whose weight is 0, since a choice of these alone has no mean."""
    idle = [name for name, weight in soft.weights.items() if weight == 0]
    if soft.rule or not idle:
        return ""
    alone = "these" if len(idle) > 1 else "it"
    return f"; the weight of {', '.join(idle)} is 0, and choices of {alone} alone are left out"


def table(rows: Rows) -> str:
    header, *body = rows
    rule = ["---"] + ["---:"] * (len(header) - 1)
    return "\n".join("| " + " | ".join(map(_cell, row)) + " |" for row in [header, rule, *body]) + "\n"


def _cell(text: str) -> str:
    """Text for a cell of Markdown; names of classes may hold anything."""
    return " ".join(text.split()).replace("|", r"\|")
