"""All checks of a request before the run starts or writes anything.

They are in the order of cost: storage, tracker, capacity of this machine, data, given checkpoints, a training step
of each model, metrics on random predictions. `cluster.place` checks the capacity of a cluster once it is connected.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING

from orchestrator.cluster import connection, resources
from orchestrator.config.ensemble import EnsembleSpec
from orchestrator.config.run_config import RunConfig, TrainingStage
from orchestrator.config.schema import FurtherSystem
from orchestrator.observers import mlflow_uri
from orchestrator.plan import fit
from orchestrator.plan.facts import DataFacts
from orchestrator.plan.fit import Free
from orchestrator.stages import drawings, remarks, specialists
from orchestrator.stages.places import check_submitted
from orchestrator.stages.predictions import KEPT_BYTES, predicted_bytes
from orchestrator.stages.roles import feature_teacher, needs_beside, roles
from workers import mixture_weights, storage
from workers.data import labels, loading, memory, sampling
from workers.data.dataset import Dataset
from workers.data.memory import size
from workers.errors import RequestError, naming
from workers.evaluation import bias, custom_metrics
from workers.models import predictor, torch_module
from workers.seeds import seed_of, seeded
from workers.signals import BESIDE
from workers.specs.base import FactorySpec
from workers.specs.models import AnyModel, ModelSpec, Network
from workers.specs.training import FitSpec, TrainingSpec
from workers.targets.layout import batch_sizes
from workers.training import lessons, objective, optimizer
from workers.training.objective import Objective
from workers.trial import compiling, fitting, loaded_models, sequences, terms, trial
from workers.trial.fitting import FitRole
from workers.trial.odd_rows import OddRow, odd_rows
from workers.trial.trial import Role
from workers.user_code import factories

if TYPE_CHECKING:
    from orchestrator.cluster.resources import Machines

logger = logging.getLogger(__name__)


def check(config: RunConfig, wait_for: Callable[[str], None] = logger.debug) -> Dataset:
    """Check the whole configuration; returns the data set.

    wait_for: called with a description of each slow step.

    Raises: `RequestError` with the key or file.
    """
    check_submitted(config)
    for try_out in pieces_of_code(config):
        try_out()
    wait_for("looking at storage and tracker")
    storage.probe_of_run(config.storage)
    mlflow_uri.reach(config.tracking.uri)
    machines = connection.expected()
    if machines is not None:
        resources.place(config.ensemble, machines)
    wait_for("reading the data")
    return check_on(config, loading.load(config.every_split, config.seed), wait_for)


def pieces_of_code(config: RunConfig) -> list[Callable[[], object]]:
    """A check of each objective, schedule, rule of weights, metric and figure. They need no data, and raise
    `RequestError`."""
    rule, given = config.ensemble.of_examples, ("probabilities", "labels")
    return [
        *(partial(_objective_of, stage) for stage in config.training_stages),
        *(partial(optimizer.check_schedule, f"{key}.schedule", each) for key, each in _recipes(config).items()),
        *([] if rule is None else [partial(mixture_weights.try_out, rule)]),
        *(partial(factories.check_called, "evaluation.metrics", m, given) for m in config.evaluation.metrics),
        partial(drawings.check, config.report.figures),
    ]


def _objective_of(stage: TrainingStage) -> Objective:
    """The objective of a stage. Raises: `RequestError` with its own key."""
    with objective.named(stage.key):
        return objective.build(stage.loss)


def _recipes(config: RunConfig) -> dict[str, TrainingSpec]:
    """The recipes of networks, by their keys."""
    ensemble = config.ensemble
    of_groups = {f"{key}.training": group.training for key, group in zip(ensemble.keys(), ensemble.groups, strict=True)}
    return {key: each for key, each in of_groups.items() if isinstance(each, TrainingSpec)} | _of_student(config)


def _of_student(config: RunConfig) -> dict[str, TrainingSpec]:
    """The recipes of the student and its baseline where they are networks, by their keys."""
    of_student = config.student.recipes.items()
    return {f"student.{key}": each for key, each in of_student if isinstance(each, TrainingSpec)}


def check_code(config: RunConfig, built: set[str]) -> None:
    """Build each model and objective, and bind the arguments of each function that the configuration names.

    It needs no data. built: models that earlier calls have built, as JSON; this call adds its own. Raises:
    `RequestError`, or what the user's module raises.
    """
    data = config.data
    if data.code is not None:
        own = FactorySpec(factory=data.code, kwargs=data.kwargs, folder=data.folder)
        factories.check_called("data.kwargs", own, ())
    if data.augment is not None:
        factories.check_called("data.augment", data.augment, ("x", "draws"))
    for try_out in pieces_of_code(config):
        try_out()
    for key, model in config.models.items():
        name = model.model_dump_json()
        if name not in built:
            built.add(name)
            with naming(key):
                _build(model)


def _build(model: AnyModel) -> None:
    """Build a model as a run does it, where the data cannot tell more."""
    if isinstance(model, Network):
        torch_module.build(model)
    else:
        predictor.kind_of(model).made(model)


def check_on(config: RunConfig, dataset: Dataset, wait_for: Callable[[str], None] = logger.debug) -> Dataset:
    """The checks of `check` that need the data: a training step of each model among them. Returns `dataset` with notes.

    Raises: `RequestError`.
    """
    machines = connection.expected()
    config = config.for_classes(dataset.classes, dataset.label_names)
    top_k = config.distillation.top_k
    if top_k is not None and top_k > dataset.classes:
        raise RequestError(f"distillation.top_k: {top_k} of {dataset.classes} classes; expected at most as many.")
    size = _known_size(config, machines)
    of_logits = check_logits(config, dataset, size) if size is not None else ()
    _check_objective(config, dataset)
    _check_bias(config, dataset)
    for key, group in zip(config.ensemble.keys(), config.ensemble.groups, strict=True):
        sampling.check(f"{key}.sample", group.sample, dataset)
    specialists.check(config, dataset)
    wait_for("trying the models")
    sequences.check(config.models, dataset, _masked_by(config))
    tried = roles(config, dataset)
    notes = sequences.notes(config.models, dataset) + _check_models(config, dataset, tried)
    if machines is not None and not machines.cuda and any(role.training.compile for role in tried):
        compiling.check_machine()
    if config.evaluation.metrics:
        notes += custom_metrics.try_out(config.evaluation.metrics, dataset.test.y, dataset.classes, config.seed)
    return dataset.noted(*remarks.on(config, dataset), *of_logits, *notes)


def _masked_by(config: RunConfig) -> str | None:
    """The tokenizer of masked texts; None where the data have none."""
    return None if config.data.masking is None else config.data.masking.tokenizer


def check_further(config: RunConfig, wait_for: Callable[[str], None] = logger.debug) -> None:
    """Check each student of a command before the first of its runs starts: each of `students`, and those of the second
    generation, whose teacher has another architecture. Raises: `RequestError`."""
    read: dict[str, Dataset] = {}  # by what names the data, since students' stages may have data of their own
    for name, other in _further(config).items():
        wait_for(f"trying {name}")
        named = other.every_split.model_dump_json()
        dataset = read.get(named) or read.setdefault(named, loading.load(other.every_split, other.seed))
        settled_ = other.for_classes(dataset.classes, dataset.label_names)
        with naming(name):
            for key, recipe in _of_student(other).items():
                optimizer.check_schedule(f"{key}.schedule", recipe)
            _check_objective(settled_, dataset)
            sequences.check({"student.model": settled_.student.model}, dataset, _masked_by(settled_))
            odd = odd_rows(dataset)
            for role in roles(settled_, dataset):
                if role.name.startswith(("student", "baseline")):
                    _check_role(role, dataset, odd)


def _further(config: RunConfig) -> dict[str, RunConfig]:
    """Runs whose students are tried before the first run of a command, by their names in messages."""
    if config.generations > 1:
        student = config.student
        taught = EnsembleSpec(model=student.model, training=student.recipe, size=1)  # as by the student before
        return {
            "generation 2, whose teacher is the student of generation 1": config.model_copy(update={"ensemble": taught})
        }
    further = config.of_students()
    own = {name: config for name in config.students or () if name not in further}
    return {f"students.{name}": run for name, run in (own | further).items()}


def _check_role(role: Role | FitRole, dataset: Dataset, odd: Sequence[OddRow]) -> tuple[str, ...]:
    """Try a training; returns notes for the user."""
    if isinstance(role, FitRole):
        return fitting.check_fitting(role, dataset.classes, odd)
    with objective.named(role.key):
        return trial.check_training(role, dataset.classes, odd)


def _known_size(config: RunConfig, machines: Machines | None) -> int | None:
    """The number of members; None where it depends on a cluster that is not yet connected."""
    if config.ensemble.count is not None or machines is None:
        return config.ensemble.count
    return resources.place(config.ensemble, machines).size


def check_placed(config: RunConfig, dataset: Dataset, members: int) -> Dataset:
    """Run the checks that need the number of members, where the cluster decides it; the data set with its notes.

    Raises: `RequestError`.
    """
    if config.ensemble.count is not None:
        return dataset
    feature_teacher(config, members)
    notes = check_logits(config, dataset, members)
    return dataset.noted(*(note for note in notes if note not in dataset.notes))


def check_logits(config: RunConfig, dataset: Dataset, members: int) -> tuple[str, ...]:
    """A note on the bytes of the members' logits that a schedule of T needs; none without a schedule.

    The memory is that of this machine; that of other nodes is not known before the plan. Raises: `RequestError` where
    storage or memory is too small.
    """
    if not config.distillation.is_scheduled:
        return ()
    data, free = DataFacts.of(dataset), storage.free_bytes(config.folder)
    if free is not None:  # logits of an earlier attempt are among those that are needed
        place = storage.local_folder(config.folder)
        free += sum(path.stat().st_size for path in place.glob("logits/*/*.parquet"))
    available = Free(storage=free, memory=memory.available())
    lacking = next(fit.of_logits(config, data, members, available), "")
    if lacking:
        raise RequestError(lacking)
    return (fit.note_on_logits(config, data, members, available),)


def _check_objective(config: RunConfig, dataset: Dataset) -> None:
    for stage in config.training_stages:
        if isinstance(stage.training, FitSpec):
            lessons.weighed(stage.loss)
            continue
        steps = len(batch_sizes(len(dataset.of_stage(stage.data)), stage.training.batch_size))
        with seeded(seed_of(config.seed, "objective")), objective.named(stage.key):
            _check_signals(stage)
            _check_pieces(stage, stage.training, config.student.workers[1])
            terms.check(stage.loss, stage.training, steps, dataset.classes)


def _check_bias(config: RunConfig, dataset: Dataset) -> None:
    """Raise `RequestError` where no bias can be found for `evaluation.corrected_classes`."""
    wanted, key = config.evaluation.corrected_classes, "evaluation.corrected_classes"
    if not wanted:
        return
    for name in ("train", "test"):
        held = predicted_bytes(dataset, name)
        if held > KEPT_BYTES:
            raise RequestError(
                f"{key}: the student's predictions of the {name} split take {size(held)}; expected at most "
                f"{size(KEPT_BYTES)}, which are kept. Leave it out, or give a smaller `{name}`."
            )
    bias.check(dataset.train.y, labels.ids_of(key, wanted, dataset.classes, dataset.label_names))


def _check_pieces(stage: TrainingStage, training: TrainingSpec, workers: int) -> None:
    """Raise `RequestError` where batches are cut, and a term relates all examples of a batch to each other."""
    whole = objective.build(stage.loss).whole_batch
    if whole and (workers > 1 or training.cuts_batches):
        cut = f"student.num_workers: {workers}" if workers > 1 else f"micro_batch_size: {training.micro_batch_size}"
        raise RequestError(
            f"{cut}: the term '{whole}' relates all examples of a batch to each other, so that another number of "
            "pieces would give another student. Expected one worker, without `micro_batch_size`."
        )


def _check_signals(stage: TrainingStage) -> None:
    """Raise `RequestError` where a stage with data of its own needs soft targets or labels, which these have not."""
    for term in objective.build(stage.loss).terms if stage.data else ():
        if not term.term.needs or term.term.needs - BESIDE:
            needs = "needs soft targets or labels" if term.term.needs else "does not say what it `needs`"
            raise RequestError(
                f"student.{stage.data}: it has `data` of its own, and its term '{term.label}' {needs}. Expected terms "
                "that need hidden states or attention alone, such as `relations`."
            )


def beside_bytes(config: RunConfig) -> int:
    """Size of the weights of the member that computes hidden states; 0 where no term needs any.

    Raises: `RequestError` where `distillation.hidden.member` names none that can.
    """
    model = feature_teacher(config)
    if model is None or not needs_beside(config):
        return 0
    return sum(parameter.nbytes for parameter in predictor.kind_of(model).made(model).parameters())


def settled(config: RunConfig, dataset: Dataset) -> RunConfig:
    """The configuration with the open choices of its members settled on real examples, as in `check`."""
    config = config.for_classes(dataset.classes, dataset.label_names)
    ensemble = config.ensemble
    groups = [
        group
        if group.complete is None
        else group.model_copy(update={"model": loaded_models.settle(group.model, group.complete, dataset.train)[0]})
        for group in ensemble.groups
    ]
    found = {"model": groups[0].model} if ensemble.members is None else {"members": tuple(groups)}

    def settled_system(system: FurtherSystem) -> FurtherSystem:
        if system.group.complete is None:
            return system
        model = loaded_models.settle(system.model, system.weights, dataset.train)[0]
        return system.model_copy(update={"model": model})

    config = config.model_copy(update={"ensemble": ensemble.model_copy(update=found)})
    return config.with_systems(settled_system)


def _check_models(config: RunConfig, dataset: Dataset, roles: Sequence[Role | FitRole]) -> tuple[str, ...]:
    """Run the trial of every model; returns notes for the user."""
    odd = odd_rows(dataset)
    notes: list[str] = []
    loaded = [("ensemble", group) for group in config.ensemble.groups]
    loaded += [(f"evaluation.systems.{name}", system.group) for name, system in config.evaluation.systems.items()]
    for name, group in loaded:
        asked = loaded_models.Loaded(name, group.model, dataset.train, dataset.classes, odd, dataset.label_names)
        files = group.checkpoints or () if group.complete is None else (group.complete,)
        if files and isinstance(group.model, ModelSpec):
            notes += loaded_models.check_loaded(asked, files)
        else:
            notes += [note for uri in files for note in loaded_models.check_file(asked, uri)]
    for role in roles:
        notes += _check_role(role, dataset, odd)
    trained = [role.model for role in roles if isinstance(role, Role)]
    notes += [note for model in trained for note in predictor.kind_of(model).notes_on(model)]
    return tuple(dict.fromkeys(notes))
