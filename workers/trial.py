"""One real step of a network's training before anything is started, and what its saved weights answer.

A network is built, trained for a step, saved and loaded with the functions that the run itself uses, on rows cut as the
run will cut them. What fails here would fail hours later, so each failure is a `RequestError` that names the factory.
After training the same comparison is made once more with the weights that were kept.

Rows are few and large pieces are tried only where they are quick, so that a large network costs a few of its steps.
Random states are as they were afterwards.
"""

from __future__ import annotations

import random
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from workers import checkpoints, models, teacher, train_loop
from workers.data import Split
from workers.errors import RequestError, RunError
from workers.feed import Batch
from workers.inputs import Index, Inputs, as_tensor, gather
from workers.losses import UNLABELLED
from workers.lost_state import differing_state
from workers.odd_rows import OddRow
from workers.order import batch_sizes
from workers.specs import DistillationSpec, ModelSpec, TrainingSpec
from workers.teacher import Member
from workers.top_k import TopK, compress
from workers.train_loop import HARD_LABELS, Progress

ROWS = 8
"""Rows of a forward pass, where the run computes as many or more."""
ODD_ROWS = 256
"""Odd rows of a forward pass, where so many are quick."""
KEPT_ROWS = 32
"""Validation rows on which kept weights are compared."""
AFFORDABLE_S = 2.0
"""About how long a larger piece may take, and odd rows."""
SAME, SAME_ON_GPU = 1e-4, 1e-2
"""How far logits of the same rows and weights may be apart, in parts of the largest: kernels add in several orders."""
ALONE = 1e-2
"""The same for one row alone and beside others, for which other kernels are chosen."""
NOTHING = 1e-7
"""Logits below this are none."""
SUMS_TO_1 = 1e-4
SHOWN = 3
"""Names that a message shows of a list."""


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

    def __str__(self) -> str:
        return f"{self.name} model '{self.model.factory}'"


def check_training(role: Role, classes: int, odd: Sequence[OddRow], known: bool = False) -> tuple[str, ...]:
    """Build `role`'s network as the run does, ask it, train it for a step, keep it and load it again.

    odd: rows on which it must give finite answers. known: another role has this network; this one only trains it.
    Returns notes for the user. Raises: `RequestError`.
    """
    with undisturbed(models.seed_of(role.seed, "trial")):
        module = models.build(role.model, role.seed)
        models.check_trainable(module, role.model, role.name)
        x = role.examples.x
        notes = () if known else _check_answers(module, role.model, x, classes, odd, role.name)
        rows = _affordable(module, x)
        progress = train_loop.begin(module, role.training, len(role.examples))
        pieces = piece_sizes(len(role.examples), role.training, role.workers)
        for size in {pieces[0], pieces[-1]}:
            first = [row.x for row in odd if row.trains] if size == pieces[-1] else []
            _try_piece(role, progress, size, rows, classes, first)
        if role.training.compile:
            _check_compiled(role, module, classes)
        if not known:
            _check_reloaded(role, module, classes)
    return notes


def check_loaded(
    spec: ModelSpec, uris: Sequence[str], x: Inputs, classes: int, odd: Sequence[OddRow]
) -> tuple[str, ...]:
    """The same of members that are loaded: each file fits, answers every row, and holds all that the answers follow
    from. Returns notes for the user. Raises: `RequestError`."""
    notes: tuple[str, ...] = ()
    with undisturbed(0):
        module, other = models.build(spec), models.build(spec, seed=1)
        models.check_output(module, spec, x, classes, "ensemble")  # before a file is blamed
        for number, uri in enumerate(uris):
            role = f"checkpoint '{uri}': ensemble"
            checkpoints.load(module, uri)
            found = _check_answers(module, spec, x, classes, odd, role)
            if number == 0:
                notes = found
                checkpoints.load(other, uri)
                _check_same(module, other, spec, _spread(x, ROWS), classes, role)
    return notes


def check_kept(module: nn.Module, kept: Mapping[str, Tensor], member: Member, x: Inputs) -> None:
    """Load `member` as everything after its training does, and compare it with the trained `module`.

    kept: the state dict that was saved, which `module` then has. x: rows to compare on.

    Raises: `RunError` where their answers differ.
    """
    with undisturbed(0), torch.no_grad():
        module.load_state_dict(kept)
        device = next(module.parameters()).device
        loaded, batch = teacher.load(member).to(device), _spread(x, KEPT_ROWS).to(device)
        apart = _apart(module.eval()(batch), loaded(batch))
    if not apart <= (SAME_ON_GPU if device.type == "cuda" else SAME):
        raise RunError(
            f"{member.name} answers differently once its weights are saved and loaded, by {apart:.2g} of its largest "
            f"logit on {len(batch)} validation examples. {_lost(module, loaded)} Train it again afterwards."
        )


@contextmanager
def undisturbed(seed: int) -> Iterator[None]:
    """Random numbers of torch, numpy and Python follow from `seed` in the block, and go on as before behind it."""
    of_numpy, of_python = np.random.get_state(), random.getstate()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        np.random.seed(seed % 2**32)
        random.seed(seed)
        try:
            yield
        finally:
            np.random.set_state(of_numpy)
            random.setstate(of_python)


def piece_sizes(examples: int, training: TrainingSpec, workers: tuple[int, int]) -> list[int]:
    """How many rows a forward pass of the training has, all sizes that occur, ascending."""
    least, most = workers
    sizes = batch_sizes(examples, training.batch_size)
    cuts = {
        cut
        for size in (sizes[0], sizes[-1])
        for world in range(least, most + 1)
        for cut in (size // world, -(-size // world))
    }
    return sorted(
        {piece for cut in cuts for piece in ({0} if cut == 0 else batch_sizes(cut, training.micro_batch_size or cut))}
    )


def _check_answers(
    module: nn.Module, spec: ModelSpec, x: Inputs, classes: int, odd: Sequence[OddRow], role: str
) -> tuple[str, ...]:
    """Raise `RequestError` unless each row has one finite answer; note answers that are probabilities."""
    models.check_output(module, spec, x, classes, role)
    batch = _spread(x, ROWS)
    first, again = (models.answers(module, spec, batch, classes, role) for _ in range(2))
    if not _finite(first).all():
        raise RequestError(f"{role} model '{spec.factory}' returned NaN or infinity on {len(batch)} training examples.")
    apart = _apart(first, again)
    if not apart <= SAME:
        raise RequestError(
            f"{role} model '{spec.factory}' answers the same examples differently each time in evaluation mode, by "
            f"{apart:.2g} of its largest logit. Expected no random numbers there: use modules such as nn.Dropout, or "
            "look at self.training, so that eval() ends it."
        )
    apart = _apart(first[:1], models.answers(module, spec, batch[:1], classes, role))
    if not apart <= ALONE:
        raise RequestError(
            f"{role} model '{spec.factory}' answers an example differently where others are beside it, by {apart:.2g} "
            "of its largest logit in evaluation mode. Expected each answer to follow from its own row, since batches "
            "are cut in several ways: keep running statistics instead of the batch's own."
        )
    _check_odd(module, spec, odd, x, classes, role)
    if bool((first >= 0).all()) and bool(((first.float().sum(dim=-1) - 1).abs() <= SUMS_TO_1).all()):
        return (
            f"The {role} model '{spec.factory}' returns probabilities (its rows sum to 1: a softmax at the end?). "
            "Expected logits: the loss and the temperature take a softmax of their own. Leave the model's out.",
        )
    return ()


def _check_odd(module: nn.Module, spec: ModelSpec, odd: Sequence[OddRow], x: Inputs, classes: int, role: str) -> None:
    """Raise `RequestError` where the answer for one of the odd rows is not finite; stops when it takes long."""
    started, at_once = time.monotonic(), min(ODD_ROWS, _affordable(module, x))
    for start in range(0, len(odd), at_once):
        some = odd[start : start + at_once]
        finite = _finite(_answers_to(module, spec, some, classes, role)).tolist()
        for row, sound in zip(some, finite, strict=True):
            if not sound:
                raise RequestError(
                    f"{role} model '{spec.factory}' returned NaN or infinity for {row}. Expected finite logits for "
                    "every example: guard divisions, logarithms and roots, for example by a small number in the "
                    "denominator, or leave such examples out."
                )
        if time.monotonic() - started > AFFORDABLE_S:
            return


def _answers_to(module: nn.Module, spec: ModelSpec, some: Sequence[OddRow], classes: int, role: str) -> Tensor:
    """Logits [n, K]. Raises: `RequestError`, which names the row where one row alone makes the network fail."""
    try:
        return models.answers(module, spec, as_tensor(np.stack([row.x for row in some])), classes, role)
    except RequestError as error:
        if len(some) == 1:
            raise RequestError(f"{error}. That was {some[0]}.") from error
        for row in some:
            _answers_to(module, spec, [row], classes, role)
        raise


def _try_piece(
    role: Role, progress: Progress, size: int, affordable: int, classes: int, first: Sequence[np.ndarray]
) -> None:
    """Train for a step on a piece of `size` rows, or of the affordable ones where these serve as well."""
    for rows in dict.fromkeys((min(size, affordable), size)):
        try:
            return _step(role, progress, _batch(role, rows, classes, first[: rows // 2]), classes, size)
        except RequestError:
            if rows == size:
                raise


def _step(role: Role, progress: Progress, batch: Batch, classes: int, size: int) -> None:
    module, rows = progress.model, len(batch.x)

    def forward(x: Tensor) -> Tensor:
        logits = models.logits_of(module(x), role.model, x, classes, role.name, " in training mode")
        if not logits.requires_grad:
            raise RequestError(
                f"{role} returns logits without a gradient in training mode, so nothing can be learnt. Expected an "
                "output that follows from its parameters: no detach(), no torch.no_grad() and no argmax inside forward."
            )
        if not _finite(logits).all():
            raise RequestError(f"{role} returned NaN or infinity in training mode for a piece of {rows} examples.")
        return logits

    spec = role.training.model_copy(update={"micro_batch_size": None})
    try:
        module.train()
        losses = train_loop.step(progress, forward, role.loss, batch, spec, torch.tensor(1.0))
    except RequestError:
        raise
    except Exception as error:  # the user's own code: anything can come
        raise RequestError(
            f"{role} failed in a step of training on {rows} examples ({batch.x.dtype} {list(batch.x.shape)}): "
            f"{type(error).__name__}: {error}{_why_so_few(role, size)}"
        ) from error
    _check_gradients(role, module)
    if not all(torch.isfinite(loss) for loss in losses):
        raise RequestError(f"{role}: the loss of its first step is NaN or infinity, on {rows} examples.")
    if not _finite(models.answers(module, role.model, _spread(role.examples.x, ROWS), classes, role.name)).all():
        raise RequestError(
            f"{role} returned NaN or infinity after one step of training. Lower `learning_rate`, or set "
            "`gradient_clip`."
        )


def _check_gradients(role: Role, module: nn.Module) -> None:
    learnt = {name: p.grad for name, p in module.named_parameters() if p.requires_grad}
    without = [name for name, gradient in learnt.items() if gradient is None]
    most = role.workers[1]
    if without and (most > 1 or len(without) == len(learnt)):
        raise RequestError(
            f"{role}: no gradient reaches {_some(without)} in a step of training"
            + (f", and {most} workers exchange a gradient of each parameter" if len(without) < len(learnt) else "")
            + ". Use them in forward, leave them out, or freeze them with requires_grad_(False)"
            + ("; one worker (student.num_workers: 1) takes them as they are." if most > 1 else ".")
        )
    wrong = [name for name, gradient in learnt.items() if gradient is not None and not _finite(gradient).all()]
    if wrong:
        raise RequestError(
            f"{role}: NaN or infinity in the gradient of {_some(wrong)} in the first step of training, although the "
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


def _check_compiled(role: Role, module: nn.Module, classes: int) -> None:
    """Raise `RequestError` where `torch.compile` cannot follow the network; generates no code, so takes seconds."""
    forward = torch.compile(module.train(), backend="aot_eager")
    batch = _batch(role, max(2, ROWS), classes, [])
    try:
        forward(batch.x).float().sum().backward()
    except Exception as error:  # of the compiler or the model
        raise RequestError(
            f"{role} cannot be compiled ({type(error).__name__}: {_brief(error)}). Set `compile: false` for it."
        ) from error
    finally:
        torch._dynamo.reset()
        module.zero_grad(set_to_none=True)


def check_compiler() -> None:
    """Raise `RequestError` where this machine cannot compile anything for its CPU; compiles a tiny function."""
    try:
        with undisturbed(0), torch.no_grad():
            torch.compile(lambda x: (x * 2).relu())(torch.ones(8))
    except Exception as error:  # of the compiler
        raise RequestError(
            f"training.compile: this machine cannot compile ({type(error).__name__}: {_brief(error)}). Expected a C++ "
            "compiler and Python's headers, such as the packages g++ and python3-dev; or set `compile: false`."
        ) from error
    finally:
        torch._dynamo.reset()


def _check_reloaded(role: Role, module: nn.Module, classes: int) -> None:
    """Save, load into a network that was built from another seed, as everything after training does, and compare."""
    batch = _spread(role.examples.x, ROWS)
    try:
        content = checkpoints.packed(module.state_dict())
        loaded = models.build(role.model)
        checkpoints.fill(loaded, content, "what was saved of it")
    except RequestError as error:
        raise RequestError(f"{role} cannot be saved and loaded: {error}") from error
    _check_same(module, loaded, role.model, batch, classes, role.name)


def _check_same(module: nn.Module, loaded: nn.Module, spec: ModelSpec, batch: Tensor, classes: int, role: str) -> None:
    apart = _apart(*(models.answers(each, spec, batch, classes, role) for each in (module, loaded)))
    if not apart <= SAME:
        raise RequestError(
            f"{role} model '{spec.factory}' answers differently once its weights are saved and loaded, by {apart:.2g} "
            f"of its largest logit. {_lost(module, loaded)}"
        )


def _lost(module: nn.Module, loaded: nn.Module) -> str:
    found = differing_state(module, loaded)
    kinds = f": {_some(found)}" if found else " (plain attributes, buffers with persistent=False, globals)"
    return (
        f"It has state outside its state_dict, which is not saved and is made again from another seed{kinds}. Keep it "
        "with self.register_buffer(name, tensor), or compute it without random numbers."
    )


def _batch(role: Role, rows: int, classes: int, first: Sequence[np.ndarray]) -> Batch:
    """A piece of `rows` training rows, those of `first` among them; soft targets that the loss needs are made up."""
    ids = _ids(len(role.examples), rows)
    x = gather(role.examples.x, ids)
    if first:
        x[: len(first)] = as_tensor(np.stack(first))
    y = torch.from_numpy(role.examples.y[ids])
    soft: Tensor | TopK | None = None
    if role.loss.soft_weight:
        soft = torch.softmax(torch.randn(rows, classes) / role.loss.temperature, dim=-1)
        soft = soft if role.loss.top_k is None else compress(soft, role.loss.top_k, torch.float32)
    return Batch(x, y, soft, 0.0, rows, int((y != UNLABELLED).sum()))


def _spread(x: Inputs, rows: int) -> Tensor:
    """Some of the rows, from first to last, as models take them."""
    return gather(x, _ids(len(x), min(rows, len(x))))


def _ids(examples: int, rows: int) -> Index:
    return np.linspace(0, examples - 1, rows).round().astype(np.int64)


def _affordable(module: nn.Module, x: Inputs) -> int:
    """How many rows a forward and a backward pass may have to be quick; `ROWS` at least."""
    batch, started = _spread(x, ROWS), time.perf_counter()
    with torch.no_grad():
        module.eval()(batch)
    seconds = 3 * (time.perf_counter() - started) / len(batch)
    return max(ROWS, int(AFFORDABLE_S / max(seconds, 1e-9)))


def _apart(one: Tensor, other: Tensor) -> float:
    """The largest difference of logits [B, K], in parts of the largest logit; NaN where one of them holds NaN."""
    one, other = one.double(), other.double()
    return float((one - other).abs().amax() / (one.abs().amax() + NOTHING)) if one.numel() else 0.0


def _finite(values: Tensor) -> Tensor:
    """[N] bool: which rows are finite throughout."""
    return torch.isfinite(values).reshape(len(values), -1).all(dim=1) if values.dim() else torch.isfinite(values)[None]


def _some(names: Sequence[str]) -> str:
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return ", ".join(f"'{name}'" for name in names[:SHOWN]) + more


def _brief(error: BaseException) -> str:
    """The beginning of a message; compilers end theirs with advice of many lines."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return " ".join(lines)[:400] or "no message"
