"""MLflow: one parent run for a `stillhouse run`, a nested run for each system.

An unreachable tracker rejects the request before anything starts. Later failures cause a single warning, and the run
continues: `events.jsonl` and the report hold everything that the tracker lacks.
"""

from __future__ import annotations

import base64
import io
import logging
import math
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

from orchestrator.config.run_config import RunConfig
from orchestrator.observers import mlflow_descriptions, mlflow_models, mlflow_runs, mlflow_sweep
from orchestrator.observers.events import EpochEnded, Event, ReportReady, RunEnded, SystemAdded, SystemTrained
from orchestrator.observers.mlflow_runs import FOLDER, OPENED_AS, PARENT, PART_OF, REQUEST, RUN
from orchestrator.observers.tracking_record import CONTEXTS, TrackingRecord
from orchestrator.reporting import files, plots
from orchestrator.reporting.report import COMPARED, Report, System
from orchestrator.run_folder import model_folder, paths
from orchestrator.run_folder.paths import RunFolder
from workers import storage
from workers.artifacts import store
from workers.artifacts.kinds import NETWORK, Record
from workers.errors import first_line
from workers.redact import redacted

if TYPE_CHECKING:
    from mlflow.entities import DatasetInput, Run

    from workers.training.loop import Epoch

logger = logging.getLogger(__name__)

MAX_FAILURES = 3
"""Consecutive failed calls before the tracker is skipped for a while, since each may take its whole timeout."""
LEFT_ALONE_S = 60.0
MOST_PARAMS = 100
"""Most parameters in one call to MLflow."""

WITH_INTERVALS = ("accuracy", "nll", "ece")
"""Metrics of every system whose intervals are sent, too; by their names in the report."""
ENDS = ("low", "high")
"""Endings of the names of an interval's two metrics."""
PARAMETERS = "parameters"
LATENCY_P99 = "latency_ms_p99"
TRAIN_LOSS = "train_loss"
TRAIN_ACCURACY = "train_accuracy"
VALIDATION_ACCURACY = "validation_accuracy"
GAIN_TRANSFERRED = "gain_transferred"
ACCURACY_BY_MEMBERS = "accuracy_by_members"
"""Metric whose step is the number of members."""
TABLE = "comparison.json"
NOTE = "mlflow.note.content"
T = TypeVar("T")


class Tracker:
    """The MLflow runs of one `stillhouse run`, open as long as it lasts."""

    def __init__(
        self,
        config: RunConfig,
        record: TrackingRecord | None = None,
        *,
        earlier: str | None = None,
        fresh: bool = False,
        again: str | None = None,
    ) -> None:
        """Open the parent run and describe it.

        record: of code and data. earlier: the run that the last process in this folder opened. The tracker resumes it
        if it is unfinished and has the same request, unless `fresh`; else it ends it. again: the identifier, at its
        first tracker, of the run that `report --push` completes.

        Raises: `RequestError` where the tracker rejects the run.
        """
        uri, experiment = config.tracking.uri, config.tracking.experiment
        self._config, self._record = config, record
        self._runs: dict[str, str] = {}
        self._roles: dict[str, Any] = {}
        self._known: dict[tuple[str, str], set[int]] = {}
        """The steps of a run's metric that the tracker has, cached."""
        self._opening = threading.RLock()
        with mlflow_runs.opening(uri, experiment):
            self.client, self.experiment_id = mlflow_runs.connected(uri, experiment)
            self._open(earlier, fresh, again)
        self._failures = 0
        self._left_alone_s = 0.0
        self.missed: str | None = None
        """The last error in sending; None where everything was sent."""
        self._warned = False
        self._monitor: Any = None
        self._describe()
        if again is None:
            self._attempt(self._watch_the_machine)

    @property
    def page(self) -> str:
        """The parent run's page, relative to the tracker's address. Without the type, MLflow may show prompt pages."""
        return f"#/experiments/{self.experiment_id}/runs/{self.run_id}?workflowType=machine_learning"

    def __call__(self, event: Event) -> None:
        """Send the content of an event."""
        match event:
            case SystemAdded():
                self.system(event.system, event.role)
            case EpochEnded():
                self.epochs(event.system, [event.epoch])
            case SystemTrained():
                self.epochs(event.system, event.history)
                self.trained(event.system)
            case ReportReady():
                if self.missed is not None:
                    self.catch_up(event.report, event.histories)
                self.report(event.report, event.histories, event.folder)
            case RunEnded():
                self.close(event.status)

    def system(self, name: str, role: str) -> None:
        """Open the nested run of one system, unless there is one."""
        self._roles[name] = role
        self._attempt(self._run_of, name)

    def epoch(self, name: str, epoch: Epoch) -> None:
        """Send one epoch of a system's training."""
        self._attempt(self._send_epoch, name, epoch)

    def epochs(self, name: str, history: Sequence[Epoch]) -> None:
        """Send the epochs of a system that the tracker lacks."""
        for epoch in history:
            self.epoch(name, epoch)

    def trained(self, name: str) -> None:
        """Mark a system's training as finished; metrics may still follow."""
        self._attempt(lambda: mlflow_runs.end(self.client, self._run_of(name), "FINISHED"))

    def catch_up(self, report: Report, histories: Mapping[str, Sequence[Epoch]]) -> None:
        """Send systems and epochs that the tracker lacks."""
        self._failures, self.missed = 0, None
        self._describe()
        roles: dict[str, str] = {name: "stage" for name in histories} | {s.name: s.role for s in report.systems}
        for name, role in roles.items():
            self.system(name, role)
            self.epochs(name, histories.get(name, ()))

    def report(self, report: Report, histories: Mapping[str, Sequence[Epoch]], folder: str) -> None:
        """Send all metrics, tables and plots of the report, and the models of the run's folder.

        folder: the run's folder, with the members' weights and the student's model if it exists.
        """
        student = report.system("student")
        model_id = self._attempt(self._models, report, folder)
        for system in report.systems:
            self._roles.setdefault(system.name, system.role)  # of those that other runs trained
            self._attempt(self._system, system, report, model_id if system is student else None)
        self._attempt(self._summarise, report, histories)

    def close(self, status: str) -> None:
        """End all runs: FINISHED, FAILED or KILLED."""
        self._failures = 0  # try again, despite earlier failures
        if self._monitor is not None:
            self._monitor.finish()
        for run_id in (*self._runs.values(), self.run_id):
            self._attempt(mlflow_runs.end, self.client, run_id, status)
        engine = getattr(self.client._tracking_client.store, "engine", None)
        if engine is not None:  # MLflow keeps database connections open until the process ends
            engine.dispose()

    def _open(self, earlier: str | None, fresh: bool, again: str | None) -> None:
        """Resume the parent run and its nested runs, or create a new one.

        MLflow's parameters are immutable, so any other request needs another run. Only `again` reopens a finished run.
        """
        client, config = self.client, self._config
        if again is not None:
            found = mlflow_runs.find(client, self.experiment_id, again)
        else:
            found = None if earlier is None else mlflow_runs.opened(client, earlier)
            if found is not None and (fresh or not self._is_this_one(found)):
                own = (None, redacted(config.folder))  # not the original of a copied folder
                if found.data.tags.get(FOLDER) in own:
                    mlflow_runs.abandon(client, found)
                found = None
        self._resumed = found is not None
        if found is None:
            tags = {FOLDER: redacted(config.folder)} | ({} if again is None else {OPENED_AS: again})
            tags |= {} if self._record is None else {REQUEST: self._record.request}
            if mlflow_sweep.current():
                tags[PARENT] = mlflow_sweep.current()
            part_of = None if self._record is None else self._record.part_of
            tags |= {} if part_of is None else {PART_OF: part_of}
            role = "run" if part_of is None else "part"
            self.run_id = mlflow_runs.create(client, self.experiment_id, config.name, role, tags)
            return
        self.run_id = found.info.run_id
        self._runs = mlflow_runs.nested(client, self.experiment_id, self.run_id)
        for run_id in (self.run_id, *self._runs.values()):
            mlflow_runs.reopen(client, run_id)

    def _is_this_one(self, run: Run) -> bool:
        """Whether an earlier run is unfinished and has the same request."""
        if self._record is None or run.info.experiment_id != self.experiment_id or run.info.status == "FINISHED":
            return False
        return run.data.tags.get(REQUEST) == self._record.request

    def _run_of(self, name: str) -> str:
        """A system's nested run; opened now where the tracker was down earlier."""
        with self._opening:  # two threads may ask
            if name not in self._runs:
                of_parent = {PARENT: self.run_id, RUN: self._config.name}
                role = self._roles[name]
                self._runs[name] = mlflow_runs.create(self.client, self.experiment_id, name, role, of_parent)
                self._params(self._runs[name], mlflow_descriptions.params_of(self._roles[name], self._config, name))
            return self._runs[name]

    def _describe(self) -> None:
        config, record = self._config, self._record
        if record is not None:
            self._attempt(self._tags, record.tags)
            self._attempt(lambda: self.client.log_inputs(self.run_id, datasets=_datasets(record)))
        self._attempt(lambda: self._params(self.run_id, mlflow_descriptions.params(config)))
        self._attempt(self.client.log_text, self.run_id, config.to_redacted_yaml(), "config.yaml")

    def _tags(self, tags: Mapping[str, str]) -> None:
        """Set missing tags; existing ones keep their values from the beginning of the run."""
        known = self.client.get_run(self.run_id).data.tags
        for key, value in tags.items():
            if key not in known:
                self.client.set_tag(self.run_id, key, value)

    def _params(self, run_id: str, params: Mapping[str, str]) -> None:
        from mlflow.entities import Param

        named = {mlflow_descriptions.param_name(key): value for key, value in params.items()}
        all_of_them = [Param(key, value) for key, value in named.items()]
        for first in range(0, len(all_of_them), MOST_PARAMS):
            self.client.log_batch(run_id, params=all_of_them[first : first + MOST_PARAMS])

    def _watch_the_machine(self) -> None:
        """MLflow's own system metrics of the driver's machine; Prometheus sees all nodes."""
        from mlflow.system_metrics.system_metrics_monitor import SystemMetricsMonitor

        uri = self._config.tracking.uri
        self._monitor = SystemMetricsMonitor(  # type: ignore[no-untyped-call]
            self.run_id, resume_logging=self._resumed, tracking_uri=uri
        )
        self._monitor.start()

    def _models(self, report: Report, folder: str) -> str | None:
        """Log members and student as models of their runs; returns the student's identifier if it is sent."""
        if self._config.tracking.registered_model is False:
            return None
        run_id = self._run_of(report.system("student").name)
        weights = weights_of([member.name for member in report.members], self._config, folder)
        runs = {member: self._run_of(member) for member in weights}
        mlflow_models.log_members(self.client, self.experiment_id, runs, weights, run_id)
        place = RunFolder(folder).shown("student")
        record = model_folder.read(place)
        if record is None:  # the export has logged the reason
            return None
        accuracies = {
            f"stillhouse.{role}_test_accuracy": f"{report.system(role).test.accuracy:.6g}" for role in COMPARED
        }
        return mlflow_models.log_student(
            self.client,
            run_id,
            place,
            record,
            experiment=self.experiment_id,
            name=self._config.tracking.student_name,
            tags={RUN: report.name, **accuracies},
        )

    def _system(self, system: System, report: Report, model_id: str | None) -> None:
        """Send one system's metrics, also for its model if it exists, and its description."""
        run_id = self._run_of(system.name)
        self._figures(run_id, _figures(system), model_id)
        if system.special:
            self._params(run_id, {"special": ", ".join(system.special)[: mlflow_descriptions.MOST]})
        note = mlflow_descriptions.note_of(system, report, self._runs, self.experiment_id, self.run_id)
        self.client.set_tag(run_id, NOTE, note)

    def _send_epoch(self, name: str, epoch: Epoch) -> None:
        """Send an epoch with its end time, since MLflow sorts by time and epochs may arrive out of order."""
        figures = {
            TRAIN_LOSS: epoch.train_loss,
            VALIDATION_ACCURACY: epoch.validation_accuracy,
            "validation_nll": epoch.validation_nll,
            "epoch_seconds": epoch.seconds,
        }
        if epoch.train_accuracy is not None:
            figures[TRAIN_ACCURACY] = epoch.train_accuracy
        run_id, step, at_s = self._run_of(name), epoch.epoch + 1, epoch.ended_s or time.time()
        self._once(run_id, VALIDATION_ACCURACY, figures, step, at_s)
        if self._roles[name] in COMPARED:  # one chart of both, which grows while the run goes on
            both = {f"{name}_{key}": figures[key] for key in (VALIDATION_ACCURACY, TRAIN_ACCURACY) if key in figures}
            self._once(self.run_id, f"{name}_{VALIDATION_ACCURACY}", both, step, at_s)

    def _once(self, run_id: str, key: str, figures: Mapping[str, float], step: int, at_s: float) -> None:
        """Send the metrics of a step unless the run has the metric `key` for it."""
        with self._opening:
            if (run_id, key) not in self._known:
                self._known[run_id, key] = {metric.step for metric in self.client.get_metric_history(run_id, key)}
            known = self._known[run_id, key]
            if step not in known:
                self._metrics(run_id, figures, step, at_s)
                known.add(step)

    def _figures(self, run_id: str, figures: Mapping[str, float], model_id: str | None = None) -> None:
        """Send single-valued metrics that the run, or the model, lacks."""
        of_run = self.client.get_run(run_id).data.metrics
        has = {key for key, value in figures.items() if of_run.get(key) == value}
        if model_id is not None:
            of_model = {metric.key for metric in self.client.get_logged_model(model_id).metrics or ()}
            has &= of_model
        self._metrics(run_id, {k: v for k, v in figures.items() if k not in has}, 0, time.time(), model_id)

    def _metrics(
        self, run_id: str, figures: Mapping[str, float], step: int, at_s: float, model_id: str | None = None
    ) -> None:
        from mlflow.entities import Metric

        at_ms = int(at_s * 1000)
        metrics = [Metric(key, value, at_ms, step, model_id=model_id) for key, value in figures.items()]
        if metrics:
            self.client.log_batch(run_id, metrics=metrics)

    def _summarise(self, report: Report, histories: Mapping[str, Sequence[Epoch]]) -> None:
        from PIL import Image

        cost = report.total_cost
        figures = {f"{role}_test_accuracy": report.system(role).test.accuracy for role in COMPARED}
        figures |= {"core_hours": cost.core_hours, "gpu_hours": cost.gpu_hours}
        figures |= {} if report.gain_transferred is None else {GAIN_TRANSFERRED: report.gain_transferred}
        gain = report.gain_transferred_interval or ()
        figures |= {f"{GAIN_TRANSFERRED}_{end}": value for end, value in zip(ENDS, gain, strict=False)}
        figures |= {} if report.price is None else {"price": report.price}
        figures |= _figures(report.system("student"))  # so that runs compare by the same names as systems
        self._figures(self.run_id, figures)
        for point in report.curve:
            key = ACCURACY_BY_MEMBERS
            self._once(self.run_id, key, {key: point.accuracy}, point.members, time.time())
        shown = ("accuracy", "errors", "macro_f1", "nll", "ece", *report.extra_metrics)
        table: dict[str, list[Any]] = {
            "system": [s.name for s in report.systems],
            **{m: [_short(s.test.figure(m)) for s in report.systems] for m in shown},
            PARAMETERS: [s.parameters for s in report.systems],
            LATENCY_P99: [_short(s.latency_ms.p99) for s in report.systems],
            "role": [s.role for s in report.systems],
        }
        mlflow_runs.log_table(self.client, self.run_id, table, TABLE)
        for form in files.FORMS.values():
            self.client.log_text(self.run_id, form.text(report), form.file)
        for name, figure_ in plots.figures(report, histories).items():
            self.client.log_figure(self.run_id, figure_, f"plots/{name}")
        for number, each in enumerate(report.figures):
            image = Image.open(io.BytesIO(base64.b64decode(each.image)))
            self.client.log_image(self.run_id, image, f"plots/figure-{number + 1}.png")
        note = mlflow_descriptions.note(report, self._runs, self.experiment_id, self.run_id)
        self.client.set_tag(self.run_id, NOTE, note)

    def _attempt(self, send: Callable[..., T], *arguments: Any) -> T | None:
        """Call `send`. The first failure is logged; after repeated ones the tracker is skipped for a while."""
        if self._failures >= MAX_FAILURES and time.monotonic() < self._left_alone_s:
            return None
        try:
            sent = send(*arguments)
            self._failures = 0
            return sent
        except Exception as error:  # whatever the tracker's client raises
            self._failures += 1
            self._left_alone_s = time.monotonic() + LEFT_ALONE_S
            self.missed = first_line(error)
            if not self._warned:
                self._warned = True
                logger.warning(
                    "MLflow: %s. The run goes on; events.jsonl and the report keep all, and `stillhouse report RUN "
                    "--push` sends it afterwards.",
                    self.missed,
                )
            return None


def _figures(system: System) -> dict[str, float]:
    """The metrics of a system by their names in MLflow."""
    test, extra = system.test, system.test.extra
    bounds = {name: test.interval(name) for name in (*WITH_INTERVALS, *extra)}
    named = {name: test.figure(name) for name in (*WITH_INTERVALS, "brier", "macro_f1")} | extra
    ends = {f"{name}_{end}": value for name, of in bounds.items() for end, value in zip(ENDS, of or (), strict=False)}
    return {
        **{f"test_{name}": value for name, value in (ends | named).items() if value is not None},
        PARAMETERS: float(system.parameters),
        "latency_ms_p50": system.latency_ms.p50,
        LATENCY_P99: system.latency_ms.p99,
    }


def weights_of(members: Sequence[str], config: RunConfig, folder: str) -> dict[str, str]:
    """URI of each member's weights, by name: from the configuration, else in the run's folder.

    There they are stored under their cache key, where a later recipe does not overwrite them; `members/<i>` has a copy
    of the current ones.
    """
    given, groups = config.ensemble.given(), config.ensemble.of_each(len(members))
    numbers = {member: int(member.partition("-")[2]) for member in members}
    return {
        member: given.get(number)
        or storage.join(_folder_of(member, RunFolder(folder)), groups[number].model.weights_name)
        for member, number in numbers.items()
    }


def _folder_of(member: str, folder: RunFolder) -> str:
    """The folder of a member under its key, or its copy in `members/<i>` where that is missing."""
    shown = _network_in(folder.shown(member))
    keyed = "" if shown is None else folder.network(shown.key)
    return keyed if keyed and _network_in(keyed) == shown else folder.shown(member)


def _network_in(folder: str) -> Record | None:
    return store.read(storage.join(folder, paths.NETWORK), NETWORK)


def _datasets(record: TrackingRecord) -> list[DatasetInput]:
    """The splits of a record as MLflow's own data sets."""
    from mlflow.entities import Dataset, DatasetInput, InputTag

    return [
        DatasetInput(
            Dataset(
                name=split.name,
                digest=split.digest,
                source_type=split.source_type,
                source=split.source,
                profile=split.profile,
            ),
            [InputTag("mlflow.data.context", CONTEXTS[split.name])],
        )
        for split in record.datasets
    ]


def _short(figure: float | None) -> float | None:
    """Round to five digits, for tables, whose JSON has no infinite numbers."""
    return float(f"{figure:.5g}") if figure is not None and math.isfinite(figure) else None
