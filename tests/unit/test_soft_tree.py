"""`examples/soft-tree`: paths, answers, losses and penalty against plain loops; workers, pieces, resuming; drawings."""

from __future__ import annotations

import copy
import importlib.util
import io
import math
from itertools import pairwise
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from tests.makers import blobs, in_memory
from workers.data.dataset import Split
from workers.errors import RequestError
from workers.specs.models import ModelSpec
from workers.specs.objective import DistillationSpec
from workers.specs.training import TrainingSpec
from workers.training import loop
from workers.training.loader import HardLabels
from workers.training.loop import Progress, Task
from workers.trial import trial

FOLDER = Path(__file__).parents[2] / "examples/soft-tree"
DEPTH, INPUTS, CLASSES, ROWS = 3, 16, 4, 12
NODES, LEAVES = 2**DEPTH - 1, 2**DEPTH
PENALTY = 0.3


def loaded(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"soft_tree_{name}", FOLDER / f"{name}.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


models, drawing = loaded("models"), loaded("drawing")


def made(**kwargs: Any) -> Any:
    torch.manual_seed(0)
    tree = models.tree(DEPTH, INPUTS, CLASSES, **{"penalty": PENALTY, **kwargs})
    with torch.no_grad():
        tree.filters.weight.mul_(6)  # so that decisions are far from 1/2
    return tree


def batch(seed: int = 1) -> tuple[Tensor, Tensor]:
    """x [ROWS, INPUTS] and a target distribution [ROWS, CLASSES]."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(ROWS, INPUTS, generator=generator)
    return x, torch.randn(ROWS, CLASSES, generator=generator).softmax(-1)


def right(tree: Any, x: Tensor, node: int) -> Tensor:
    """p of one node for one example, as the paper writes it."""
    beta = tree.beta if isinstance(tree.beta, float) else tree.beta[node]
    return torch.sigmoid(beta * (tree.filters.weight[node] @ x + tree.filters.bias[node]))


def path(tree: Any, x: Tensor, node: int) -> Tensor:
    """P of a node or leaf for one example: the product of the decisions on the way up."""
    found = torch.ones(())
    while node:
        parent, is_right = (node - 1) // 2, node % 2 == 0
        p = right(tree, x, parent)
        found, node = found * (p if is_right else 1 - p), parent
    return found


def alphas(tree: Any, x: Tensor) -> list[Tensor]:
    """alpha of each inner node in one batch."""
    found = []
    for node in range(NODES):
        reached = [path(tree, row, node) for row in x]
        taken = [p * right(tree, row, node) for p, row in zip(reached, x, strict=True)]
        found.append(torch.stack(taken).sum() / torch.stack(reached).sum())
    return found


def depth_of(node: int) -> int:
    return int(math.log2(node + 1))


def balance(found: list[Tensor]) -> Tensor:
    """C of the shares alpha of all inner nodes."""
    total = torch.zeros(())
    for node, alpha in enumerate(found):
        rate = PENALTY * 2.0 ** -depth_of(node)
        total = total - rate * (0.5 * torch.log(alpha) + 0.5 * torch.log(1 - alpha))
    return total


def papers_loss(tree: Any, x: Tensor, targets: Tensor, leafwise: bool) -> Tensor:
    """Cross entropy with each leaf weighted by P, or with the mean of the leaves, and the penalty."""
    total = torch.zeros(())
    for row, target in zip(x, targets, strict=True):
        mean = torch.zeros(CLASSES)
        for leaf in range(LEAVES):
            weight, answer = path(tree, row, NODES + leaf), torch.softmax(tree.leaves[leaf], -1)
            mean = mean + weight * answer
            if leafwise:
                total = total - weight * (target * torch.log(answer)).sum()
        if not leafwise:
            total = total - (target * torch.log(mean)).sum()
    return total / len(x) + balance(alphas(tree, x))


def gradients(tree: Any) -> Tensor:
    found: list[Tensor | None] = [parameter.grad for parameter in tree.parameters()]
    assert all(gradient is not None for gradient in found)
    return torch.cat([gradient.flatten() for gradient in found if gradient is not None])


def stepped(tree: Any, x: Tensor, targets: Tensor) -> Tensor:
    """The gradients of the standard loss of a batch."""
    tree.zero_grad(set_to_none=True)
    nn.functional.cross_entropy(tree.train()(x), targets).backward()
    return gradients(tree)


def test_the_paths_to_all_leaves_have_a_probability_of_1() -> None:
    tree, (x, _) = made(), batch()
    found = tree.paths(x).exp()
    torch.testing.assert_close(found[:, -LEAVES:].sum(1), torch.ones(ROWS))
    expected = [[path(tree, row, node).item() for node in range(NODES + LEAVES)] for row in x]
    torch.testing.assert_close(found, torch.tensor(expected))


def test_the_answer_is_that_of_the_most_probable_leaf() -> None:
    tree, (x, _) = made().eval(), batch()
    answers, reached = tree(x), tree.paths(x)[:, -LEAVES:].detach()
    torch.testing.assert_close(answers.exp().sum(1), torch.ones(ROWS))
    for row in range(ROWS):
        leaf = max(range(LEAVES), key=lambda k: float(reached[row, k]))
        torch.testing.assert_close(answers[row], tree.leaves[leaf].log_softmax(-1))
    assert len({int(k) for k in reached.argmax(1)}) > 2
    assert torch.equal(tree(x[3:4])[0], answers[3])


@pytest.mark.parametrize("leafwise", [False, True])
@pytest.mark.parametrize("beta", [1.5, None])
def test_the_standard_loss_has_the_gradient_of_the_papers(leafwise: bool, beta: float | None) -> None:
    tree, (x, targets) = made(leafwise=leafwise, beta=beta), batch()
    found = stepped(tree, x, targets)
    tree.zero_grad(set_to_none=True)
    papers_loss(tree, x, targets, leafwise).backward()
    torch.testing.assert_close(found, gradients(tree), atol=1e-6, rtol=1e-4)
    assert found.abs().amax() > 0.01


def test_the_penalty_is_that_of_running_averages_with_windows_that_grow_with_depth() -> None:
    tree = made()
    sums = np.zeros((NODES, 2))
    for seed in range(3):
        x, _ = batch(seed)
        paths = tree.paths(x)
        found = tree.imbalance(paths.exp().sum(0)[1:].view(-1, 2))
        for node in range(NODES):
            newest = 2.0 ** -depth_of(node)
            for side in (0, 1):
                flow = sum(path(tree, row, 2 * node + 1 + side).item() for row in x)
                sums[node, side] = (1 - newest) * sums[node, side] + newest * flow
        expected = balance([torch.tensor(value) for value in sums[:, 1] / sums.sum(1)])
        assert found.item() == pytest.approx(expected.item(), rel=1e-5)


def test_a_balanced_tree_has_the_least_penalty_and_an_unused_branch_a_finite_one() -> None:
    even = torch.ones(NODES, 2)
    least = PENALTY * DEPTH * math.log(2)  # a level has 2^d nodes of rate 2^-d
    assert made().imbalance(even).item() == pytest.approx(least, rel=1e-6)
    unused = torch.tensor([[0.0, 2.0]]).repeat(NODES, 1).requires_grad_()
    value = made().imbalance(unused)
    value.backward()
    assert least < value.item() < math.inf
    assert unused.grad is not None and torch.isfinite(unused.grad).all()


@pytest.mark.parametrize("leafwise", [False, True])
@pytest.mark.parametrize("cut", [5, 0])
def test_two_workers_take_the_step_of_one(leafwise: bool, cut: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each has a cut of the batch, perhaps an empty one; the mean of their gradients is the gradient of the batch."""
    whole, (x, targets) = made(leafwise=leafwise), batch()
    expected = stepped(whole, x, targets)
    cuts = [(x[:cut], targets[:cut]), (x[cut:], targets[cut:])]
    sums: list[Tensor] = []
    monkeypatch.setattr(models.dist, "is_initialized", lambda: True)
    monkeypatch.setattr(models.dist, "get_world_size", lambda: 2)
    monkeypatch.setattr(models.dist, "all_reduce", lambda mine: sums.append(mine.clone()))
    for part, _ in cuts:
        made(leafwise=leafwise).train()(part)
    total = sums[0] + sums[1]
    monkeypatch.setattr(models.dist, "all_reduce", lambda mine: mine.copy_(total))
    found = []
    for part, target in cuts:
        tree = made(leafwise=leafwise).train()
        loss = nn.functional.cross_entropy(tree(part), target, reduction="sum") / ROWS
        loss.backward(torch.tensor(2.0))  # as the training loop does, whose workers take the mean
        found.append(gradients(tree))
        torch.testing.assert_close(tree.flows, whole.flows)
    torch.testing.assert_close((found[0] + found[1]) / 2, expected, atol=1e-6, rtol=1e-4)


def test_a_pass_without_gradients_leaves_the_averages() -> None:
    tree, (x, _) = made().train(), batch()
    with torch.no_grad():
        tree(x)
    assert not tree.flows.any()
    tree(x)
    assert tree.flows.any()


SPEC = TrainingSpec(epochs=12, batch_size=64, learning_rate=5e-2, schedule="linear")
SOFT = DistillationSpec(temperature=2.0, soft_weight=0.9, hard_weight=0.1)


def task(soft: bool) -> Task:
    train, validation = Split(*blobs(400, 1)), Split(*blobs(200, 2))
    if not soft:
        return Task(HardLabels(train), validation)
    targets = np.full((400, 3), 0.1, np.float32)
    targets[np.arange(400), train.y] = 0.8
    return Task(in_memory(train, targets), validation, SOFT)


def start() -> Progress:
    torch.manual_seed(0)
    return loop.begin(models.tree(2, 8, 3), SPEC, 400)


@pytest.mark.parametrize("soft", [False, True])
def test_it_learns_by_the_standard_terms_and_resumes_as_if_never_stopped(soft: bool) -> None:
    whole, first, resumed = start(), start(), start()
    epochs = list(loop.epochs(whole, task(soft), SPEC, seed=3))
    assert epochs[-1].validation_accuracy > 0.7
    next(loop.epochs(first, task(soft), SPEC, seed=3))
    saved = io.BytesIO()
    torch.save(first.state(), saved)
    saved.seek(0)
    resumed.restore(torch.load(saved, weights_only=True))
    list(loop.epochs(resumed, task(soft), SPEC, seed=3))
    one, other = whole.model.state_dict(), resumed.model.state_dict()
    assert one.keys() == other.keys() and "flows" in one
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_a_run_accepts_the_tree_and_its_teacher() -> None:
    rng = np.random.default_rng(0)
    split = Split(rng.random((40, 784), np.float32), np.arange(40) % 10)
    training = TrainingSpec(epochs=1, batch_size=16)
    for factory, loss in (("models:tree", SOFT), ("models:convolutional", loop.HARD_LABELS)):
        model = ModelSpec(kind="python", factory=factory, folder=str(FOLDER))
        role = trial.Role("student", model, training, 0, split, loss, (1, 2))
        assert trial.check_training(role, 10, []) == ()


def test_batches_in_pieces_are_refused_before_a_run() -> None:
    kwargs = {"depth": 2, "inputs": 8, "classes": 3}
    model = ModelSpec(kind="python", factory="models:tree", folder=str(FOLDER), kwargs=kwargs)
    training = TrainingSpec(epochs=1, batch_size=16, micro_batch_size=8)
    role = trial.Role("student", model, training, 0, Split(*blobs(40, 1)), SOFT)
    with pytest.raises(RequestError, match=r"student .* `micro_batch_size` is 8, .* leave `micro_batch_size` out"):
        trial.check_training(role, 3, [])


@pytest.mark.parametrize("levels", [1, DEPTH, 9])
def test_a_figure_has_a_filter_for_each_node_and_bars_for_each_leaf(levels: int) -> None:
    tree = made()
    before = copy.deepcopy(tree.state_dict())
    figure = drawing.tree_figure(tree, "abcd", levels)
    drawn = min(levels, DEPTH)
    axes = figure.axes[1:]  # the first is the canvas behind them
    assert [len(each.images) for each in axes] == [1] * (2**drawn - 1) + [0] * 2**drawn
    assert all(len(each.patches) == CLASSES for each in axes[2**drawn - 1 :])
    if drawn == DEPTH:
        answers = ["abcd"[k] for k in tree.leaves.argmax(-1)]
        assert [each.get_xlabel() for each in axes[2**drawn - 1 :]] == answers
    assert all(torch.equal(before[name], value) for name, value in tree.state_dict().items())
    figure.savefig(io.BytesIO(), dpi=20)


def test_a_figure_follows_an_example_to_its_leaf() -> None:
    tree, (x, _) = made().eval(), batch()
    answer = int(tree(x[0][None]).argmax())
    figure = drawing.path_figure(tree, x[0], (answer + 1) % CLASSES, "abcd")
    leaf = int(tree.paths(x[:1])[0, -LEAVES:].argmax())
    nodes = drawing.path_to(leaf, DEPTH)
    assert nodes[0] == 0 and nodes[-1] == NODES + leaf
    chance = 1.0
    for node, after in pairwise(nodes):
        p = right(tree, x[0], node).item()
        chance *= p if after == 2 * node + 2 else 1 - p
    assert tree.paths(x[:1])[0, nodes[-1]].exp().item() == pytest.approx(chance, rel=1e-5)
    titles = [each.get_title() for each in figure.axes if each.get_title()]
    turns = ["right" if after == 2 * node + 2 else "left" for node, after in pairwise(nodes)]
    assert titles[0] == "the example" and [title.split()[0] for title in titles[1:]] == turns
    assert figure.axes[-1].get_xlabel() == "abcd"[answer]
    figure.savefig(io.BytesIO(), dpi=20)


def test_the_report_gets_the_tree_and_a_path() -> None:
    x = np.random.default_rng(0).random((3, INPUTS)).astype(np.float32)
    x.flags.writeable = False  # as Ray returns arrays
    found = drawing.figures(made(), x, np.array([0, 1, 2]), example=2)
    assert [*found] == ["The tree", "The path of test example 2"]
    texts = [text.get_text() for axes in found["The path of test example 2"].axes for text in axes.texts]
    assert any(text.startswith("2, answered as") for text in texts)
