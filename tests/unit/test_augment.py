"""Augmentation: each process makes the same version of an example, whatever it asks for beside it."""

from pathlib import Path

import numpy as np
import pytest
import torch

from tests.makers import in_memory
from workers.data.arrays import gather
from workers.data.augment import Augmented, Draws, augmented
from workers.data.dataset import Dataset, Split
from workers.data.examples import Columns
from workers.data.ragged import Ragged
from workers.errors import RequestError
from workers.specs.data import AugmentSpec
from workers.training import loader
from workers.training.loader import HardLabels

X = np.arange(60, dtype=np.float32).reshape(20, 3)
KEYS = np.arange(100_000, dtype=np.uint64)


def shaken(x: np.ndarray, draws: Draws, size: float) -> np.ndarray:
    return x + size * draws.uniform(-1, 1, x.shape[1])


def test_a_version_follows_from_example_view_and_seed() -> None:
    views = Augmented(X, shaken, {"size": 0.5}, seed=3, views=2)
    everything = views[np.arange(40)]
    np.testing.assert_array_equal(views[np.array([25, 4])], everything[[25, 4]])
    np.testing.assert_array_equal(views[5:9], everything[5:9])
    assert views.shape == (40, 3) and len(views) == 40
    assert not np.allclose(everything[:20], everything[20:]) and np.abs(everything[:20] - X).max() <= 0.5
    assert not np.allclose(Augmented(X, shaken, {"size": 0.5}, seed=4)[np.arange(20)], everything[:20])


def test_draws_are_spread_as_they_should() -> None:
    draws = Draws(KEYS)
    one, other = draws.uniform(-1, 3), draws.uniform(-1, 3)
    assert -1 <= one.min() < -0.99 and 2.99 < one.max() < 3 and one.mean() == pytest.approx(1, abs=0.02)
    assert abs(np.corrcoef(one[:, 0], other[:, 0])[0, 1]) < 0.02  # calls
    assert abs(np.corrcoef(one[:-1, 0], one[1:, 0])[0, 1]) < 0.02  # neighbouring examples
    counts = np.bincount(draws.integers(0, 5)[:, 0], minlength=5)
    assert len(counts) == 5 and counts == pytest.approx(np.full(5, 20_000), rel=0.05)
    normal = draws.normal()
    assert normal.mean() == pytest.approx(0, abs=0.02) and normal.std() == pytest.approx(1, abs=0.02)
    assert np.isfinite(normal).all()


def test_numbers_of_each_row_are_those_of_all_rows_together() -> None:
    one, other = Draws(KEYS[:3]), Draws(KEYS[:3])
    np.testing.assert_array_equal(one.uniform(size=4), other.uniform(size=4))
    found, expected = list(one.of_each([0, 9, 4])), other.uniform(size=9)
    assert [len(row) for row in found] == [0, 9, 4]
    assert all(row.tolist() == expected[k, : len(row)].tolist() for k, row in enumerate(found))


def test_the_student_sees_what_the_teachers_saw() -> None:
    """Soft targets that tell the input: each batch's inputs must be the very ones, in every epoch."""
    views = Augmented(X, shaken, {"size": 0.4}, views=2)
    seen = views[np.arange(40)]
    targets = np.stack([seen[:, 0], 100 - seen[:, 0]], axis=1) / 100
    labels = in_memory(Split(views, np.arange(20) % 2), targets, rows=6, views=2)
    sums = []
    for epoch in range(4):
        for batch in loader.batches(labels, epoch, 8, 0, torch.device("cpu")):
            torch.testing.assert_close(batch.soft.probabilities[:, 0] * 100, batch.x[:, 0], atol=1e-4, rtol=1e-5)
        sums.append(sum(float(b.x.sum()) for b in loader.batches(labels, epoch, 8, 0, torch.device("cpu"))))
    assert sums[0] == pytest.approx(sums[2], rel=1e-6) and sums[0] != pytest.approx(sums[1], rel=1e-6)


def test_the_baseline_sees_a_version_an_epoch() -> None:
    labels = HardLabels(Split(Augmented(X, shaken, {"size": 0.4}, views=3), np.arange(20) % 2))

    def total(epoch: int) -> float:
        return sum(float(b.x.sum()) for b in loader.batches(labels, epoch, 8, 0, torch.device("cpu")))

    assert len({round(total(epoch), 3) for epoch in range(3)}) == 3
    plain = HardLabels(Dataset(Split(X, np.arange(20) % 2), *[Split(X, np.arange(20) % 2)] * 2, None, 2).labelled(5))
    for epoch in range(3):  # without augmentation there is but one version, and each epoch sees all of it
        seen = torch.cat([b.x for b in loader.batches(plain, epoch, 8, 0, torch.device("cpu"))])
        assert sorted(seen[:, 0].tolist()) == X[:, 0].tolist()


def test_a_baseline_of_the_examples_as_they_are(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text("def moved(x, draws): return x + draws.uniform(1, 2)\n")
    split = Split(X, np.arange(20) % 2)
    found = {}
    for baseline in (True, False):
        spec = AugmentSpec(factory="mine:moved", folder=str(tmp_path), views=2, baseline=baseline)
        found[baseline] = Dataset(split, split, split, None, 2, spec)
    assert found[False].labelled(5).x is X and not found[False].baseline_augmentation
    assert len(found[True].labelled(5).x) == 100 and found[True].baseline_augmentation == found[True].augmentation
    # nothing of the student changes
    assert found[True].augmentation == found[False].augmentation
    np.testing.assert_array_equal(found[True].transfer.x[:], found[False].transfer.x[:])


def test_keys_of_versions_of_rows_of_any_length_are_others(tmp_path: Path) -> None:
    """Earlier versions did not group their batches by length; the baseline has a version for each epoch."""
    (tmp_path / "mine.py").write_text("def same(x, draws): return x\n")
    rows = Columns({"tokens": Ragged.of([np.arange(k % 5 + 1) for k in range(20)])})
    for x, views, expected in ((X, 2, (False, False)), (rows, 1, (False, True)), (rows, 2, (True, True))):
        split, spec = Split(x, np.arange(20) % 2), AugmentSpec(factory="mine:same", folder=str(tmp_path), views=views)
        data = Dataset(split, split, split, None, 2, spec)
        assert ("batches" in data.augmentation, "batches" in data.baseline_augmentation) == expected


def test_a_transform_that_mixes_rows_is_refused(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(
        "def centred(x, draws): return x - x.mean()\ndef cut(x, draws): return x[:, :1]\n"
    )
    for name, message in (("centred", "when others are beside it"), ("cut", "expected an array of the shape")):
        with pytest.raises(RequestError, match=message):
            augmented(AugmentSpec(factory=f"mine:{name}", folder=str(tmp_path)), X, 0, 1)
    with pytest.raises(RequestError, match="raised TypeError"):
        augmented(AugmentSpec(factory="mine:cut", kwargs={"k": 1}, folder=str(tmp_path)), X, 0, 1)


BYTES = np.linspace(0, 255, 60).astype(np.uint8).reshape(20, 3)
IDS = np.arange(60).reshape(20, 3)


@pytest.mark.parametrize(
    ("name", "x", "message"),
    [
        ("brighter", BYTES, r"returned ndarray of int64 in 'x', of uint8; .* that models get as float32"),
        ("halved", IDS, r"returned ndarray of float64 in 'x', of int64; .* Convert it, by `\.astype\(numpy\.int64\)`"),
        ("complex", X, "returned ndarray of complex64 in"),
        ("above", X, "returned ndarray of bool in"),
        ("of_torch", X, "returned Tensor of torch.float32 in"),
        ("log", X - 30, "returned values in 'x' that are not finite"),
        ("unit", BYTES, "returned values from 0 to 1 in 'x', of values from 0 to 255"),
    ],
)
def test_values_of_another_type_or_scale_are_refused(tmp_path: Path, name: str, x: np.ndarray, message: str) -> None:
    """Members train on the examples as they are, so that only the teachers' pass would meet these values."""
    (tmp_path / "mine.py").write_text(
        "import numpy as np\nimport torch\n"
        "def brighter(x, draws): return x + draws.integers(-10, 11)\n"
        "def halved(x, draws): return x / 2\n"
        "def complex(x, draws): return x * np.complex64(1j)\n"
        "def above(x, draws): return x > 3\n"
        "def of_torch(x, draws): return torch.from_numpy(x.copy())\n"
        "def log(x, draws):\n    with np.errstate(invalid='ignore'): return np.log(x)\n"
        "def unit(x, draws): return x / np.float32(255)\n"
    )
    with pytest.raises(RequestError, match=message):
        augmented(AugmentSpec(factory=f"mine:{name}", folder=str(tmp_path)), x, 0, 1)


def test_a_wider_type_of_the_same_kind_is_taken(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text("def halved(x, draws): return x / 2\n")
    spec = AugmentSpec(factory="mine:halved", folder=str(tmp_path))
    for x in (BYTES, X, X.astype(np.float16)):
        np.testing.assert_allclose(gather(augmented(spec, x, 0, 1), np.arange(20)).numpy(), x / 2, rtol=1e-3)


def test_rows_that_are_not_there_are_an_error() -> None:
    with pytest.raises(IndexError, match="out of range"):
        gather(X, np.array([3, 20]))
