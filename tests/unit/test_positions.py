"""Elements of examples as positions: each row of labels, targets and figures belongs to just its element."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

from tests.makers import NUMERICS
from workers.data import dataset as data
from workers.data import loading
from workers.data.augment import augmented
from workers.data.collate import Collator, NamedInputs, collate, rows_of
from workers.data.examples import Columns, digest, take
from workers.data.positions import Positions
from workers.data.ragged import Ragged
from workers.errors import RequestError
from workers.evaluation import metrics
from workers.evaluation.metrics import Inference
from workers.inference import actor
from workers.inference.actor import TeacherWork
from workers.inference.reduce import Reduction, Rule
from workers.inference.teacher import Member
from workers.models import checkpoints, comparison, torch_module
from workers.models.ask import ask
from workers.specs.data import AugmentSpec, DataSpec
from workers.specs.models import ModelSpec, SklearnModel
from workers.specs.training import FitSpec, TrainingSpec
from workers.targets.layout import PartLayout
from workers.targets.member_logits import MemberLogits
from workers.targets.reader import LogitsReader, StoreReader
from workers.training import loop
from workers.training.loader import Batch, HardLabels, SoftLabels, batches
from workers.training.loop import Task
from workers.trial import fitting, trial
from workers.trial.odd_rows import odd_rows

Host: Any = actor.TeacherActor.__ray_metadata__.modified_class  # type: ignore[attr-defined]
MEAN = Rule("arithmetic")
N, MORE, T, VIEWS, CPU = 90, 30, 2.0, 2, torch.device("cpu")

CODE = """
import numpy as np
import torch
from torch import nn

N, MORE = 90, 30


def rows(n, seed):
    rng = np.random.default_rng(seed)
    return [rng.integers(1, 50, k).astype(np.int32) for k in rng.integers(1, 9, n)]


def splits(unlabelled=True):
    found = {}
    for name, n, seed in (("train", N, 0), ("test", 40, 1)):
        x = rows(n, seed)
        found[name] = {"ids": x}, [np.where(r % 5 == 0, -1, r % 3) for r in x]
    if unlabelled:
        found["unlabeled"] = {"ids": rows(MORE, 2)}
    return found


def turned(x, draws):
    ids = x["ids"]
    more = np.repeat(draws.integers(0, 2)[:, 0], ids.lengths)
    return {"ids": type(ids).packed((ids.flat + 50 * more).astype(np.int32), ids.lengths)}


class Tagger(nn.Module):
    def __init__(self, masked=True):
        super().__init__()
        self.embed, self.out, self.masked = nn.Embedding(100, 8), nn.Linear(24, 3), masked

    def forward(self, ids, attention_mask):
        x = self.embed(ids)
        if self.masked:
            x = x * attention_mask.unsqueeze(-1)
        edge = torch.zeros_like(x[:, :1])
        before, behind = torch.cat([edge, x[:, :-1]], 1), torch.cat([x[:, 1:], edge], 1)
        return self.out(torch.cat([before, x, behind], -1))


class Pooled(Tagger):
    def forward(self, ids, attention_mask):
        return super().forward(ids, attention_mask).mean(1)
"""


@pytest.fixture
def dataset(tmp_path: Path) -> data.Dataset:
    return load(tmp_path, AugmentSpec(factory="mine:turned", folder=str(tmp_path), views=VIEWS))


def load(folder: Path, augment: AugmentSpec | None = None, **kwargs: Any) -> data.Dataset:
    (folder / "mine.py").write_text(CODE)
    spec = DataSpec(kind="python", factory="mine:splits", folder=str(folder), augment=augment, kwargs=kwargs)
    return loading.load(spec, 0)


def member(folder: Path, number: int = 0) -> Member:
    found = Member(f"member-{number}", spec(folder), str(folder / f"{number}.safetensors"))
    checkpoints.save(torch_module.build(found.model, seed=number).state_dict(), found.weights)  # type: ignore[arg-type]
    return found


def spec(folder: Path, factory: str = "mine:Tagger", **kwargs: Any) -> ModelSpec:
    return ModelSpec(factory=factory, folder=str(folder), kwargs=kwargs)


def logits_of(folder: Path, row: np.ndarray, number: int = 0) -> torch.Tensor:
    """What a member says of each element of an example by itself: [length, K]."""
    module = torch_module.build(spec(folder), seed=number)
    ids = torch.from_numpy(row).long().unsqueeze(0)
    with torch.no_grad():
        found: torch.Tensor = module(ids=ids, attention_mask=torch.ones_like(ids))[0]
    return found


def written(dataset: data.Dataset, folder: Path, rule: Rule = MEAN) -> tuple[SoftLabels, LogitsReader]:
    """A store as a run makes it from two members, in parts of two pieces each where rows are compressed."""
    members = [member(folder, number) for number in range(2)]
    shares = {each.name: 0.5 for each in members}
    layout = PartLayout(len(dataset.transfer), 16, VIEWS, 8 if rule.top_k is not None else 0)
    kept = {each.name: MemberLogits(str(folder / "logits" / each.name)) for each in members}
    host = Host(members, dataset, TeacherWork(3, layout, NUMERICS, kept))
    store = Reduction(
        folder=str(folder / "store"), layout=layout, classes=3, rule=rule, numerics=NUMERICS,
        numbering=dataset.numbering,
    )  # fmt: skip
    parts = {}
    for number in range(layout.parts):
        answers = [host.soften(piece, T, shares, "arithmetic") for piece in layout.pieces(number)]
        assert all(rows == len(answer) for rows, answer in answers)
        pieces = [store.rule.reduce(list(shares), answer) for _, answer in answers]
        parts[number] = store.write(number, list(shares), pieces)
    folders = {name: kept[name].folder for name in shares}
    reader = LogitsReader(folders, shares, "arithmetic", layout, rows=dataset.transfer.rows)
    return SoftLabels(dataset.transfer, layout, parts.__getitem__, StoreReader(str(folder / "store"), T)), reader


def elements(batch: Batch) -> list[np.ndarray]:
    """The examples of a batch, without padding."""
    assert isinstance(batch.x, NamedInputs)
    inputs = batch.x.padded()
    lengths = inputs["attention_mask"].sum(1).tolist()
    return [row[:length].numpy() for row, length in zip(inputs["ids"], lengths, strict=True)]


def expected(folder: Path, rows: list[np.ndarray]) -> torch.Tensor:
    """The mean of both members at T for every element of every example."""
    of_each = [torch.cat([torch.softmax(logits_of(folder, row, k) / T, -1) for row in rows]) for k in range(2)]
    return torch.stack(of_each).mean(0)


@pytest.mark.parametrize("micro", [None, 3])
def test_each_element_learns_from_its_own(dataset: data.Dataset, tmp_path: Path, micro: int | None) -> None:
    labels, _ = written(dataset, tmp_path)
    for epoch in range(2 * VIEWS):
        seen = 0
        for batch in batches(labels, epoch, 16, 0, CPU):
            assert batch.rows == len(batch.labels) == rows_of(batch.x)
            assert batch.labelled_rows == int((batch.labels >= 0).sum())
            pieces = [batch] if micro is None else [piece for piece, _ in loop._pieces(batch, micro)]
            for piece in pieces:
                rows = elements(piece)
                torch.testing.assert_close(piece.soft.probabilities, expected(tmp_path, rows), atol=1e-5, rtol=0)
                known = piece.labels >= 0
                wanted = torch.from_numpy(np.concatenate(rows) % 50 % 3)
                assert torch.equal(piece.labels[known], wanted[known])
                seen += len(rows)
        assert seen == len(dataset.transfer)


def test_the_store_names_each_element(dataset: data.Dataset, tmp_path: Path) -> None:
    """By the row of the user's own data, the view, and the place in the row."""
    written(dataset, tmp_path)
    for folder, softened in (("store", True), ("logits/member-0", False)):
        found: set[tuple[int, int, int]] = set()
        for path in (tmp_path / folder).glob("*.parquet"):
            table = pq.read_table(path)
            assert [str(table.schema.field(name).type) for name in table.column_names[:3]] == [
                "int64",
                "int16",
                "int32",
            ]
            *names, values = (table.column(name).to_pylist() for name in table.column_names)
            found |= set(zip(*names, strict=True))
            assert len(values[0]) == 3 and (not softened or abs(sum(values[0]) - 1) < 1e-5)
        lengths = [len(row) for row in rows_given()]
        held = set(range(N)) - set(dataset.kept.tolist() if dataset.kept is not None else ())
        wanted = {
            (example, view, place)
            for view in range(VIEWS)
            for example in range(N + MORE)
            if example not in held
            for place in range(lengths[example])
        }
        assert found == wanted


def rows_given() -> list[np.ndarray]:
    found: dict[str, Any] = {}
    exec(CODE, found)
    rows: list[np.ndarray] = [*found["rows"](N, 0), *found["rows"](MORE, 2)]
    return rows


def test_top_k_of_several_pieces_is_in_the_same_order(dataset: data.Dataset, tmp_path: Path) -> None:
    labels, _ = written(dataset, tmp_path, Rule("arithmetic", top_k=2))
    for batch in batches(labels, 0, 16, 0, CPU):
        whole = expected(tmp_path, elements(batch))
        torch.testing.assert_close(
            batch.soft.probabilities, whole.sort(descending=True).values[:, :2], atol=1e-5, rtol=0
        )


def test_logits_for_a_schedule_of_temperature(dataset: data.Dataset, tmp_path: Path) -> None:
    labels, reader = written(dataset, tmp_path)
    softened = SoftLabels(dataset.transfer, labels.layout, labels.part, reader)
    for stored, made in zip(
        batches(labels, 1, 16, 0, CPU), batches(softened, 1, 16, 0, CPU, temperatures=[T] * 7), strict=True
    ):
        assert torch.equal(stored.soft.probabilities, made.soft.probabilities)
        assert made.entropy == pytest.approx(stored.entropy, rel=1e-5)


def test_two_workers_share_every_batch(dataset: data.Dataset, tmp_path: Path) -> None:
    labels, _ = written(dataset, tmp_path)
    whole = batches(labels, 2, 16, 0, CPU)
    for batch, *cuts in zip(whole, *(batches(labels, 2, 16, 0, CPU, rank=r, world=2) for r in range(2)), strict=True):
        assert [cut.rows for cut in cuts] == [batch.rows] * 2
        assert torch.equal(torch.cat([cut.labels for cut in cuts]), batch.labels)
        assert torch.equal(torch.cat([cut.soft.probabilities for cut in cuts]), batch.soft.probabilities)
        assert sum(cut.entropy for cut in cuts) == pytest.approx(batch.entropy, rel=1e-5)


def test_a_part_in_cuts_is_the_same_part(
    dataset: data.Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = Host([member(tmp_path)], dataset, TeacherWork(3, PartLayout(len(dataset.transfer), 64), NUMERICS))
    whole = one.soften(0, T, {"member-0": 1.0}, "arithmetic")[1]
    monkeypatch.setattr(actor, "RESIDENT_BYTES", 20 * 8 * 4)
    assert len(one._cuts(64)) > 1
    one.answered_for = ()
    assert one.soften(0, T, {"member-0": 1.0}, "arithmetic")[1].tobytes() == whole.tobytes()


def test_figures_are_of_positions_that_have_labels(tmp_path: Path) -> None:
    found = load(tmp_path)
    labels = np.concatenate([np.where(row % 5 == 0, -1, row % 3) for row in exec_rows(40, 1)])
    assert np.array_equal(found.test.y, labels[labels >= 0]) and len(found.test) == 40
    module = torch_module.build(spec(tmp_path), seed=3)
    answered = metrics.log_probabilities(module, found.test.x, Inference("float32", 7))
    each = torch.cat([logits_of(tmp_path, row, 3) for row in exec_rows(40, 1)])[torch.from_numpy(labels >= 0)]
    np.testing.assert_allclose(answered, torch.log_softmax(each, -1).numpy(), atol=1e-5)
    of_labels = metrics.log_probabilities(module, found.test.x, Inference("float32", 7), found.test.y)
    np.testing.assert_allclose(of_labels, answered[np.arange(len(labels[labels >= 0])), found.test.y])


def exec_rows(n: int, seed: int) -> list[np.ndarray]:
    found: dict[str, Any] = {}
    exec(CODE, found)
    rows: list[np.ndarray] = found["rows"](n, seed)
    return rows


def test_training_sees_no_padding(tmp_path: Path) -> None:
    """A batch of rows of all lengths steps as the mean over its elements, each example by itself."""
    found = load(tmp_path, unlabelled=False)
    training = TrainingSpec(epochs=1, batch_size=len(found.train), optimizer="sgd", learning_rate=0.5, momentum=0.0)
    module = torch_module.build(spec(tmp_path), seed=0)
    (epoch,) = loop.epochs(
        loop.begin(module, training, len(found.train)), Task(HardLabels(found.train), found.validation), training, 0
    )
    other = torch_module.build(spec(tmp_path), seed=0)
    losses = []
    assert isinstance(found.train.x, Columns)
    ids, start = found.train.x.columns["ids"], 0
    for k in range(len(found.train)):
        row = torch.from_numpy(ids[k : k + 1].flat).long()  # type: ignore[union-attr]
        labels = torch.from_numpy(found.train.y[start : start + len(row)])
        start += len(row)
        logits = other(ids=row.unsqueeze(0), attention_mask=torch.ones(1, len(row)))[0]
        losses.append(torch.nn.functional.cross_entropy(logits, labels, ignore_index=-1, reduction="sum"))
    mean = torch.stack(losses).sum() / int((found.train.y >= 0).sum())
    mean.backward()
    assert epoch.train_loss == pytest.approx(mean.item(), rel=1e-5)
    for one, two in zip(module.parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(one, two - 0.5 * two.grad, atol=1e-6, rtol=1e-5)


def test_a_network_that_ignores_the_mask_is_refused(tmp_path: Path) -> None:
    found = load(tmp_path)
    training = TrainingSpec(epochs=1, batch_size=16, learning_rate=1e-3)
    role = trial.Role("student", spec(tmp_path), training, 0, found.transfer)
    assert trial.check_training(role, 3, odd_rows(found)) == ()
    with pytest.raises(RequestError, match=r"where others are beside it.*`attention_mask`"):
        trial.check_training(trial.Role("student", spec(tmp_path, masked=False), training, 0, found.transfer), 3, [])
    with pytest.raises(RequestError, match=r"expected logits \[2, \d+, classes\], one row for each element"):
        trial.check_training(trial.Role("student", spec(tmp_path, "mine:Pooled"), training, 0, found.transfer), 3, [])


def test_ids_without_an_embedding_are_tried(tmp_path: Path) -> None:
    """Also of an example that is neither short nor long."""
    found = load(tmp_path, unlabelled=False)
    x, training = found.test.x, TrainingSpec(epochs=1, batch_size=16, learning_rate=1e-3)
    assert isinstance(x, Columns)
    ids = x.columns["ids"]
    assert isinstance(ids, Ragged)
    row = int(np.argsort(ids.lengths, kind="stable")[len(ids) // 2])
    values = ids.flat.copy()
    values[ids.lengths[:row].sum()] = 100
    changed = Columns({"ids": Ragged.packed(values, ids.lengths)}, x.positions, "ids")
    odd = odd_rows(replace(found, test=data.Split(changed, found.test.y)))
    role = trial.Role("student", spec(tmp_path), training, 0, found.transfer)
    with pytest.raises(RequestError, match=rf"That was example {row} of the test split \(largest value\)"):
        trial.check_training(role, 3, odd)


def test_also_where_the_longest_example_comes_first(tmp_path: Path) -> None:
    found = load(tmp_path)
    assert isinstance(found.train.x, Columns)
    ids = found.train.x.columns["ids"]
    assert isinstance(ids, Ragged)
    order = np.argsort(-ids.lengths, kind="stable")
    x, y = take(found.train.x, order), found.train.labels_of(order)
    training = TrainingSpec(epochs=1, batch_size=16, learning_rate=1e-3)
    with pytest.raises(RequestError, match="where others are beside it"):
        trial.check_training(trial.Role("student", spec(tmp_path, masked=False), training, 0, data.Split(x, y)), 3, [])


X = {"ids": [np.arange(1, 4), np.arange(2, 4)] * 20}
Y = [np.array([0, 1, 2]), np.array([1, 0])] * 20


@pytest.mark.parametrize(
    ("x", "y", "says"),
    [
        (X, Y[:-1], r"y has 98 labels in 39 rows, and x has 100 elements of 'ids' in 40 examples"),
        (X, [row[:2] for row in Y], r"y has 80 labels in 40 rows, and x has 100 elements of 'ids' in 40 examples"),
        (np.ones(40), Y, "y has 100 labels in 40 rows, and x has numbers alone in 40 examples"),
        ([*X["ids"][:-1], np.arange(5)], Y, "x is a list of rows of different lengths; expected them under a name"),
        (X, [*Y[:-1], 3], "y makes no array of labels: ValueError"),
        (X, [3, *Y[1:]], "y makes no array of labels: ValueError"),
        (X, [[[0], [1, 2]], *Y[1:]], "y makes no array of labels: ValueError"),
        (X, [np.ma.array(row, mask=row == 1) for row in Y], r"y is a masked array; .* Return y\.filled"),
        (np.ones(40), np.ma.array(np.arange(40) % 2, mask=np.arange(40) < 3), "y is a masked array"),
        (Columns(X, 7), Y, "positions: a list of rows that differ in more than their length: TypeError"),
        (Columns(X, [*range(40)]), Y, "positions: a list of rows that differ in more than their length: ValueError"),
        ([[[1, 2], [3]]] * 40, np.arange(40) % 2, "x is a list of rows that make no array: ValueError"),
        ({"ids": [[1, 2], None, [3]]}, np.arange(3) % 2, "column 'ids': a list of rows that differ in more than"),
        ({"ids": [[[1, 2], [3]]] * 40}, np.arange(40) % 2, "column 'ids': a list of rows that differ in more than"),
        ({"ids": [np.ma.array([1, 2], mask=[0, 1])] * 40}, np.arange(40) % 2, "column 'ids': x is a masked array"),
        (Columns(X, [np.array([0, 3])] * 40), [row[:2] for row in Y],
         r"position 3 of example 0 is none of its 3 elements of 'ids'"),
        (Columns(X, [np.array([1, 0])] * 40), [row[:2] for row in Y], "position 0 of example 0 .* does not follow"),
        (Columns(X, [np.array([0])] * 39), [row[:1] for row in Y], "positions have 39 rows, and x 40 examples"),
        (Columns(X, [np.zeros(0, int), *[np.array([0])] * 39]), [Y[0][:0], *[row[:1] for row in Y[1:]]],
         "example 0 has no position, and 1 in all"),
        (Columns({"n": np.ones(40)}, [np.array([0])] * 40), [row[:1] for row in Y], "positions are elements of"),
        (X, [row + 0.5 for row in Y], r"y holds \d\.5 at element 0; expected integer class ids"),
        (Columns({"ids": Ragged.of(X["ids"])}, Ragged.of([np.zeros(1, np.int64)] * 40)), np.zeros(40),
         "y is one array, and x has positions of its own"),
        ({"ids": [np.arange(3), np.zeros(0, np.int64)] * 20}, np.arange(40) % 2, "ids of example 1 is empty, and of"),
        ({"a b": X["ids"]}, Y, "expected at least one column, each under a name"),
        ({**X, "size": np.ones(39)}, Y, "x has columns of different lengths"),
        ({"ids": [np.ones((2, 3)), np.ones((2, 4))] * 20}, np.arange(40) % 2, "differ in more than their length"),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_refused(x: Any, y: Any, says: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(RequestError, match=says):
        loaded({"train": (x, y), "test": (x, y)}, monkeypatch)


def test_labels_of_elements_belong_to_the_column_that_fits(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever other columns there are, ragged or dense."""
    x = {"context": [np.arange(5), np.arange(7)] * 20, **X, "image": np.random.default_rng(0).normal(size=(40, 9, 9))}
    other = {**x, "image": x["image"] + 1}
    found = loaded({"train": (x, Y), "test": (other, Y), "unlabeled": {**x, "image": x["image"] + 2}}, monkeypatch)
    for part in (found.train.x, found.test.x, found.unlabeled):
        assert isinstance(part, Columns) and part.elements_of == "ids"
    batch = collate(found.transfer.x, np.array([0, 1]))
    assert isinstance(batch, NamedInputs) and batch.longest == batch.padded()["ids"].shape[1]
    with pytest.raises(RequestError, match=r"the elements of 'ids' have labels of their own\. Expected that"):
        Collator(("image",))(found.train.x, np.array([0, 1]))

    dense = np.random.default_rng(1).integers(0, 9, (40, 6))
    frames = [row % 3 for row in dense]
    both = {"image": x["image"], "tokens": dense}
    found = loaded({"train": (both, frames), "test": ({**both, "image": x["image"] + 1}, frames)}, monkeypatch)
    assert isinstance(found.train.x, Columns) and found.train.x.elements_of == "tokens"
    found = loaded({"train": (dense, frames), "test": (dense[::-1] + 1, frames[::-1])}, monkeypatch)
    batch = collate(found.train.x, np.arange(4))
    assert ask(lambda tokens: torch.nn.functional.one_hot(tokens % 3, 3).float(), batch).shape == (24, 3)  # no keyword


def test_lists_are_taken_in_columns_too(monkeypatch: pytest.MonkeyPatch) -> None:
    given = {"train": (Columns(X, [np.array([0, 1])] * 40), [np.array([0, 2]), np.array([1, 2])] * 20), "test": (X, Y)}
    assert len(loaded(given, monkeypatch).test.y) == 100


def test_an_estimator_takes_no_elements(tmp_path: Path) -> None:
    found = load(tmp_path)
    model = SklearnModel(kind="sklearn", factory="mine:splits", folder=str(tmp_path))
    with pytest.raises(RequestError, match="an estimator takes one dense column, and is given ids"):
        fitting.check_fitting(fitting.FitRole("student", model, FitSpec(), 0, found.transfer), 3, [])


def test_a_moved_label_is_another_validation_split(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where the labels that are left are the same."""

    def digests(place: int) -> dict[str, str]:
        rows = [np.arange(k, k + 5) for k in range(60)]
        tags = [np.array([-1, 0, 1, 2, 0] if place == 0 else [0, -1, 1, 2, 0]) for _ in range(60)]
        return loaded({"train": ({"ids": rows}, tags), "test": (X, Y)}, monkeypatch).digests

    assert digests(0)["validation"] != digests(1)["validation"]


def test_an_augmentation_may_write_to_its_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    def alone(x: Any, draws: Any) -> Any:
        return {"ids": [np.where(np.arange(len(row)) % 2, row, 0) for row in rows_of_ragged(x["ids"])]}

    def rows_of_ragged(rows: Ragged) -> list[np.ndarray]:
        rows.flat[:] += 1  # in place
        return np.split(rows.flat, np.cumsum(rows.lengths)[:-1])

    monkeypatch.setattr("workers.user_code.factories.load", lambda *_: alone)
    spec = AugmentSpec(factory="given:alone", views=2)
    x = Columns({"ids": Ragged.of(X["ids"])})
    before = digest(x)
    views = augmented(spec, x, 0, 2)
    made = views[np.array([0, 1, 40])]
    assert isinstance(made, Columns) and digest(x) == before
    assert [row.tolist() for row in np.split(made.columns["ids"].flat, [3, 5])] == [[0, 3, 0], [0, 4], [0, 3, 0]]  # type: ignore[union-attr]


def test_the_order_of_columns_says_nothing_of_their_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    a, b = np.arange(80).reshape(40, 2), np.arange(40, 120).reshape(40, 2)
    y = np.arange(40) % 2
    with pytest.raises(RequestError, match=r"data\.train and data\.test are the same examples"):
        loaded({"train": ({"a": a, "b": b}, y), "test": ({"b": b, "a": a}, y)}, monkeypatch)


def test_a_named_column_is_no_plain_array(monkeypatch: pytest.MonkeyPatch) -> None:
    x, y = np.random.default_rng(0).normal(size=(40, 3)), np.arange(40) % 2
    with pytest.raises(RequestError, match=r"data.unlabeled: examples of .*; expected"):
        loaded({"train": ({"x": x}, y), "test": ({"x": x + 1}, y), "unlabeled": x + 2}, monkeypatch)


def loaded(splits: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> data.Dataset:
    """The splits as a data factory returns them, checked."""
    monkeypatch.setattr("workers.user_code.factories.call", lambda *_: splits)
    return loading.load(DataSpec(kind="python", factory="given:splits"), 0)


def test_splits_of_other_columns_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    says = r"data.test: examples of words int64 \[ragged\]; expected ids int64 \[ragged\] as in train"
    with pytest.raises(RequestError, match=says):
        loaded({"train": (X, Y), "test": ({"words": X["ids"]}, Y)}, monkeypatch)


def test_labels_out_of_range_name_the_example(monkeypatch: pytest.MonkeyPatch) -> None:
    wrong = [*Y[:7], np.array([1, 9]), *Y[8:]]
    with pytest.raises(RequestError, match=r"data.test: label 9 of example 7 is outside the 3 classes"):
        loaded({"train": (X, Y), "test": (X, wrong)}, monkeypatch)


def test_torchs_label_for_none_is_refused_with_the_label_to_write(monkeypatch: pytest.MonkeyPatch) -> None:
    of_torch = [np.array([-100, *row[1:]]) for row in Y]
    for splits in ({"train": (X, of_torch), "test": (X, Y)}, {"train": (X, Y), "test": (X, of_torch)}):
        with pytest.raises(RequestError, match=r"Where -100 stands for no label, as in torch, write -1\."):
            loaded(splits, monkeypatch)


def test_notes_count_positions(monkeypatch: pytest.MonkeyPatch) -> None:
    found = loaded({"train": (X, [np.array([0, 1, -1]), np.array([2, 0])] * 20), "test": (X, Y)}, monkeypatch)
    said = " ".join(found.notes)
    assert "data.train: 72 of 90 positions have a label and 18 have none" in said, said


def test_consecutive_examples_of_which_some_have_no_row() -> None:
    counts = np.array([0, 2, 0, 3, 0])
    where = Positions(5, counts)
    for first in range(6):
        for end in range(first, 6):
            span = where.span(slice(first, end))
            assert np.arange(5)[span].tolist() == where.rows(np.arange(first, end)).tolist()
    assert Positions(5).span(slice(1, 4)) == slice(1, 4) and Positions(5).span(slice(None)) == slice(0, 5)
    assert comparison.finite(torch.zeros(0, 3)).shape == (0,) and comparison.apart(*[torch.zeros(0, 3)] * 2) == 0.0
