"""`data.transfer_share`: members learn from all examples, student and baseline from a share of them."""

from __future__ import annotations

import itertools
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from orchestrator.plan.facts import DataFacts
from orchestrator.plan.workload import Workload
from orchestrator.stages import training
from orchestrator.stages.fitters import StudentJob
from tests.makers import MODELS
from workers.data import loading, transfer
from workers.data.dataset import Dataset
from workers.data.labels import has_label
from workers.data.positions import Positions
from workers.errors import RequestError
from workers.specs.data import DataSpec
from workers.specs.models import ModelSpec
from workers.specs.objective import DistillationSpec, TermSpec
from workers.specs.training import TrainingSpec

CLASSES, ROWS, MORE = 3, 600, 70


def load(folder: Path, y: np.ndarray | None = None, *, seed: int = 0, **more: Any) -> Dataset:
    draw = np.random.default_rng(0)
    y = np.arange(ROWS) % CLASSES if y is None else y
    splits = {"train": y, "validation": np.arange(9) % CLASSES, "test": np.arange(30) % CLASSES}
    for name, labels in splits.items():
        np.savez(folder / f"{name}.npz", x=draw.normal(size=(len(labels), 4)).astype(np.float32), y=labels)
    np.savez(folder / "more.npz", x=draw.normal(2.0, 1.0, (MORE, 4)).astype(np.float32))
    files = {name: str(folder / f"{name}.npz") for name in splits}
    return loading.load(DataSpec.model_validate({"kind": "npz", **files, **more}), seed)


def rows(data: Dataset) -> list[int]:
    """The transfer set as rows of the user's data."""
    return data.numbering.example_ids(np.arange(len(data.transfer))).tolist()


def every(x: Any) -> Any:
    return x[np.arange(len(x))]


def test_the_share_of_each_and_members_have_all(tmp_path: Path) -> None:
    more = str(tmp_path / "more.npz")
    whole = load(tmp_path, unlabeled=more)
    found = load(tmp_path, unlabeled=more, transfer_share=0.1)
    assert len(found.train) == ROWS and found.digests["train"] == whole.digests["train"]
    assert len(found.lessons) == 60 and len(found.transfer) == 60 + 7
    named = np.array(rows(found))
    assert (np.diff(named) > 0).all() and (named < ROWS).sum() == 60
    mine = np.concatenate([whole.train.x, np.load(more)["x"]])  # rows of both files
    np.testing.assert_array_equal(every(found.transfer.x), mine[named])
    np.testing.assert_array_equal(found.lessons.y, whole.train.y[named[:60]])
    np.testing.assert_array_equal(found.labelled(1).x, mine[named[:60]])
    assert found.numbering.digest() != whole.numbering.digest() and whole.share == {}


def test_a_smaller_share_is_a_part_of_a_larger_one(tmp_path: Path) -> None:
    shares = [0.01, 0.03, 0.1, 0.5, 0.99]
    found = [set(rows(load(tmp_path, unlabeled=str(tmp_path / "more.npz"), transfer_share=share))) for share in shares]
    assert all(small < large for small, large in itertools.pairwise(found))


def test_the_seed_decides_which_share_is_drawn(tmp_path: Path) -> None:
    one, same, other = (load(tmp_path, seed=seed, transfer_share=0.1) for seed in (0, 0, 1))
    assert rows(one) == rows(same) != rows(other) and one.share == same.share != other.share


def test_with_a_drawn_validation_split_and_without_a_class(tmp_path: Path) -> None:
    load(tmp_path)
    found = load(tmp_path, validation=None, transfer_without=[1], transfer_share=0.25)
    assert len(found.train) == 540 and {*found.lessons.y} == {0, 2}
    assert len(found.lessons) == round(0.25 * (found.train.y != 1).sum())
    x = np.load(tmp_path / "train.npz")["x"]
    np.testing.assert_array_equal(found.lessons.x, x[rows(found)])


def test_examples_without_a_label_have_a_share_of_their_own(tmp_path: Path) -> None:
    y = np.where(np.arange(ROWS) < 40, np.arange(ROWS) % CLASSES, -1)
    found = load(tmp_path, y, transfer_share=0.1)
    assert (found.lessons.y >= 0).sum() == 4 and (found.lessons.y == -1).sum() == 56


def test_every_view_of_an_example_is_kept(tmp_path: Path) -> None:
    (tmp_path / "twice.py").write_text("def more(x, draws):\n    return x + draws.uniform(0, 1)\n")
    augment = {"factory": "twice:more", "folder": str(tmp_path), "views": 3}
    found = load(tmp_path, transfer_share=0.1, augment=augment)
    assert len(found.transfer) == 60 and len(found.transfer.x) == 180
    names = found.numbering.of(np.arange(180))
    assert names.views is not None and np.bincount(names.views).tolist() == [60, 60, 60]
    assert len({*names.example_ids.tolist()}) == 60


def test_units_stay_together() -> None:
    copies = transfer.copied(40, 4)
    found = transfer.of_train(0.3, np.ones(40, bool), units=copies, seed=0)
    assert len(found) == 12 and all((copies[found] == text).sum() in (0, 4) for text in range(10))
    positions = Positions(40, np.full(40, 2))  # of each example one label, or none
    y = np.stack([np.full(40, -1), np.where(np.arange(40) % 10 < 5, 1, -1)], 1).ravel()
    found = transfer.of_train(0.2, has_label(y, positions), units=copies, seed=0)
    assert np.bincount(copies[found] // 5).tolist() == [4, 4]  # one text with labels, one without


def test_groups_stay_together(tmp_path: Path) -> None:
    draw = np.random.default_rng(0)
    for name, count in (("train", 400), ("validation", 20)):
        x = draw.normal(size=(count, 4)).astype(np.float32)
        np.savez(tmp_path / f"{name}.npz", x=x, y=np.arange(count) % 2, user=np.arange(count) // 4)
    files = {name: str(tmp_path / f"{name}.npz") for name in ("train", "validation")}
    spec = {"kind": "npz", **files, "group_column": "user", "test_share": 0.2, "transfer_share": 0.1}
    found = loading.load(DataSpec.model_validate(spec), 0)
    assert len(found.train) == 320
    assert np.unique(np.array(rows(found)) // 4, return_counts=True)[1].tolist() == [4] * 8


def test_a_class_that_is_lost_is_noted(tmp_path: Path) -> None:
    y = np.where(np.arange(ROWS) == 17, 2, np.arange(ROWS) % 2)
    found = load(tmp_path, y, transfer_share=0.01)
    assert any("data.transfer_share: no labelled example of class 2 is left" in note for note in found.notes)
    left_out = load(tmp_path, y, transfer_share=0.01, transfer_without=[2])
    assert not [note for note in left_out.notes if "transfer_share" in note]


def test_a_share_of_no_example_is_refused_and_of_none_unlabelled_noted(tmp_path: Path) -> None:
    with pytest.raises(RequestError, match=r"data.transfer_share: 0.0001 of 600 labelled .* is 0, and the baseline"):
        load(tmp_path, transfer_share=0.0001)
    found = load(tmp_path, transfer_share=0.005, unlabeled=str(tmp_path / "more.npz"))
    assert found.unlabeled is None and len(found.transfer) == 3 and max(rows(found)) < ROWS
    assert any("0.005 of 70 examples of data.unlabeled is 0" in note for note in found.notes)


@pytest.mark.parametrize("share", [0, 1, -0.5, "all", True])
def test_wrong_shares(share: Any, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="transfer_share"):
        load(tmp_path, transfer_share=share)


def test_plan_and_rehearsal_have_the_share(tmp_path: Path) -> None:
    found = load(tmp_path, unlabeled=str(tmp_path / "more.npz"), transfer_share=0.1)
    work = Workload.of(found)
    assert (work.train, work.lessons, work.transfer) == (ROWS, 60, 67) and DataFacts.of(found).examples == 67
    some = found.sampled(0.01, 40)
    assert len(some.lessons) == 40 <= len(some.train) <= 80  # steps enough for all three
    assert {*rows(some)} <= {*rows(found)}
    mine = np.concatenate([found.train.x, np.load(tmp_path / "more.npz")["x"]])
    np.testing.assert_array_equal(every(some.transfer.x), mine[rows(some)])


def test_a_stage_with_data_of_its_own_follows_from_none_of_the_transfer_set(tmp_path: Path) -> None:
    (tmp_path / "models.py").write_text(MODELS)
    model = ModelSpec(factory="models:mlp", folder=str(tmp_path))
    loss = DistillationSpec(objective=(TermSpec(term="hidden_mse"),))
    more = {"stages": {"stages.ged": str(tmp_path / "more.npz")}}

    def key(data: Dataset, split: str = "") -> str:
        job = StudentJob("stage-ged", model, TrainingSpec(epochs=1), 1, loss=loss, split=split)
        return training._of_student(SimpleNamespace(dataset=data), job).digest  # type: ignore[arg-type]

    whole = load(tmp_path, **more)
    others = [load(tmp_path, **more, transfer_share=0.5), load(tmp_path, **more, transfer_without=[2])]
    (tmp_path / "others").mkdir()
    others.append(load(tmp_path / "others", np.arange(ROWS) // 3 % CLASSES, **more))  # labels of the training split
    assert {key(each, "stages.ged") for each in others} == {key(whole, "stages.ged")}
    assert len({key(each) for each in (whole, *others)}) == 4
    x = np.load(tmp_path / "more.npz")["x"]
    np.savez(tmp_path / "other.npz", x=x + 1)
    changed = load(tmp_path / "others", stages={"stages.ged": str(tmp_path / "other.npz")})
    assert key(changed, "stages.ged") != key(whole, "stages.ged")
