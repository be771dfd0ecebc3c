"""The loop: it learns, repeats itself, resumes as if never stopped, and does not care how a batch is cut."""

import io
from collections.abc import Iterator

import numpy as np
import torch
from torch import nn

from tests.makers import blobs
from workers import train_loop
from workers.data import Split
from workers.specs import DistillationSpec, TrainingSpec
from workers.train_loop import Progress, Task

SPEC = TrainingSpec(epochs=4, batch_size=64, learning_rate=5e-3, schedule="cosine", warmup_share=0.1)


def task(soft: bool = False) -> Task:
    train, validation = Split(*blobs(500, 1)), Split(*blobs(200, 2))
    if not soft:
        return Task(train, validation)
    targets = np.full((500, 3), 0.1, np.float32)
    targets[np.arange(500), train.y] = 0.8
    return Task(train, validation, targets, DistillationSpec(temperature=2.0, soft_weight=1.0, hard_weight=0.0))


def start(spec: TrainingSpec = SPEC) -> Progress:
    torch.manual_seed(0)
    return train_loop.begin(nn.Sequential(nn.Linear(8, 16), nn.Dropout(0.2), nn.ReLU(), nn.Linear(16, 3)), spec, 500)


def finish(epochs: Iterator[object]) -> None:
    for _ in epochs:
        pass


def weights(progress: Progress) -> torch.Tensor:
    return torch.cat([value.flatten() for value in progress.kept_weights().values()])


def test_it_learns_from_labels_and_from_soft_targets() -> None:
    for soft in (False, True):
        spec = SPEC.model_copy(update={"epochs": 12})
        progress = start(spec)
        finish(train_loop.epochs(progress, task(soft), spec, seed=0))
        assert progress.history[-1].train_loss < progress.history[0].train_loss
        assert progress.history[-1].validation_accuracy > 0.7


def test_a_resumed_run_is_the_uninterrupted_one() -> None:
    whole = start()
    finish(train_loop.epochs(whole, task(), SPEC, seed=3))
    first = start()
    running = train_loop.epochs(first, task(), SPEC, seed=3)
    next(running)
    next(running)
    saved = io.BytesIO()
    torch.save(first.state(), saved)
    saved.seek(0)
    resumed = start()
    resumed.restore(torch.load(saved, weights_only=True))
    finish(train_loop.epochs(resumed, task(), SPEC, seed=3))
    assert torch.equal(weights(whole), weights(resumed))
    assert [e.train_loss for e in whole.history] == [e.train_loss for e in resumed.history]


def test_a_student_that_equals_its_teacher_has_no_soft_loss() -> None:
    """The reported loss is a divergence: 0 for equal predictions, although their cross entropy is not."""
    spec = SPEC.model_copy(update={"epochs": 1, "learning_rate": 1e-12})
    x, y = blobs(500, 1)
    torch.manual_seed(0)
    model = nn.Linear(8, 3)
    targets = torch.softmax(model(torch.from_numpy(x)).detach() / 2.0, -1).numpy()
    loss = DistillationSpec(temperature=2.0, soft_weight=1.0, hard_weight=0.0)
    progress = train_loop.begin(model, spec, 500)
    finish(train_loop.epochs(progress, Task(Split(x, y), Split(x, y), targets, loss), spec, seed=0))
    assert abs(progress.history[0].train_loss) < 1e-5


def test_the_seed_decides_the_order() -> None:
    drawn = [np.concatenate(train_loop.draw_batches(100, 30, seed, epoch)) for seed, epoch in ((0, 0), (0, 1), (1, 0))]
    assert all((np.sort(order) == np.arange(100)).all() for order in drawn)
    assert len({order.tobytes() for order in drawn}) == 3


def test_no_batch_is_small() -> None:
    sizes = [len(batch) for batch in train_loop.draw_batches(129, 64, 0, 0)]
    assert sizes == [43, 43, 43]


def test_the_best_epoch_is_kept_where_asked() -> None:
    spec = SPEC.model_copy(update={"keep": "best", "epochs": 6, "learning_rate": 0.5, "schedule": "constant"})
    progress = start(spec)
    snapshots = []
    for epoch in train_loop.epochs(progress, task(), spec, seed=0):
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
