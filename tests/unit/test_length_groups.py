"""Examples are computed in the order of their lengths, and answers come back in their own order."""

import numpy as np
import pytest
import torch

from workers.data import examples
from workers.data.augment import AugmentedColumns
from workers.data.collate import Collator, NamedInputs, collate
from workers.data.dataset import Split
from workers.data.examples import Columns
from workers.data.ragged import Ragged
from workers.data.tokens import IDS, Tokenization
from workers.evaluation.metrics import Inference, log_probabilities
from workers.models.predictor import Outputs, Predictor
from workers.training.loader import HardLabels, batches, by_length

CPU = torch.device("cpu")


def ragged(count: int, seed: int = 0) -> Ragged:
    draw = np.random.default_rng(seed)
    return Ragged.of([draw.integers(1, 99, draw.integers(1, 60)) for _ in range(count)])


def epoch(
    split: Split, batch_size: int, *, rank: int = 0, world: int = 1, number: int = 0, collator: Collator = collate
) -> list[NamedInputs]:
    drawn = batches(HardLabels(split), number, batch_size, 7, CPU, rank=rank, world=world, collator=collator)
    return [batch.x for batch in drawn]


def padding(of: list[NamedInputs]) -> float:
    """Share of padding among all elements of the batches."""
    masks = [batch.padded()["attention_mask"] for batch in of]
    return 1 - sum(int(mask.sum()) for mask in masks) / sum(mask.numel() for mask in masks)


def firsts(of: list[NamedInputs]) -> list[list[int]]:
    """A batch's rows, by a column that numbers them."""
    return [batch.columns["number"].tolist() for batch in of]


def test_batches_of_ragged_rows_have_similar_lengths() -> None:
    column, count = ragged(2000), 2000
    grouped = Split(Columns({"tokens": column, "number": np.arange(count)}), np.zeros(count, np.int64))
    found = epoch(grouped, 16)
    drawn = np.random.default_rng([7, 0]).permutation(count)
    at_random = [collate(grouped.x, rows) for rows in np.array_split(drawn, len(found))]
    assert padding(found) < 0.1 < 0.3 < padding(at_random)
    assert sorted(row for rows in firsts(found) for row in rows) == list(range(count))  # each once
    assert firsts(found) == firsts(epoch(grouped, 16))
    assert firsts(found) != firsts(epoch(grouped, 16, number=1))
    assert [len(rows) for rows in firsts(found)] == [len(rows) for rows in at_random]


def test_two_workers_share_the_batches_of_one() -> None:
    split = Split(Columns({"tokens": ragged(301), "number": np.arange(301)}), np.zeros(301, np.int64))
    alone = firsts(epoch(split, 16))
    of_each = [firsts(epoch(split, 16, rank=rank, world=2)) for rank in range(2)]
    assert [a + b for a, b in zip(*of_each, strict=True)] == alone


def test_versions_of_an_example_are_grouped_by_its_length() -> None:
    columns = {"tokens": ragged(2000), "number": np.arange(2000)}
    split = Split(AugmentedColumns(columns, transform=lambda x, draws: x, views=3), np.zeros(2000, np.int64))
    found = epoch(split, 16, number=1)
    assert padding(found) < 0.1 and sorted(row for rows in firsts(found) for row in rows) == list(range(2000))
    of_each = [firsts(epoch(split, 16, rank=rank, world=2, number=1)) for rank in range(2)]
    assert [a + b for a, b in zip(*of_each, strict=True)] == firsts(found)
    ids = np.array([4005, 7, 2009])
    order = examples.by_length(split.x, ids)  # as teachers compute the rows of a piece
    assert order.tolist() == np.argsort(columns["tokens"].lengths[[5, 7, 9]], kind="stable").tolist()


def test_a_network_groups_by_its_own_tokens(monkeypatch: pytest.MonkeyPatch) -> None:
    """Those of other models of the run are in no key of the network."""
    monkeypatch.setattr(Tokenization, "padding", {})
    own, other = (Tokenization("own"), {IDS: ragged(600)}), (Tokenization("other"), {IDS: ragged(600, 1)})
    columns = {"text": Ragged.packed(np.zeros(600, np.uint8), np.ones(600, np.int64)), "number": np.arange(600)}

    def drawn(*known: tuple[Tokenization, dict[str, Ragged]], tokens: Tokenization = own[0]) -> list[list[int]]:
        split = Split(Columns(columns, derived=dict(known)), np.zeros(600, np.int64))
        return firsts(epoch(split, 16, collator=Collator(tokens=tokens)))

    assert drawn(own) == drawn(own, other) == drawn(other, own)
    assert drawn(own) != drawn(own, other, tokens=other[0]) == drawn(other, tokens=other[0])


def test_dense_rows_keep_their_order() -> None:
    split = Split(np.arange(300, dtype=np.float32)[:, None], np.zeros(300, np.int64))
    runs = list(HardLabels(split).runs(0, 7))
    assert list(by_length(iter(runs), None, [100, 100, 100], [7, 0])) == runs


class Counting(Predictor):
    """Answers with the sum of an example's own elements, and the length of the batch that it was in."""

    def __init__(self) -> None:
        self.padded: list[int] = []

    @classmethod
    def load(cls, model: object, weights: str) -> "Counting":
        raise NotImplementedError

    def __call__(self, x: object, precision: str = "float32") -> Outputs:
        assert isinstance(x, NamedInputs)
        tokens = x.padded()["tokens"]
        self.padded.append(tokens.shape[1])
        return Outputs(torch.stack([tokens.sum(1) / 1000, -tokens.sum(1) / 1000], 1).float())


@pytest.mark.parametrize("size", [7, 64])
def test_predictions_are_in_the_order_of_the_examples(size: int) -> None:
    column, predictor = ragged(200), Counting()
    found = log_probabilities(predictor, Columns({"tokens": column}), Inference("float32", size))
    sums = torch.tensor([int(row.flat.sum()) for row in (column[k : k + 1] for k in range(200))]) / 1000
    assert np.allclose(found, torch.log_softmax(torch.stack([sums, -sums], 1).float(), -1), atol=1e-6)
    assert predictor.padded == sorted(predictor.padded)
