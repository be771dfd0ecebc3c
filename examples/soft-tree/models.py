"""A soft decision tree, and the nets that teach it.

Frosst and Hinton, "Distilling a Neural Network Into a Soft Decision Tree", 2017. In training a tree answers with a mean
of its leaves, to which the standard terms `soft` and `hard` apply. The penalty for unbalanced use is no term of the
objective: a term does not see inside a network, and the hard-label baseline learns by `hard` alone. So the network
itself adds the gradient of the penalty, for baseline and student alike.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

SHAPE = (1, 28, 28)
"""Of an image: channels, height, width."""
LEAST = 1e-12
"""The smallest share of a branch that has a logarithm."""


class Tree(nn.Module):
    """A full binary tree of learned filters, with a learned distribution at each leaf (section 2 of the paper).

    Nodes are numbered level by level, so that the children of node i are 2i + 1 on the left and 2i + 2 on the right.
    Node i sends x to the right with probability p_i(x) = sigmoid(beta_i (w_i x + b_i)). Its path probability P_i(x) is
    the product of the decisions that lead to it; leaf l answers Q_l = softmax(phi_l), whatever x is.
    """

    flows: Tensor
    newest: Tensor
    whole_batch = True
    """The penalty relates all examples of a batch, so a run refuses a `micro_batch_size` that cuts batches."""

    def __init__(
        self, depth: int, inputs: int, classes: int, *, beta: float | None, penalty: float, leafwise: bool
    ) -> None:
        super().__init__()
        nodes = 2**depth - 1
        self.depth, self.penalty, self.leafwise = depth, penalty, leafwise
        self.filters = nn.Linear(inputs, nodes)
        self.leaves = nn.Parameter(torch.randn(nodes + 1, classes))
        self.beta: float | nn.Parameter = nn.Parameter(torch.ones(nodes)) if beta is None else beta
        levels = torch.arange(1, nodes + 1, dtype=torch.float64).log2().floor()
        self.register_buffer("newest", 2.0 ** -levels[:, None].float(), persistent=False)
        self.register_buffer("flows", torch.zeros(nodes, 2))

    def decisions(self, x: Tensor) -> Tensor:
        """Logits [B, nodes] float32 of the right branches, for x [B, inputs]."""
        decided: Tensor = self.beta * self.filters(x)
        return decided.float()

    def paths(self, x: Tensor) -> Tensor:
        """log P [B, nodes + leaves] float32 of all nodes, level by level: the root first, the leaves last."""
        decided = self.decisions(x)
        levels = [torch.zeros_like(decided[:, :1])]  # len(x) would fix the batch size of an export
        for depth in range(self.depth):
            logits = decided[:, 2**depth - 1 : 2 ** (depth + 1) - 1]
            turns = torch.stack([nn.functional.logsigmoid(-logits), nn.functional.logsigmoid(logits)], dim=-1)
            levels.append((levels[-1].unsqueeze(-1) + turns).flatten(1))
        return torch.cat(levels, dim=1)

    def forward(self, x: Tensor) -> Tensor:
        """Log-probabilities [B, classes] float32 of the most probable leaf; in training logits of a mean of all leaves.

        x: [B, inputs] float32. The mean is log sum_l P_l Q_l, or with `leafwise` sum_l P_l log Q_l.
        """
        paths, answers = self.paths(x), self.leaves.log_softmax(dim=-1)
        reached = paths[:, -len(answers) :]
        if not self.training:
            return answers[reached.argmax(dim=-1)]
        if self.leafwise:
            logits = reached.exp() @ answers
        else:
            logits = (reached.exp() @ answers.exp()).clamp_min(torch.finfo(torch.float32).tiny).log()
        if not torch.is_grad_enabled():
            return logits
        workers = dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1
        beside = self.beside_cross_entropy(paths, logits, workers)
        joined: Tensor = WithGradientOf.apply(logits, beside, workers)  # type: ignore[no-untyped-call]
        return joined

    def beside_cross_entropy(self, paths: Tensor, logits: Tensor, workers: int = 1) -> Tensor:
        """What a batch's loss has beside the cross entropy with softmax(logits): disagreement of leaves, and penalty.

        paths: log P [B, nodes + leaves]. logits: z [B, classes]. Returns a scalar float32: its value is of the batch of
        all workers, its gradient by the examples of this one.

        The paper's loss is the cross entropy of the target t with each leaf, weighted by P, a mean over examples:

            sum_l P_l CE(t, Q_l) = -sum_k t_k z_k = CE(t, softmax(z)) - log sum_k exp(z_k),  z = sum_l P_l log Q_l

        The last part, >= 0, does not depend on t; it is 0 where all leaves that x may reach agree. It is 0 throughout
        without `leafwise`, since log sum_l P_l Q_l are log-probabilities.
        """
        sums = torch.cat([paths.exp().sum(dim=0), -logits.logsumexp(dim=-1).sum(dim=0, keepdim=True)])
        if workers > 1:
            sums = _valued(sums, _over_workers(sums))
        return sums[-1] / sums[0].clamp_min(1.0) + self.imbalance(sums[1:-1].view(-1, 2))

    def imbalance(self, flows: Tensor) -> Tensor:
        """The penalty for branches that are used unequally, a scalar, and its running averages (section 3).

            C = -sum_i lambda 2^-d (0.5 log alpha_i + 0.5 log(1 - alpha_i)),  alpha_i = sum_x P_i p_i / sum_x P_i

        flows: [nodes, 2] float32, the sums over a batch of P of the left and of the right child. For a node of depth d
        alpha is of an exponentially decaying average with a window of 2^d batches: as many examples reach it in these
        as reach the root in one. Its gradient is that of the batch's own alpha.
        """
        self.flows.lerp_(flows.detach(), self.newest)
        shares = _valued(_shares(flows), _shares(self.flows))
        return -0.5 * self.penalty * (self.newest * shares.clamp_min(LEAST).log()).sum()


class WithGradientOf(torch.autograd.Function):
    """Logits as they are, and in the backward pass a gradient of 1 for a penalty, as if the loss had it as a term."""

    @staticmethod
    def forward(ctx: Any, logits: Tensor, penalty: Tensor, workers: int) -> Tensor:
        """logits: [B, K]. penalty: []. workers: how many take the mean of their gradients."""
        ctx.gradient = penalty.new_full((), float(workers))
        return logits.view_as(logits)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, None]:
        """The gradient of the loss by the logits, unchanged, and that by the penalty."""
        return gradient, ctx.gradient, None


def _valued(differentiable: Tensor, value: Tensor) -> Tensor:
    """A tensor with the given value, and with the gradient of another."""
    return differentiable + (value - differentiable).detach()


def _over_workers(sums: Tensor) -> Tensor:
    total = sums.detach().clone()
    dist.all_reduce(total)
    return total


def _shares(flows: Tensor) -> Tensor:
    """[nodes, 2]: the share of each branch in what reaches its node."""
    return flows / flows.sum(dim=1, keepdim=True).clamp_min(LEAST)


def tree(
    depth: int = 8,
    inputs: int = math.prod(SHAPE),
    classes: int = 10,
    *,
    beta: float | None = 1.0,
    penalty: float = 0.1,
    leafwise: bool = False,
) -> nn.Module:
    """A soft decision tree with 2^depth leaves, for x [B, inputs] float32.

    beta: the inverse temperature of all decisions; None: one for each node, learned from 1. penalty: lambda at the
    root. leafwise: learn by the cross entropy with each leaf, as in the paper, not with their mean; exact at T = 1.
    """
    return Tree(depth, inputs, classes, beta=beta, penalty=penalty, leafwise=leafwise)


class Images(nn.Module):
    """Rows of pixels [B, channels * height * width] as images [B, channels, height, width]."""

    def __init__(self, shape: Sequence[int]) -> None:
        super().__init__()
        self.shape = tuple(shape)

    def forward(self, x: Tensor) -> Tensor:
        return x.view(-1, *self.shape)


def convolutional(
    channels: int = 16,
    hidden: int = 128,
    dropout: float = 0.5,
    *,
    shape: Sequence[int] = SHAPE,
    classes: int = 10,
) -> nn.Module:
    """Two convolutional layers and a hidden one, from rows of pixels to logits: the kind that teaches the paper's tree.

    channels: of the first layer; the second has twice as many. shape: of an image: channels, height, width.
    """
    colours, height, width = shape
    return nn.Sequential(
        Images(shape),
        nn.Conv2d(colours, channels, 5, padding=2),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(channels, 2 * channels, 5, padding=2),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(2 * channels * (height // 4) * (width // 4), hidden),
        nn.ReLU(),
        nn.Dropout(dropout),
        nn.Linear(hidden, classes),
    )
