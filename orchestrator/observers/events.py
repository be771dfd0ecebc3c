"""The typed events of a run. The run emits them; observers show, record or send them, and decide nothing.

`name` is the name of an event class in `events.jsonl`; events without a name are only shown.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

if TYPE_CHECKING:
    from orchestrator.reporting.report import Report
    from workers.training.loop import Epoch


@dataclass(frozen=True)
class Event:
    """Base of all events."""

    name: ClassVar[str] = ""

    def fields(self) -> Mapping[str, Any]:
        """The event's fields in `events.jsonl`: plain values."""
        return dict(vars(self))


@dataclass(frozen=True)
class RunStarted(Event):
    """A process of the run has begun. run: its name. mlflow_run: the parent run that the tracker has opened."""

    run: str
    mlflow_run: str
    name: ClassVar[str] = "run"

    def fields(self) -> Mapping[str, Any]:
        return {"name": self.run, "mlflow_run": self.mlflow_run}


@dataclass(frozen=True)
class RunEnded(Event):
    """The run has ended. status: MLflow's `FINISHED`, `FAILED` or `KILLED`. error: the cause, as text."""

    status: str
    error: str | None = None

    @property
    def name(self) -> str:  # type: ignore[override]
        return "complete" if self.status == "FINISHED" else "failed"

    def fields(self) -> Mapping[str, Any]:
        return {"error": self.error}


@dataclass(frozen=True)
class StageStarted(Event):
    """A stage has begun. systems: the networks that it trains, for `epochs` epochs each."""

    stage: str
    systems: Sequence[str] = ()
    epochs: int = 0
    name: ClassVar[str] = "stage started"

    def fields(self) -> Mapping[str, Any]:
        return {"stage": self.stage}


@dataclass(frozen=True)
class StageProgressed(Event):
    """`done` of `total` is complete. text: shown beside the progress bar."""

    stage: str
    done: float
    total: float
    text: str


@dataclass(frozen=True)
class StageEnded(Event):
    """A stage has ended. failed: whether an exception ended it; such a stage is not recorded."""

    stage: str
    seconds: float
    reused: bool
    failed: bool = False

    @property
    def name(self) -> str:  # type: ignore[override]
        return "" if self.failed else "stage finished"

    def fields(self) -> Mapping[str, Any]:
        return {"stage": self.stage, "seconds": self.seconds, "reused": self.reused}


@dataclass(frozen=True)
class SystemAdded(Event):
    """The run adds a member, the ensemble, the baseline or the student."""

    system: str
    role: str


@dataclass(frozen=True)
class EpochEnded(Event):
    """A worker has finished an epoch of a system's training."""

    system: str
    epoch: Epoch
    name: ClassVar[str] = "epoch"

    def fields(self) -> Mapping[str, Any]:
        return {"system": self.system, **vars(self.epoch)}


@dataclass(frozen=True)
class SystemTrained(Event):
    """A system's training is complete. history: all its epochs, those of earlier runs included."""

    system: str
    history: Sequence[Epoch] = field(repr=False)


@dataclass(frozen=True)
class Note(Event):
    """Something that the user should know."""

    text: str
    name: ClassVar[str] = "note"


@dataclass(frozen=True)
class TeacherLost(Event):
    """A teacher is lost. evidence: of the loss. action: the pool's reaction."""

    members: Sequence[str]
    action: str
    evidence: str
    name: ClassVar[str] = "teacher lost"


@dataclass(frozen=True)
class TeacherBack(Event):
    """A teacher that was lost answers again."""

    members: Sequence[str]
    name: ClassVar[str] = "teacher back"


@dataclass(frozen=True)
class TeacherMoves(Event):
    """The node of a teacher will be drained or preempted: the pool starts a successor on another node."""

    members: Sequence[str]
    evidence: str
    name: ClassVar[str] = "teacher moves"


@dataclass(frozen=True)
class ReportReady(Event):
    """The report is written. histories: every epoch by its system. folder: holds the models."""

    report: Report = field(repr=False)
    histories: Mapping[str, Sequence[Epoch]] = field(repr=False)
    folder: str


class Observer(Protocol):
    """Shows, records or sends events, from any thread. Its exceptions affect neither the run nor other observers."""

    def __call__(self, event: Event) -> None: ...
