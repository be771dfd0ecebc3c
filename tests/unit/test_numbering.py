"""Soft targets join the data as they were given: each row has the answer of the teachers to just that row."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from tests.makers import MODELS, NUMERICS, blobs
from workers.artifacts.key import Key
from workers.data import dataset as data
from workers.data import loading
from workers.data.numbering import Numbering
from workers.inference.actor import TeacherActor, TeacherWork
from workers.inference.reduce import Reduction, Rule
from workers.inference.teacher import Member
from workers.models import checkpoints, torch_module
from workers.specs.data import DataSpec
from workers.specs.models import ModelSpec
from workers.targets import soft_targets
from workers.targets.layout import PartLayout
from workers.targets.member_logits import MemberLogits
from workers.targets.reader import StoreReader
from workers.training.loader import SoftLabels, batches

Host: Any = TeacherActor.__ray_metadata__.modified_class  # type: ignore[attr-defined]
N, MORE, VIEWS, T = 90, 25, 2, 2.0


@pytest.fixture
def dataset(tmp_path: Path) -> data.Dataset:
    """Validation is drawn; there are unlabelled examples, and two views, the second with another sign."""
    (tmp_path / "models.py").write_text(MODELS)
    (tmp_path / "flips.py").write_text(
        "def flips(x, draws):\n    return x * (1 - 2 * draws.integers(0, 2).astype(x.dtype))\n"
    )
    for name, n, seed in (("train", N, 1), ("test", 30, 3), ("more", MORE, 4)):
        x, y = blobs(n, seed)
        np.savez(tmp_path / f"{name}.npz", x=x, y=y)
    augment = {"factory": "flips:flips", "folder": str(tmp_path), "views": VIEWS}
    files = {name: f"{file}.npz" for name, file in (("train", "train"), ("test", "test"), ("unlabeled", "more"))}
    return loading.load(
        DataSpec.model_validate({"kind": "npz", "root": str(tmp_path), "augment": augment, **files}), seed=3
    )


def answers(folder: Path, x: np.ndarray) -> np.ndarray:
    with torch.no_grad():
        return model(folder)(torch.from_numpy(x)).numpy()


def model(folder: Path) -> torch.nn.Module:
    return torch_module.build(ModelSpec(factory="models:mlp", folder=str(folder)), seed=7)


def written(dataset: data.Dataset, folder: Path) -> SoftLabels:
    """A store as a run makes it, with the member's logits kept beside it."""
    member = Member("member-0", ModelSpec(factory="models:mlp", folder=str(folder)), str(folder / "0.safetensors"))
    checkpoints.save(model(folder).state_dict(), member.weights)
    layout = PartLayout(len(dataset.transfer), 16, VIEWS)
    kept = {"member-0": MemberLogits(str(folder / "logits"))}
    host = Host([member], dataset, TeacherWork(3, layout, NUMERICS, kept))
    store = Reduction(
        folder=str(folder / "store"),
        layout=layout,
        classes=3,
        rule=Rule("arithmetic"),
        numerics=NUMERICS,
        numbering=dataset.numbering,
    )
    parts = {
        number: store.task(number).part(["member-0"], host.soften(number, T, {"member-0": 1.0}, "arithmetic")[1])
        for number in range(layout.parts)
    }
    return SoftLabels(dataset.transfer, layout, parts.__getitem__, StoreReader(str(folder / "store"), T))


def table(folder: Path) -> pa.Table:
    return pa.concat_tables([pq.read_table(path) for path in sorted(folder.glob("*.parquet"))])


def test_each_row_has_the_answer_to_just_that_row(dataset: data.Dataset, tmp_path: Path) -> None:
    """A view may turn a row's sign, so its answer is one of two that no other row has."""
    written(dataset, tmp_path)
    given = np.concatenate([np.load(tmp_path / f"{name}.npz")["x"] for name in ("train", "more")])
    expected = {
        "logits": [answers(tmp_path, sign * given) for sign in (1, -1)],
        "store": [torch.softmax(torch.from_numpy(answers(tmp_path, sign * given)) / T, -1).numpy() for sign in (1, -1)],
    }
    held = set(range(N)) - set(dataset.kept.tolist()) if dataset.kept is not None else set()
    assert len(held) == 9
    for name, values in expected.items():
        rows = table(tmp_path / name)
        assert rows.schema.field("example_id").type == pa.int64() and rows.schema.field("view").type == pa.int16()
        ids, views = (rows.column(column).to_numpy() for column in ("example_id", "view"))
        wanted = [(view, row) for view in range(VIEWS) for row in range(N + MORE) if row not in held]
        assert sorted(zip(views.tolist(), ids.tolist(), strict=True)) == wanted
        said = np.array(rows.column(rows.column_names[-1]).to_pylist(), np.float32)
        off = [np.abs(said - value[ids]).max(axis=1) for value in values]
        assert np.minimum(*off).max() < 1e-5 and min(each.max() for each in off) > 1e-2


def test_the_documented_join_matches_rows_with_their_soft_targets(dataset: data.Dataset, tmp_path: Path) -> None:
    written(dataset, tmp_path)
    code = Path(__file__, "../../../docs/SOFT_TARGETS.md").resolve().read_text().split("```python\n")[1].split("```")[0]
    code = code.replace("runs/digits/soft_targets/<fingerprint>", str(tmp_path / "store"))
    found: dict[str, Any] = {}
    exec(code.replace("train.npz", str(tmp_path / "train.npz")), found)
    x, soft = found["x"], found["soft"]
    off = [
        np.abs(soft - torch.softmax(torch.from_numpy(answers(tmp_path, sign * x)) / T, -1).numpy()).max(axis=1)
        for sign in (1, -1)
    ]
    assert len(x) == VIEWS * (N - 9) and np.minimum(*off).max() < 1e-5


def test_a_student_learns_each_example_from_its_own(dataset: data.Dataset, tmp_path: Path) -> None:
    """Readers in a run go by the layout: what is learned from does not depend on how examples are called in files."""
    labels = written(dataset, tmp_path)
    for epoch in range(2 * VIEWS):
        for batch in batches(labels, epoch, 32, 0, torch.device("cpu")):
            said = torch.softmax(torch.from_numpy(answers(tmp_path, batch.x.numpy())) / T, -1)
            torch.testing.assert_close(batch.soft.probabilities, said, atol=1e-5, rtol=0)


def test_rows_have_the_numbers_of_the_users_data() -> None:
    numbering = Numbering(examples=5, kept=np.array([1, 4, 6]), given=7)
    np.testing.assert_array_equal(numbering.example_ids(np.arange(5)), [1, 4, 6, 7, 8])
    assert numbering.view_of(np.arange(5)) is None
    views = Numbering(examples=5, views=3)
    np.testing.assert_array_equal(views.example_ids(np.array([0, 4, 5, 14])), [0, 4, 0, 4])
    np.testing.assert_array_equal(views.view_of(np.array([0, 4, 5, 14])), [0, 0, 1, 2])
    digests = {Numbering(5, kept=np.array(kept), given=given).digest() for kept in ([1, 2], [0, 2]) for given in (3, 4)}
    assert len(digests) == 4 and Numbering(5).digest() == ""


def test_masked_copies_have_the_rows_of_their_texts() -> None:
    """Of six texts and three unlabelled ones, twice each."""
    numbering = Numbering(examples=18, given=12, copies=2, given_unlabeled=6)
    ids = np.array([0, 5, 6, 11, 12, 14, 15, 17])
    np.testing.assert_array_equal(numbering.example_ids(ids), [0, 5, 0, 5, 6, 8, 6, 8])
    np.testing.assert_array_equal(numbering.view_of(ids), [0, 0, 1, 1, 0, 0, 1, 1])
    share = replace(numbering, examples=4, kept=np.array([1, 7]), unlabeled=np.array([2, 5]))
    np.testing.assert_array_equal(share.example_ids(np.arange(4)), [1, 1, 8, 8])
    np.testing.assert_array_equal(share.view_of(np.arange(4)), [0, 1, 0, 1])
    others = [replace(each, copies=copies) for each in (numbering, share) for copies in (1, 2, 3)]
    assert len({each.digest() for each in (*others, replace(share, given_unlabeled=12))}) == 7


def test_a_store_of_another_format_is_another_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now = Key("soft targets", soft_targets.FORMAT, temperature=2.0).digest
    made = soft_targets.Manifest(
        fingerprint=now, temperature=2.0, combine="arithmetic", weights=[1.0], classes=4, dtype="float32", top_k=None,
        examples=25, views=1, members=[], parts=[], seconds=1.0, complete=True,
    )  # fmt: skip
    soft_targets.write_manifest(str(tmp_path), made)
    assert soft_targets.manifest_at(str(tmp_path)) == made and made.format == 2
    monkeypatch.setattr(soft_targets, "FORMAT", 3)
    assert Key("soft targets", 3, temperature=2.0).digest != now and soft_targets.manifest_at(str(tmp_path)) is None
    path = tmp_path / "manifest.json"
    path.write_text(path.read_text().replace('"format": 2,', ""))
    monkeypatch.setattr(soft_targets, "FORMAT", 2)
    assert soft_targets.manifest_at(str(tmp_path)) is None  # as it was before there were formats


def test_what_travels_for_a_part_is_that_part_alone() -> None:
    import pickle

    layout = PartLayout(100_000, 64)
    numbering = Numbering(100_000, kept=np.arange(0, 200_000, 2), given=200_000)
    store = Reduction(
        folder="folder", layout=layout, classes=3, rule=Rule("arithmetic"), numerics=NUMERICS, numbering=numbering
    )
    task = store.task(5)
    np.testing.assert_array_equal(task.names.example_ids, 2 * layout.ids(5))
    assert len(pickle.dumps(task)) < 2000
