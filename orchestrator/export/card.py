"""The model card of an export, `README.md`, with metadata that Hugging Face reads.

Figures are those of the exported files, measured when they were made; the other systems' are those of the run's report.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import yaml

from orchestrator.export.lineage import Lineage
from orchestrator.export.measure import Measured
from orchestrator.reporting import markdown
from orchestrator.reporting.content import between
from orchestrator.reporting.report import Bounds, Report, System, best_member
from orchestrator.reporting.statistics import Difference
from workers.evaluation.bootstrap import bounds_of
from workers.evaluation.latency import BATCH

NOT_STATED = "not stated"
LIBRARY = {"onnx": "onnx", "torch": "pytorch", "transformers": "transformers"}
"""The name of each format's library on Hugging Face."""
LOADING = """\
import numpy
from load import load

student = load(".")
print(student({example}))  # probabilities [N, {classes}], in the order of the classes below"""
MOST_COLUMNS, MOST_CLASSES = 20, 100
"""Columns of a table that the card's example names, and classes that the card lists: a vocabulary has thousands."""
Rows = Sequence[Sequence[str]]


def _listed(names: Sequence[str]) -> str:
    """Names of classes, in quotation marks where one has a comma."""
    mark = '"' if any("," in name for name in names) else ""
    return ", ".join(f"{mark}{markdown.literal(name)}{mark}" for name in names)


def card(about: Mapping[str, Any], measured: Measured, lineage: Lineage, report: Report, *, licence: str | None) -> str:
    """The card. about: the content of `export.json`. licence: None: not stated."""
    classes = report.labels or [str(k) for k in range(report.classes)]
    snippet = LOADING.format(example=_example(about["inputs"]), classes=len(classes))
    quantized = f", quantized to {about['quantized']}" if about["quantized"] else ""
    more = f" and {len(classes) - MOST_CLASSES:,} more, in `export.json`" if len(classes) > MOST_CLASSES else ""
    scale = about["inputs"].get("byte_scale")
    elements = about["inputs"].get("elements_of")
    of_elements = f", for each element of '{elements}'" if elements else ""
    parts = [
        f"---\n{yaml.safe_dump(_metadata(about, measured, report, licence), sort_keys=False)}---\n",
        f"# {report.name}: the student\n",
        f"A model in the format {about['format']}{quantized}, distilled from an ensemble of {len(report.members)} "
        f"members by Stillhouse. It has {measured.parameters:,} parameters in {measured.bytes:,} bytes, and returns "
        f"logits of {len(classes)} classes{of_elements}.\n",
        f"Licence: {licence or NOT_STATED}.\n",
        "## Loading it\n",
        f"`pip install -r requirements.txt`, then in this folder:\n\n```python\n{snippet}\n```\n",
        *([f"Pixels are from 0 to 1: bytes divided by {scale}.\n"] if scale else []),
        f"Classes: {_listed(classes[:MOST_CLASSES])}{more}.\n",
        "## Figures\n",
        f"On {measured.examples:,} test {'elements' if of_elements else 'examples'}; intervals are of 95%.\n",
        _table(_systems(measured, report)),
        _differences(measured, about.get("batch", BATCH)),
        "## Data\n",
        _table([["split", "sha256 over its examples"], *([name, f"`{of}`"] for name, of in lineage.data.items())]),
        "## Members\n",
        _table(_members(lineage, report)),
        f"Soft targets: {report.soft_targets.examples:,} at T = {report.soft_targets.temperature:g}, "
        f"{report.soft_targets.joined}.\n",
        "## Lineage\n",
        _table(_lineage(lineage)),
    ]
    return "\n".join(parts)


def _example(inputs: Mapping[str, Any]) -> str:
    """An example of what `load.py` takes, as Python code."""
    if inputs["kind"] == "texts":
        return '[("a text", "another")]' if inputs["texts"] == 2 else '["a text", "another"]'
    columns = inputs.get("columns", ())
    if 0 < len(columns) <= MOST_COLUMNS:
        return repr({each["name"]: [_cell(each)] for each in columns})
    if inputs["kind"] == "array":
        return f"numpy.zeros({(1, *inputs['shape'])}, {inputs['dtype']!r})"
    return "{" + ", ".join(f"{name!r}: ..." for name in inputs["names"]) + "}"


def _cell(column: Mapping[str, Any]) -> Any:
    """A value of a column of a table."""
    if column["categories"]:
        return column["categories"][-1]
    return 0 if column["width"] == 1 else [0] * column["width"]


def _metadata(about: Mapping[str, Any], measured: Measured, report: Report, licence: str | None) -> dict[str, Any]:
    """The card's metadata in the terms of Hugging Face; a licence that is not stated is `unknown` there."""
    texts = about["inputs"]["kind"] == "texts"
    metrics = [{"type": name, "value": round(value, 6)} for name, value in measured.figures.items()]
    task = {"type": "text-classification" if texts else "other"}
    result = {"task": task, "dataset": {"name": f"{report.name} (test)", "type": report.name}, "metrics": metrics}
    return {
        "license": licence or "unknown",
        "library_name": LIBRARY[about["format"]],
        **({"pipeline_tag": "text-classification"} if texts else {}),
        "tags": ["knowledge-distillation", "stillhouse"],
        "model-index": [{"name": report.name, "results": [result]}],
    }


def _systems(measured: Measured, report: Report) -> Rows:
    rows: list[Sequence[str]] = [
        ["system", "accuracy", "95% interval", "nll", "95% interval", "ece", "95% interval", "p50 ms", "p99 ms"]
    ]
    bounds = {name: bounds_of(of) for name, of in measured.intervals.items()}
    rows.append(_row("this export", measured.figures, bounds, measured.latency_ms))
    for title, system in (
        ("student in the run", report.system("student")),
        ("ensemble", report.system("ensemble")),
        ("baseline", report.system("baseline")),
        (f"best member: {best_member(report).name}", best_member(report)),
    ):
        rows.append(_of_report(title, system))
    return rows


def _of_report(title: str, system: System) -> Sequence[str]:
    test = system.test
    bounds = {"accuracy": test.accuracy_interval, "nll": test.nll_interval, "ece": test.ece_interval}
    figures = {"accuracy": test.accuracy, "nll": test.nll, "ece": test.ece}
    return _row(title, figures, bounds, system.latency_ms.model_dump())


def _row(
    title: str, figures: Mapping[str, float], bounds: Mapping[str, Bounds | None], latency: Mapping[str, float]
) -> list[str]:
    cells = [title]
    for name, style in (("accuracy", "{:.2%}"), ("nll", "{:.4f}"), ("ece", "{:.4f}")):
        cells += [style.format(figures[name]), _between(style, bounds.get(name))]
    return [*cells, f"{latency['p50']:.2f}", f"{latency['p99']:.2f}"]


def _differences(measured: Measured, batch: int) -> str:
    at_once = f"in batches of {batch}" if batch > 1 else "one by one"
    share = "no interval" if measured.share_interval is None else _between("{:.2%}", measured.share_interval.bounds)
    agreement = measured.agreement
    return (
        f"It keeps {measured.share:.2%} of the ensemble's accuracy ({100 * measured.level:g}% interval {share}). Over "
        f"the student in the run it has {_of(measured.over_student)}, over the ensemble {_of(measured.over_ensemble)} "
        "(95% intervals, paired). On "
        f"{agreement.examples:,} test examples its probabilities differ from the student's in torch by at most "
        f"{agreement.difference:.2g}, and {agreement.same_class:.2%} have the same class. Latency of the export is of "
        f"one example, tokenization included, by one thread of a CPU; {at_once} it computes "
        f"{measured.per_second:,.0f} examples a second.\n"
    )


def _of(difference: Difference) -> str:
    interval = difference.interval
    bounds = "" if interval is None else f", {100 * interval.low:+z.2f} to {100 * interval.high:+z.2f}"
    return f"{100 * difference.accuracy:+z.2f} points{bounds}"


def _members(lineage: Lineage, report: Report) -> Rows:
    rows = [["member", "parameters", "accuracy", "sha256 of its weights"]]
    for each in report.members:
        digest = lineage.members.get(each.name, "")
        rows.append([each.name, f"{each.parameters:,}", f"{each.test.accuracy:.2%}", f"`{digest}`" if digest else "-"])
    return rows


def _lineage(lineage: Lineage) -> Rows:
    told = asdict(lineage)
    rows = [["", ""]]
    for key in (
        "run",
        "seed",
        "folder",
        "configuration",
        "student",
        "soft_targets",
        "code",
        "trained_by",
        "exported_by",
    ):
        value = told[key]
        shown = ", ".join(f"{name} {of}" for name, of in value.items()) if isinstance(value, dict) else str(value)
        rows.append([key.replace("_", " "), f"`{shown}`" if shown else "-"])
    return rows


def _between(style: str, bounds: Bounds | None) -> str:
    return between(bounds, style.format).replace("% to ", " to ")


def _table(rows: Rows) -> str:
    first, *others = [f"| {' | '.join(map(markdown.cell, row))} |" for row in rows]
    return "\n".join([first, f"|{'---|' * len(rows[0])}", *others]) + "\n"


def record(about: Mapping[str, Any], measured: Measured, lineage: Lineage, licence: str | None) -> dict[str, Any]:
    """The content of `export.json`, without the list of files: what `load.py` needs, figures, lineage, licence."""
    return {**about, "licence": licence or NOT_STATED, "measured": asdict(measured), "lineage": asdict(lineage)}
