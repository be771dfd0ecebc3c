"""MLflow: one parent run for a `stillhouse run`, a nested run for each system.

A tracker that cannot be reached ends the request before anything starts. Later failures warn, once, and the run goes
on: `events.jsonl` and the report hold everything that would have been sent.
"""

from __future__ import annotations

import logging
import os
import re
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from orchestrator import plots, registry, review, trackers
from orchestrator.config import RunConfig
from orchestrator.report import COMPARED, Report, System, as_json, markdown
from workers.errors import RequestError
from workers.secrets import hidden

if TYPE_CHECKING:
    from workers.data import Dataset
    from workers.inputs import Inputs
    from workers.teacher import Member
    from workers.train_loop import Epoch

logger = logging.getLogger(__name__)

MAX_FAILURES = 3
"""Calls in a row that fail before the tracker is left alone: each may take its whole time-out."""
LEFT_ALONE_S = 60.0
MOST_PARAMS = 100
"""That MLflow takes at once."""

TEST_ACCURACY = "test_accuracy"
TEST_NLL = "test_nll"
TEST_ECE = "test_ece"
PARAMETERS = "parameters"
LATENCY_P50 = "latency_ms_p50"
LATENCY_P99 = "latency_ms_p99"
TRAIN_LOSS = "train_loss"
VALIDATION_ACCURACY = "validation_accuracy"
GAIN_TRANSFERRED = "gain_transferred"
ACCURACY_BY_MEMBERS = "accuracy_by_members"
"""A step is a number of members."""
ROLE = "stillhouse.role"
RUN = "stillhouse.run"
OPENED_AS = "stillhouse.opened_as"
"""Of a run that another tracker was sent: its identifier where it began."""
NOTE = "mlflow.note.content"
T = TypeVar("T")
QUIET = {"alembic": logging.WARNING, "urllib3.connectionpool": logging.ERROR, "mlflow.system_metrics": logging.ERROR}
"""What MLflow's parts say of each table and each try; what comes of them is said here."""


class Tracker:
    """The MLflow runs of one `stillhouse run`, open as long as it lasts."""

    def __init__(self, config: RunConfig, again: str | None = None) -> None:
        """Open the parent run, or the one that is known as `again`, to send what it has not got.

        Raises: `RequestError` where the tracker refuses.
        """
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "10")
        os.environ.setdefault("MLFLOW_LOGGING_LEVEL", "WARNING")
        os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
        for name, level in QUIET.items():
            logging.getLogger(name).setLevel(level)
        from mlflow import MlflowClient
        from mlflow.exceptions import MlflowException

        uri = config.tracking.uri
        try:
            if uri.startswith(trackers.SQLITE):
                trackers.make_whole(Path(uri.removeprefix(trackers.SQLITE)))
            self.client = MlflowClient(uri)
            experiment = self.client.get_experiment_by_name(config.tracking.experiment)
            self.experiment_id = (
                experiment.experiment_id
                if experiment
                else self.client.create_experiment(
                    config.tracking.experiment, artifact_location=trackers.artifacts(uri)
                )
            )
            self._runs: dict[str, str] = {}
            self._roles: dict[str, Any] = {}
            self._opening = threading.RLock()
            if again is None:
                self.run_id = self._create(config.name, "run", {})
            else:
                self.run_id = self._find(again) or self._create(config.name, "run", {OPENED_AS: again})
        except (MlflowException, OSError, ValueError) as error:
            raise RequestError(
                f"tracking: the tracker at '{hidden(uri)}' refused experiment '{config.tracking.experiment}' ({error})."
            ) from error
        self._config = config
        self._failures = 0
        self._left_alone_s = 0.0
        self.missed: str | None = None
        """Why something was not sent, the last time; None where all was."""
        self._warned = False
        self._monitor: Any = None
        self._dataset: Dataset | None = None
        self._describe(config)
        if again is None:
            self._attempt(self._watch_the_machine)

    @property
    def page(self) -> str:
        """Of the parent run in MLflow, behind the tracker's address; a new browser would show pages for prompts."""
        return f"#/experiments/{self.experiment_id}/runs/{self.run_id}?workflowType=machine_learning"

    def data(self, dataset: Dataset) -> None:
        """Say which data the run is about."""
        self._dataset = dataset
        self._attempt(lambda: self.client.log_inputs(self.run_id, datasets=review.datasets(self._config, dataset)))

    def system(self, name: str, role: str) -> None:
        """Open the nested run of one system, unless there is one."""
        self._roles[name] = role
        self._attempt(self._run_of, name)

    def epoch(self, name: str, epoch: Epoch) -> None:
        """Send one epoch of a system's training."""
        self._attempt(self._send_epoch, name, epoch)

    def epochs(self, name: str, history: Sequence[Epoch]) -> None:
        """Send those epochs of a system that the tracker has not got."""

        def send() -> None:
            there = {metric.step for metric in self.client.get_metric_history(self._run_of(name), VALIDATION_ACCURACY)}
            for epoch in history:
                if epoch.epoch + 1 not in there:
                    self._send_epoch(name, epoch)

        self._attempt(send)

    def trained(self, name: str) -> None:
        """A system's training is over: figures may follow."""
        self._attempt(lambda: self._end(self._run_of(name), "FINISHED"))

    def catch_up(self, report: Report, histories: Mapping[str, Sequence[Epoch]]) -> None:
        """Send what the tracker has not got of the systems and their epochs."""
        self._failures, self.missed = 0, None
        self._describe(self._config)
        if self._dataset is not None:
            self.data(self._dataset)
        for system in report.systems:
            self.system(system.name, system.role)
            self.epochs(system.name, histories.get(system.name, ()))

    def report(
        self,
        report: Report,
        histories: Mapping[str, Sequence[Epoch]],
        models: Mapping[str, Member],
        examples: Inputs | None,
    ) -> None:
        """Send every figure of the report, its tables and plots, and the student itself.

        models: those that were trained or loaded, by their system's name. examples: what the student may be asked;
        None: it is not sent.
        """
        student = report.system("student")
        model_id = None if examples is None else self._attempt(self._models, report, models, examples)
        for system in report.systems:
            self._attempt(self._system, system, report, model_id if system is student else None)
        self._attempt(self._summarise, report, histories)

    def close(self, status: str) -> None:
        """End all runs: FINISHED, FAILED or KILLED."""
        self._failures = 0  # asked once more, whatever was before
        if self._monitor is not None:
            self._monitor.finish()
        for run_id in (*self._runs.values(), self.run_id):
            self._attempt(self._end, run_id, status)
        engine = getattr(self.client._tracking_client.store, "engine", None)
        if engine is not None:  # MLflow keeps a database's connections open for as long as the process lives
            engine.dispose()

    def end_earlier(self, run_id: str | None) -> None:
        """End what an earlier process opened in the run's folder and, since it was killed, left as running."""

        def end() -> None:
            for which in (f"attributes.run_id = '{run_id}'", f"tags.`mlflow.parentRunId` = '{run_id}'"):
                for run in self.client.search_runs([self.experiment_id], f"{which} and attributes.status = 'RUNNING'"):
                    self.client.set_terminated(run.info.run_id, "KILLED")

        if run_id is not None:
            self._attempt(end)

    def _end(self, run_id: str, status: str) -> None:
        """Unless it has ended before."""
        if self.client.get_run(run_id).info.status == "RUNNING":
            self.client.set_terminated(run_id, status)

    def _find(self, known: str) -> str | None:
        """The run that was opened as `known`, here or by another tracker, with its nested ones; None: there is none."""
        for it in (f"attributes.run_id = '{known}'", f"tags.`{OPENED_AS}` = '{known}'"):
            for run in self.client.search_runs([self.experiment_id], it):
                run_id: str = run.info.run_id
                nested = self.client.search_runs([self.experiment_id], f"tags.`mlflow.parentRunId` = '{run_id}'")
                self._runs = {each.data.tags["mlflow.runName"]: each.info.run_id for each in nested}
                return run_id
        return None

    def _run_of(self, name: str) -> str:
        """A system's nested run; opened now where the tracker was down when it was to be."""
        with self._opening:  # two threads ask
            if name not in self._runs:
                of_parent = {"mlflow.parentRunId": self.run_id, RUN: self._config.name}
                self._runs[name] = self._create(name, self._roles[name], of_parent)
                self._params(self._runs[name], review.params_of(self._roles[name], self._config))
            return self._runs[name]

    def _create(self, name: str, role: str, also: Mapping[str, str]) -> str:
        tags = {ROLE: role, "mlflow.runName": name, **also}
        run_id: str = self.client.create_run(self.experiment_id, tags=tags, run_name=name).info.run_id
        return run_id

    def _describe(self, config: RunConfig) -> None:
        self._attempt(self._code, config)
        self._attempt(lambda: self._params(self.run_id, review.params(config)))
        self._attempt(self.client.log_text, self.run_id, hidden(config.to_yaml()), "config.yaml")

    def _code(self, config: RunConfig) -> None:
        """As it was when the run began, not when it is told."""
        known = self.client.get_run(self.run_id).data.tags
        for key, value in review.code(config).items():
            if key not in known:
                self.client.set_tag(self.run_id, key, value)

    def _params(self, run_id: str, params: Mapping[str, str]) -> None:
        from mlflow.entities import Param

        all_of_them = [Param(key, value) for key, value in params.items()]
        for first in range(0, len(all_of_them), MOST_PARAMS):
            self.client.log_batch(run_id, params=all_of_them[first : first + MOST_PARAMS])

    def _watch_the_machine(self) -> None:
        """MLflow's own system metrics of the driver's machine; Prometheus sees all nodes."""
        from mlflow.system_metrics.system_metrics_monitor import SystemMetricsMonitor

        uri = self._config.tracking.uri
        self._monitor = SystemMetricsMonitor(self.run_id, tracking_uri=uri)  # type: ignore[no-untyped-call]
        self._monitor.start()

    def _models(self, report: Report, models: Mapping[str, Member], examples: Inputs) -> str | None:
        """Members and student as models, each of its run: the student's identifier, where it is sent."""
        name = self._config.tracking.registered_model
        if name is False:
            return None
        if review.has_secrets(self._config.student.model.kwargs):
            logger.warning("MLflow does not get the student: student.model.kwargs has a secret in it")
            return None
        student = report.system("student").name
        run_id = self._run_of(student)
        members = [models[member.name] for member in report.members]
        runs = {member.name: self._run_of(member.name) for member in members}
        registry.log_members(self.client, self.experiment_id, runs, members, run_id)
        accuracies = {
            f"stillhouse.{role}_test_accuracy": f"{report.system(role).test.accuracy:.6g}" for role in COMPARED
        }
        return registry.log_student(
            self.client,
            self.experiment_id,
            run_id,
            models[student],
            examples,
            report.classes,
            name or re.sub(r"[/:']", "-", f"{self._config.tracking.experiment}-student"),
            {RUN: report.name, **accuracies},
        )

    def _system(self, system: System, report: Report, model_id: str | None) -> None:
        """One system's figures, of its model too where there is one, and its description."""
        run_id = self._run_of(system.name)
        self._metrics(run_id, _figures(system), 0, time.time(), model_id)
        note = review.note_of(system, report, self._runs, self.experiment_id, self.run_id)
        self.client.set_tag(run_id, NOTE, note)

    def _send_epoch(self, name: str, epoch: Epoch) -> None:
        """As of when it ended: MLflow orders by that, and epochs may be heard of late and out of order."""
        figures = {
            TRAIN_LOSS: epoch.train_loss,
            VALIDATION_ACCURACY: epoch.validation_accuracy,
            "validation_nll": epoch.validation_nll,
            "epoch_seconds": epoch.seconds,
        }
        step, at_s = epoch.epoch + 1, epoch.ended_s or time.time()
        self._metrics(self._run_of(name), figures, step, at_s)
        if self._roles[name] in COMPARED:  # one chart of both, which grows while the run goes on
            self._metrics(self.run_id, {f"{name}_{VALIDATION_ACCURACY}": epoch.validation_accuracy}, step, at_s)

    def _metrics(
        self, run_id: str, figures: Mapping[str, float], step: int, at_s: float, model_id: str | None = None
    ) -> None:
        from mlflow.entities import Metric

        at_ms = int(at_s * 1000)
        metrics = [Metric(key, value, at_ms, step, model_id=model_id) for key, value in figures.items()]
        self.client.log_batch(run_id, metrics=metrics)

    def _summarise(self, report: Report, histories: Mapping[str, Sequence[Epoch]]) -> None:
        cost = report.total_cost
        figures = {f"{role}_{TEST_ACCURACY}": report.system(role).test.accuracy for role in COMPARED}
        figures |= {"core_hours": cost.core_hours, "gpu_hours": cost.gpu_hours}
        figures |= {} if report.gain_transferred is None else {GAIN_TRANSFERRED: report.gain_transferred}
        figures |= {} if report.price is None else {"price": report.price}
        figures |= _figures(report.system("student"))  # so that runs compare by the same names as systems
        self._metrics(self.run_id, figures, 0, time.time())
        there = {metric.step for metric in self.client.get_metric_history(self.run_id, ACCURACY_BY_MEMBERS)}
        for point in [point for point in report.curve if point.members not in there]:
            self._metrics(self.run_id, {ACCURACY_BY_MEMBERS: point.accuracy}, point.members, time.time())
        shown = ("accuracy", "errors", "nll", "ece", *report.extra_metrics)
        table = {
            "system": [s.name for s in report.systems],
            **{m: [_short(s.test.figure(m)) for s in report.systems] for m in shown},
            PARAMETERS: [s.parameters for s in report.systems],
            LATENCY_P99: [_short(s.latency_ms.p99) for s in report.systems],
            "role": [s.role for s in report.systems],
        }
        self.client.log_table(self.run_id, table, "comparison.json")
        self.client.log_text(self.run_id, markdown(report), "report.md")
        self.client.log_text(self.run_id, as_json(report), "report.json")
        for name, figure_ in plots.figures(report, histories).items():
            self.client.log_figure(self.run_id, figure_, f"plots/{name}")
        note = review.note(report, self._runs, self.experiment_id, self.run_id)
        self.client.set_tag(self.run_id, NOTE, note)

    def _attempt(self, send: Callable[..., T], *arguments: Any) -> T | None:
        """Send; a failure after set-up is said once, and a tracker that goes on failing is left alone for a while."""
        if self._failures >= MAX_FAILURES and time.monotonic() < self._left_alone_s:
            return None
        try:
            sent = send(*arguments)
            self._failures = 0
            return sent
        except Exception as error:  # whatever the tracker's client raises
            self._failures += 1
            self._left_alone_s = time.monotonic() + LEFT_ALONE_S
            self.missed = str(error).splitlines()[0] if str(error) else type(error).__name__
            if not self._warned:
                self._warned = True
                logger.warning(
                    "MLflow: %s. The run goes on; events.jsonl and the report keep all, and `stillhouse report RUN "
                    "--push` sends it afterwards.",
                    self.missed,
                )
            return None


def _figures(system: System) -> dict[str, float]:
    return {
        TEST_ACCURACY: system.test.accuracy,
        TEST_NLL: system.test.nll,
        TEST_ECE: system.test.ece,
        PARAMETERS: float(system.parameters),
        LATENCY_P50: system.latency_ms.p50,
        LATENCY_P99: system.latency_ms.p99,
        **{f"test_{name}": value for name, value in (system.test.model_extra or {}).items()},
    }


def _short(figure: float | None) -> float | None:
    """As many digits as can be read in a table."""
    return None if figure is None else float(f"{figure:.5g}")
