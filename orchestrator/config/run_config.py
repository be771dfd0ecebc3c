"""The configuration of a run: YAML, dotted overrides, and errors that name the key and the fix.

`RunConfig` composes the specs of `workers.specs`. Loading fills in what relative paths are relative to, so that a
loaded configuration means the same in every folder and process.
"""

from __future__ import annotations

import difflib
import itertools
import re
import types
import typing
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, Field, Tag, ValidationError, model_validator
from pydantic.fields import FieldInfo

from orchestrator.config import yaml_text
from workers import storage
from workers.errors import RequestError
from workers.specs import (
    FACTORY,
    KIND,
    AnyModel,
    AnyTraining,
    Count,
    DataSpec,
    DistillationSpec,
    ExampleWeights,
    FactorySpec,
    MemberWeights,
    NonNegative,
    Positive,
    Precision,
    Spec,
    Whole,
    check_recipe,
)
from workers.user_code import factories

CODE = ("kind", "factory", "term", "schedule")
"""Keys that name code of the user's: always, or as `module:Class` instead of a name in a table."""
NAME, MODEL_NAME = r"^[a-z0-9][a-z0-9._-]*$", r"^[^/:']*$"
PATTERNS = {
    FACTORY: "`module:function`, for example models:mlp",
    KIND: "a name, or `module:Class`",
    NAME: "lower-case letters, digits, '.', '_' and '-', of which the first is a letter or digit",
    MODEL_NAME: "a name without '/', ':' and quotes",
}
"""What texts have to be, by the pattern that decides it."""
IN_WORDS = {
    "int_parsing": "a whole number",
    "int_type": "a whole number",
    "int_from_float": "a whole number",
    "float_parsing": "a number",
    "float_type": "a number",
}
"""What is expected, by pydantic's name of the error."""


class Resources(Spec):
    """What one member holds while it trains or teaches."""

    num_cpus: Positive = 1.0
    """Cores; a member computes with as many threads (at least one)."""
    num_gpus: NonNegative | Literal["auto"] = "auto"
    """`auto`: a GPU each where there are enough, else members share the ones there are; none on a cluster without."""


class MemberGroup(Spec):
    """Members of one architecture and one recipe."""

    model: AnyModel
    """The architecture of each."""
    size: Count | None = None
    """How many. Left out: as many as `checkpoints`, else one."""
    training: AnyTraining | None = None
    """How each is trained, with a seed of its own."""
    checkpoints: tuple[str, ...] | None = None
    """Instead of `training`: a file of weights for each."""

    @model_validator(mode="after")
    def _one_source(self) -> MemberGroup:
        _check_source(self.model, self.size, self.training, self.checkpoints)
        return self

    @property
    def given(self) -> tuple[str, ...] | None:
        """The files that the members are loaded from; None where they are trained here."""
        return (self.model.file,) if self.model.file is not None else self.checkpoints

    @property
    def count(self) -> int:
        """How many members."""
        return self.size or len(self.given or "1")


def _check_source(
    model: AnyModel, size: int | None, training: AnyTraining | None, checkpoints: tuple[str, ...] | None
) -> None:
    """Raises: ValueError unless it is clear where each member's weights come from."""
    if training is not None:
        check_recipe(model, training, "training")
    if model.file is not None:
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
    if model.learner != "network":
        raise ValueError(f"`checkpoints` holds weights of networks; a model of kind '{model.kind}' names its `path`")
    if not checkpoints:
        raise ValueError("`checkpoints` is empty; expected a file of weights for each member")
    if size not in (None, len(checkpoints)):
        raise ValueError(f"`size` is {size} and `checkpoints` names {len(checkpoints)}; they must agree")


class EnsembleSpec(Spec):
    """The teachers: trained here, or loaded."""

    size: Count | Literal["auto"] = "auto"
    """How many members. `auto`: as many as `checkpoints`, else as many as the cluster can hold at once."""
    model: AnyModel | None = None
    """The architecture of every member."""
    training: AnyTraining | None = None
    """How each member is trained, with a seed of its own."""
    checkpoints: tuple[str, ...] | None = None
    """Instead of `training`: a file of weights for each member: safetensors (an index of several, too), or a state dict
    of torch."""
    members: tuple[MemberGroup, ...] | None = None
    """Instead of `model`, `size`, `training` and `checkpoints`: groups of members of several architectures. Members are
    numbered through all groups."""
    combine: Literal["arithmetic", "geometric"] = "arithmetic"
    """The mean of the members' probabilities: arithmetic, or geometric and renormalised (a mean of their logits)."""
    weights: MemberWeights = "uniform"
    """Of the members in the mean: equal, one number each, or `validation`: those under which the mean gives the
    validation labels the highest likelihood. Or of each example: `entropy`, where a member that is sure counts more;
    `agreement`, where one that stands alone counts less; or `factory`, a function of the members' probabilities
    [M, N, K] that returns weights [M, N]."""
    on_member_loss: Literal["wait", "reweight", "fail"] = "wait"
    """A teacher is lost during the pass: start it again, go on with the others, or end the run."""
    resources_per_member: Resources = Resources()
    """What Ray reserves for each."""
    precision: Precision = "auto"
    """Of the teachers' matrix products, and of the members' where they are measured. `auto`: bfloat16 on GPUs that have
    it, else float32."""
    micro_batch_size: Count | None = None
    """Examples a forward pass of a teacher, and of a member that is measured. Left out: 1,024, fewer of large examples.
    Parts that are there already keep what they were computed with."""
    num_actors: Count | Literal["auto"] = "auto"
    """How many Ray actors host the members. Changes the speed, never a bit of the soft targets."""
    start_timeout_s: Positive = 900.0
    """How long members may wait for room on the cluster, whose autoscaler may have to start machines first."""

    @model_validator(mode="after")
    def _one_form(self) -> EnsembleSpec:
        if self.members is not None:
            given = {
                "size": self._size,
                "model": self.model,
                "training": self.training,
                "checkpoints": self.checkpoints,
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
        if isinstance(self.weights, tuple):
            if self.count is not None and self.count != len(self.weights):
                raise ValueError(
                    f"`weights` has {len(self.weights)} numbers for {self.count} members; expected one each"
                )
            if not sum(self.weights) > 0:
                raise ValueError("`weights` are all 0; expected at least one above 0")
        return self

    @property
    def of_examples(self) -> ExampleWeights | None:
        """The rule by which each example has weights of its own; None: they are the same for all examples."""
        if isinstance(self.weights, FactorySpec):
            return self.weights
        return self.weights if self.weights == "entropy" or self.weights == "agreement" else None

    @property
    def _size(self) -> int | None:
        return None if self.size == "auto" else self.size

    @property
    def groups(self) -> tuple[MemberGroup, ...]:
        """The members by architecture; the short form is one group."""
        if self.members is not None:
            return self.members
        assert self.model is not None
        return (MemberGroup(model=self.model, size=self._size, training=self.training, checkpoints=self.checkpoints),)

    @property
    def count(self) -> int | None:
        """How many members; None where the cluster decides."""
        if self.members is None and self.size == "auto" and self.groups[0].given is None:
            return None
        return sum(group.count for group in self.groups)

    def keys(self) -> list[str]:
        """What each group is called in the configuration."""
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

    def given(self) -> dict[int, str]:
        """The files that members are loaded from, by the members' numbers."""
        return {
            first + k: file
            for first, group in zip(self.firsts(), self.groups, strict=True)
            for k, file in enumerate(group.given or ())
        }


class StudentSpec(Spec):
    """The one model that is to know what the ensemble knows, and its hard-label baseline."""

    model: AnyModel
    """The architecture of student and baseline."""
    training: AnyTraining
    """How the student is trained."""
    baseline_training: AnyTraining | None = None
    """How the hard-label baseline of the same architecture is trained. Left out: as the student."""
    num_workers: Count | tuple[Count, Count] = 1
    """Ray Train workers, each taking its cut of every batch; `[min, max]`: elastic."""

    @model_validator(mode="after")
    def _ordered(self) -> StudentSpec:
        least, most = self.workers
        if least > most:
            raise ValueError(f"`num_workers` is {[least, most]}; expected [min, max] with min <= max")
        check_recipe(self.model, self.training, "training")
        if self.baseline_training is not None:
            check_recipe(self.model, self.baseline_training, "baseline_training")
        if self.model.learner == "estimator" and most > 1:
            raise ValueError(f"`num_workers` is {most}, and an estimator is fitted by one process; leave it out")
        for training in (self.training, self.baseline_training or self.training):
            if training.batch_size is not None and training.batch_size < most:
                raise ValueError(
                    f"`num_workers` is {most} and a batch has {training.batch_size} examples; expected at least one "
                    "for each worker"
                )
        return self

    @property
    def workers(self) -> tuple[int, int]:
        """The least and the most of them."""
        return self.num_workers if isinstance(self.num_workers, tuple) else (self.num_workers, self.num_workers)


class EvaluationSpec(Spec):
    """What is measured besides accuracy, likelihood, calibration and latency."""

    metrics: tuple[FactorySpec, ...] = ()
    """Functions `(probabilities [N, K] float32, labels [N] int64, **kwargs) -> {name: number}` of the test split. Each
    is tried on made-up predictions before anything is started."""
    latency_repeats: Count = 200
    """Single examples timed for each system."""


class PaperSpec(Spec):
    """A paper's figures, printed beside the measured ones."""

    source: str
    """Which paper, and which of its experiments."""
    baseline: dict[str, float] = Field(default_factory=dict)
    """Its figures by the names of the report's, such as `errors`."""
    ensemble: dict[str, float] = Field(default_factory=dict)
    """The same of its ensemble."""
    student: dict[str, float] = Field(default_factory=dict)
    """The same of its distilled network."""
    gain_transferred: float | None = None
    """The share of the ensemble's gain that reached its student."""


class ReportSpec(Spec):
    """How the report speaks of the run."""

    accuracy: str = "accuracy"
    """What accuracy is called in this field, such as `frame accuracy`."""
    paper: PaperSpec | None = None
    """Figures to print beside the measured ones."""
    core_hour_price: NonNegative = 0.0
    """What an hour of a core costs, in any currency."""
    gpu_hour_price: NonNegative = 0.0
    """What an hour of a GPU costs. The report has a price where either is above 0."""


class TrackingSpec(Spec):
    """Where MLflow keeps the run."""

    uri: str = "sqlite:///mlflow.db"
    """Of the tracker: a server or a database. A relative SQLite path is relative to where the command runs."""
    experiment: str = ""
    """Left out: the `name` in the configuration file, so that runs which differ by `--set name=` stay side by side."""
    registered_model: Annotated[str, Field(pattern=MODEL_NAME)] | Literal[False] = ""
    """The name in the registry under which the student is kept, with two examples of the test split. Left out: the
    experiment's name and `-student`; false: MLflow does not get the model."""


class RunConfig(Spec):
    """Everything that a run follows from."""

    name: Annotated[str, Field(pattern=NAME, max_length=100)]
    """Of the run: lower-case letters, digits, `.`, `_` and `-`. Its folder is `<storage>/<name>`."""
    seed: Whole = 0
    """What every random number of the run follows from."""
    storage: str = "runs"
    """A folder, relative to where the command runs, or any fsspec URI."""
    data: DataSpec
    """What is learnt from and tested on."""
    ensemble: EnsembleSpec
    """The teachers."""
    distillation: DistillationSpec = DistillationSpec()
    """How soft targets are made, and the loss that the student learns by."""
    student: StudentSpec
    """The student and its baseline."""
    evaluation: EvaluationSpec = EvaluationSpec()
    """What is measured."""
    report: ReportSpec = ReportSpec()
    """What the report calls things, and compares with."""
    tracking: TrackingSpec = TrackingSpec()
    """The tracker, and what it keeps."""

    @property
    def folder(self) -> str:
        """URI of the run's folder."""
        return storage.join(self.storage, self.name)

    @classmethod
    def load(cls, path: str, overrides: typing.Sequence[str] = ()) -> RunConfig:
        """Read the YAML file at `path`, apply `KEY=VALUE` overrides with dotted keys, check, resolve paths.

        Raises: `RequestError`, naming the key, what was found and what was expected.
        """
        if storage.is_uri(path):
            raise RequestError(f"'{path}': a configuration is a local file, since its folder may hold code.")
        found = _parse(path)
        written = found.get("name")
        for each in overrides:
            override(found, each)
        return cls.from_mapping(found, str(Path(path).resolve().parent), experiment=written)

    @classmethod
    def from_mapping(cls, values: dict[str, Any], folder: str, experiment: Any = None) -> RunConfig:
        """The same from a mapping; `folder` is what data and factories are relative to.

        experiment: the MLflow experiment unless `values` names one; default: the run's name.
        """
        try:
            return cls.model_validate(_located(values, folder, experiment))
        except RecursionError:
            raise RequestError(SELF_REFERENCE) from None
        except ValidationError as error:
            raise RequestError(_explain(error)) from None

    def to_yaml(self) -> str:
        """The resolved configuration; loading it again gives the same one."""
        return yaml_text.dump(self.model_dump(mode="json", exclude_none=True))


SELF_REFERENCE = "the configuration refers to itself (a YAML anchor inside what it names)."
MAX_BYTES, MAX_NODES = 2**20, 100_000
"""Of a configuration: what is larger is something else, or meant to fill the memory."""


def _parse(path: str) -> dict[str, Any]:
    try:
        if Path(path).is_file() and Path(path).stat().st_size > MAX_BYTES:
            raise RequestError(f"'{path}': larger than {MAX_BYTES:,} bytes. Expected a configuration in YAML.")
        text = Path(path).read_text(encoding="utf-8")
    except FileNotFoundError:
        raise RequestError(f"'{path}': no such file. Expected a configuration in YAML.") from None
    except (OSError, UnicodeDecodeError) as error:
        raise RequestError(f"'{path}': cannot be read as text ({error}). Expected a configuration in YAML.") from None
    return parsed(text, path)


def parsed(text: str, path: str) -> dict[str, Any]:
    """The keys of a configuration in YAML. `path` is what errors call it. Raises: `RequestError` where it is none."""
    try:
        found = yaml_text.parse(text)
    except (yaml.YAMLError, RecursionError, ValueError) as error:
        place = getattr(error, "problem_mark", None)
        where = f", line {place.line + 1}, column {place.column + 1}" if place else ""
        raise RequestError(f"'{path}'{where}: not YAML ({_problem(error)}).") from None
    try:
        too_large = _nodes(found) > MAX_NODES
    except RecursionError:
        raise RequestError(SELF_REFERENCE) from None
    if too_large:
        raise RequestError(f"'{path}': its anchors make more than {MAX_NODES:,} values of it.")
    if not isinstance(found, dict):
        raise RequestError(f"'{path}': found {type(found).__name__}; expected keys such as name, data, ensemble.")
    return found


def _problem(error: Exception) -> str:
    return getattr(error, "problem", None) or str(error)


def _nodes(value: Any, limit: int = MAX_NODES) -> int:
    """How many values there are with all that is inside; counts no further than a little over `limit`.

    Raises: RecursionError where one is inside itself.
    """
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    count = 1
    for each in inner:
        if count > limit:
            break
        count += _nodes(each, limit - count)
    return count


def override(values: dict[str, Any], assignment: str) -> None:
    """Apply one KEY=VALUE with a dotted key. Raises: `RequestError` where it is none."""
    key, equals, text = assignment.partition("=")
    parts = key.strip().split(".")
    if not equals or not all(parts):
        raise RequestError(f"--set '{assignment}': expected KEY=VALUE, such as ensemble.size=5.")
    try:
        value = yaml_text.parse(text)
    except (yaml.YAMLError, RecursionError, ValueError) as error:
        raise RequestError(f"--set '{assignment}': the value is not YAML ({_problem(error)}).") from None
    for part in parts[:-1]:
        inner = values.setdefault(part, {})
        if not isinstance(inner, dict):
            raise RequestError(f"--set '{assignment}': '{part}' is {inner!r}, which has no keys inside.")
        values = inner
    values[parts[-1]] = value


def _located(values: dict[str, Any], folder: str, experiment: Any) -> dict[str, Any]:
    """The same values with every path made absolute, every factory told its folder, and an MLflow experiment."""

    def walk(value: Any) -> Any:
        if isinstance(value, list):
            return [walk(item) for item in value]
        if not isinstance(value, dict):
            return value
        walked = {key: walk(item) if key != "kwargs" else item for key, item in value.items()}
        code = next((walked[key] for key in CODE if _names_code(key, walked.get(key))), None)
        if code is not None:
            walked["folder"] = _folder_of(code, walked.get("folder"), folder)
        for key in ("path", "checkpoints"):
            if key in walked:
                walked[key] = _absolute(walked[key], folder)
        if code is not None or value is values.get("data"):
            walked["depends_on"] = _depends_on(walked.get("depends_on"), _section(values, "data"), folder)
        return walked

    found: dict[str, Any] = walk(values)
    data, tracking = (_section(found, key) for key in ("data", "tracking"))
    if isinstance(data.get("root", ""), str):
        data["root"] = storage.absolute(data.get("root", ""), folder)
    place = found.get("storage", RunConfig.model_fields["storage"].default)
    if isinstance(place, str):
        found["storage"] = storage.absolute(place)
    uri = tracking.get("uri", TrackingSpec.model_fields["uri"].default)
    if isinstance(uri, str):
        found["tracking"] = (
            {**tracking, "uri": _absolute_tracking(uri)}
            if "tracking" not in found or isinstance(found["tracking"], dict)
            else found["tracking"]
        )
    default = experiment if isinstance(experiment, str) and experiment else found.get("name")
    if isinstance(found.get("tracking"), dict) and not tracking.get("experiment") and isinstance(default, str):
        found["tracking"]["experiment"] = default
    return found


def _names_code(key: str, value: Any) -> bool:
    """Whether a key's value is code of the user's, and no name in a table."""
    return value is not None and (key == "factory" or (isinstance(value, str) and ":" in value))


def _absolute(value: Any, folder: str) -> Any:
    """A path, or a list of them, made absolute; what is no text is left for pydantic to name."""
    if isinstance(value, list):
        return [_absolute(each, folder) for each in value]
    return storage.absolute(value, folder) if isinstance(value, str) else value


def _folder_of(factory: Any, asked: Any, folder: str) -> Any:
    """Where a factory is loaded from: the folder that is asked for, relative to `folder`, or where it is found."""
    if asked:
        return storage.absolute(asked, folder) if isinstance(asked, str) else asked
    return factories.locate(factory, folder) if isinstance(factory, str) else folder


def _depends_on(own: Any, data: dict[str, Any], folder: str) -> Any:
    """The files that a factory depends on: those of its own key and of `data`'s, as absolute paths."""
    every = [own or [], data.get("depends_on") or []]
    if not all(isinstance(paths, list) and all(isinstance(path, str) for path in paths) for paths in every):
        return own  # for pydantic to name
    return list(dict.fromkeys(storage.absolute(path, folder) for paths in every for path in paths))


def _section(values: dict[str, Any], key: str) -> dict[str, Any]:
    found = values.get(key)
    return found if isinstance(found, dict) else {}


def _absolute_tracking(uri: str) -> str:
    """SQLite paths made absolute: MLflow's own default follows the working folder, which in a job is a copy."""
    prefix = "sqlite:///"
    return prefix + storage.absolute(uri.removeprefix(prefix)) if uri.startswith(prefix) else uri


def _explain(error: ValidationError) -> str:
    """Every problem as one line: the key, what was found, what was expected."""
    problems: dict[str, tuple[str, list[str]]] = {}
    for found in error.errors():
        keys, owner = _walk(found["loc"])
        name = ".".join(keys) or "the configuration"
        if found["type"] == "extra_forbidden":
            known = list(_fields(owner)) if owner else []
            near = difflib.get_close_matches(keys[-1], known, n=1, cutoff=0.5)
            hint = f"did you mean '{near[0]}'?" if near else f"known here: {', '.join(known)}."
            problems[name] = ("", [f"unknown key; {hint}"])
        elif found["type"] == "missing":
            problems[name] = ("", ["missing; it is required"])
        else:
            message = found["msg"].removeprefix("Value error, ").removeprefix("Input should be ")
            message = re.sub(r"^(String|Tuple|List|Dictionary) should ", r"it to ", message)
            message = message.replace("Keys should be strings", "a text as the key")
            if found["type"] in IN_WORDS:
                message = IN_WORDS[found["type"]]
            elif found["type"] == "string_pattern_mismatch":
                message = PATTERNS.get(found["ctx"]["pattern"], message)
            value = found["input"]
            if found["type"] in ("string_type", "invalid_key"):
                message += _quoted(value)
            shown = "" if found["type"] == "value_error" else "nothing" if value is None else repr(value)
            problems.setdefault(name, (shown, []))[1].append(message)
    lines = []
    for name, (value, messages) in problems.items():
        text = " or ".join(dict.fromkeys(messages))
        lines.append(f"{name}: found {value}; expected {text}" if value else f"{name}: {text}")
    return "\n".join(lines)


def _quoted(value: Any) -> str:
    """How to write a text that YAML reads as something else; nothing where it does not."""
    if isinstance(value, bool):
        return " in quotes (YAML reads yes, no, on and off as true or false)"
    return " in quotes (YAML reads it as a number)" if isinstance(value, (int, float)) else ""


def _walk(location: tuple[int | str, ...]) -> tuple[list[str], type[BaseModel] | None]:
    """The dotted key of a pydantic location, without its union tags, and the model that the last key belongs to."""
    keys: list[str] = []
    owner: type[BaseModel] | None = RunConfig
    current: type[BaseModel] | None = RunConfig
    tagged: dict[str, type[BaseModel]] = {}
    for part in location:
        if isinstance(part, int):
            keys.append(str(part))
        elif part.startswith("("):  # the tag of a union
            current = tagged.get(part, current)
        elif current is not None and part in _fields(current):
            keys.append(part)
            annotation = _fields(current)[part].annotation
            owner, current, tagged = current, _model_in(annotation), _tagged_in(annotation)
        elif part == location[-1] and current is not None:
            keys.append(part)
            owner = current
    return keys, owner


def _fields(model: type[BaseModel]) -> dict[str, FieldInfo]:
    """A model's fields by their keys in YAML."""
    return {field.alias or name: field for name, field in model.model_fields.items()}


def _tagged_in(annotation: Any) -> dict[str, type[BaseModel]]:
    """The models of a discriminated union in an annotation, by their tags."""
    found: dict[str, type[BaseModel]] = {}
    if typing.get_origin(annotation) is Annotated:
        model, *metadata = typing.get_args(annotation)
        found |= {each.tag: inner for each in metadata if isinstance(each, Tag) and (inner := _model_in(model))}
    for inner in typing.get_args(annotation):
        found |= _tagged_in(inner)
    return found


def _model_in(annotation: Any) -> type[BaseModel] | None:
    """The pydantic model in an annotation such as `tuple[Model, ...] | None`."""
    if isinstance(annotation, type) and not isinstance(annotation, types.GenericAlias):
        return annotation if issubclass(annotation, BaseModel) else None
    models = [_model_in(inner) for inner in typing.get_args(annotation)]
    return next((model for model in models if model is not None), None)
