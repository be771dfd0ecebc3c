"""Examples as columns: dense, ragged, named; taken, joined, hashed, and made into batches."""

import pickle
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from workers import ensemble
from workers.data import ragged, scan
from workers.data.arrays import Room, gather
from workers.data.collate import Collator, NamedInputs, collate, rows_between, rows_of, widened
from workers.data.examples import Columns, columns_of, described, digest, joined, take, values_of
from workers.data.positions import Positions
from workers.data.ragged import Ragged, stretches
from workers.errors import RequestError
from workers.inference.teacher import Asked, Teacher
from workers.models.predictor import dense
from workers.models.torch_module import TorchPredictor

RNG = np.random.default_rng(0)
ROWS = [RNG.integers(1, 99, k).astype(np.int32) for k in (3, 1, 7, 2, 5, 4)]
IMAGE = RNG.normal(size=(6, 2, 3)).astype(np.float32)
PICKED = np.array([4, 0, 4, 2])


def columns() -> Columns:
    return Columns({"ids": Ragged.of(ROWS), "image": IMAGE})


def test_rows_of_any_length_in_any_order() -> None:
    rows = Ragged.of(ROWS)
    taken = rows[PICKED]
    assert taken.arrays[0] is rows.arrays[0]  # no copy before they are needed
    np.testing.assert_array_equal(taken.flat, np.concatenate([ROWS[k] for k in PICKED]))
    np.testing.assert_array_equal(rows[1:4].flat, np.concatenate(ROWS[1:4]))
    assert rows[1:4].flat.base is not None  # a stretch is a view
    np.testing.assert_array_equal(rows[1:5][np.array([3, 0])].flat, np.concatenate([ROWS[4], ROWS[1]]))
    assert len(rows[np.zeros(0, np.int64)].flat) == 0
    several = ragged.joined([rows[:3], Ragged.of([*ROWS[3:], []])])
    for picked in (
        slice(None),
        slice(0, 3),
        slice(3, 7),
        np.array([5, 3]),
        np.array([1, 4]),
        np.array([6]),
        np.zeros(0, int),
    ):
        wanted = [[*ROWS, []][k] for k in np.arange(7)[picked]]
        np.testing.assert_array_equal(several[picked].flat, np.concatenate([np.zeros(0, np.int32), *wanted]))
    frames = Ragged.of([np.ones((2, 4)), np.zeros((3, 4))])
    assert frames.of_value == (4,) and frames.lengths.tolist() == [2, 3]
    np.testing.assert_array_equal(stretches(np.array([5, 0]), np.array([2, 3])), [5, 6, 0, 1, 2])


def test_rows_of_several_arrays_are_found_by_row(monkeypatch: pytest.MonkeyPatch) -> None:
    """A row lies in one array, and one of tokens has hundreds of values."""
    rows = ragged.joined([Ragged.packed(np.arange(1000), np.array([400, 600])), Ragged.of([np.arange(500)])])
    search, searched = np.searchsorted, list[int]()

    def counted(ends: Any, of: Any, side: Any) -> Any:
        searched.append(np.size(of))
        return search(ends, of, side=side)

    with monkeypatch.context() as patched:
        patched.setattr(np, "searchsorted", counted)
        flat = rows[np.array([2, 0])].flat
    np.testing.assert_array_equal(flat, [*range(500), *range(400)])
    assert max(searched) == 2


def test_what_is_pickled_is_its_own_rows_alone() -> None:
    large = Ragged.packed(np.arange(100_000), np.full(1000, 100))
    few = large[np.array([7, 3])]
    sent = pickle.dumps(few)
    back = pickle.loads(sent)
    assert len(sent) < 4000
    np.testing.assert_array_equal(back.flat, few.flat)


def test_columns_are_taken_and_joined() -> None:
    x = columns()
    part, rest = take(x, np.array([3, 1])), take(x, np.array([0, 5, 2]))
    both = joined((part, rest))
    wanted = x[np.array([3, 1, 0, 5, 2])]
    assert digest(both) == digest(wanted) != digest(x)
    assert digest(Columns({"image": IMAGE, "ids": Ragged.of(ROWS)})) == digest(x)  # whatever comes first
    assert digest(Columns({"ids": Ragged.of(ROWS), "other": IMAGE})) != digest(x)
    assert digest(Columns(x.columns, Ragged.of([np.zeros(1, np.int64)] * 6))) != digest(x)
    cut = [*ROWS[:1], np.concatenate(ROWS[1:3])[:2], np.concatenate(ROWS[1:3])[2:], *ROWS[3:]]
    assert digest(Columns({"ids": Ragged.of(cut), "image": IMAGE})) != digest(x)  # the same values, other rows
    assert described(x) == "ids int32 [ragged], image float32 [2, 3]" and described(IMAGE) == "float32 [2, 3]"
    assert values_of(x) == 6 + 4 and values_of(IMAGE) == 6  # 22 / 6 tokens, rounded up
    assert columns_of(IMAGE) == {"x": IMAGE}
    with pytest.raises(ValueError, match="as many in each"):
        Columns({"ids": Ragged.of(ROWS), "image": IMAGE[:5]})


def test_one_pass_over_columns() -> None:
    x, held = columns(), np.array([1, 4])
    kept, drawn = scan.scan_apart("train", x, [held])
    assert kept.digest == digest(take(x, np.array([0, 2, 3, 5]))) and drawn.digest == digest(take(x, held))
    whole = scan.scan("train", x)
    assert whole.digest == digest(x) and sorted([*kept.hashes, *drawn.hashes]) == sorted(whole.hashes)
    assert whole.ranges["ids"].high == max(row.max() for row in ROWS) and whole.ranges["ids"].whole
    assert whole.ranges["image"].rms == pytest.approx(float(np.sqrt((IMAGE**2).mean())), rel=1e-5)
    bad = Columns({"frames": Ragged.of([np.ones(3), np.ones(2), np.array([1.0, np.inf])])})
    with pytest.raises(RequestError, match=r"data\.test: frames of example 2 holds NaN or infinity"):
        scan.scan("test", bad)


def test_equal_examples_alone_have_equal_hashes() -> None:
    """Also of rows that one another begin with, hold the same values in another order, or are cut elsewhere."""
    rows = [[1, 2], [2, 1], [1, 2, 0], [1, 2], [1], [2], [0, 1, 2], [1, 2, 0]]
    hashes = scan.scan("train", Columns({"ids": Ragged.of([np.array(r) for r in rows])})).hashes
    same = [[tuple(a) == tuple(b) for b in rows] for a in rows]
    assert (np.equal.outer(hashes, hashes) == np.array(same)).all()
    pairs = [([1], [2.0]), ([2], [1.0]), ([1], [1.0]), ([1], [2.0])]
    both = Columns({"a": np.array([p[0] for p in pairs]), "b": np.array([p[1] for p in pairs])})
    hashes = scan.scan("train", both).hashes
    assert len(set(hashes.tolist())) == 3 and hashes[0] == hashes[3]


def test_a_batch_is_padded_to_its_own_longest() -> None:
    batch = collate(columns(), PICKED)
    assert isinstance(batch, NamedInputs) and len(batch) == 4 and rows_of(batch) == 4
    given = batch.padded()
    assert list(given) == ["ids", "attention_mask", "image"] and given["ids"].dtype == torch.int64
    assert given["ids"].shape == (4, 7) and batch[:3].padded()["ids"].shape == (3, 5)
    for row, mask, k in zip(given["ids"], given["attention_mask"], PICKED, strict=True):
        length = len(ROWS[k])
        assert row[:length].tolist() == ROWS[k].tolist() and not row[length:].any()
        assert mask.tolist() == [1] * length + [0] * (7 - length)
    assert torch.equal(given["image"], torch.from_numpy(IMAGE[PICKED]))
    pieces = batch.split([1, 3])
    assert [len(piece) for piece in pieces] == [1, 3] and torch.equal(pieces[1].padded()["ids"], given["ids"][1:])
    narrow = collate(columns(), PICKED, narrow=True)
    assert isinstance(narrow, NamedInputs) and narrow.padded()["ids"].dtype == torch.int32
    assert widened(narrow).padded()["ids"].dtype == torch.int64  # type: ignore[union-attr]


def test_one_dense_column_is_a_tensor_whatever_it_is_called() -> None:
    whole = collate(IMAGE, PICKED)
    chosen = Collator(("image",))(columns(), PICKED)
    alone = collate(Columns({"image": IMAGE}), PICKED)
    for batch in (whole, chosen, alone):
        assert isinstance(batch, Tensor) and torch.equal(batch, gather(IMAGE, PICKED))
    with pytest.raises(RequestError, match="`inputs` names the column 'sound', and the data have ids, image"):
        Collator(("sound",))(columns(), PICKED)
    with pytest.raises(RequestError, match="the data have one column without a name"):
        Collator(("ids",))(IMAGE, PICKED)


def test_each_ragged_column_has_its_mask() -> None:
    """Whatever lengths a batch happens to have, so that a model always gets the same arguments."""
    x = Columns({"ids": Ragged.of(ROWS), "question": Ragged.of([row[:1] for row in ROWS]), "image": IMAGE})
    given = collate(x, PICKED).padded()  # type: ignore[union-attr]
    assert list(given) == ["ids", "attention_mask", "question", "question_mask", "image"]
    assert given["question_mask"].shape == (4, 1) and given["attention_mask"].shape == (4, 7)
    own = Columns({"ids": Ragged.of(ROWS), "attention_mask": Ragged.of([row > 50 for row in ROWS])})
    assert collate(own, PICKED).padded()["attention_mask"][1].tolist() == [*(ROWS[0] > 50), 0, 0, 0, 0]  # type: ignore[union-attr]


def test_rows_that_are_joined_share_their_values() -> None:
    some, more = Ragged.of(ROWS[:4]), Ragged.of(ROWS[4:])
    both = ragged.joined([some, more])
    assert both.arrays[0] is some.arrays[0] and both.arrays[1] is more.arrays[0]
    order = np.array([5, 0, 4, 3, 3])
    np.testing.assert_array_equal(both[order].flat, np.concatenate([ROWS[k] for k in order]))
    again = pickle.loads(pickle.dumps(both))
    np.testing.assert_array_equal(again.flat, np.concatenate(ROWS))
    large = Ragged.packed(np.arange(100_000), np.full(1000, 100))
    assert len(pickle.dumps((large, ragged.joined([large, some])))) < 1.2 * len(pickle.dumps(large))
    blocks = list(both.blocks(8 * 4))
    assert [first for first, _ in blocks] == [0, 2, 3, 5]  # rows of 3, 1 / 7 / 2, 5 / 4 values of 4 bytes
    np.testing.assert_array_equal(np.concatenate([block.flat for _, block in blocks]), both.flat)
    np.testing.assert_array_equal(Ragged.counting(np.array([2, 0, 3])).flat, [0, 1, 0, 1, 2])


def test_other_columns_are_not_joined() -> None:
    with pytest.raises(ValueError, match="expected the same columns"):
        joined((Columns({"x": IMAGE}), IMAGE))
    with pytest.raises(IndexError, match="there are 12"):
        joined((IMAGE, IMAGE))[np.array([3, 12])]


def test_a_named_column_is_gathered_as_any_other() -> None:
    room = Room()
    found = collate(Columns({"image": IMAGE}), PICKED, room)
    assert isinstance(found, Tensor) and found.data_ptr() == room.held.data_ptr()


def test_positions_of_an_example() -> None:
    rows = Positions(3, np.array([2, 0, 3]))
    assert len(rows) == 5 and rows.mean == pytest.approx(5 / 3)
    assert rows.rows(np.array([2, 0])).tolist() == [2, 3, 4, 0, 1]
    assert rows.rows(np.array([5, 3])).tolist() == [2, 3, 4, 0, 1]  # another view has the same
    assert rows.edges(np.array([2, 1, 0])).tolist() == [0, 3, 3, 5]
    assert rows.within(np.array([0, 2, 1]), np.array([1])).tolist() == [2, 3, 4]
    assert [rows.example_of(row) for row in range(5)] == [0, 0, 2, 2, 2]
    one = Positions(3)
    assert one.rows(np.array([4, 2])).tolist() == [1, 2] and one.edges(np.array([4, 2])).tolist() == [0, 1, 2]
    assert [one.example_of(row) for row in range(3)] == [0, 1, 2]


def test_answers_at_positions_are_those_of_their_rows() -> None:
    where = Ragged.of([np.array(p, np.int64) for p in ([0, 2], [], [6], [1], [0], [3])])
    x = Columns({"ids": Ragged.of(ROWS)}, where, "ids")
    batch = collate(x, np.array([2, 1, 0]))
    assert isinstance(batch, NamedInputs) and rows_of(batch) == 3 and rows_between(batch, 1, 3) == slice(1, 3)
    answers = torch.arange(3 * 7 * 2.0).view(3, 7, 2)
    assert torch.equal(batch.at_positions(answers), torch.stack([answers[0, 6], answers[2, 0], answers[2, 2]]))
    with pytest.raises(RequestError, match=r"returned \[3, 2\] for 3 examples padded to 7; expected"):
        batch.at_positions(torch.zeros(3, 2))


class Mean(nn.Module):
    def __init__(self, seed: int) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.embed = nn.Embedding(100, 3)

    def forward(self, ids: Tensor, attention_mask: Tensor, image: Tensor | None = None) -> Tensor:
        mask = attention_mask.unsqueeze(-1)
        mean = (self.embed(ids) * mask).sum(1) / mask.sum(1)
        return mean if image is None else mean + image.flatten(1)[:, :3]


def test_members_of_other_columns_share_a_teacher() -> None:
    image = nn.Sequential(nn.Flatten(), nn.Linear(6, 3))
    nets: dict[str, Any] = {"both": Mean(0), "text": Mean(1), "image": image}
    takes = {"both": Collator(), "text": Collator(("ids",)), "image": Collator(("image",))}
    teacher = Teacher(nets, micro_batch=4, classes=3, collators=takes)
    ids = np.arange(6)
    x = {collator: collator(columns(), ids) for collator in takes.values()}
    assert teacher.prepare(None, x) is False
    weights = dict.fromkeys(nets, 1 / 3)
    (total,) = teacher.soften_all([Asked(x)], temperature=2.0, weights=weights, combine="arithmetic")
    alone = []
    with torch.no_grad():
        for name, net in nets.items():
            one = [TorchPredictor(net)(takes[name](columns(), ids[k : k + 1])).logits for k in ids]
            alone.append(torch.softmax(torch.cat(one) / 2.0, -1))
    found = ensemble.mean32(total, "arithmetic")
    torch.testing.assert_close(found, torch.stack(alone).mean(0), atol=1e-5, rtol=0)
    assert set(teacher.probe(x)) == set(nets)


def test_kinds_of_one_dense_column_refuse_others() -> None:
    with pytest.raises(RequestError, match="a model of kind 'onnx' takes one dense column, and is given ids, image"):
        dense(collate(columns(), PICKED), "a model of kind 'onnx'")
