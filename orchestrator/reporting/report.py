"""`Report`, the schema of `report.json`: members, ensemble, baseline and student beside each other.

`tables` has its tables as rows of text, and `markdown` renders it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from orchestrator.config.schema import PaperSpec
from orchestrator.reporting.spread import SeedFigures
from orchestrator.run_folder.paths import RunFolder
from workers import storage
from workers.errors import RequestError

if TYPE_CHECKING:
    from orchestrator.reporting import statistics

Role = Literal["member", "ensemble", "baseline", "student", "further"]
Bound = Literal["teacher", "driver", "student"]
Bounds = tuple[float, float]
"""The lower and the upper end of an interval."""
COMPARED: tuple[Role, ...] = ("baseline", "ensemble", "student")
FIGURED: tuple[Role, ...] = ("ensemble", "baseline", "student")
"""The compared systems, in the order of the figures."""


class Figures(BaseModel):
    """A part of a report. Infinite figures, such as the NLL of a label of probability 0, are texts in JSON, which has
    no number for them."""

    model_config = ConfigDict(ser_json_inf_nan="strings")


class TestMetrics(Figures):
    """Metrics on held-out data; the user's own metrics, and their intervals, are extra fields."""

    __test__ = False  # keeps pytest from collecting it
    model_config = ConfigDict(extra="allow")
    __pydantic_extra__: dict[str, float | Bounds] = Field(init=False)

    examples: int
    accuracy: float
    nll: float
    ece: float
    brier: float | None = None
    """The mean squared distance of probabilities and label, 0 to 2; None in reports of earlier versions."""
    macro_f1: float | None = None
    """The mean F1 of the classes; None in reports of earlier versions."""
    accuracy_interval: Bounds | None = None
    """95% interval over test examples or their groups; None in reports of earlier versions."""
    nll_interval: Bounds | None = None
    ece_interval: Bounds | None = None
    brier_interval: Bounds | None = None

    @property
    def errors(self) -> int:
        return round(self.examples * (1 - self.accuracy))

    def figure(self, name: str) -> float | None:
        """A metric by its name in the report, including `errors`; None where this system lacks it."""
        found = getattr(self, name, None)
        return None if found is None else float(found)

    def interval(self, name: str) -> Bounds | None:
        """The 95% interval of a metric over test examples, or other units; None where it has none."""
        found: Bounds | None = getattr(self, f"{name}_interval", None)
        return found

    @property
    def extra(self) -> dict[str, float]:
        """The user's own metrics, and others that only some runs have."""
        return {name: float(value) for name, value in (self.model_extra or {}).items() if not isinstance(value, tuple)}


class Difference(Figures):
    """By how much one system is more accurate than another on the same test examples."""

    of: str
    over: str
    accuracy: float
    interval: Bounds | None
    """95%, by resampling pairs; None where there are too few examples."""
    accuracy_interval: Bounds | None = None
    """`interval`, under the name that it has beside any accuracy; None in reports of earlier versions."""
    resolved: bool
    """Whether the interval leaves 0 out."""
    examples_needed: int | None
    """Test examples that would resolve a difference of this size, with a probability of 80%; None where that is 0, or
    has no interval."""


class Latency(Figures):
    """Latency for one example, in milliseconds."""

    p50: float
    p99: float


class Calibration(Figures):
    """A reliability diagram: number of examples, mean confidence and accuracy per bin of confidence."""

    examples: list[int]
    confidence: list[float]
    accuracy: list[float]


SPECIALISTS = "specialists"
"""The rule of generalists and specialists, in `SoftTargets.rule`."""


class System(Figures):
    """One network, or the ensemble of all members."""

    name: str
    role: Role
    parameters: int
    test: TestMetrics
    latency_ms: Latency
    examples_per_second: float | None = None
    """In batches of 64 by one thread; None in reports of earlier versions."""
    calibration: Calibration
    validation_accuracy: float | None = None
    """Of the weights that training kept, on the validation split; None for members, ensemble and further systems."""
    confusion: list[list[int]] = []
    """Test examples by label (rows) and prediction (columns). Empty for members and further systems, and for many
    classes."""
    special: list[str] = []
    """The classes that a specialist tells apart, by name; empty for all others."""


class CurvePoint(Figures):
    """Metrics of an ensemble with this many members: the mean over as many subsets as the run has members."""

    members: int
    accuracy: float
    accuracy_interval: Bounds | None = None
    """95%, over test examples or their groups, of the mean over these choices; None in reports of earlier versions."""
    nll: float
    ece: float | None = None
    """None in reports of earlier versions, as the spread."""
    spread: float | None = None
    """Standard deviation of the accuracy over the choices; None for a single choice."""


class MemberWorth(Figures):
    """What one member is worth; each next member is the one that improves the ensemble most on validation."""

    member: str
    accuracy: float
    """Of the ensemble of this member and those before it."""
    accuracy_interval: Bounds | None
    nll: float
    ece: float
    adds: float
    """Accuracy over that of the ensemble before; of the first its own."""
    adds_interval: Bounds | None
    lost: float
    """What the whole ensemble loses in accuracy without this member."""
    lost_interval: Bounds | None
    core_hours: float | None = None
    """Of its training; None for a loaded member, and in reports of earlier versions."""
    gpu_hours: float | None = None


class Agreement(Figures):
    """Test examples by the answers of the ensemble and the student."""

    both_right: int
    lost: int
    """The ensemble is right, and the student wrong."""
    gained: int
    """The other way round."""
    wrong_alike: int
    """Both are wrong, with the same class."""
    wrong_otherwise: int


class DifferingExample(Figures):
    """A test example on which the student and the ensemble differ: what it looks like, and both answers."""

    kind: Literal["lost", "gained", "divergent"]
    """`lost`: the ensemble is right, the student wrong. `gained`: the other way round. `divergent`: both are right, or
    both wrong, of unlike probabilities."""
    example: int
    """The row of `data.test`."""
    position: int | None = None
    """The position within the example, such as a token; None where the example has one answer."""
    label: int
    ensemble: list[tuple[int, float]]
    """The likeliest classes with their probabilities."""
    student: list[tuple[int, float]]
    divergence: float
    """KL of the ensemble's from the student's probabilities, nats."""
    text: str = ""
    """The text, shortened."""
    image: Annotated[str, Field(pattern="^[A-Za-z0-9+/=]*$")] = ""
    """A PNG in base64."""
    values: list[float] = []
    """The first values of an example that is neither text nor image."""


class DrawnFigure(Figures):
    """A figure of `report.figures`. image: a PNG in base64."""

    title: str
    image: Annotated[str, Field(pattern="^[A-Za-z0-9+/=]*$")]


class EpochFigures(Figures):
    """One epoch of training."""

    epoch: int
    train_loss: float
    validation_accuracy: float
    train_accuracy: float | None = None
    """Of the steps that learned from the examples with a label, so a mean over the epoch; None without any, and in
    reports of earlier versions."""


class Origin(Figures):
    """What the run follows from, to run it again."""

    command: str = ""
    """The command that the user typed, without credentials; empty for a run from Python."""
    config: str = ""
    """The resolved configuration, YAML without credentials."""
    versions: dict[str, str] = {}
    data: dict[str, str] = {}
    """The digest of each split."""
    code: dict[str, str] = {}
    """Digests of the models' code, and the Git commit where there is one."""


class Planned(Figures):
    """The forecast of the plan."""

    seconds: float | None = None
    bytes: int | None = None


class SoftTargets(Figures):
    examples: int
    bytes: int
    temperature: float
    fingerprint: str = ""
    """Of the inputs; the name of the store's folder."""
    combine: str
    weights: dict[str, float] = {}
    """Mixture weight of each member; before a rule for each example."""
    planned: Planned | None = None
    """The forecast of `stillhouse plan`; None without a plan of this configuration."""
    rule: str = ""
    """The rule by which each example has weights of its own; empty without one."""
    schedule: str = ""
    """The schedule of T, in words; empty for a constant one."""
    seconds: float
    reused: bool

    @property
    def joined(self) -> str:
        """How the members answer together, in words, without their weights."""
        return "generalists and specialists together" if self.rule == SPECIALISTS else f"{self.combine} mean"


class Spent(Figures):
    """Reserved cores and GPUs times hours of computing epochs or parts, in this run or an earlier one."""

    core_hours: float
    gpu_hours: float


class Stage(Figures):
    name: str
    seconds: float
    reused: bool
    planned: Planned | None = None
    """The forecast of `stillhouse plan` for a first run; None without a plan of this configuration."""


class StudentFigures(Figures):
    """One of several students. student, baseline: names of its two systems. run: the name of its run."""

    name: str
    student: str
    baseline: str
    run: str
    gain_transferred: float | None
    gain_transferred_interval: Bounds | None
    resolved: bool | None = None
    """Whether the interval of `gain_transferred` leaves 0 out; None in reports of earlier versions."""
    over_baseline_interval: Bounds | None = None
    """Of its accuracy over its baseline's; None of too few test examples, and in reports of earlier versions."""
    may_be_chance: bool = False
    """Whether the ensemble's gain over this student's baseline is not resolved."""
    own_may_be_chance: bool = False
    """Whether the student's is not."""
    on_front: bool
    """Whether no other student is as accurate, as fast and as small, and better in one of these."""


class GenerationFigures(Figures):
    """The student of a generation, or all of them together. run: of the generation. over: its accuracy over that of the
    generation before, or of all together over the last one; None for the first."""

    name: str
    run: str
    accuracy: float
    accuracy_interval: Bounds | None
    over: Difference | None


class Report(Figures):
    """A finished run."""

    name: str
    seed: int = 0
    status: Literal["complete"] = "complete"
    folder: str = ""
    page: str = ""
    """The run's page in MLflow, relative to the tracker's address."""
    accuracy_name: str = "accuracy"
    classes: int = 0
    labels: list[str] = []
    """Names of the classes; empty where labels are numbers."""
    systems: list[System]
    gain_transferred: float | None
    """(student - baseline) / (ensemble - baseline) in test accuracy; None where the ensemble does not beat the
    baseline."""
    gain_transferred_interval: Bounds | None = None
    """95%; None where the ensemble has no gain over the baseline that is resolved, where the share has no bound, or in
    reports of earlier versions."""
    resolved: bool | None = None
    """Whether the interval of `gain_transferred` leaves 0 out; None in reports of earlier versions."""
    differences: list[Difference] = []
    """The differences in accuracy that the report speaks of."""
    test_groups: int | None = None
    """How many groups (`data.group_column`) the test examples are in; None: each is one of its own."""
    students: list[StudentFigures] = []
    """Each student of several from the same soft targets; empty for a single one."""
    generations: list[GenerationFigures] = []
    """Students that taught each other, and all of them together; empty without several."""
    seeds: list[SeedFigures] = []
    """The figures of this run and of its repetitions with other seeds; empty without repetitions."""
    best_member: str = ""
    """The member that is best on the validation split; empty in reports of earlier versions."""
    curve: list[CurvePoint]
    worth: list[MemberWorth] = []
    """Of each member; empty for a single one, where predictions are too large, and in reports of earlier versions."""
    disagreement: float | None = None
    """The share of test examples on which two members predict other classes, the mean over pairs."""
    soft_targets: SoftTargets
    stages: list[Stage]
    bound_by: Bound
    cost: dict[str, Spent] = {}
    """Cost of the members' training, the soft targets (for a resumed pass: the rest), baseline and student."""
    price: float | None = None
    """Price of the cost, where the configuration has hourly prices."""
    notes: list[str] = []
    """What to know of the systems: why the ensemble has its size, a bias of the student."""
    lost_members: list[str] = []
    paper: PaperSpec | None = None
    latency_ms: float | None = None
    """The latency that a served model may have for one example, where the configuration has it."""
    agreement: Agreement | None = None
    """Of ensemble and student; None where predictions are too large to be kept, and in reports of earlier versions."""
    examples: list[DifferingExample] = []
    """As many of each kind as `report.examples` asks for, the most divergent first."""
    figures: list[DrawnFigure] = []
    """Those of `report.figures`."""
    training: dict[str, list[EpochFigures]] = {}
    """The epochs of baseline and student, thinned out where there are many."""
    origin: Origin | None = None
    """None in reports of earlier versions."""

    def system(self, role: Role) -> System:
        """The first system of a role."""
        return next(system for system in self.systems if system.role == role)

    @property
    def members(self) -> list[System]:
        return [system for system in self.systems if system.role == "member"]

    @property
    def total_cost(self) -> Spent:
        return Spent(
            core_hours=sum(spent.core_hours for spent in self.cost.values()),
            gpu_hours=sum(spent.gpu_hours for spent in self.cost.values()),
        )

    @property
    def extra_metrics(self) -> list[str]:
        return sorted({name for system in self.systems for name in system.test.extra})


def as_difference(found: statistics.Difference) -> Difference:
    """A difference as the report has it."""
    bounds = None if found.interval is None else found.interval.bounds
    return Difference(
        of=found.of,
        over=found.over,
        accuracy=found.accuracy,
        interval=bounds,
        accuracy_interval=bounds,
        resolved=found.resolved,
        examples_needed=found.needed,
    )


def gain_transferred(baseline: float, ensemble: float, student: float) -> float | None:
    """The student's share of the ensemble's gain in accuracy; None where the ensemble has no gain."""
    return (student - baseline) / (ensemble - baseline) if ensemble > baseline else None


def load(run: str) -> Report:
    """The report of the run whose folder is at `run`, a path or URI.

    Raises: `RequestError` where the run has no report.
    """
    folder = storage.absolute(run)
    uri = RunFolder(folder).report
    content = storage.read_if_there(uri)
    if content is None:
        raise RequestError(
            f"'{run}': no report.json in it. Expected the folder of a finished run, <storage>/<name>; a run that was "
            "interrupted has none until the same command has finished it."
        )
    try:
        return Report.model_validate_json(content)
    except ValidationError as error:
        raise RequestError(
            f"'{uri}': not a report ({error.error_count()} wrong fields); expected the report.json that a run wrote. "
            "Run the same command again, or use the version of Stillhouse that wrote it."
        ) from error


def repetitions(run: str) -> list[Report]:
    """The report of the run whose folder is at `run`, and those of its repetitions with other seeds.

    Raises: as `load`.
    """
    own, beside = load(run), storage.parent(storage.absolute(run))
    return [own, *(load(storage.join(beside, each.run)) for each in own.seeds if each.run != own.name)]


def as_json(report: Report) -> str:
    return report.model_dump_json(indent=2) + "\n"


def best_member(report: Report) -> System:
    """The member that is best on the validation split; in reports of earlier versions on the test split."""
    named = [member for member in report.members if member.name == report.best_member]
    return max(named or report.members, key=lambda system: system.test.accuracy)


def of_seed(report: Report) -> SeedFigures:
    """A run's figures, as one of several repetitions."""
    accuracy = {role: report.system(role).test.accuracy for role in COMPARED}
    return SeedFigures(
        seed=report.seed,
        run=report.name,
        best_member=best_member(report).test.accuracy,
        gain_transferred=report.gain_transferred,
        gain_transferred_interval=report.gain_transferred_interval,
        resolved=report.resolved,
        **{str(role): value for role, value in accuracy.items()},
    )
