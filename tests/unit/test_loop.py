"""The loop: it learns, repeats itself, resumes as if never stopped, and does not care how a batch is cut."""

import io
import random
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from tests.makers import blobs, in_memory
from workers.data.dataset import Split
from workers.errors import RunError
from workers.specs.objective import DistillationSpec
from workers.specs.training import TrainingSpec
from workers.training import loop
from workers.training.loader import HardLabels
from workers.training.loop import Progress, Task

NO_DROPOUT = TrainingSpec(epochs=2, batch_size=64, learning_rate=5e-3, optimizer="sgd")
SPEC = TrainingSpec(epochs=4, batch_size=64, learning_rate=5e-3, schedule="cosine", warmup_share=0.1)


SOFT_ALONE = DistillationSpec(temperature=2.0, soft_weight=1.0, hard_weight=0.0)


def task(soft: bool = False) -> Task:
    train, validation = Split(*blobs(500, 1)), Split(*blobs(200, 2))
    if not soft:
        return Task(HardLabels(train), validation)
    targets = np.full((500, 3), 0.1, np.float32)
    targets[np.arange(500), train.y] = 0.8
    return Task(in_memory(train, targets), validation, SOFT_ALONE)


class Noise(nn.Module):
    """Draws from the global generators of numpy and `random` while it learns."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + random.random() + np.random.random() if self.training else x


def start(spec: TrainingSpec = SPEC, *more: nn.Module) -> Progress:
    torch.manual_seed(0)
    dropout = nn.Dropout(0.0 if spec is NO_DROPOUT else 0.2)
    layers = nn.Sequential(nn.Linear(8, 16), dropout, nn.ReLU(), *more, nn.Linear(16, 3))
    return loop.begin(layers, spec, 500)


def finish(epochs: Iterator[object]) -> None:
    for _ in epochs:
        pass


def weights(progress: Progress) -> torch.Tensor:
    return torch.cat([value.flatten() for value in progress.kept_weights().values()])


def test_it_learns_from_labels_and_from_soft_targets() -> None:
    for soft in (False, True):
        spec = SPEC.model_copy(update={"epochs": 12})
        progress = start(spec)
        finish(loop.epochs(progress, task(soft), spec, seed=0))
        assert progress.history[-1].train_loss < progress.history[0].train_loss
        assert progress.history[-1].validation_accuracy > 0.7


def test_a_resumed_run_is_the_uninterrupted_one() -> None:
    whole = start(SPEC, Noise())
    finish(loop.epochs(whole, task(), SPEC, seed=3))
    first = start(SPEC, Noise())
    running = loop.epochs(first, task(), SPEC, seed=3)
    next(running)
    next(running)
    saved = io.BytesIO()
    torch.save(first.state(), saved)
    saved.seek(0)
    resumed = start(SPEC, Noise())
    resumed.restore(torch.load(saved, weights_only=True))
    finish(loop.epochs(resumed, task(), SPEC, seed=3))
    assert torch.equal(weights(whole), weights(resumed))
    assert [e.train_loss for e in whole.history] == [e.train_loss for e in resumed.history]


def test_a_student_that_equals_its_teacher_has_no_soft_loss() -> None:
    """The reported loss is a divergence: 0 for equal predictions, although their cross entropy is not."""
    spec = SPEC.model_copy(update={"epochs": 1, "learning_rate": 1e-12})
    x, y = blobs(500, 1)
    torch.manual_seed(0)
    model = nn.Linear(8, 3)
    targets = torch.softmax(model(torch.from_numpy(x)).detach() / 2.0, -1).numpy()
    progress = loop.begin(model, spec, 500)
    split = Split(x, y)
    finish(loop.epochs(progress, Task(in_memory(split, targets), split, SOFT_ALONE), spec, seed=0))
    assert abs(progress.history[0].train_loss) < 1e-5


@pytest.mark.parametrize("soft", [False, True])
def test_pieces_of_a_batch_make_the_whole_batchs_step(soft: bool) -> None:
    whole, pieces = start(NO_DROPOUT), start(NO_DROPOUT)
    finish(loop.epochs(whole, task(soft), NO_DROPOUT, seed=1))
    small = NO_DROPOUT.model_copy(update={"micro_batch_size": 20})
    finish(loop.epochs(pieces, task(soft), small, seed=1))
    torch.testing.assert_close(weights(whole), weights(pieces), atol=1e-5, rtol=1e-4)
    assert whole.history[-1].train_loss == pytest.approx(pieces.history[-1].train_loss, abs=1e-5)


def test_all_of_the_classes_kept_are_the_whole_distribution() -> None:
    whole, top = start(NO_DROPOUT), start(NO_DROPOUT)
    finish(loop.epochs(whole, task(soft=True), NO_DROPOUT, seed=1))
    train, validation = Split(*blobs(500, 1)), Split(*blobs(200, 2))
    targets = np.full((500, 3), 0.1, np.float32)
    targets[np.arange(500), train.y] = 0.8
    kept = Task(in_memory(train, targets, top_k=3), validation, SOFT_ALONE)
    finish(loop.epochs(top, kept, NO_DROPOUT, seed=1))
    torch.testing.assert_close(weights(whole), weights(top), atol=1e-5, rtol=1e-4)
    assert whole.history[-1].train_loss == pytest.approx(top.history[-1].train_loss, abs=1e-5)


def test_bfloat16_learns_the_same_task() -> None:
    spec = SPEC.model_copy(update={"epochs": 12, "precision": "bfloat16"})
    progress = start(spec)
    finish(loop.epochs(progress, task(soft=True), spec, seed=0))
    assert progress.history[-1].validation_accuracy > 0.7
    assert all(value.dtype == torch.float32 for value in progress.kept_weights().values())


@pytest.mark.parametrize(("micro_batch", "most"), [(30, 30), (None, 200)])
def test_validation_keeps_to_micro_batch_and_precision(micro_batch: int | None, most: int) -> None:
    spec = SPEC.model_copy(update={"epochs": 1, "micro_batch_size": micro_batch, "precision": "bfloat16"})
    progress, seen = start(spec), []
    progress.model.register_forward_hook(
        lambda module, arguments, logits: None if module.training else seen.append((len(logits), logits.dtype))
    )
    finish(loop.epochs(progress, task(), spec, seed=0))
    assert sum(rows for rows, _ in seen) == 200 and max(rows for rows, _ in seen) == most
    assert {dtype for _, dtype in seen} == {torch.bfloat16}


def test_an_example_without_an_answer_is_found_as_validation_computes_it() -> None:
    spec = SPEC.model_copy(update={"epochs": 1, "micro_batch_size": 30, "precision": "bfloat16"})
    asked, progress, seen = task(), start(spec), []
    asked.validation.x[31] = np.nan  # type: ignore[index]
    progress.model.register_forward_hook(
        lambda module, arguments, logits: None if module.training else seen.append((len(logits), logits.dtype))
    )
    with pytest.raises(RunError, match="the network answers NaN or infinity for example 31 of the validation split"):
        finish(loop.epochs(progress, asked, spec, seed=0))
    assert max(rows for rows, _ in seen) == 30 and {dtype for _, dtype in seen} == {torch.bfloat16}


def test_the_network_that_diverged_is_named() -> None:
    progress, diverging = start(), replace(task(), system="member-3")
    nn.init.constant_(next(progress.model.parameters()), torch.nan)
    with pytest.raises(RunError, match=r"^member-3: training diverged: the loss of epoch 1 is not finite\. Expected"):
        finish(loop.epochs(progress, diverging, SPEC, seed=0))


class Unsteady(nn.Module):
    """Answers NaN in its first validation batch alone."""

    asked = 0

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.asked += not self.training
        return x * torch.nan if self.asked == 1 and not self.training else x


def test_no_example_is_named_where_none_is_found() -> None:
    with pytest.raises(RunError, match=r"the network: the loss of the validation split is NaN .* computed again"):
        finish(loop.epochs(start(SPEC, Unsteady()), task(), SPEC, seed=0))


def test_the_best_epoch_is_kept_where_asked() -> None:
    spec = SPEC.model_copy(update={"keep": "best", "epochs": 6, "learning_rate": 0.5, "schedule": "constant"})
    progress = start(spec)
    snapshots = []
    for epoch in loop.epochs(progress, task(), spec, seed=0):
        snapshots.append((epoch.validation_accuracy, progress.model.state_dict()["0.weight"].clone()))
    best = max(accuracy for accuracy, _ in snapshots)
    first_best = next(weight for accuracy, weight in snapshots if accuracy == best)
    assert torch.equal(progress.kept_weights()["0.weight"], first_best)


def test_the_learning_rate_warms_up_and_falls() -> None:
    progress = start()
    rates = []
    for _ in range(32):
        progress.optimizer.step()
        progress.schedule.step()
        rates.append(progress.schedule.get_last_lr()[0])
    assert max(rates) <= SPEC.learning_rate and rates[-1] < 1e-6 and rates[0] < SPEC.learning_rate
