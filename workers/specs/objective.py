"""What the student learns from: weighted terms, a temperature, and schedules of both."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, ConfigDict, Discriminator, Field, Tag, model_validator

from workers.specs.base import Count, KindName, NoBool, NonNegative, Number, OwnKind, Spec, Whole


class ScheduleSpec(OwnKind):
    """A number that changes in the course of a training, from its first step or epoch to its last."""

    model_config = ConfigDict(validate_by_name=True, validate_by_alias=True, serialize_by_alias=True)

    start: Annotated[Number, Field(alias="from")]
    """Its value at the first step."""
    end: Annotated[Number | None, Field(alias="to")] = None
    """Its value at the last step; not for `schedule: constant`."""
    schedule: Annotated[KindName, Field(examples=["constant", "linear", "cosine", "step"])] = "linear"
    """How it goes there: `constant`, `linear`, `cosine`, `step` (`kwargs: {at: 0.5}`, one share of the training or
    several), or `module:Class`."""
    by: Literal["epoch", "step"] = "step"
    """How often it changes."""

    @model_validator(mode="after")
    def _has_an_end(self) -> ScheduleSpec:
        if self.end is None and self.schedule != "constant":
            raise ValueError(f"`to` is missing: a {self.schedule} schedule goes from `from` to `to`")
        return self

    @property
    def is_constant(self) -> bool:
        """Whether it is known to stay as it is."""
        return self.schedule == "constant" or (self.start == self.end and ":" not in self.schedule)


def _number_or_schedule(value: Any) -> str:
    return "(schedule)" if isinstance(value, (dict, ScheduleSpec)) else "(number)"


LEAST_TEMPERATURE = 1.0e-3
"""Close to 0 all probability is on one class, and below this logits overflow."""


def _at_least(least: float) -> AfterValidator:
    def check(spec: ScheduleSpec) -> ScheduleSpec:
        for key, value in (("from", spec.start), ("to", spec.end)):
            if value is not None and value < least:
                raise ValueError(f"`{key}` is {value:g}; expected a number of at least {least:g}")
        return spec

    return AfterValidator(check)


Weight = Annotated[
    Annotated[NonNegative, Tag("(number)")] | Annotated[ScheduleSpec, _at_least(0.0), Tag("(schedule)")],
    Discriminator(_number_or_schedule),
]
Temperature = Annotated[
    Annotated[float, Field(ge=LEAST_TEMPERATURE, allow_inf_nan=False), NoBool, Tag("(number)")]
    | Annotated[ScheduleSpec, _at_least(LEAST_TEMPERATURE), Tag("(schedule)")],
    Discriminator(_number_or_schedule),
]


TERM_NAMES = [
    "soft", "reverse_kl", "jensen_shannon", "logits_mse", "hard", "masked_lm", "hidden_cosine", "hidden_mse",
    "relations", "attention", "attention_transfer", "channel_kl", "relational_distance", "relational_angle",
]  # fmt: skip
"""Names of `workers.losses.TERMS`, which editors offer."""


class TermSpec(OwnKind):
    """One term of the objective: what is compared with what, and how much it counts."""

    term: Annotated[KindName, Field(examples=TERM_NAMES)]
    """What is compared: `soft`, `reverse_kl`, `jensen_shannon` (`kwargs: {beta: 0.5}`), `logits_mse`, `hard`,
    `masked_lm` (`hard` of masked tokens), `hidden_cosine`, `hidden_mse`, `relations`, `attention`,
    `attention_transfer`, `channel_kl`, `relational_distance`, `relational_angle`, or `module:Class`."""
    weight: Weight = 1.0
    """How much it counts: a number, or one that follows a schedule."""

    @property
    def is_off(self) -> bool:
        """Whether its weight is known to be 0 at every step."""
        if isinstance(self.weight, ScheduleSpec):
            return self.weight.start == 0.0 and self.weight.is_constant
        return self.weight == 0.0


class HiddenSpec(Spec):
    """The member whose hidden states or self-attention a term of the objective needs."""

    member: Whole = 0
    """Its number. Student and member take the same columns, and texts by the same tokenizer."""
    where: Literal["auto", "worker", "actor"] = "auto"
    """Where it computes: in each `worker` of the student's training, on its device, or in an `actor` of its own, which
    sends its answers. `auto`: in an actor if the member needs more than half of a worker's memory and the cluster has
    resources for both, else in the workers."""


class DistillationSpec(Spec):
    """What the student learns from: weighted terms, by default
    soft_weight * T^2 * CE(p, softmax(z/T)) + hard_weight * CE(y, softmax(z)); Hinton et al. 2015."""

    temperature: Temperature = 2.0
    """T: a number or a schedule. For a schedule each member's logits are kept, and the student averages them at the
    T of its step; it starts once all of them are stored."""
    objective: tuple[TermSpec, ...] | None = None
    """The terms, added in this order. Left out: `soft` and `hard` with the two weights below."""
    soft_weight: Weight | None = None
    """Weight of the term `soft` (short form of `objective`): the cross entropy with the ensemble's softened
    probabilities, times T^2. Left out: 0.5."""
    hard_weight: Weight | None = None
    """Weight of the term `hard` (short form of `objective`): the cross entropy with the labels. Left out: 0.5."""
    dtype: Literal["float32", "float16"] = "float32"
    """How soft targets are stored."""
    top_k: Count | None = None
    """For a large vocabulary: store this many of the largest probabilities, and the remaining mass as one extra
    class."""
    hidden: HiddenSpec = HiddenSpec()
    """The member for terms that need hidden states or attention, such as `hidden_cosine` and `relations`."""
    keep: Literal["mean", "members"] = "mean"
    """What of the teachers' pass is kept: soft targets alone, or each member's logits too, from which any other T, rule
    or choice of members is made without computing these members again."""
    stream: Literal["auto"] | bool = "auto"
    """Train the student while the soft targets are computed. `auto`: if the teachers leave a GPU free for each worker,
    or without GPUs one core. `true`: also on cores that teachers use. On CPUs the student is the same to the bit."""

    @model_validator(mode="before")
    @classmethod
    def _short_form(cls, values: Any) -> Any:
        if not isinstance(values, dict) or values.get("objective") is not None:
            return values
        given = {key: value for key, value in values.items() if value is not None}
        return {**values, "soft_weight": given.get("soft_weight", 0.5), "hard_weight": given.get("hard_weight", 0.5)}

    @model_validator(mode="after")
    def _one_objective(self) -> DistillationSpec:
        short = [key for key in ("soft_weight", "hard_weight") if getattr(self, key) is not None]
        if self.objective is not None and short:
            raise ValueError(
                f"`objective` and `{short[0]}` are both given; expected one of them: `{short[0]}` is the short form of "
                "a term in `objective`"
            )
        if self.objective == ():
            raise ValueError("`objective` is empty; expected at least one term")
        if all(term.is_off for term in self.every_term):
            what = "`soft_weight` and `hard_weight` are both" if self.objective is None else "all weights are"
            raise ValueError(f"{what} 0, so there is nothing to learn from; set one of them above 0")
        kinds = [term.model_dump(exclude={"weight", "depends_on"}) for term in self.every_term]
        for number, (term, kind) in enumerate(zip(self.every_term, kinds, strict=True)):
            if kind in kinds[:number]:
                raise ValueError(
                    f"`objective` has the term '{term.term}' twice with the same settings; expected each once, with "
                    "the sum of the weights"
                )
        return self

    @model_validator(mode="after")
    def _room_for_a_schedule(self) -> DistillationSpec:
        if not self.is_scheduled:
            return self
        if self.top_k is not None:
            raise ValueError(
                f"`top_k` is {self.top_k} and `temperature` a schedule: the largest probabilities at one T say nothing "
                "of those at another; leave `top_k` out, or set `temperature` to a number"
            )
        if self.stream is True:
            raise ValueError(
                "`stream` is true and `temperature` a schedule, for which the student waits until the logits of all "
                "members are kept; leave `stream` out, or set `temperature` to a number"
            )
        return self

    @property
    def every_term(self) -> tuple[TermSpec, ...]:
        """The terms in their order, from either form."""
        if self.objective is not None:
            return self.objective
        short = {"soft": self.soft_weight, "hard": self.hard_weight}
        return tuple(TermSpec(term=name, weight=weight) for name, weight in short.items() if weight is not None)

    @property
    def is_scheduled(self) -> bool:
        """Whether T changes in the course of the training."""
        return isinstance(self.temperature, ScheduleSpec) and not self.temperature.is_constant

    @property
    def first_temperature(self) -> float:
        """The T that the training begins with, and that soft targets are stored at."""
        found = self.temperature
        return found.start if isinstance(found, ScheduleSpec) else found

    @property
    def keeps_logits(self) -> bool:
        """Whether each member's logits are kept."""
        return self.keep == "members" or self.is_scheduled
