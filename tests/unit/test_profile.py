"""Operations and bytes of a network, counted from its shapes; samples of a data set."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention
from torch.utils.flop_counter import FlopCounterMode
from transformers import BertConfig, BertModel

from orchestrator.config.run_config import RunConfig
from tests.makers import write_config
from workers.data import loading
from workers.models import operations
from workers.models.profile import profile
from workers.specs.models import ModelSpec, SklearnModel


def test_operations_of_a_network_are_counted(tmp_path: Path) -> None:
    config = RunConfig.load(str(write_config(tmp_path)))
    found = profile(config.student.model, np.zeros((10, 8), np.float32))
    hidden = config.student.model.kwargs["hidden"]  # type: ignore[union-attr]
    assert found is not None
    assert found.forward_flops == 2 * (8 * hidden + hidden * 3)  # a product is two operations
    assert found.parameters == 9 * hidden + (hidden + 1) * 3 and found.weight_bytes == 4 * found.parameters
    assert 4 * (8 + hidden) <= found.activation_bytes <= 4 * (8 + 3 * hidden)  # inputs, and each layer's outputs


B, T, D, H = 2, 5, 8, 6
"""Examples, steps, inputs and outputs of the layers below."""
STEP = 2 * B * T * H
"""Operations of a product of each step's inputs with one column for each output, over the length of a column."""
X = torch.randn(B, T, D)


class Of(nn.Module):
    """A function as a module."""

    def __init__(self, function: Callable[..., Tensor]) -> None:
        super().__init__()
        self.function = function

    def forward(self, *x: Tensor) -> Tensor:
        return self.function(*x)


def attention(**options: Any) -> nn.Module:
    return Of(lambda x: scaled_dot_product_attention(x[:, None], x[:, None], x[:, None], **options))


def self_attention(need_weights: bool) -> nn.Module:
    layer = nn.MultiheadAttention(D, 2, batch_first=True)
    return Of(lambda x: layer(x, x, x, need_weights=need_weights)[0])


ATTENDED = 2 * (2 * B * T * T * D)
"""Products with keys, and with values."""
PROJECTED = 2 * B * T * D * (4 * D)
"""Queries, keys and values, and the output."""
LAYERS: dict[str, tuple[nn.Module, tuple[Tensor, ...], int]] = {
    "linear": (nn.Linear(D, H), (X,), STEP * D),
    "RNN": (nn.RNN(D, H), (X,), STEP * (D + H)),
    "GRU": (nn.GRU(D, H), (X,), 3 * STEP * (D + H)),
    "LSTM": (nn.LSTM(D, H), (X,), 4 * STEP * (D + H)),
    "LSTM without bias": (nn.LSTM(D, H, bias=False, batch_first=True), (X,), 4 * STEP * (D + H)),
    "LSTM of two layers and directions": (
        nn.LSTM(D, H, 2, bidirectional=True), (X,), 2 * 4 * STEP * (D + H + 2 * H + H)
    ),
    "LSTM with projections": (nn.LSTM(D, H, proj_size=3), (X,), 4 * STEP * (D + 3) + STEP * 3),
    "LSTM cell": (nn.LSTMCell(D, H), (X[:, 0],), 4 * STEP * (D + H) // T),
    "attention": (attention(), (X,), ATTENDED),
    "attention with dropout": (attention(dropout_p=0.1), (X,), ATTENDED),
    "heads that share keys": (
        Of(lambda q, k: scaled_dot_product_attention(q, k, k, enable_gqa=True)),
        (torch.randn(B, 4, T, D), torch.randn(B, 2, T, D)),
        4 * ATTENDED,
    ),
    "self-attention": (self_attention(False), (X,), PROJECTED + ATTENDED),
    "self-attention with its weights": (self_attention(True), (X,), PROJECTED + ATTENDED),
    "a frozen layer of a transformer": (
        nn.TransformerEncoderLayer(D, 2, H, batch_first=True).requires_grad_(False).eval(),
        (X,),
        PROJECTED + ATTENDED + 2 * STEP * D,
    ),
    "bilinear": (nn.Bilinear(D, D, H), (X, X), STEP * D * D),
    "convolution": (nn.Conv1d(T, H, 3), (X,), 2 * B * H * (D - 2) * T * 3),
    "transposed convolution": (nn.ConvTranspose1d(T, H, 3), (X,), 2 * B * H * D * T * 3),
    "grouped convolution": (nn.Conv1d(T, T, 3, groups=T), (X,), 2 * B * T * (D - 2) * 3),
    "embedding": (nn.Embedding(9, D), (torch.zeros(B, T, dtype=torch.int64),), 0),
    "einsum": (Of(lambda x: torch.einsum("btd,bsd->bts", x, x)), (X,), ATTENDED // 2),
    "matmul": (Of(lambda x: x @ x.mT), (X,), ATTENDED // 2),
    "matrix with a vector": (Of(lambda x: x[0] @ x[0, 0]), (X,), 2 * T * D),
    "matrix with a vector, added": (Of(lambda x: torch.addmv(x[0, :, 0], x[0], x[0, 0])), (X,), 2 * T * D),
    "two vectors": (Of(lambda x: x[0, 0] @ x[0, 1]), (X,), 2 * D),
    "sum of products": (Of(lambda x: torch.addbmm(x[0, :, :T], x, x.mT)), (X,), ATTENDED // 2),
    "distances": (Of(lambda x: torch.cdist(x, x)), (X,), ATTENDED // 2),
    "distances of many": (Of(lambda x: torch.cdist(x, x, compute_mode="use_mm_for_euclid_dist")), (X,), ATTENDED // 2),
    "sparse matrix": (Of(lambda x: torch.sparse.mm(torch.eye(T).to_sparse(), x[0])), (X,), 2 * T * D),
}  # fmt: skip


@pytest.mark.parametrize("name", LAYERS)
def test_multiply_adds_of_layers(name: str) -> None:
    module, x, expected = LAYERS[name]
    with operations.counted() as counter:
        module(*x)
    assert counter.get_total_flops() == expected


NETWORKS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "perceptron": (lambda: nn.Sequential(nn.Linear(D, 32), nn.ReLU(), nn.Linear(32, H)), (D,)),
    "convolutions": (lambda: nn.Sequential(nn.Conv2d(1, 4, 3), nn.ConvTranspose2d(4, 2, 2)), (1, D, D)),
    "transformer": (lambda: nn.TransformerEncoder(nn.TransformerEncoderLayer(D, 2, 16, batch_first=True), 2), (T, D)),
    "gated recurrence": (lambda: nn.GRU(D, H, 2, batch_first=True), (T, D)),
}  # fmt: skip


@pytest.mark.parametrize("name", NETWORKS)
def test_networks_that_torch_counts_have_its_count(name: str) -> None:
    made, shape = NETWORKS[name]
    module, x = made().train(), torch.randn(3, *shape)
    with FlopCounterMode(display=False) as torchs:
        module(x)
    with operations.counted() as own:
        module(x)
    assert own.get_total_flops() == torchs.get_total_flops() > 0


@pytest.mark.parametrize("dropout", [0.0, 0.1])
def test_products_of_attention_are_counted_with_and_without_dropout(dropout: float) -> None:
    """The counter of torch itself counts them with dropout alone."""
    small = BertConfig(
        vocab_size=9,
        hidden_size=D,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=16,
        attention_probs_dropout_prob=dropout,
    )
    network = BertModel(small, add_pooling_layer=False).train()
    with operations.counted() as counter:
        network(torch.zeros(B, T, dtype=torch.int64))
    assert counter.get_total_flops() == 2 * (PROJECTED + ATTENDED + 2 * 2 * B * T * D * 16)


FACTORIES = """
import torch
from torch import nn

def normed():  # a weight of its own for every pass
    return nn.utils.parametrizations.weight_norm(nn.Linear(8, 3))

class LowRank(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Parameter(torch.ones(3, 2)), nn.Parameter(torch.ones(2, 8))
    def forward(self, x):
        return x @ (self.a @ self.b).T

class Looked(nn.Module):
    def __init__(self):
        super().__init__()
        self.table, self.scale = nn.Embedding(1000, 3), nn.Parameter(torch.ones(3))
    def forward(self, x):
        return self.table(x.long().clamp(0, 999)).mean(dim=1) * self.scale
"""


@pytest.mark.parametrize(
    ("factory", "flops", "kept"),
    [("normed", 2 * 8 * 3, 4 * 8), ("LowRank", 2 * 8 * 3, 4 * 8), ("Looked", 2 * 3, None)],
)
def test_costs_of_a_batch_of_any_size_are_none_of_an_example(
    factory: str, flops: int, kept: int | None, tmp_path: Path
) -> None:
    (tmp_path / "nets.py").write_text(FACTORIES)
    found = profile(ModelSpec(factory=f"nets:{factory}", folder=str(tmp_path)), np.zeros((10, 8), np.float32))
    assert found is not None and found.forward_flops == flops
    assert kept is None or found.activation_bytes == kept


def test_other_libraries_are_not_counted() -> None:
    model = SklearnModel(kind="sklearn", factory="sklearn.tree:DecisionTreeClassifier", folder="")
    assert profile(model, np.zeros((10, 8), np.float32)) is None


def test_a_sample_has_a_share_of_every_split(tmp_path: Path) -> None:
    config = RunConfig.load(str(write_config(tmp_path)))
    whole = loading.load(config.every_split, 0)
    few = whole.sampled(0.25, 100)
    assert len(few.train) == max(100, round(0.25 * len(whole.train)))
    assert len(few.test) == max(64, round(0.25 * len(whole.test))) and few.classes == whole.classes
    rows = few.numbering.of(np.arange(len(few.train))).example_ids
    assert (np.load(tmp_path / "train.npz")["y"][rows] == few.train.y).all()
    assert few.digests["train"] != whole.digests["train"]
    every = whole.sampled(1.0, 1)
    assert len(every.train) == len(whole.train) and every.digests["test"] == whole.digests["test"]
