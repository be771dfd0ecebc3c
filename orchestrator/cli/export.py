"""`stillhouse export RUN`: the student of a finished run in a format for production, through a gate.

Everything is made, measured and tried in a temporary folder of this machine; only what passes is written to its target
and registered. No cluster is needed.
"""

from __future__ import annotations

import re
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from orchestrator.config.loading import value_of
from orchestrator.config.run_config import RunConfig
from orchestrator.config.schema import MODEL_NAME
from orchestrator.export import card, files, formats, gate, lineage, named, target, unchanged
from orchestrator.export import measure as measuring
from orchestrator.export.gate import Gate, Passed
from orchestrator.export.measure import EXPORT, Measured
from orchestrator.observers import mlflow_export
from orchestrator.reporting import report as reports
from orchestrator.reporting import sums
from orchestrator.reporting.report import Report
from orchestrator.run_folder import paths
from orchestrator.run_folder.paths import RunFolder
from orchestrator.run_folder.resolved import config_of, keys_of
from workers import storage
from workers.artifacts import store
from workers.data import loading, token_files
from workers.data.ragged import Ragged
from workers.data.tokens import IDS, Tokenization
from workers.errors import RequestError
from workers.evaluation.bootstrap import LEVEL
from workers.inference.teacher import Member
from workers.redact import HIDDEN

FORMAT = 1
"""Version of `export.json`."""
OPEN = Gate()
MOST_LICENCE = 100
"""Characters."""


@dataclass(frozen=True, kw_only=True)
class Asked:
    """What is to be exported.

    quantize: `int8`, or None. licence: an SPDX identifier or a name; None: not stated. register: the name of a model in
    MLflow's registry, empty for that of the run's student; None: it is not registered. overrides: `KEY=VALUE` of
    `tracking`, such as another tracker, and of values that are redacted in the run's configuration.
    """

    run: str
    to: str
    format: str
    gate: Gate = OPEN
    quantize: str | None = None
    licence: str | None = None
    register: str | None = None
    overrides: tuple[str, ...] = ()


@dataclass(frozen=True)
class Exported:
    """An export that was written. registered: `name@champion, version N`; empty without."""

    to: str
    measured: Measured
    registered: str = ""


@dataclass(frozen=True)
class _Run:
    """A finished run. systems: sums of its systems over blocks of test examples. test: digest of these examples."""

    folder: str
    config: RunConfig
    report: Report
    systems: Mapping[str, NDArray[np.float64]]
    test: str


def export(asked: Asked, wait_for: Callable[[str], None] = lambda step: None) -> Exported:
    """Export the student of a finished run.

    wait_for: called with a description of each slow step.

    Raises: `RequestError` for an invalid request, `GateError` where the gate is not met, `RunError` where the export
    fails or parts from the student. Each leaves nothing behind.
    """
    run = _checked(asked)
    wait_for("reading the data")
    dataset = loading.load_whole(run.config.data, run.config.seed, tokens_in(run.folder))
    unchanged.check_data(dataset, run.report, run.test)
    config = run.config.for_classes(dataset.classes, dataset.label_names)
    weights = storage.join(RunFolder(run.folder).shown("student"), config.student.model.weights_name)
    student = unchanged.student_of(Member("student", config.student.model, weights), dataset, run.systems["student"])
    with tempfile.TemporaryDirectory(prefix="stillhouse-export-") as scratch:
        folder = Path(scratch, "export")
        folder.mkdir()
        wait_for(f"writing the student as {asked.format}")
        made = formats.FORMATS[asked.format].write(student, folder)
        if asked.quantize is not None:
            formats.quantize(folder)
        wait_for("measuring it on the test examples")
        level = asked.gate.confidence or LEVEL
        quantized = asked.quantize is not None
        measured = measuring.measure(made, student, dataset, run.systems, level=level, quantized=quantized)
        gate.enforce(asked.gate, _passed(measured, quantized=quantized))
        wait_for("loading it by a process of its own")
        origin = lineage.of(run.folder, dataset, run.report, weights)
        inputs, read_from = made.about["inputs"], run.config.data
        about = {
            "format_version": FORMAT,
            "format": asked.format,
            "quantized": asked.quantize,
            **({"batch": 1} if quantized else {}),
            "classes": dataset.classes,
            "labels": list(dataset.label_names) or [str(k) for k in range(dataset.classes)],
            **made.about,
            "inputs": {
                **inputs,
                **named.columns(read_from, dataset.encodings, inputs),
                **named.pixels(read_from, student.sample),
            },
        }
        text = card.card(about, measured, origin, run.report, licence=asked.licence)
        files.write(folder, card.record(about, measured, origin, asked.licence), text, made, student)
        files.check(folder, made, dataset, about)
        with target.written(asked.to, folder):
            registered = "" if asked.register is None else _register(asked, run, folder, measured, dataset.classes)
    return Exported(asked.to, measured, registered)


def tokens_in(folder: str) -> Callable[[str, Tokenization], Ragged | None]:
    """Finds the tokens of texts with a digest that a run has kept in its folder; None where it has none, or damaged
    ones."""

    def found(texts: str, how: Tokenization) -> Ragged | None:
        key = token_files.key_of(texts, how)
        record = store.load(storage.join(folder, paths.tokens(key.digest)), key)
        place, files = RunFolder(folder).tokens(key.digest), {} if record is None else record.files
        whole = [storage.file_sha256(storage.join(place, name)).startswith(sha256) for name, sha256 in files.items()]
        return token_files.read(place, sorted(files))[IDS] if whole and all(whole) else None

    return found


def _checked(asked: Asked) -> _Run:
    """All that can be wrong with a request and takes no time to find. Raises: `RequestError`."""
    gate.check(asked.gate, registers=asked.register is not None)
    licence = asked.licence
    if licence is not None and not (0 < len(licence) <= MOST_LICENCE and licence.isprintable()):
        raise RequestError("--license: expected a short text in one line, such as the SPDX identifier apache-2.0.")
    if asked.register is not None and not re.fullmatch(MODEL_NAME, asked.register):
        raise RequestError(
            f"--register: '{asked.register}' is no name of a model in MLflow. Expected one without '/', ':' and quotes."
        )
    folder = storage.absolute(asked.run)
    report = reports.load(folder)
    _check_overrides(folder, asked.overrides)
    config = config_of(folder, asked.overrides)
    formats.check(asked.format, asked.quantize, config.student.model)
    weights = storage.join(RunFolder(folder).shown("student"), config.student.model.weights_name)
    if not storage.exists(weights):
        raise RequestError(
            f"'{weights}': no such file; expected the student of a finished run. The same run writes it."
        )
    systems, test = sums.read(folder)
    if not {"ensemble", "student", "baseline"} <= systems.keys():
        raise RequestError(
            f"'{RunFolder(folder).sums}': no sums of the ensemble and the student on the test examples, since an "
            "earlier version of Stillhouse made this report. The same `stillhouse run` writes them and reuses the rest."
        )
    target.check(asked.to)
    if asked.register is not None:
        mlflow_export.check(config)
    return _Run(folder, config, report, systems, test)


def _check_overrides(folder: str, overrides: Sequence[str]) -> None:
    """Raise `RequestError` for one that would change the run: not of `tracking`, and of no value that is redacted."""
    others = [each for each in overrides if not each.startswith("tracking.")]
    written = keys_of(folder) if others else {}
    for each in others:
        before = value_of(written, each.partition("=")[0])
        if not (isinstance(before, str) and HIDDEN in before):
            raise RequestError(
                f"--set {each}: an export takes a run as it is. Expected a key of `tracking`, or one whose value is "
                f"redacted ('{HIDDEN}') in the run's configuration."
            )


def _passed(measured: Measured, *, quantized: bool) -> Passed:
    interval, correct = measured.share_interval, measured.correct
    share, of_student = (
        Fraction(correct[name], correct["ensemble"]) if correct["ensemble"] else None for name in (EXPORT, "student")
    )
    return Passed(
        share=share,
        share_low=None if interval is None else interval.low,
        p99_ms=measured.latency_ms["p99"],
        as_float=of_student if quantized else None,
    )


def _register(asked: Asked, run: _Run, folder: Path, measured: Measured, classes: int) -> str:
    """Register the export with the alias `champion`."""
    figures = {
        **{f"test_{name}": value for name, value in measured.figures.items()},
        **{f"latency_ms_{name}": value for name, value in measured.latency_ms.items()},
        "share_of_ensemble": measured.share,
        "parameters": float(measured.parameters),
    }
    name = asked.register or run.config.tracking.student_name
    version = mlflow_export.register(
        run.config, folder, run.folder, name=name, figures=figures, classes=classes, run=run.report.name
    )
    return f"{name}, version {version}, alias {mlflow_export.CHAMPION}"
