"""The configuration of a run: the specs of `schema` and of `workers.specs`, loaded from YAML with overrides.

Loading makes relative paths absolute, so that a loaded configuration has the same meaning in every folder and process.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, ValidationError, model_validator

from orchestrator.config import loading, names, text_length, yaml_text
from orchestrator.config.ensemble import FIRST_MEMBERS, EnsembleSpec, MemberGroup
from orchestrator.config.explain import explained
from orchestrator.config.initial import PREVIOUS
from orchestrator.config.schema import NAME, STORAGE, EvaluationSpec, FurtherSystem, ReportSpec, TrackingSpec
from orchestrator.config.student import StudentSpec, StudentStage
from workers import redact, storage
from workers.errors import RequestError
from workers.specs.base import SEEDS, Count, Seed, Spec
from workers.specs.data import DataSpec
from workers.specs.models import AnyModel, Network, special_of
from workers.specs.objective import DistillationSpec
from workers.specs.training import AnyTraining


class RunConfig(Spec):
    """The configuration of a run."""

    name: Annotated[str, Field(pattern=NAME, max_length=names.MOST)]
    """Name of the run: lower-case letters, digits, `.`, `_` and `-`. Its folder is `<storage>/<name>`. With the endings
    of further runs, such as those of `seeds`, a name has at most 100 characters."""
    seed: Seed = 0
    """The seed of the random numbers of a run. Masks (`data.masking.seed`) and a drawn test split (`data.test_share`)
    do not follow it."""
    seeds: Count = 1
    """How many times the whole run is repeated, with the seeds `seed`, `seed` + 1, ...; the report adds the spread. The
    repetitions are runs of their own, `<name>-seed-<seed>`."""
    generations: Count = 1
    """How many students in a row, each the teacher of the next (born-again networks, Furlanello et al. 2018). The run
    itself has the first; each is also a run of its own, `<name>-generation-<n>`, and the report compares them all."""
    storage: str = STORAGE
    """A folder, relative to where the command runs, or any fsspec URI."""
    data: DataSpec
    """The data set, with its splits."""
    ensemble: EnsembleSpec
    """The teachers."""
    distillation: DistillationSpec = DistillationSpec()
    """How soft targets are computed, and the student's loss."""
    students: dict[Annotated[str, Field(pattern=NAME, max_length=40)], StudentSpec] | None = None
    """Instead of `student`: several, by name, from the same soft targets, each with its own baseline. The first is that
    of the run itself; the others are runs of their own, `<name>-<student>`, whose figures are in its report. Reserved
    names: `grown`, `worth`, `sweep`, `generations`, `corrected`, `seed-*`, `generation-*`."""
    student: StudentSpec
    """The student and its baseline."""
    evaluation: EvaluationSpec = EvaluationSpec()
    """Further metrics, and the measurement of latency."""
    report: ReportSpec = ReportSpec()
    """Names, prices and a paper's figures in the report."""
    tracking: TrackingSpec = TrackingSpec()
    """The MLflow tracker."""

    @model_validator(mode="before")
    @classmethod
    def _first_of_several(cls, values: Any) -> Any:
        """`student` is the first of `students`. Earlier versions wrote both forms, which are equal then."""
        several = values.get("students") if isinstance(values, dict) else None
        if several == {}:
            raise ValueError("`students` is empty; expected at least one, by name")
        if not isinstance(several, dict):
            return values
        first = next(iter(several.values()))
        if values.get("student") not in (None, first):
            raise ValueError(
                "`students` takes the place of `student`, and both are given; expected one of them. A key of one of "
                f"several is `students.NAME.KEY`, such as `students.{next(iter(several))}.num_workers`"
            )
        return {**values, "student": first}

    @model_validator(mode="before")
    @classmethod
    def _one_length_of_texts(cls, values: Any) -> Any:
        return text_length.spread(values)

    @model_validator(mode="after")
    def _names_are_free(self) -> RunConfig:
        for name in self.students or ():
            taker = names.taken_by(name)
            if taker:
                raise ValueError(f"`students` has the name '{name}', which {taker} takes; expected another")
        taken = {f"{role}-{name}" for name in self.further_students for role in ("baseline", STUDENT)}
        for name in self.evaluation.systems:
            if name in taken:
                raise ValueError(
                    f"`evaluation.systems` has the name '{name}', which one of `students` takes in the report; "
                    "expected another"
                )
        return self

    @model_validator(mode="after")
    def _names_are_short(self) -> RunConfig:
        most = names.MOST - len(self.longest_ending)
        if len(self.name) > most:
            raise ValueError(
                f"`name` has {len(self.name)} letters, and its runs add '{self.longest_ending}'; expected at most "
                f"{most} letters, so that a name with its ending has at most {names.MOST}"
            )
        return self

    @model_validator(mode="after")
    def _students_tell_all_classes_apart(self) -> RunConfig:
        for key, student in self.every_student.items():
            if special_of(student.model) is not None:
                raise ValueError(f"`{key}.model.special` is given, and a specialist is a member; leave it out")
        return self

    @model_validator(mode="after")
    def _generations_can_teach(self) -> RunConfig:
        if self.generations == 1:
            return self
        if self.students is not None:
            raise ValueError("`generations` has one student in each; expected `student` instead of `students`")
        if not isinstance(self.student.model, Network):
            raise ValueError(
                f"`generations`: a student of kind '{self.student.model.kind}' cannot be the next one's teacher; "
                "expected a network"
            )
        if self.distillation.hidden.member:
            raise ValueError(
                f"`distillation.hidden.member` is {self.distillation.hidden.member}, and from the second of "
                "`generations` on there is one teacher, member 0"
            )
        return self

    @model_validator(mode="after")
    def _member_beside_is_trained(self) -> RunConfig:
        """`stop_when_flat` settles on a number of members that is not known before they are trained."""
        number, least = self.distillation.hidden.member, min(FIRST_MEMBERS, self.ensemble.count or 1)
        if self.ensemble.stop_when_flat is not None and number >= least:
            raise ValueError(
                f"`distillation.hidden.member` is {number}, and `ensemble.stop_when_flat` may settle on {least} "
                f"members, numbered from 0; expected a number below {least}"
            )
        return self

    @model_validator(mode="after")
    def _seeds_are_of_torch(self) -> RunConfig:
        if self.seed + self.seeds > SEEDS:
            raise ValueError(f"`seed` is {self.seed} and `seeds` {self.seeds}; expected seeds below 2^63")
        return self

    @model_validator(mode="after")
    def _stages_can_learn(self) -> RunConfig:
        for key, student in self.every_student.items():
            for number, stage in enumerate(student.stages or ()):
                try:
                    _loss_of(self.distillation, stage)
                except ValidationError as error:
                    message = error.errors()[0]["msg"].removeprefix("Value error, ")
                    raise ValueError(f"{key}.stages.{number} ('{stage.name}'): {message}") from None
        return self

    @property
    def every_student(self) -> dict[str, StudentSpec]:
        """Every student by its key in the configuration: `student`, or `students.<name>`."""
        several = {f"students.{name}": each for name, each in (self.students or {}).items()}
        return several or {"student": self.student}

    @property
    def training_stages(self) -> tuple[TrainingStage, ...]:
        """The stages of the student's training, in order; the result of the last is the student."""
        student = self.student
        if student.stages is None:
            return (TrainingStage("", STUDENT, self.distillation, student.recipe, student.initial),)
        found = []
        for number, stage in enumerate(student.stages):
            first = PREVIOUS if number else student.initial
            initial = stage.initial if stage.initial != PREVIOUS else first
            loss = _loss_of(self.distillation, stage)
            system = STUDENT if stage is student.stages[-1] else f"stage-{stage.name}"
            training = stage.training or student.recipe
            data = "" if stage.data is None else f"stages.{stage.name}"
            key = OBJECTIVE if loss is self.distillation else f"student.stages.{number}.objective"
            found.append(TrainingStage(stage.name, system, loss, training, initial, data, key))
        return tuple(found)

    def part(self, ending: str, **update: Any) -> RunConfig:
        """A run that belongs to this one, `<name>-<ending>`. It has further runs of its own only by `update`.

        Raises: `RequestError` where the name is too long, so that no command could read its folder.
        """
        name = f"{self.name}-{ending}"
        if len(name) > names.MOST:
            raise RequestError(
                f"name: '{self.name}' has {len(self.name)} letters, and '{name}', which belongs to it, {len(name)}; "
                f"expected at most {names.MOST} together. Set a shorter `name`."
            )
        return self.model_copy(update={"name": name, "seeds": 1, "students": None, "generations": 1, **update})

    def of_seeds(self) -> list[RunConfig]:
        """The repetitions of this run with other seeds."""
        kept = {"students": self.students, "generations": self.generations}
        seeds = range(self.seed + 1, self.seed + self.seeds)
        return [self.part(names.numbered(names.SEED, seed), seed=seed, **kept) for seed in seeds]

    @property
    def further_students(self) -> dict[str, StudentSpec]:
        """The students after the first, which is the run's own, by their names."""
        return dict([*(self.students or {}).items()][1:])

    def of_students(self) -> dict[str, RunConfig]:
        """The runs of the further students, by the students' names."""
        return {name: self.part(name, student=spec) for name, spec in self.further_students.items()}

    def of_generations(self) -> list[RunConfig]:
        """The run of each generation; empty without several."""
        found: list[RunConfig] = []
        for number in range(1, self.generations + 1) if self.generations > 1 else ():
            student = self.student.model_copy(update={"seed": self.student.seed + number - 1})
            ensemble = self._taught_by(found[-1:]) if found else self.ensemble
            found.append(self.part(names.numbered(names.GENERATION, number), student=student, ensemble=ensemble))
        return found

    def of_all_generations(self) -> RunConfig:
        """A run whose members are the students of all generations."""
        return self.part(names.GENERATIONS, ensemble=self._taught_by(self.of_generations()))

    def of_members(self, count: int) -> RunConfig:
        """A run with so many members, as `ensemble.stop_when_flat` settles their number."""
        ensemble = self.ensemble.model_copy(update={"size": count, "stop_when_flat": None})
        return self.model_copy(update={"ensemble": ensemble})

    def of_command(self) -> Iterator[RunConfig]:
        """Every run of the command that runs this one, itself first."""
        yield self
        settled = self
        if self.ensemble.stop_when_flat is not None:
            settled = self.of_members(self.ensemble.count or 1)
            yield settled.part(names.GROWN)
        if settled.generations > 1:
            yield settled.of_all_generations()
        for each in (*settled.of_seeds(), *settled.of_students().values(), *settled.of_generations()):
            yield from each.of_command()

    @property
    def longest_ending(self) -> str:
        """The longest ending of the names in `of_command`, with its hyphen; empty for a run alone."""
        of_one = [f"-{name}" for name in self.further_students]
        if self.generations > 1:
            last = names.numbered(names.GENERATION, self.generations)
            of_one += [f"-{names.GENERATIONS}", f"-{last}"]
        seed = f"-{names.numbered(names.SEED, self.seed + self.seeds - 1)}" if self.seeds > 1 else ""
        grown = f"-{names.GROWN}" if self.ensemble.stop_when_flat is not None else ""
        return max(grown, seed + max(of_one, key=len, default=""), key=len)

    def _taught_by(self, runs: Sequence[RunConfig]) -> EnsembleSpec:
        """An ensemble of the students of other runs."""
        model = self.student.model
        places = [storage.join(each.folder, STUDENT) for each in runs]
        files = tuple(storage.join(place, model.weights_name) for place in places)
        complete = [each for place in places if (each := model.complete_at(place)) is not None]
        groups = [MemberGroup(model=each) for each in complete] or [MemberGroup(model=model, checkpoints=files)]
        how = {name: getattr(self.ensemble, name) for name in KEPT}
        return EnsembleSpec(members=tuple(groups), **how)

    def for_classes(self, classes: int, names: tuple[str, ...]) -> RunConfig:
        """The same run with models for data of these classes. names: of the classes; empty where labels are numbers."""

        def model_of(holder: Any) -> Any:
            if holder.model is None:
                return holder
            return holder.model_copy(update={"model": _specialised(holder.model, classes, names)})

        ensemble = model_of(self.ensemble)
        if ensemble.members is not None:
            ensemble = ensemble.model_copy(update={"members": tuple(map(model_of, ensemble.members))})
        students = None if self.students is None else {name: model_of(each) for name, each in self.students.items()}
        update = {"ensemble": ensemble, "student": model_of(self.student), "students": students}
        return self.model_copy(update=update).with_systems(model_of)

    def with_systems(self, changed: Callable[[FurtherSystem], FurtherSystem]) -> RunConfig:
        """The same run with another form of each of the evaluation's further systems."""
        systems = {name: changed(system) for name, system in self.evaluation.systems.items()}
        return self.model_copy(update={"evaluation": self.evaluation.model_copy(update={"systems": systems})})

    @property
    def models(self) -> dict[str, AnyModel]:
        """Every model by its key: of each group of members, of the student, and of the evaluation's further systems."""
        ensemble = self.ensemble
        of_groups = {f"{key}.model": group.model for key, group in zip(ensemble.keys(), ensemble.groups, strict=True)}
        further = {f"evaluation.systems.{name}.model": each.model for name, each in self.evaluation.systems.items()}
        return {**of_groups, "student.model": self.student.model, **further}

    @property
    def every_split(self) -> DataSpec:
        """The data, with the files of the student's stages."""
        stages = {
            f"stages.{each.name}": each.data.unlabeled for each in self.student.stages or () if each.data is not None
        }
        return self.data.model_copy(update={"stages": stages})

    @property
    def folder(self) -> str:
        """URI of the run's folder."""
        return storage.join(self.storage, self.name)

    @classmethod
    def load(cls, path: str, overrides: Sequence[str] = ()) -> RunConfig:
        """Load the YAML file at `path`, apply `KEY=VALUE` overrides with dotted keys, validate, and resolve paths.

        Raises: `RequestError` with the key, the found and the expected value.
        """
        if storage.is_uri(path):
            raise RequestError(
                f"'{path}': a URI; expected a local file, since the folder of a configuration may hold code. Copy the "
                "folder to this machine."
            )
        found = loading.read(path)
        written = found.get("name")
        for each in overrides:
            loading.override(found, each)
        return cls.from_mapping(found, str(Path(path).resolve().parent), experiment=written)

    @classmethod
    def from_mapping(cls, values: dict[str, Any], folder: str, experiment: Any = None) -> RunConfig:
        """Load a configuration from a mapping; data and factories are relative to `folder`.

        experiment: the MLflow experiment unless `values` names one; default: the run's name.
        """
        try:
            return cls.model_validate(loading.located(values, folder, experiment))
        except RecursionError:
            raise RequestError(loading.SELF_REFERENCE) from None
        except ValidationError as error:
            raise RequestError(explained(error, cls)) from None

    def to_redacted_yaml(self) -> str:
        """The resolved configuration; loading it again gives the same one, but for secrets, which it lacks."""
        return yaml_text.dump(redact.plain(self._plain()))

    def _plain(self) -> dict[str, Any]:
        other_form = None if self.students is None else {"student"}  # so that an override changes one of several
        return self.model_dump(mode="json", exclude_none=True, exclude=other_form)


def _specialised(model: AnyModel, classes: int, names: tuple[str, ...]) -> AnyModel:
    """A model for data of these classes; of a specialist that is loaded with the ids of its own."""
    from workers.data import labels

    found: AnyModel = model.for_classes(classes, names)
    special = special_of(found)
    if special is None or special.of:
        return found
    ids = labels.ids_of("model.special.classes", special.classes, classes, names)
    if len(ids) == classes:
        raise RequestError(f"model.special.classes: these are all {classes} classes; expected fewer.")
    return found.model_copy(update={"special": special.model_copy(update={"classes": ids, "of": classes})})


KEPT = (
    "combine",
    "on_member_loss",
    "resources_per_member",
    "precision",
    "micro_batch_size",
    "num_actors",
    "start_timeout_s",
)
"""Settings of an ensemble that hold for the generations, too."""
STUDENT = "student"
"""The name of the student among a run's systems."""
OBJECTIVE = "distillation.objective"
"""The key of the student's objective, where its stages have none of their own."""


@dataclass(frozen=True)
class TrainingStage:
    """A stage of the student's training.

    name: empty for a single stage. system: what it makes, `student` in the last stage and `stage-<name>` before it.
    initial: `PREVIOUS`, or the URI of the initial weights; None: random ones. data: the split that it learns on; empty
    for the transfer set. key: of its objective.
    """

    name: str
    system: str
    loss: DistillationSpec
    training: AnyTraining
    initial: str | None
    data: str = ""
    key: str = OBJECTIVE


def _loss_of(whole: DistillationSpec, stage: StudentStage) -> DistillationSpec:
    """The objective of a stage: its own terms, and all other settings of `distillation`."""
    own = {"objective": stage.objective, "soft_weight": stage.soft_weight, "hard_weight": stage.hard_weight}
    if all(value is None for value in own.values()):
        return whole
    if stage.objective is None:  # one weight of the short form changes, and the other stays
        own = {key: getattr(whole, key) if value is None else value for key, value in own.items()} | {"objective": None}
    others = {name: getattr(whole, name) for name in DistillationSpec.model_fields if name not in own}
    return DistillationSpec.model_validate({**others, **own})
