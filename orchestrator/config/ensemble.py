"""The schema of the ensemble: groups of members, how they are trained or loaded, and how they answer together."""

from __future__ import annotations

import itertools
from typing import Annotated, Literal

from pydantic import Discriminator, Field, Tag, field_validator, model_validator

from orchestrator.config.initial import PREVIOUS, TEACHER_LAYERS, WORDS
from workers.specs.base import Count, FactorySpec, NonNegative, Positive, Precision, Spec, Whole
from workers.specs.members import ExampleWeights, MemberSample, MemberWeights
from workers.specs.models import AnyModel, Network, special_of
from workers.specs.training import AnyTraining, check_recipe

FIRST_MEMBERS = 3
"""Members that `stop_when_flat` trains before it forecasts the worth of the next one."""
OwnClasses = Annotated[tuple[Whole | str, ...], Field(min_length=1)]
Specialists = Annotated[
    Annotated[Literal["auto"], Tag("(name)")]
    | Annotated[tuple[OwnClasses, ...], Field(min_length=1), Tag("(classes of each)")],
    Discriminator(lambda given: "(name)" if isinstance(given, str) else "(classes of each)"),
]
"""The own classes of each specialist, or how they are found."""
InitialWeights = Whole | str | None
"""Of a member: `PREVIOUS`, the number of an earlier member, a file; None: random ones."""


class Resources(Spec):
    """Resources of one member while it trains or teaches."""

    num_cpus: Positive = 1.0
    """Cores. A member computes with as many threads (at least one)."""
    num_gpus: NonNegative | Literal["auto"] = "auto"
    """GPUs. `auto`: a GPU for each member. If there are fewer GPUs than members, one actor with a GPU hosts several
    members. 0 on a cluster without GPUs."""

    @field_validator("num_gpus")
    @classmethod
    def _whole_above_one(cls, num_gpus: float | str) -> float | str:
        if isinstance(num_gpus, float) and num_gpus > 1 and not num_gpus.is_integer():
            raise ValueError(f"found {num_gpus:g}; expected a share of one GPU, or a whole number, as Ray gives them")
        return num_gpus


class MemberGroup(Spec):
    """Members of one architecture and one recipe."""

    model: AnyModel
    """The architecture of each."""
    size: Count | None = None
    """How many members. Left out: as many as `checkpoints`, else one."""
    training: AnyTraining | None = None
    """How each is trained, with a seed of its own."""
    checkpoints: tuple[str, ...] | None = None
    """Instead of `training`: a file of weights for each."""
    sample: MemberSample = "all"
    """The training examples that each learns from: `all`; `bootstrap`, as many drawn with replacement, each member by
    its own seed (bagging, Breiman 1996); or `{classes: [...], share: 0.5}`: that share of each epoch from these
    classes (ids or names), the rest at random from all others (Hinton et al. 2015, section 5.2)."""
    initial: InitialWeights = None
    """The weights that each training begins from. `previous`: those of the member before it in the group, so that
    training goes on in cycles, by `schedule: cosine` as in snapshot ensembles (Huang et al. 2017); the first begins at
    random. A number: those of that member, of an earlier group. Or a file of weights, in a format of `checkpoints`.
    Left out: random ones, or those of the model's own checkpoint."""
    specialists: Specialists | None = None
    """Makes each a specialist (Hinton et al. 2015, section 5): it tells some classes apart, answers all others as one,
    begins with a generalist's weights (`initial`), and half of its examples are of its own classes. A list has the
    classes of each, by id or name. `auto`: `size` groups of classes that the generalists, which are all other members,
    confuse on the validation split. For an example a specialist counts if the generalists' likeliest class is its own;
    the answer of all has the least sum of KL divergences. Left out: members tell all classes apart."""

    @model_validator(mode="after")
    def _one_source(self) -> MemberGroup:
        _check_source(self.model, self.size, self.training, self.checkpoints)
        _check_taught(self.model, self.training, self.sample, self.initial)
        if self.specialists is not None:
            _check_specialists(self, self.specialists)
        return self

    @property
    def has_specialists(self) -> bool:
        """Whether its members tell some classes apart alone."""
        return self.specialists is not None or special_of(self.model) is not None

    @property
    def given(self) -> tuple[str, ...] | None:
        """The files of loaded members; None where the run trains them."""
        return (self.complete,) if self.complete is not None else self.checkpoints

    @property
    def complete(self) -> str | None:
        """The file or folder of a model that is one complete member."""
        return complete_in(self.model, self.training, self.checkpoints)

    @property
    def initial_file(self) -> str | None:
        """URI of the file of weights that each training begins from; None where there is none."""
        return self.initial if isinstance(self.initial, str) and self.initial not in WORDS else None

    @property
    def count(self) -> int:
        """How many members."""
        if isinstance(self.specialists, tuple):
            return len(self.specialists)
        return self.size or len(self.given or "1")


def complete_in(model: AnyModel, training: AnyTraining | None, checkpoints: tuple[str, ...] | None) -> str | None:
    """The file or folder that is one complete member; None where members are trained, or loaded from `checkpoints`."""
    begins = model.begins_from if training is None and checkpoints is None else None
    return model.file if begins is None else begins


def _check_source(
    model: AnyModel, size: int | None, training: AnyTraining | None, checkpoints: tuple[str, ...] | None
) -> None:
    """Raise ValueError unless each member's weights have exactly one source."""
    if training is not None:
        check_recipe(model, training, "training")
    if complete_in(model, training, checkpoints) is not None:
        if checkpoints is not None or size not in (None, 1):
            raise ValueError(
                f"`model` names one file, {model.label}, which is one member; leave `size` and `checkpoints` out, and "
                "give each further file as an entry of `ensemble.members`"
            )
        return
    if (training is None) == (checkpoints is None):
        raise ValueError("give `training` (members are trained here) or `checkpoints` (they are loaded)")
    if checkpoints is None:
        return
    if not isinstance(model, Network):
        raise ValueError(f"`checkpoints` holds weights of networks; a model of kind '{model.kind}' names its `path`")
    if not checkpoints:
        raise ValueError("`checkpoints` is empty; expected a file of weights for each member")
    if size not in (None, len(checkpoints)):
        raise ValueError(f"`size` is {size} and `checkpoints` names {len(checkpoints)}; they must agree")


def _check_taught(model: AnyModel, training: AnyTraining | None, sample: MemberSample, initial: InitialWeights) -> None:
    """Raise ValueError where members cannot learn from such a sample, or begin from such weights."""
    given = [key for key, is_given in (("sample", sample != "all"), ("initial", initial is not None)) if is_given]
    if given and training is None:
        raise ValueError(f"`{given[0]}` is of members that are trained, and these are loaded; leave it out")
    if initial is not None and not isinstance(model, Network):
        raise ValueError("`initial` is given, and an estimator is fitted once, from nothing; leave it out")
    if initial == TEACHER_LAYERS:
        raise ValueError(
            f"`initial` is {TEACHER_LAYERS}, which is of a student; expected `{PREVIOUS}`, the number of an earlier "
            "member, or a file of weights"
        )


def _check_specialists(group: MemberGroup, given: Literal["auto"] | tuple[OwnClasses, ...]) -> None:
    """Raise ValueError where the members of a group cannot be specialists."""
    if not isinstance(group.model, Network):
        raise ValueError(
            f"`specialists` are networks, and the model {group.model.label} is of kind '{group.model.kind}'; expected "
            "kind python or transformers"
        )
    if group.training is None:
        raise ValueError(
            "`specialists` are trained here; a network that is loaded names its classes in `model.special`"
        )
    if group.model.special is not None:
        raise ValueError("`specialists` fills in `model.special`; leave that out")
    if group.initial is None or group.initial == PREVIOUS:
        found = "missing" if group.initial is None else PREVIOUS
        raise ValueError(
            f"`initial` is {found}, and specialists begin with the weights of a generalist; expected its number, such "
            "as 0, or a file of weights"
        )
    if group.sample != "all":
        raise ValueError("`specialists` learn from their own classes in half of their examples; leave `sample` out")
    if given == "auto" and (group.size is None or group.size < 2):
        raise ValueError(
            f"`specialists` is auto, and `size` is {group.size or 'missing'}; expected the number of groups of "
            "classes, at least 2"
        )
    if given != "auto" and group.size not in (None, len(given)):
        raise ValueError(f"`size` is {group.size} and `specialists` has the classes of {len(given)}; they must agree")


class EnsembleSpec(Spec):
    """The teachers: trained by the run, or loaded."""

    size: Count | Literal["auto"] = "auto"
    """How many members. `auto`: as many as `checkpoints`, else as many as the cluster can hold at once."""
    model: AnyModel | None = None
    """The architecture of every member."""
    training: AnyTraining | None = None
    """How each member is trained, with a seed of its own."""
    checkpoints: tuple[str, ...] | None = None
    """Instead of `training`: a file of weights for each member: safetensors (an index of several, too), or a state dict
    of torch."""
    sample: MemberSample = "all"
    """The training examples that each member learns from, as in a group of `members`."""
    initial: InitialWeights = None
    """The weights that each member's training begins from, as in a group of `members`: `previous`, or a file."""
    members: tuple[MemberGroup, ...] | None = None
    """Instead of the keys above: groups of members of several architectures. Members are numbered through all
    groups."""
    stop_when_flat: Positive | None = None
    """Trains members in rounds, up to `size`, and stops once the 95% interval of the next member's expected gain on
    validation lies below this value, in percentage points of accuracy. Left out: train `size` members."""
    combine: Literal["arithmetic", "geometric"] = "arithmetic"
    """The mean of the members' probabilities: arithmetic, or geometric and renormalised (a mean of their logits).
    Specialists are combined by a rule of their own, as `members.specialists` states."""
    weights: MemberWeights = "uniform"
    """Mixture weights of the members: equal, one number each (scaled to sum to 1), or `validation`: the weights that
    maximise the likelihood of the validation labels. Or weights per example: `entropy` gives confident members more
    weight; `agreement` gives members that disagree with the others less; `factory` is a function of the members'
    probabilities [M, N, K] that returns weights [M, N]."""
    on_member_loss: Literal["wait", "reweight", "fail"] = "wait"
    """What the pass does when a teacher is lost. `wait`: restart it and wait. `reweight`: restart it and continue with
    the others meanwhile. `fail`: end the run. After 3 restarts in a row without an answer, `wait` ends the run and
    `reweight` continues without the member."""
    resources_per_member: Resources = Resources()
    """Resources that Ray reserves for each member."""
    precision: Precision = "auto"
    """Precision of the members' matrix products, in the pass and in the evaluation. `auto`: bfloat16 on GPUs that
    support it, else float32. Of several types of GPUs all must: one GPU of each type that the cluster has now is asked,
    and the name decides for a type that is in use. Different GPUs in one node, or of a type that Ray does not know, are
    not told apart: set the precision there."""
    micro_batch_size: Count | None = None
    """Examples per forward pass of a member, in the pass and in the evaluation. Left out: 1,024, fewer for large
    examples and for texts on a CPU. A resumed pass keeps the value of its existing parts."""
    num_actors: Count | Literal["auto"] = "auto"
    """How many Ray actors host the members. Changes the speed, never a bit of the soft targets."""
    start_timeout_s: Positive = 900.0
    """How long members may wait for free resources of the cluster, whose autoscaler may have to start machines
    first."""

    @model_validator(mode="after")
    def _one_form(self) -> EnsembleSpec:
        if self.members is not None:
            given = {
                "size": self._size,
                "model": self.model,
                "training": self.training,
                "checkpoints": self.checkpoints,
                "sample": None if self.sample == "all" else self.sample,
                "initial": self.initial,
            }
            short = [key for key, value in given.items() if value is not None]
            if short:
                raise ValueError(f"`members` takes the place of `{short[0]}`, which belongs to each of its groups")
            if not self.members:
                raise ValueError("`members` is empty; expected at least one group with a `model`")
        elif self.model is None:
            raise ValueError("`model` is missing; give the architecture of every member, or `members` in groups")
        else:
            _check_source(self.model, self._size, self.training, self.checkpoints)
            _check_taught(self.model, self.training, self.sample, self.initial)
        flat = self.stop_when_flat
        if flat is not None and (self.members is not None or self.training is None or self._size is None):
            raise ValueError(
                "`stop_when_flat` decides how many members of one kind are trained; expected `model`, `training` and a "
                "number as `size`, the most that may be"
            )
        if flat is not None and self.initial == PREVIOUS:
            raise ValueError(
                "`stop_when_flat` foresees the next of members that are alike, and with `initial: previous` each has "
                "trained longer than the one before; leave one of them out"
            )
        if flat is not None and isinstance(self.weights, tuple):
            raise ValueError("`stop_when_flat` settles the number of members, and `weights` has one for each of them")
        if isinstance(self.weights, tuple):
            if self.count is not None and self.count != len(self.weights):
                raise ValueError(
                    f"`weights` has {len(self.weights)} numbers for {self.count} members; expected one each"
                )
            if not sum(self.weights) > 0:
                raise ValueError("`weights` are all 0; expected at least one above 0")
        return self

    @model_validator(mode="after")
    def _has_generalists(self) -> EnsembleSpec:
        if not self.has_specialists:
            return self
        if all(group.has_specialists for group in self.groups):
            raise ValueError(
                "all members are specialists, and these answer together with generalists; expected a group of "
                "`members` without `specialists`"
            )
        for key, value, expected in (("combine", self.combine, "arithmetic"), ("weights", self.weights, "uniform")):
            if value != expected:
                raise ValueError(
                    f"`{key}` is {value}, and specialists answer together with generalists by a rule of their own; "
                    f"leave `{key}` out"
                )
        return self

    @model_validator(mode="after")
    def _begins_from_earlier_members(self) -> EnsembleSpec:
        for key, group, first in zip(self.keys(), self.groups, self.firsts(), strict=True):
            if isinstance(group.initial, int):
                self._check_begins(key.removeprefix("ensemble").removeprefix("."), group.initial, first)
        return self

    def _check_begins(self, key: str, number: int, first: int) -> None:
        """Raise ValueError where the group under `key`, whose first member is `first`, cannot begin from `number`."""
        initial = f"`{key}.initial` is {number}" if key else f"`initial` is {number}"
        if number >= first:
            known = f"a number from 0 to {first - 1}" if first else f"`{PREVIOUS}` or a file, since none is earlier"
            raise ValueError(f"{initial}, and begins from a member of an earlier group; expected {known}")
        source = self.of_each(first + 1)[number]
        if source.has_specialists:
            raise ValueError(f"{initial}, and member {number} is a specialist; expected a member without `specialists`")
        if source.complete is not None or not isinstance(source.model, Network):
            raise ValueError(
                f"{initial}, and member {number} is {source.model.label} of kind '{source.model.kind}'; expected a "
                "network that is trained here or has `checkpoints`. Training from a folder of transformers begins by "
                "`model.checkpoint`"
            )

    @property
    def of_examples(self) -> ExampleWeights | None:
        """The rule for weights per example; None: all examples have the same weights."""
        if isinstance(self.weights, FactorySpec):
            return self.weights
        return self.weights if self.weights == "entropy" or self.weights == "agreement" else None

    @property
    def has_specialists(self) -> bool:
        """Whether some members are specialists."""
        return any(group.has_specialists for group in self.groups)

    @property
    def needs_each(self) -> bool:
        """Whether an example is answered from the logits of each member, and not from sums of their answers."""
        return self.of_examples is not None or self.has_specialists

    @property
    def _size(self) -> int | None:
        return None if self.size == "auto" else self.size

    @property
    def groups(self) -> tuple[MemberGroup, ...]:
        """The members by architecture; the short form is one group."""
        if self.members is not None:
            return self.members
        assert self.model is not None
        return (
            MemberGroup(
                model=self.model,
                size=self._size,
                training=self.training,
                checkpoints=self.checkpoints,
                sample=self.sample,
                initial=self.initial,
            ),
        )

    @property
    def count(self) -> int | None:
        """The number of members; None where the cluster determines it."""
        if self.members is None and self.size == "auto" and self.groups[0].given is None:
            return None
        return sum(group.count for group in self.groups)

    def keys(self) -> list[str]:
        """The key of each group in the configuration."""
        if self.members is None:
            return ["ensemble"]
        return [f"ensemble.members.{number}" for number in range(len(self.members))]

    def firsts(self) -> list[int]:
        """The number of each group's first member."""
        return [0, *itertools.accumulate(group.count for group in self.groups[:-1])]

    def of_each(self, size: int) -> list[MemberGroup]:
        """The group of each of `size` members."""
        if len(self.groups) == 1:
            return [self.groups[0]] * size
        return [group for group in self.groups for _ in range(group.count)]

    def begins(self, size: int) -> dict[int, int]:
        """The member whose final weights each of `size` members begins from, by the members' numbers; of members that
        begin from no other there is no entry."""
        firsts, each = {*self.firsts()}, dict(enumerate(self.of_each(size)))
        found = {k: k - 1 for k, group in each.items() if group.initial == PREVIOUS and k not in firsts}
        return found | {k: group.initial for k, group in each.items() if isinstance(group.initial, int)}

    def most_at_once(self, size: int) -> int:
        """How many of `size` members can be in training at a time: those that no other waits for."""
        trained = {k for k, group in enumerate(self.of_each(size)) if group.training is not None}
        return len(trained - {*self.begins(size).values()})

    def given(self) -> dict[int, str]:
        """The files of loaded members, by the members' numbers."""
        return {
            first + k: file
            for first, group in zip(self.firsts(), self.groups, strict=True)
            for k, file in enumerate(group.given or ())
        }
