"""Every data kind gives the same data set, and every kind of wrong data is named."""

import gzip
import re
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from tests.makers import blobs, write_idx
from workers.data import loading, readers
from workers.data.arrays import Joined, Rows, digest, gather
from workers.errors import RequestError
from workers.specs.data import KEYS, OWN, DataSpec


def save(folder: Path, **splits: tuple[np.ndarray, np.ndarray]) -> None:
    for name, (x, y) in splits.items():
        np.savez(folder / f"{name}.npz", x=x, y=y)


def spec(folder: Path, kind: str = "npz", **more: Any) -> DataSpec:
    files = {"folder": str(folder)} if kind == "python" else {"train": f"train.{kind}", "test": f"test.{kind}"}
    return DataSpec.model_validate({"kind": kind, "root": str(folder), **files, **more})


def test_npz_parquet_and_python_agree(tmp_path: Path) -> None:
    train, test = blobs(50, 0), blobs(20, 1)
    save(tmp_path, train=train, test=test)
    for name, (x, y) in {"train": train, "test": test}.items():
        pd.DataFrame({"x": list(x), "y": y}).to_parquet(tmp_path / f"{name}.parquet")
    (tmp_path / "mine.py").write_text(
        "import numpy as np\nfrom pathlib import Path\nhere = Path(__file__).parent\n"
        "def splits():\n"
        "    return {n: (f['x'], f['y']) for n in ('train', 'test') for f in [np.load(here / f'{n}.npz')]}\n"
    )
    found = [
        loading.load(spec(tmp_path), 0),
        loading.load(spec(tmp_path, "parquet"), 0),
        loading.load(spec(tmp_path, "python", factory="mine:splits"), 0),
    ]
    assert found[0].digests == found[1].digests == found[2].digests
    assert found[0].classes == 3 and len(found[0].validation) == 5 and len(found[0].train) == 45


def test_parquet_columns_by_name(tmp_path: Path) -> None:
    frame = pd.DataFrame({"a": [1.0, 2.0], "b": [3.0, 4.0], "id": [7, 8], "label": [0, 1]})
    for k, name in enumerate(("train", "test", "valid")):
        frame.assign(a=frame.a + k).to_parquet(tmp_path / f"{name}.parquet")
    asked = spec(tmp_path, "parquet", label_column="label", feature_columns=("b", "a"), validation="valid.parquet")
    np.testing.assert_array_equal(loading.load(asked, 0).train.x[:], [[3.0, 1.0], [4.0, 2.0]])


@pytest.mark.parametrize("ending", ["", ".gz"])
@pytest.mark.parametrize("way", ["folder", "prefix", "images", "both"])
def test_idx_by_every_way_of_naming_it(tmp_path: Path, ending: str, way: str) -> None:
    folder = tmp_path / "fashion-images"
    folder.mkdir()
    images = np.arange(10 * 4, dtype=np.uint8).reshape(10, 2, 2)
    labels = np.arange(10) % 3
    for prefix, flipped in (("train", images[::-1, ::-1]), ("t10k", images)):
        write_idx(folder / f"{prefix}-images-idx3-ubyte{ending}", flipped)
        write_idx(folder / f"{prefix}-labels-idx1-ubyte{ending}", labels)
    named = {
        "folder": {"train": ".", "test": "."},
        "prefix": {"train": "train", "test": "t10k"},
        "images": {split: f"{p}-images-idx3-ubyte{ending}" for split, p in (("train", "train"), ("test", "t10k"))},
        "both": {
            split: {"images": f"{p}-images-idx3-ubyte{ending}", "labels": f"{p}-labels-idx1-ubyte{ending}"}
            for split, p in (("train", "train"), ("test", "t10k"))
        },
    }[way]
    found = loading.load(spec(folder, "idx", **named), 0)
    assert found.test.x.shape == (10, 2, 2)
    np.testing.assert_allclose(found.test.x[:], images / 255, rtol=1e-6)
    np.testing.assert_array_equal(found.test.y, labels)


def test_unlabelled_examples_join_the_transfer_set(tmp_path: Path) -> None:
    save(tmp_path, train=blobs(30, 0), test=blobs(10, 1), valid=blobs(10, 3))
    np.savez(tmp_path / "more.npz", x=blobs(7, 2)[0])
    found = loading.load(spec(tmp_path, validation="valid.npz", unlabeled="more.npz"), 0)
    assert len(found.transfer) == 37 and (found.transfer.y[30:] == -1).all()
    np.testing.assert_array_equal(found.transfer.x[np.array([36, 0])], [blobs(7, 2)[0][6], found.train.x[0]])


def test_the_validation_split_follows_the_seed(tmp_path: Path) -> None:
    save(tmp_path, train=blobs(100, 0), test=blobs(10, 1))
    drawn = [loading.load(spec(tmp_path, validation_share=0.2), seed).digests["validation"] for seed in (1, 1, 2)]
    assert drawn[0] == drawn[1] != drawn[2]


def test_a_drawn_validation_split_is_labelled(tmp_path: Path) -> None:
    x, y = blobs(60, 0)
    y[::2] = -1
    save(tmp_path, train=(x, y), test=blobs(10, 1))
    found = loading.load(spec(tmp_path), 0)
    assert len(found.validation) == 3 and (found.validation.y >= 0).all() and len(found.train) == 57


def test_lists_of_different_lengths_are_refused(tmp_path: Path) -> None:
    frame = pd.DataFrame({"x": [[1.0, 2.0], [3.0], [4.0, 5.0, 6.0], [7.0, 8.0]], "y": [0, 1, 0, 1]})
    for name in ("train", "test"):
        frame.to_parquet(tmp_path / f"{name}.parquet")
    with pytest.raises(RequestError, match="lists of different lengths"):
        loading.load(spec(tmp_path, "parquet"), 0)


@pytest.mark.parametrize("damage", ["npy", "deflate", "gzip"])
def test_damaged_files_are_named(tmp_path: Path, damage: str) -> None:
    save(tmp_path, train=(X, Y), test=(X, Y))
    path = tmp_path / "train.npz"
    if damage == "npy":
        with path.open("wb") as file:
            np.save(file, X)
    elif damage == "deflate":
        np.savez_compressed(path, x=X, y=Y)
        content = bytearray(path.read_bytes())
        content[200:260] = bytes(60)
        path.write_bytes(bytes(content))
    else:
        path = tmp_path / "train.npz.gz"
        path.write_bytes(gzip.compress(b"x" * 1000)[:-12])
    with pytest.raises(RequestError, match=re.escape(str(path))):
        loading.load(spec(tmp_path, train=path.name), 0)


X, Y = blobs(20, 0)
WRONG: dict[str, tuple[dict[str, tuple[np.ndarray, np.ndarray]], str]] = {
    "lengths": ({"train": (X, Y[:-1])}, "x has 20 examples and y has 19 labels"),
    "label above": (
        {"test": (X, np.where(Y == 2, 9, Y))},
        r"label 9 of example .* outside the 3 classes .*\. Correct them, or set `data\.classes`\.$",
    ),
    "label below": ({"train": (X, np.where(Y == 2, -2, Y))}, r"label -2 .* in all\. Correct them\.$"),
    "unlabelled test": ({"test": (X, np.full(20, -1))}, "data.test: label -1"),
    "nothing labelled": ({"train": (X, np.full(20, -1))}, "no example has a label"),
    "nan": ({"train": (np.where(X[3, 2] == X, np.nan, X), Y)}, "x of example 3 holds NaN"),
    "infinity": ({"test": (np.where(X[3, 2] == X, np.inf, X), Y)}, "data.test: x of example 3"),
    "empty train": ({"train": (X[:0], Y[:0])}, "data.train: no examples"),
    "empty test": ({"test": (X[:0], Y[:0])}, "data.test: no examples"),
    "shapes": ({"test": (X[:, :5], Y)}, r"examples of shape \[5\]; expected \[8\]"),
    "one-hot": ({"train": (X, np.eye(3)[Y])}, r"y is float64 of shape \[20, 3\]"),
    "ids that wrap around": (
        {"train": (X, np.where(Y == 1, 2**64 - 1, Y).astype(np.uint64))},
        "y holds 18446744073709551615",
    ),
    "fractions": ({"train": (X, Y + 0.5)}, r"y holds \d\.5 at example 0; expected integer class ids"),
    "words": ({"train": (X.astype(str), Y)}, "expected numbers"),
}


@pytest.mark.parametrize("case", WRONG)
def test_wrong_arrays_are_named(tmp_path: Path, case: str) -> None:
    changed, message = WRONG[case]
    save(tmp_path, **{"train": (X, Y), "test": (X, Y), **changed})
    with pytest.raises(RequestError, match=message):
        loading.load(spec(tmp_path), 0)


def test_wrong_files_are_named(tmp_path: Path) -> None:
    save(tmp_path, test=(X, Y))
    with pytest.raises(RequestError, match=r"train\.npz': no such file"):
        loading.load(spec(tmp_path), 0)
    (tmp_path / "train.npz").write_bytes(b"no archive")
    with pytest.raises(RequestError, match="not a numpy archive"):
        loading.load(spec(tmp_path), 0)
    np.savez(tmp_path / "train.npz", x=X)
    with pytest.raises(RequestError, match="no array 'y'; found x"):
        loading.load(spec(tmp_path), 0)
    np.savez(tmp_path / "train.npz", x=np.array([{}, {}], dtype=object), y=Y[:2])
    with pytest.raises(RequestError, match="pickles"):
        loading.load(spec(tmp_path), 0)


STRIDES = {
    "rows backwards": lambda x: x[::-1],
    "columns backwards": lambda x: x[:, ::-1],
    "a field of packed records": lambda x: np.rec.fromarrays([np.zeros(len(x), np.uint8), x], "u1, (8,)f4")["f1"],
}


@pytest.mark.parametrize("case", STRIDES)
def test_columns_of_any_strides_are_gathered(case: str) -> None:
    x, rows = STRIDES[case](blobs(10, 0)[0]), np.array([7, 0, 7])
    assert x.dtype == np.float32 and any(step < 0 or step % 4 for step in x.strides)
    np.testing.assert_array_equal(gather(x, rows).numpy(), x[rows])


def test_views_are_the_rows_they_stand_for() -> None:
    x, z = blobs(10, 0)[0], blobs(5, 1)[0]
    joined = Joined((x, z))
    both = np.concatenate([x, z])
    index = np.array([14, 0, 9, 10])
    np.testing.assert_array_equal(joined[index], both[index])
    np.testing.assert_array_equal(joined[3:12], both[3:12])
    assert digest(joined) == digest(both) == digest(Rows(both, np.arange(15)))
    assert digest(both) != digest(both[::-1])


@pytest.mark.parametrize(
    ("row", "x", "y", "words"),
    [(17, np.nan, 0, "data.train: x of example 17 holds NaN"), (5, 0.0, -7, "data.train: label -7 of example 5 is")],
)
def test_examples_are_named_as_they_were_given(tmp_path: Path, row: int, x: float, y: int, words: str) -> None:
    """Whichever of them validation is drawn from."""
    spoilt = blobs(100, 0)
    spoilt[0][row], spoilt[1][row] = x, y
    save(tmp_path, train=spoilt, test=blobs(20, 1))
    for seed in range(3):
        with pytest.raises(RequestError, match=words):
            loading.load(spec(tmp_path), seed)


NO_ARRAYS = {
    "csr_matrix": ("scipy.sparse.csr_matrix(x)", r"x is csr_matrix, a sparse matrix; .*Return x\.toarray\(\)"),
    "coo_array": ("scipy.sparse.coo_array(x)", r"x is coo_array, a sparse matrix; .*Return x\.toarray\(\)"),
    "a table": ("pandas.DataFrame(x)", r"x is DataFrame, a table; .*Return x\.to_numpy\(\)"),
    "a sparse tensor": ("torch.tensor(x).to_sparse()", "x is Tensor, which is no array of examples"),
    "a tensor with gradient": (
        "torch.tensor(x, requires_grad=True)",
        r"x is Tensor, which is no array of examples .*detach\(\)",
    ),
    "masked": ("numpy.ma.masked_less(x, 0)", r"x is a masked array; .*Return x\.filled"),
    "a list": ("x.tolist()", "x is list, which is no array of examples"),
    "without a length": ("Odd(x, length=None)", "x is Odd, which is no array of examples .TypeError"),
    "of another length": ("Odd(x, length=7)", "x is Odd, .*its length is 7 and its shape"),
    "rows in order alone": ("Odd(x, ordered=True)", "x is Odd, .*ValueError: only in increasing order"),
    "other rows": ("Odd(x, answer=lambda rows: [1])", r"x is Odd, .* is list; expected an array of float32 \(2, 8\)"),
}

ODD = """
import numpy, pandas, scipy.sparse, torch

class Odd:
    def __init__(self, x, length=0, ordered=False, answer=None):
        self.x, self.length, self.ordered, self.answer = x, length, ordered, answer
        self.shape, self.dtype = x.shape, x.dtype
    def __len__(self):
        return len(self.x) if self.length == 0 else self.length
    def __getitem__(self, rows):
        if self.ordered and not isinstance(rows, slice) and (numpy.diff(rows) <= 0).any():
            raise ValueError("only in increasing order")
        return self.x[rows] if self.answer is None else self.answer(rows)

def splits():
    x = numpy.random.default_rng(0).normal(size=(60, 8)).astype("float32")
    y = numpy.arange(60) % 3
    return {"train": (x + 1, y), "test": (x, y), "SPLIT": VALUE}
"""


@pytest.mark.parametrize("split", ["train", "unlabeled"])
@pytest.mark.parametrize("case", NO_ARRAYS)
def test_what_is_no_array_of_examples_is_named(tmp_path: Path, case: str, split: str) -> None:
    value, words = NO_ARRAYS[case]
    pair = value if split == "unlabeled" else f"({value}, y)"
    (tmp_path / "mine.py").write_text(ODD.replace("SPLIT", split).replace("VALUE", pair))
    with pytest.raises(RequestError, match=f"split '{split}': {words}"):
        loading.load(spec(tmp_path, "python", factory="mine:splits"), 0)


def test_objects_that_answer_as_arrays_are_taken(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(ODD.replace("SPLIT", "train").replace("VALUE", "(Odd(x + 1), torch.tensor(y))"))
    (tmp_path / "tensor.py").write_text(ODD.replace("SPLIT", "train").replace("VALUE", "(torch.tensor(x + 1), y)"))
    (tmp_path / "matrix.py").write_text(ODD.replace("SPLIT", "train").replace("VALUE", "(numpy.matrix(x + 1), y)"))
    modules = ("mine", "tensor", "matrix")
    found = [loading.load(spec(tmp_path, "python", factory=f"{module}:splits"), 0) for module in modules]
    assert found[0].digests == found[1].digests == found[2].digests and found[0].train.x.shape == (54, 8)


READER = """
import numpy as np
class Columns:
    def __init__(self, separator=","):
        self.separator = separator
    def __call__(self, uri):
        rows = np.loadtxt(uri, delimiter=self.separator, ndmin=2)
        return (rows[:, 1:].astype("f4"), rows[:, 0].astype("i8")) if "more" not in uri else rows.astype("f4")
def nothing():
    return lambda uri: None
"""


def test_a_kind_of_ones_own_reads_each_split(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(READER)
    x, y = blobs(60, 0)
    np.savez(tmp_path / "train.npz", x=x, y=y)
    for name in ("train", "test"):
        np.savetxt(tmp_path / f"{name}.csv", np.column_stack([y, x]), delimiter=";")
    np.savetxt(tmp_path / "more.csv", x, delimiter=";")
    asked = {"kind": "mine:Columns", "kwargs": {"separator": ";"}, "unlabeled": "more.csv", "folder": str(tmp_path)}
    values = {"train": "train.csv", "test": "test.csv", "root": str(tmp_path), "allow_overlap": True, **asked}
    found = loading.load(DataSpec.model_validate(values), 0)
    assert len(found.transfer) == 54 + 60 and found.classes == 3 and found.test.y.tolist() == y.tolist()
    np.testing.assert_allclose(found.test.x, x, rtol=1e-6)
    for wrong, message in (
        ({"kind": "mine:Absent"}, "Absent"),
        ({"kind": "mine:nothing", "kwargs": {}}, r"split 'train' .* returned NoneType; expected a pair \(x, y\)"),
        ({"train": "absent.csv"}, "split 'train' .*absent.csv.*FileNotFoundError"),
        ({"kwargs": {"columns": 3}}, "columns"),
    ):
        with pytest.raises(RequestError, match=message):
            loading.load(DataSpec.model_validate(values | wrong), 0)


# Keys


NEEDED: dict[str, dict[str, Any]] = {"python": {"factory": "mine:splits"}, "images": {"image_size": (8, 8)}}
"""By kind, the keys that it needs; of other kinds, two files."""


def given(kind: str) -> dict[str, Any]:
    """The fewest keys of a kind."""
    files = {} if kind == "python" else {"train": "a", "test": "b"}
    return {"kind": kind.replace(OWN, "mine:Reader"), **files, **NEEDED.get(kind, {})}


def test_every_kind_has_its_keys() -> None:
    assert {*readers.READERS, *readers.TABLES, "python", OWN} == KEYS.keys()
    assert {kind for kind, keys in KEYS.items() if "group_column" in keys} == readers.GROUPS.keys()
    for kind in KEYS:  # a resolved configuration has the defaults of all keys
        found = DataSpec.model_validate(given(kind))
        assert DataSpec.model_validate(found.model_dump()) == found


@pytest.mark.parametrize(
    ("kind", "key", "value"),
    [
        ("text", "feature_columns", ["title"]),
        ("images", "label_column", "species"),
        ("idx", "label_column", "species"),
        ("python", "label_column", "species"),
        (OWN, "label_column", "species"),
        (OWN, "factory", "mine:splits"),
        ("table", "text_column", "body"),
        ("npz", "image_size", [8, 8]),
        ("npz", "image_mode", "grey"),
        ("npz", "kwargs", {"a": 1}),
        ("npz", "folder", "lib"),
        ("python", "train", "a.npz"),
    ],
)
def test_a_key_of_another_kind_is_refused(kind: str, key: str, value: Any) -> None:
    with pytest.raises(ValueError, match=rf"`{key}` belongs to kind .*, not '{given(kind)['kind']}', which reads "):
        DataSpec.model_validate({**given(kind), key: value})


@pytest.mark.parametrize("split", ["validation", "test"])
def test_a_share_for_a_split_that_a_factory_returns_is_refused(tmp_path: Path, split: str) -> None:
    (tmp_path / "mine.py").write_text(
        "import numpy as np\n\ndef splits():\n    pair = np.zeros((9, 2)), np.arange(9) % 3\n"
        "    return dict.fromkeys(('train', 'validation', 'test'), pair)\n"
    )
    asked = spec(tmp_path, "python", factory="mine:splits", **{f"{split}_share": 0.2})
    with pytest.raises(RequestError, match=rf"data\.{split}_share: .* returns a `{split}` split\. Leave"):
        loading.load(asked, 0)
