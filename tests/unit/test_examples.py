"""What the examples bring themselves: their splits, what their models do in training alone, and the decoder."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from workers.user_code import factories

EXAMPLES = Path(__file__).parents[2] / "examples"


def call(example: str, factory: str, **kwargs: Any) -> Any:
    return factories.call(factory, kwargs, str(EXAMPLES / example))


def test_mnist_splits_are_apart_and_balanced() -> None:
    found = call("mnist", "digits:splits")
    assert {name: len(y) for name, (_, y) in found.items()} == {"train": 2000, "validation": 500, "test": 2500}
    for x, y in found.values():
        assert x.shape[1:] == (784,) and x.dtype == np.float32 and 0 <= x.min() < x.max() <= 1
        assert len(set(np.bincount(y))) == 1
    rows = np.concatenate([x for x, _ in found.values()])
    assert len(np.unique(rows, axis=0)) == 5000


def test_mnist_reads_idx_files(tmp_path: Path) -> None:
    from tests.unit.test_data import write_idx

    for prefix, n in (("train", 40), ("t10k", 20)):
        write_idx(tmp_path / f"{prefix}-images-idx3-ubyte.gz", np.ones((n, 28, 28)) * 255)
        write_idx(tmp_path / f"{prefix}-labels-idx1-ubyte.gz", np.arange(n) % 10)
    found = call("mnist", "digits:splits", source=str(tmp_path), validation=10)
    assert {name: x.shape for name, (x, _) in found.items()} == {
        "train": (30, 784), "validation": (10, 784), "test": (20, 784)
    }  # fmt: skip


def test_jitter_shifts_in_training_alone() -> None:
    net = call("mnist", "models:net", hidden=8, jitter=2)
    image = torch.zeros(200, 28, 28)
    image[:, 14, 10] = 1
    shifted = net[0](image.view(200, -1)).view(200, 28, 28)
    rows, columns = shifted.nonzero()[:, 1], shifted.nonzero()[:, 2]
    assert set(rows.tolist()) == {12, 13, 14, 15, 16} and set(columns.tolist()) == {8, 9, 10, 11, 12}
    assert len(rows) == 200  # each image moved as a whole
    assert torch.equal(net.eval()[0](image.view(200, -1)), image.view(200, -1))


def test_the_norm_of_incoming_weights_is_bounded() -> None:
    net = call("mnist", "models:net", hidden=8, max_norm=0.5)
    with torch.no_grad():
        net[2].weight.mul_(100)
    net(torch.rand(4, 784))
    assert net[2].weight.norm(dim=1).max() <= 0.5001


def test_letters_are_apart() -> None:
    found = call("tabular", "letters:splits", labelled=2000)
    x = {name: given if name == "unlabeled" else given[0] for name, given in found.items()}
    rows = {name: len(given) for name, given in x.items()}
    assert rows == {"train": 2000, "validation": 1000, "unlabeled": 11668, "test": 4000}
    assert all(set(np.unique(found[name][1])) == set(range(26)) for name in ("train", "validation", "test"))
    assert len(np.unique(np.concatenate(list(x.values())), axis=0)) == sum(rows.values())


def test_speech_splits_share_no_words() -> None:
    module = factories._module("frames", str(EXAMPLES / "speech"), "frames:splits")
    corpus = module.read_corpus()
    said = {side: {corpus.transcripts[i] for i in corpus.of(side)} for side in ("train", "validation", "test")}
    assert not (said["train"] & said["test"] or said["train"] & said["validation"] or said["validation"] & said["test"])
    found = call("speech", "frames:splits", copies=1)
    for x, y in (found[side] for side in said):
        assert x.shape == (len(y), 840) and y.min() >= 0 and y.max() < 117
    assert len(found["unlabeled"]) > 0.9 * len(found["train"][1])
    everything = found["train"][0][:]
    assert abs(everything.mean()) < 0.05 and abs(everything.std() - 1) < 0.05


def test_members_are_perturbed_in_training_alone() -> None:
    net = call("speech", "models:acoustic", hidden=16, layers=1, speed=0.2, warp=0.1, gain=0.1, dropout=0.1)
    x = torch.randn(4, 840)
    assert not torch.equal(net(x), net(x))
    net.eval()
    assert torch.equal(net(x), net(x)) and net(x).shape == (4, 117)


@pytest.mark.slow
def test_the_true_labels_decode_to_the_words() -> None:
    """The decoder itself makes hardly an error; and it hears nothing where there is nothing to hear."""
    labels = call("speech", "frames:splits", copies=0)["test"][1]
    certain = np.full((len(labels), 117), 1e-4, np.float32)
    certain[np.arange(len(labels)), labels] = 1
    decode = factories.load("decode:word_error_rate", str(EXAMPLES / "speech"))
    assert decode(certain, labels, closed_vocabulary=True)["word_error_rate_closed"] < 0.03
    wrong = np.roll(certain, 40, axis=1)
    assert decode(wrong, labels, closed_vocabulary=True)["word_error_rate_closed"] > 0.8
