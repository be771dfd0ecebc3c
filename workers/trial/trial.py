"""One real step of a network's training before anything is started, and what its saved weights answer.

A network is built, trained for a step, saved and loaded with the functions that the run itself uses, on rows cut as the
run will cut them. What fails here would fail hours later, so each failure is a `RequestError` that names the factory.
After training the same comparison is made once more with the weights that were kept.

Rows are few, and large pieces are tried only where they are quick, so that a large network costs a few of its steps.
Random states are as they were afterwards.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor, nn

from workers.data import examples as examples_
from workers.data.collate import Inputs, described, rows_of
from workers.data.dataset import Split
from workers.data.examples import Examples
from workers.data.labels import UNLABELLED
from workers.errors import RequestError
from workers.evaluation import class_order
from workers.models import checked, checkpoints, predictor, torch_module
from workers.models.ask import ask
from workers.models.comparison import finite, some, spread
from workers.models.torch_module import TorchPredictor
from workers.seeds import seeded
from workers.specs import AnyModel, DistillationSpec, ModelSpec, TrainingSpec
from workers.targets import kinds
from workers.targets.layout import batch_sizes
from workers.training import loop, objective
from workers.training.loader import Batch
from workers.training.loop import HARD_LABELS, Progress
from workers.training.objective import AtStep
from workers.training.schedules import Moment
from workers.trial import answers as asked
from workers.trial import compiling
from workers.trial.answers import AFFORDABLE_S, Network
from workers.trial.odd_rows import OddRow
from workers.user_code import calls, provenance

SETTLED_ROWS, ORDERED_ROWS = 64, 256
"""Training rows on which it is decided what a file's answers are, and whether its classes are in order."""
STEPS = 4
"""Steps where workers exchange gradients, if they are quick: a layer may be skipped at random."""


@dataclass(frozen=True)
class Role:
    """A network that is to be trained: from what, how, and what it is called in messages."""

    name: str
    model: ModelSpec
    training: TrainingSpec
    seed: int
    examples: Split
    """What an epoch goes through; `x` may have several views of it."""
    loss: DistillationSpec = HARD_LABELS
    workers: tuple[int, int] = (1, 1)
    """The least and the most that share a batch."""
    initial: str | None = None
    """URI of the weights that it begins from; None: random ones."""
    known: bool = False
    """Whether another role has this network; this one only trains it."""

    def __str__(self) -> str:
        return f"{self.name} model {self.model.label}"


def check_training(role: Role, classes: int, odd: Sequence[OddRow]) -> tuple[str, ...]:
    """Build `role`'s network as the run does, ask it, train it for a step, keep it and load it again.

    odd: rows on which it must give finite answers. Returns notes for the user. Raises: `RequestError`.
    """
    with seeded(torch_module.seed_of(role.seed, "trial")), provenance.in_use(role.model):
        module = torch_module.build(role.model, role.seed, role.initial)
        torch_module.check_trainable(module, role.model, role.name)
        collator = predictor.collator(role.model)
        network = Network(TorchPredictor(module), role.model.label, classes, role.examples.x, role.name, collator)
        asked.check_output(network)
        notes = () if role.known else asked.check(network, odd)
        _take_steps(role, network, [row.x for row in odd if row.trains])
        if role.training.compile:
            compiling.check_network(module, network.batch, str(role))
        if not role.known:
            _check_reloaded(network, role.model)
    return notes


def check_loaded(
    spec: ModelSpec, uris: Sequence[str], examples: Split, classes: int, odd: Sequence[OddRow]
) -> tuple[str, ...]:
    """The same of members that are loaded: each file fits, answers every row, and holds all that the answers follow
    from. Returns notes for the user. Raises: `RequestError`."""
    notes: tuple[str, ...] = ()
    with seeded(0), provenance.in_use(spec):
        module, other = torch_module.build(spec), torch_module.build(spec, seed=1)
        collator = predictor.collator(spec)
        built = Network(TorchPredictor(module), spec.label, classes, examples.x, "ensemble", collator)
        asked.check_output(built)  # before a file is blamed
        for number, uri in enumerate(uris):
            network = replace(built, role=f"checkpoint '{uri}': ensemble")
            notes += tuple(checkpoints.load(module, uri))
            asked.check_output(network)
            found = asked.check(network, odd)
            _check_order(network, examples)
            if number == 0:
                notes += found
                checkpoints.load(other, uri)
                asked.check_same(network, TorchPredictor(other))
    return notes


def check_file(model: AnyModel, examples: Split, classes: int, odd: Sequence[OddRow]) -> tuple[str, ...]:
    """The same of a member that is complete in a file: its input fits, and each row has one finite answer.

    Returns notes for the user. Raises: `RequestError`.
    """
    with seeded(0):
        settled, notes = settle(model, examples)
        loaded, collator = predictor.load(settled, model.file or ""), predictor.collator(settled)
        network = Network(loaded, model.label, classes, examples.x, "ensemble", collator)
        asked.check_output(network)
        notes += asked.check(network, odd)
        _check_order(network, examples)
    return notes


def settle(model: AnyModel, examples: Split) -> tuple[AnyModel, tuple[str, ...]]:
    """A model that is loaded from its file with all decided that it leaves open, on some of the examples; and notes."""
    ids = spread(len(examples), SETTLED_ROWS)
    return predictor.kind_of(model).settled(model, model.file or "", predictor.collator(model)(examples.x, ids))


def _check_order(network: Network, examples: Split) -> None:
    """Raise `RequestError` where a loaded model has its classes in another order than the data."""
    ids = spread(len(examples), min(ORDERED_ROWS, network.affordable))
    labels = examples.labels_of(ids)
    known = labels != UNLABELLED
    pairs = class_order.swapped(network.answers(network.some(ids)).argmax(dim=-1).numpy()[known], labels[known])
    if pairs is not None:
        raise RequestError(
            f"{network} seems to have its classes in another order: what the labels say is {pairs}. Expected logits in "
            "the order of the data's class ids."
        )


def piece_sizes(examples: int, training: TrainingSpec, workers: tuple[int, int]) -> list[int]:
    """How many rows a forward pass of the training has, all sizes that occur, ascending."""
    sizes, (least, most) = batch_sizes(examples, training.batch_size), workers
    cuts = {
        cut
        for size in (sizes[0], sizes[-1])
        for world in range(least, most + 1)
        for cut in (size // world, -(-size // world))
    }
    micro = training.micro_batch_size
    return sorted({piece for cut in cuts for piece in (batch_sizes(cut, micro or cut) if cut else [0])})


def _take_steps(role: Role, network: Network, odd: Sequence[Examples]) -> None:
    """Train for a step on a smallest and on a largest piece, as the run would cut them.

    odd: training rows that the largest piece begins with.
    """
    progress = loop.begin(network.module, role.training, len(role.examples))
    pieces = piece_sizes(len(role.examples), role.training, role.workers)
    needed = list(dict.fromkeys((pieces[0], pieces[-1])))
    more = [pieces[0], pieces[-1]] * (STEPS // 2) if role.workers[1] > 1 else []
    started = time.monotonic()
    for number, size in enumerate([*needed, *more]):
        if number >= len(needed) and time.monotonic() - started > AFFORDABLE_S:
            return
        _try_piece(role, network, progress, size, odd if size == pieces[-1] else ())


def _try_piece(role: Role, network: Network, progress: Progress, size: int, first: Sequence[Examples]) -> None:
    """Train for a step on a piece of `size` rows, or of the affordable ones where these serve as well."""
    for rows in dict.fromkeys((min(size, network.affordable), size)):
        try:
            return _step(role, network, progress, _batch(role, rows, network, first[: rows // 2]))
        except RequestError:
            if rows == size:
                raise


def _step(role: Role, network: Network, progress: Progress, batch: Batch) -> None:
    rows, diverged = len(batch.x), _diverged(progress)

    def forward(x: Inputs) -> Tensor:
        returned = ask(progress.model, x)
        label, when = role.model.label, " in training mode"
        logits = checked.logits_of(returned, label, x, network.classes, role=role.name, when=when)
        if not logits.requires_grad:
            raise RequestError(
                f"{role} returns logits without a gradient in training mode, so nothing can be learnt. Expected an "
                "output that follows from its parameters: no detach(), no torch.no_grad() and no argmax inside forward."
            )
        if not finite(logits).all():
            raise RequestError(f"{role} {diverged} in training mode for a piece of {rows} examples.")
        return logits

    spec = role.training.model_copy(update={"micro_batch_size": None})
    step = f"a step of training on {rows} examples ({described(batch.x)})"
    with calls.checked(f"{role} failed in {step}:", _why_so_few(role, rows)):
        progress.model.train()
        losses = loop.step(progress, forward, _first_step(role), batch, spec, workers=torch.tensor(1.0))
    _check_gradients(role, progress.model)
    if not all(torch.isfinite(loss.total) for loss in losses):
        raise RequestError(f"{role}: the loss of its first step is NaN or infinity, on {rows} examples.")


def _diverged(progress: Progress) -> str:
    if progress.schedule.last_epoch == 0:
        return "returned NaN or infinity"
    return "returned NaN or infinity after one step of training (lower `learning_rate`, or set `gradient_clip`)"


def _check_gradients(role: Role, module: nn.Module) -> None:
    learnt = {name: p.grad for name, p in module.named_parameters() if p.requires_grad}
    without = [name for name, gradient in learnt.items() if gradient is None]
    most = role.workers[1]
    if without and (most > 1 or len(without) == len(learnt)):
        raise RequestError(
            f"{role}: no gradient reaches {some(without)} in a step of training"
            + (f", and {most} workers exchange a gradient of each parameter" if len(without) < len(learnt) else "")
            + ". Use them in forward, leave them out, or freeze them with requires_grad_(False)"
            + ("; one worker (student.num_workers: 1) takes them as they are." if most > 1 else ".")
        )
    wrong = [name for name, gradient in learnt.items() if gradient is not None and not finite(gradient).all()]
    if wrong:
        raise RequestError(
            f"{role}: NaN or infinity in the gradient of {some(wrong)} in the first step of training, although the "
            "logits are finite. Look for a root, a norm or a division at 0 in forward."
        )


def _why_so_few(role: Role, size: int) -> str:
    """Where a piece of a single row comes from; empty for larger ones."""
    if size > 1:
        return "."
    training, (_, most) = role.training, role.workers
    cut = f", {most} workers" if most > 1 else ""
    cut += f", micro_batch_size {training.micro_batch_size}" if training.micro_batch_size else ""
    rows = "a piece of one example" if size else "a piece without examples"
    return (
        f". So small a piece occurs in the run: {len(role.examples)} examples in batches of at most "
        f"{training.batch_size}{cut} leave {rows}. Expected at least two for batch normalisation: change "
        f"`batch_size`{', `num_workers`' if most > 1 else ''} or `micro_batch_size`."
    )


def _check_reloaded(network: Network, model: ModelSpec) -> None:
    """Save, load into a network that was built from another seed, as everything after training does, and compare."""
    if not finite(network.answers(network.batch)).all():
        raise RequestError(
            f"{network} returned NaN or infinity after one step of training. Lower `learning_rate`, or set "
            "`gradient_clip`."
        )
    loaded = torch_module.build(model)
    _check_grown(network, loaded)
    try:
        content = checkpoints.packed(network.module.state_dict())
        checkpoints.fill(loaded, content, "what was saved of it")
    except RequestError as error:
        raise RequestError(f"{network} cannot be saved and loaded: {error}") from error
    asked.check_same(network, TorchPredictor(loaded))


def _check_grown(network: Network, built: nn.Module) -> None:
    """Raise `RequestError` where a step of training gave the network weights or buffers that a new one has not."""
    now, first = (
        {name: getattr(value, "shape", None) for name, value in module.state_dict().items()}
        for module in (network.module, built)
    )
    changed = [name for name in now if name not in first or now[name] != first[name]]
    if changed:
        raise RequestError(
            f"{network} has {some(changed)} after a step of training, and a network built anew has not, or of another "
            "shape, so its weights cannot be loaded. Expected the factory to make the same layers and buffers whatever "
            "the seed, all of them and in their final shape before the first batch."
        )


def _batch(role: Role, size: int, network: Network, first: Sequence[Examples]) -> Batch:
    """A piece of `size` training examples that begins with those of `first`; soft targets that the loss needs are
    made up, and labels of what `first` has in place of others."""
    ids = spread(len(role.examples), size)
    x: Examples = role.examples.x[ids]
    if first:
        x = examples_.joined([*first, x[np.arange(len(first), size)]])
    batch = network.collator(x, np.arange(size))
    y = torch.from_numpy(np.resize(role.examples.labels_of(ids), rows_of(batch)))
    at, spec = _first_step(role), role.loss
    soft = torch.softmax(torch.randn(len(y), network.classes) / at.temperature, dim=-1)
    targets = kinds.of_mean(soft, "float32", spec.top_k, at.temperature)
    return Batch(y, targets, len(y), int((y != UNLABELLED).sum()), x=batch, entropy=0.0)


def _first_step(role: Role) -> AtStep:
    """The objective at the first step of the training."""
    return objective.build(role.loss).at(Moment(0, role.training.epochs, 0, 1))
