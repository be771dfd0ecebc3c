"""Trial of a network before the run starts: one real training step, and the outputs of its saved weights.

The trial builds, trains, saves and loads a network with the run's own functions, on batches cut as in the run. A
failure here would otherwise occur hours later, so each is a `RequestError` that names the factory. After training,
`workers.inference.saved_weights` repeats the comparison with the saved weights.

The trial uses few rows, and large pieces only where they are quick. So a large network costs only a few of its steps.
The trial restores all random states.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

from workers.data import examples as examples_
from workers.data.arrays import spread
from workers.data.collate import Collator, Inputs, described, rows_of
from workers.data.dataset import Split
from workers.data.examples import Examples
from workers.data.labels import UNLABELLED
from workers.errors import RequestError, naming
from workers.models import at_positions, checked, checkpoints, predictor, teacher_layers, torch_module
from workers.models.comparison import finite, some
from workers.models.hidden import observe
from workers.models.outputs import Outputs
from workers.models.torch_module import TorchPredictor
from workers.seeds import seed_of, seeded
from workers.specs.models import AnyModel, AnyNetwork
from workers.specs.objective import DistillationSpec
from workers.specs.training import TrainingSpec
from workers.targets import kinds
from workers.targets.layout import batch_sizes
from workers.training import beside, loop, objective
from workers.training.beside import Beside
from workers.training.loader import Batch
from workers.training.loop import HARD_LABELS, Progress
from workers.training.objective import AtStep, Objective
from workers.training.schedules import Moment
from workers.trial import answers as asked
from workers.trial import compiling
from workers.trial.answers import AFFORDABLE_S, FINITE, Network
from workers.trial.odd_rows import OddRow
from workers.user_code import calls, provenance

HIDDEN = "distillation.hidden.member"
STEPS = 4
"""Steps, if quick, where workers exchange gradients: a layer skipped at random shows only in several steps."""
AFTER_A_STEP = " after one step of training"
SMALLER_STEPS = " Lower `learning_rate`, or set `gradient_clip`."


@dataclass(frozen=True)
class Role:
    """A network to train: its examples and settings, and its name in messages."""

    name: str
    model: AnyNetwork
    training: TrainingSpec
    seed: int
    examples: Split
    """Examples of an epoch; `x` may hold several views of each."""
    loss: DistillationSpec = HARD_LABELS
    workers: tuple[int, int] = (1, 1)
    """The smallest and the largest number of workers that share a batch."""
    initial: str | None = None
    """URI of the initial weights; None: random ones."""
    known: bool = False
    """Whether the trial of another role already checks this network; here it is only trained."""
    beside: AnyNetwork | None = None
    """The member whose hidden states terms of `loss` need, and whose layers it may begin with; None: neither."""
    begins_with_layers: bool = False
    """Whether its initial weights are layers of that member."""
    key: str = objective.OBJECTIVE
    """The key of its objective in the configuration."""
    begins_with: AnyModel | None = None
    """The member whose final weights are its initial ones; None: none of the run."""

    def __str__(self) -> str:
        return f"{self.name} model {self.model.label}"


def check_training(role: Role, classes: int, odd: Sequence[OddRow]) -> tuple[str, ...]:
    """Build `role`'s network as the run does, check its outputs, train it for a step, save it and load it again.

    odd: rows on which its outputs must be finite. Returns notes for the user. Raises: `RequestError`.
    """
    with seeded(seed_of(role.seed, "trial")), provenance.in_use(role.model):
        module = torch_module.build(role.model, role.seed)
        begun: tuple[str, ...] = ()
        if role.initial is not None:
            begun = tuple(predictor.kind_of(role.model).begin(role.model, module, role.initial))
        if role.begins_with is not None and role.initial is None:
            _check_begins(role, module, role.begins_with)
        if role.begins_with_layers:
            teacher_layers.fill(module, _member(role), str(role))
        torch_module.check_trainable(module, role.model, role.name)
        _check_pieces(role, module)
        collator = predictor.collator(role.model)
        network = Network(TorchPredictor(module), role.model.label, classes, role.examples.x, role.name, collator)
        asked.check_output(network)
        notes = begun if role.known else (*begun, *asked.check(network, odd))
        _take_steps(role, network, [row.x for row in odd if row.trains])
        if role.training.compile and at_positions.computes(module):
            raise RequestError(
                f"{role}: `compile` is true, and the logits of masked tokens alone are computed by a hook, which a "
                "compiled network does not run. Leave `compile` out."
            )
        if role.training.compile:
            compiling.check_network(module, network.batch, str(role))
        if not role.known:
            _check_reloaded(network, role.model)
    return notes


def _check_pieces(role: Role, module: nn.Module) -> None:
    """Raise `RequestError` where batches are cut, and a layer has `whole_batch`: it relates all examples of a batch."""
    if role.training.cuts_batches and any(getattr(each, "whole_batch", False) is True for each in module.modules()):
        raise RequestError(
            f"{role}: `micro_batch_size` is {role.training.micro_batch_size}, and the network relates all examples of "
            f"a batch of {role.training.batch_size} to each other (`whole_batch`). Expected whole batches: leave "
            "`micro_batch_size` out."
        )


def _check_begins(role: Role, module: nn.Module, source: AnyModel) -> None:
    """Raise `RequestError` where the weights of another member, which is not trained yet, do not fit the network."""
    if predictor.kind_of(source).places(source) != predictor.kind_of(role.model).places(role.model):
        raise RequestError(
            f"{role}: `initial` names a member, {source.label}, whose weights have the classes in another order, that "
            "of a `checkpoint`. Expected the same `checkpoint` in both, or none."
        )
    other: nn.Module = predictor.kind_of(source).made(source)
    with naming(f"{role}: `initial` names a member of another architecture"):
        checkpoints.fill(module, checkpoints.packed(other.state_dict()), f"what {source.label} makes")


def piece_sizes(examples: int, training: TrainingSpec, workers: tuple[int, int]) -> list[int]:
    """All row counts that occur in a forward pass of the training, ascending."""
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
    """Train for a step on a smallest and on a largest piece, cut as in the run.

    odd: training rows to put at the beginning of the largest piece.
    """
    goal = objective.build(role.loss)
    teacher = _beside(role, goal)
    with naming(str(role)):
        loop.prepare(goal, network.module, teacher, loop.few(role.examples.x, network.collator), role.seed)
    progress = loop.begin(network.module, role.training.for_model(role.model), len(role.examples), goal.module)
    pieces = piece_sizes(len(role.examples), role.training, role.workers)
    needed = list(dict.fromkeys((pieces[0], pieces[-1])))
    more = [pieces[0], pieces[-1]] * (STEPS // 2) if role.workers[1] > 1 else []
    started = time.monotonic()
    for number, size in enumerate([*needed, *more]):
        if number >= len(needed) and time.monotonic() - started > AFFORDABLE_S:
            return
        _try_piece(role, Training(network, progress, goal, teacher), size, odd if size == pieces[-1] else ())


@dataclass(frozen=True)
class Training:
    """A network in training, with the member beside it where terms need one."""

    network: Network
    progress: Progress
    goal: Objective
    beside: Beside | None

    def at(self, role: Role) -> AtStep:
        """The objective at the first step."""
        return self.goal.at(Moment(0, role.training.epochs, 0, 1))


def _beside(role: Role, goal: Objective) -> Beside | None:
    """The member for the terms of an objective, as its training begins. Raises: `RequestError` where it is unfit."""
    if not goal.beside:
        return None
    module = _member(role)
    assert role.beside is not None
    own, other = predictor.collator(role.model), predictor.collator(role.beside)
    if _columns(own) != _columns(other):
        raise RequestError(
            f"{HIDDEN}: {role} and {role.beside.label} take different inputs ({_told(own)}, and {_told(other)}). "
            "Expected the same `inputs`, tokenizer and `max_length`, so that hidden states are of the same elements."
        )
    if role.training.compile:
        raise RequestError(
            f"{role}: `compile` is true, and its objective needs hidden states, which a compiled network does not "
            "show. Leave `compile` out."
        )
    found = beside.of_module(module, goal.beside, "float32")
    with naming(f"{HIDDEN}: {role.beside.label}"):
        few = loop.few(role.examples.x, own)
        found(few, np.arange(len(few)))()
    return found


def _member(role: Role) -> nn.Module:
    """The member that a student looks into, as its training begins."""
    assert role.beside is not None
    module: nn.Module = predictor.kind_of(role.beside).made(role.beside)
    return module


def _columns(collator: Collator) -> tuple[object, ...]:
    tokens = collator.tokens
    return collator.columns, None if tokens is None else tuple(tokens.identity.values())


def _told(collator: Collator) -> str:
    found = [] if collator.columns is None else [f"inputs {list(collator.columns)}"]
    if collator.tokens is not None:
        found.append(f"tokens of '{collator.tokens.uri}', max_length {collator.tokens.max_length}")
    return ", ".join(found) or "all columns"


def _try_piece(role: Role, training: Training, size: int, first: Sequence[Examples]) -> None:
    """Train for a step on a piece of `size` rows, or on the affordable number of rows if that step succeeds."""
    for rows in dict.fromkeys((min(size, training.network.affordable), size)):
        try:
            return _step(role, training, _batch(role, training, rows, first[: rows // 2]))
        except RequestError:
            if rows == size:
                raise


def _step(role: Role, training: Training, batch: Batch) -> None:
    network, progress = training.network, training.progress
    rows = len(batch.x)
    after, fix = ("", FINITE) if progress.schedule.last_epoch == 0 else (AFTER_A_STEP, SMALLER_STEPS)

    def forward(x: Inputs) -> Outputs:
        outputs = observe(progress.model, x, training.goal.beside)
        label, when = role.model.label, " in training mode"
        logits = checked.logits_of(outputs.logits, label, x, network.classes, role=role.name, when=when)
        if not logits.requires_grad:
            raise RequestError(
                f"{role} returns logits without a gradient in training mode, so nothing can be learnt. Expected an "
                "output that follows from its parameters: no detach(), no torch.no_grad() and no argmax inside forward."
            )
        if not finite(logits).all():
            raise RequestError(
                f"{role} returned NaN or infinity in training mode{after} for a piece of {rows} examples.{fix}"
            )
        return outputs._replace(logits=logits)

    spec = role.training.model_copy(update={"micro_batch_size": None})
    step = f"a step of training on {rows} examples ({described(batch.x)})"
    with calls.checked(f"{role} failed in {step}:", _why_so_few(role, rows)):
        progress.model.train()
        losses = loop.step(
            progress, forward, training.at(role), batch, spec, workers=torch.tensor(1.0), beside=training.beside
        )
    _check_gradients(role, progress.model)
    if not all(torch.isfinite(loss.total) for loss in losses):
        raise RequestError(
            f"{role}: the loss of its first step is NaN or infinity, on {rows} examples. Expected a finite loss: check "
            "the size of its logits, and guard divisions and logarithms in the terms of its objective."
        )


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
    """The end of a message that explains a piece of at most one row; only a full stop for larger pieces."""
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


def _check_reloaded(network: Network, model: AnyNetwork) -> None:
    """Save the weights, load them into a network of another seed, as all later stages do, and compare outputs."""
    if not finite(network.answers(network.batch)).all():
        raise RequestError(f"{network} returned NaN or infinity{AFTER_A_STEP}.{SMALLER_STEPS}")
    loaded = torch_module.build(model)
    _check_grown(network, loaded)
    with naming(f"{network} cannot be saved and loaded"):
        content = checkpoints.packed(network.module.state_dict())
        checkpoints.fill(loaded, content, "what was saved of it")
    asked.check_same(network, TorchPredictor(loaded))


def _check_grown(network: Network, built: nn.Module) -> None:
    """Raise `RequestError` where a training step added or reshaped weights or buffers compared to a new network."""
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


def _batch(role: Role, training: Training, size: int, first: Sequence[Examples]) -> Batch:
    """A piece of `size` training examples that begins with those of `first`.

    The soft targets are random. The examples of `first` get the labels of the examples that they replace.
    """
    network, ids = training.network, spread(len(role.examples), size)
    x: Examples = role.examples.x[ids]
    if first:
        x = examples_.joined([*first, x[np.arange(len(first), size)]])
    batch = network.collator(x, np.arange(size))
    y = torch.from_numpy(np.resize(role.examples.labels_of(ids), rows_of(batch)))
    at, spec = training.at(role), role.loss
    soft = torch.softmax(torch.randn(len(y), network.classes) / at.temperature, dim=-1)
    targets = kinds.of_mean(soft, "float32", spec.top_k, at.temperature)
    labelled = int((y != UNLABELLED).sum())
    return Batch(y, targets, len(y), labelled, examples=len(batch), ids=ids, x=batch, entropy=0.0)
