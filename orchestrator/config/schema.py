"""The schema of a configuration's sections on evaluation, report and tracker. Plain pydantic.

With `ensemble`, `student`, and the specs in `workers.specs`, which are sent to workers, these form a `RunConfig`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Annotated, Literal

from pydantic import Field, model_validator

from orchestrator.config import names
from orchestrator.config.ensemble import MemberGroup, complete_in
from workers.specs.base import Count, FactorySpec, NoBool, NonNegative, Positive, Precision, Spec, Whole
from workers.specs.models import AnyModel, Network

NAME, MODEL_NAME = r"^[a-z0-9][a-z0-9._-]*$", r"^[^/:']*$"
STORAGE = "runs"
"""Default folder of runs."""
CORRECTED = f"student-{names.CORRECTED}"
"""The student with the bias of `evaluation.corrected_classes`."""
SYSTEMS = ("ensemble", "baseline", "student")
"""Names of a run's own systems, beside `member-<number>` and `stage-<name>`."""


class FurtherSystem(Spec):
    """A finished model that is measured beside the run's systems, and takes no part in the distillation."""

    model: AnyModel
    """A model of any kind that is complete: a folder of transformers, a file, or a network with its `checkpoint`."""
    checkpoint: str | None = None
    """The file of weights, where `model` describes a network without any."""
    precision: Precision = "auto"
    """Precision of its matrix products, as of the members."""
    micro_batch_size: Count | None = None
    """Examples per forward pass of its predictions, as of the members."""

    @model_validator(mode="after")
    def _one_source(self) -> FurtherSystem:
        complete = complete_in(self.model, None, None)
        if (complete is None) == (self.checkpoint is None):
            raise ValueError(
                f"`model` has its weights in {self.model.label}; leave `checkpoint` out"
                if complete is not None
                else "`model` has no weights; give `checkpoint`, the file of them"
            )
        if complete is None and not isinstance(self.model, Network):
            raise ValueError(f"a model of kind '{self.model.kind}' has no `checkpoint`; give the `path` of its file")
        return self

    @property
    def group(self) -> MemberGroup:
        """The same model, as a group of one loaded member."""
        return MemberGroup(model=self.model, checkpoints=None if self.checkpoint is None else (self.checkpoint,))

    @property
    def weights(self) -> str:
        """URI of the file or folder of its weights."""
        (found,) = self.group.given or ("",)
        return found


class EvaluationSpec(Spec):
    """What is measured besides accuracy, likelihood, calibration and latency."""

    metrics: tuple[FactorySpec, ...] = ()
    """Functions `(probabilities [N, K] float32, labels [N] int64, **kwargs) -> {name: number}` of the test split. In
    place of a number, `(sums, counts)` of all units, such as errors and words of each utterance, gives their ratio with
    an interval over units, or where these are the N rows, over the groups of `data.group_column`. The run tries each on
    random predictions before it starts."""
    latency_repeats: Count = 200
    """Number of latency measurements per system, each with a single example."""
    corrected_classes: tuple[Whole | str, ...] = ()
    """Classes, by id or name, that get one common bias, found on the training split. The student with it is the system
    `student-corrected`: what a student knows of classes that its transfer set left out (Hinton et al. 2015, section
    3)."""
    systems: dict[Annotated[str, Field(pattern=NAME, max_length=100)], FurtherSystem] = Field(default_factory=dict)
    """Further finished models that are measured on the same test split and have a row in the report, by name: a model
    in production, a student of another run, a quantized network."""

    @model_validator(mode="after")
    def _names_are_free(self) -> EvaluationSpec:
        taken = [
            name for name in self.systems if name in (*SYSTEMS, CORRECTED) or name.startswith(("member-", "stage-"))
        ]
        if taken:
            raise ValueError(f"`systems` has the name '{taken[0]}', which a system of the run has; expected another")
        return self


class PaperSpec(Spec):
    """A paper's figures, printed beside the measured ones."""

    source: str
    """Which paper, and which of its experiments."""
    baseline: dict[str, float] = Field(default_factory=dict)
    """The paper's figures of its baseline, by the report's names, such as `errors`."""
    ensemble: dict[str, float] = Field(default_factory=dict)
    """The paper's figures of its ensemble."""
    student: dict[str, float] = Field(default_factory=dict)
    """The paper's figures of its distilled network."""
    gain_transferred: float | None = None
    """The share of the ensemble's gain that reached its student."""


class ReportSpec(Spec):
    """Settings of the report."""

    accuracy: str = ""
    """Name of accuracy in this field, such as `frame accuracy`. Left out: `accuracy`; of masked tokens
    `masked accuracy`."""
    paper: PaperSpec | None = None
    """Figures to print beside the measured ones."""
    latency_ms: Positive | None = None
    """The latency that a served model may have for one example; the report compares each system's p99 with it."""
    core_hour_price: NonNegative = 0.0
    """Price of a core hour, in any currency."""
    gpu_hour_price: NonNegative = 0.0
    """Price of a GPU hour. The report shows a total price where either is above 0."""
    examples: Annotated[int, Field(ge=0, le=50), NoBool] = 4
    """Test examples that the report shows of each kind: lost by the student, gained by it, answered most unlike the
    ensemble. They lie in all three files of the report, and go to MLflow with them; 0: none."""
    figures: tuple[FactorySpec, ...] = ()
    """Functions `(student, x, y, **kwargs)` of the student's torch module and the test split, which return a figure of
    matplotlib, or several by title. The report and MLflow show them."""
    image_shape: Annotated[tuple[Count, ...], Field(min_length=2, max_length=3)] | None = None
    """The shape as which the report draws an example that is a flat row of pixels, such as `[28, 28]` or
    `[3, 32, 32]`. Left out: rows are not drawn, and examples of such shapes are."""

    def price(self, hours: Iterable[tuple[float, float]]) -> float | None:
        """The price of pairs of core hours and GPU hours; None without prices."""
        if not (self.core_hour_price or self.gpu_hour_price):
            return None
        return sum(cores * self.core_hour_price + gpus * self.gpu_hour_price for cores, gpus in hours)


class TrackingSpec(Spec):
    """Settings of MLflow."""

    uri: str = "sqlite:///mlflow.db"
    """URI of the tracker: a server or a database. A relative SQLite path refers to the command's working folder."""
    experiment: str = ""
    """The MLflow experiment. Left out: the `name` in the configuration file, so that runs with another `--set name=`
    share one experiment."""
    registered_model: Annotated[str, Field(pattern=MODEL_NAME)] | Literal[False] = ""
    """The student's name in MLflow's model registry, which also stores two examples of the test split. Left out: the
    experiment's name and `-student`; false: the run does not send the model to MLflow."""

    @property
    def student_name(self) -> str:
        """The student's name in the registry, also where a run does not send it."""
        return self.registered_model or re.sub(r"[/:']", "-", f"{self.experiment}-student")
