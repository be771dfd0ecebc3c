"""Looks at the user's data: its splits and columns, its classes, and what is noteworthy. It reads large files in part.

Data of up to `WHOLE_BYTES` are loaded and checked as a run does it; of larger ones, headers and some rows or images.
"""

from __future__ import annotations

import itertools
import math
import posixpath
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from orchestrator.cli.start import columns
from orchestrator.cli.start.splits import Given
from workers import storage
from workers.data import (
    dataset,
    encoded_tables,
    headers,
    image_folders,
    label_names,
    labels,
    loading,
    memmap,
    shards,
    table_files,
)
from workers.data.arrays import spread
from workers.data.examples import Columns
from workers.data.tables import Roles
from workers.errors import MissingColumn, RequestError
from workers.specs.data import DataSpec

WHOLE_BYTES = 2**28
"""Most bytes of files that are loaded whole."""
HEAD_BYTES = 2**25
"""Bytes of a larger table that are read."""
HEAD_ROWS = 100_000
"""Rows of a Parquet file that are read, where it is larger."""
PIECES = 64
"""Places spread over a larger table at which rows are read, since its first rows may be of one class."""
TEST_SHARE = 0.2
EXPECTED = ("numbers, since some are", "look like pixels in bytes")
"""Of notes that speak of what this command takes care of."""
IMAGE_SIDES = (16, 24, 28, 32, 48, 64)
"""Sizes that images are scaled to: the largest that is no larger than the images."""
NPZ_X = ("x", "X", "images", "image", "features", "data", "inputs", "arr_0")
NPZ_Y = ("y", "Y", "labels", "label", "targets", "target", "classes", "arr_1")


@dataclass(frozen=True, kw_only=True)
class Seen:
    """What is in the data.

    data: the section of the configuration. shape: of one example; empty for texts. scale: the largest value where they
    are bytes, else 1. classes: their number. examples: of each split, about as many where the data are large. reasons:
    what was guessed, and why. warnings: what may spoil the figures. loaded: the checked data set, of small data.
    to_do: what the user fills in, where these are placeholders for data.
    """

    data: Mapping[str, Any]
    shape: tuple[int, ...]
    scale: float
    classes: int
    label_names: tuple[str, ...]
    examples: Mapping[str, int]
    reasons: tuple[str, ...]
    warnings: tuple[str, ...]
    loaded: dataset.Dataset | None = None
    to_do: tuple[str, ...] = ()

    @property
    def is_text(self) -> bool:
        return bool(self.data["kind"] == "text")


def look(found: Given, label: str | None, text: str | None = None) -> Seen:
    """Look at the data. label, text: columns that the user names. Raises: `RequestError` with what is wrong."""
    notes: list[str] = []
    if found.kind == "table":
        section, reasons = _table(found, label, text, notes)
    elif text is not None:
        raise RequestError(f"--text '{text}': the data are {found.kind}, which have no columns of texts. Leave it out.")
    else:
        section, reasons = LOOKS[found.kind](found, label)
    for split in ("validation", "test"):
        if split not in found.splits:
            reasons.append(_proposal(split))
    section |= {} if "test" in found.splits else {"test_share": TEST_SHARE}
    seen = _loaded(section, reasons) if _total_bytes(found) <= WHOLE_BYTES else _headers(found, section, reasons)
    return replace(seen, warnings=tuple(dict.fromkeys([*notes, *seen.warnings])))  # loading may note the same


def _proposal(split: str) -> str:
    if split == "test":
        return (
            f"test: no file for it, so {TEST_SHARE:.0%} of the examples are set aside; if rows belong together (users, "
            "documents, days), give a file of others instead"
        )
    return "validation: no file for it, so a tenth of the training examples is set aside"


def _total_bytes(found: Given) -> int:
    if found.kind == "images":
        return sum(
            storage.size(storage.join(uri, n)) for uri in found.splits.values() for n in image_folders.files(uri)
        )
    return sum(storage.size(each) for uri in found.splits.values() for each in shards.files(uri, table_files.READERS))


def _loaded(section: dict[str, Any], reasons: list[str]) -> Seen:
    """What the checked data set holds."""
    spec = DataSpec.model_validate(section)
    try:
        data = loading.load(spec, seed=0)
    except MissingColumn as error:  # train has the columns
        raise RequestError(
            f"{error} To `init`, a file is the split that its name has: rename one without labels, as unlabeled.csv."
        ) from error
    x = data.train.x
    shape = () if isinstance(x, Columns) else tuple(x.shape[1:])
    is_bytes = len(shape) > 1 and not isinstance(x, Columns) and float(np.max(x[:1000])) > 1.5
    return Seen(
        data=section,
        shape=shape,
        scale=255.0 if is_bytes else 1.0,
        classes=data.classes,
        label_names=data.label_names,
        examples={name: len(rows) for name, rows in data.inputs.items()},
        reasons=(*reasons, _balance(data)),
        warnings=tuple(note for note in data.notes if not any(each in note for each in EXPECTED)),
        loaded=data,
    )


def _balance(data: dataset.Dataset) -> str:
    """The classes, with the smallest and the largest."""
    ids, counts = np.unique(data.train.y[data.train.y >= 0], return_counts=True)
    name = labels.name_of(data.label_names)
    least, most = ids[counts.argmin()], ids[counts.argmax()]
    shares = counts / counts.sum()
    return (
        f"classes: {data.classes}, from {name(int(least))} with {shares.min():.1%} of the training examples to "
        f"{name(int(most))} with {shares.max():.1%}"
    )


def _table(found: Given, label: str | None, text: str | None, notes: list[str]) -> tuple[dict[str, Any], list[str]]:
    """The section of the configuration, and what was guessed. Appends to `notes` what may be wrong."""
    head, roles, headless = _head(found.splits["train"], label, text)
    notes += [] if headless is None else [headless]
    if roles.texts:
        section: dict[str, Any] = {
            "kind": "text",
            **found.splits,
            "text_column": roles.texts[0],
            "label_column": roles.label,
        }
    else:
        section = {"kind": "table", **found.splits, "label_column": roles.label}
        if len(roles.features) + 1 < len(head.column_names):  # else all are features, as by default
            section["feature_columns"] = list(roles.features)
    return section, [*_patterns(found), *roles.reasons]


def _patterns(found: Given) -> list[str]:
    """Of each split that is a pattern: how many files it names."""
    return [
        f"{split}: {len(shards.files(uri, table_files.READERS)):,} files, `{posixpath.basename(uri)}`"
        for split, uri in found.splits.items()
        if "*" in uri
    ]


def _first(uri: str) -> str:
    """The first file of a split."""
    return shards.files(uri, table_files.READERS)[0]


class Guess(NamedTuple):
    """The rows of `_rows`, the roles of their columns, and a note where the header looks like data."""

    head: pa.Table
    roles: columns.GuessedRoles
    headless: str | None


def _head(uri: str, label: str | None, text: str | None) -> Guess:
    """What a table shows, with the quotes as a run of its kind reads them."""
    if table_files.is_quoted(_first(uri), of_texts=True):
        return _guessed(uri, label, text, of_texts=False)
    try:
        found = _guessed(uri, label, text, of_texts=True)
    except RequestError as error:
        found = _guessed(uri, label, text, of_texts=False)
        if found.roles.texts:  # a run could not read them so
            raise error
        return found
    return found if found.roles.texts else _guessed(uri, label, text, of_texts=False)


def _guessed(uri: str, label: str | None, text: str | None, *, of_texts: bool) -> Guess:
    head, times = _rows(uri, of_texts=of_texts)
    headless = headers.note(_first(uri), head)
    if headless is not None and label is None:
        raise RequestError(f"{headless} Where it has the names, say which is the label by --label.")
    return Guess(head, columns.guessed(head, label, uri, text=text, whole=times == 1), headless)


def texts_head(uri: str) -> pa.Table:
    """All rows of a small file of texts; of a larger one its first rows, and some from the places behind them."""
    return _rows(uri, of_texts=True)[0]


def _rows(uri: str, *, of_texts: bool) -> tuple[pa.Table, float]:
    """All rows of a small split, or some of a larger one; and how many times as many rows it has, roughly."""
    files = shards.files(uri, table_files.READERS)
    sizes = list(map(storage.size, files))
    if sum(sizes) <= WHOLE_BYTES:
        shards.require_memory(files)
        found = shards.read_each(files, lambda uri, like: table_files.read(uri, like, of_texts=of_texts))
        has_header_line = table_files.ending(files[0]) in table_files.WITH_A_HEADER_LINE
        join = shards.joined if has_header_line else shards.concatenated  # a run on texts reads files that lack a key
        return join(found), 1.0
    taken = spread(len(files), PIECES).tolist()
    rows: dict[str, float] = {}

    def read(file: str, like: pa.Schema) -> pa.Table:
        found, times = _part(file, like, files=len(taken), of_texts=of_texts)
        rows[file] = found.num_rows * times
        return found

    head = shards.concatenated(shards.read_each([files[k] for k in taken], read))
    others = sum(sizes) / max(1, sum(sizes[k] for k in taken))
    return head, sum(rows.values()) / max(1, head.num_rows) * others


def _part(uri: str, like: pa.Schema, *, files: int, of_texts: bool) -> tuple[pa.Table, float]:
    """`_rows` of a file. files: so many share what is read. like, of_texts: as of `table_files.read`."""
    size, most = storage.size(uri), HEAD_BYTES // files
    if size <= most:
        return table_files.read(uri, like, of_texts=of_texts), 1.0
    if table_files.ending(uri) == ".parquet":
        return _of_parquet(uri, HEAD_ROWS // files)
    in_pieces = posixpath.splitext(uri.lower())[1] not in storage.COMPRESSED
    quoted = table_files.is_quoted(uri, of_texts=of_texts)
    content = storage.read_with(
        uri, lambda file: _pieces(file, size, most, quoted=quoted) if in_pieces else _lines(file, most)
    )
    return table_files.parsed(uri, content, like, of_texts=of_texts), max(1.0, size / max(1, len(content)))


def _lines(file: Any, most: int) -> bytes:
    """The next bytes, on to the end of their last line and of one more: a header has a row behind it, however long.

    Of what is no text, the bytes alone.
    """
    content: bytes = file.read(most)
    return content if b"\0" in content else content + file.readline() + file.readline()


def _pieces(file: Any, size: int, most: int, *, quoted: bool) -> bytes:
    """The first lines of a file of `size` bytes, and lines from further places, where a line is a row.

    most: about so many bytes; more where lines are long.
    """
    head = _lines(file, most // 2)
    of_several_lines = quoted and any(line.count(b'"') % 2 for line in head.split(b"\n"))  # a value of the head
    if b"\0" in head or of_several_lines:
        return head
    each = most // 2 // PIECES
    found = [head]
    for start in np.linspace(most // 2, size - each, PIECES).astype(int):
        if start < file.tell():  # within a line that is read
            continue
        file.seek(int(start))
        file.readline()
        found.append(_lines(file, each))
    return b"".join(found)


def _of_parquet(uri: str, rows: int) -> tuple[pa.Table, float]:
    """About so many rows of a large Parquet file, the first of groups spread over it; and as `_rows`."""

    def read(file: Any) -> tuple[pa.Table, float]:
        try:
            table = pq.ParquetFile(file)
            groups = spread(table.num_row_groups, PIECES).tolist()
            most = math.ceil(max(1, rows) / max(1, len(groups)))
            batches = [batch for k in groups for batch in itertools.islice(table.iter_batches(most, row_groups=[k]), 1)]
            found = pa.Table.from_batches(batches, table.schema_arrow)
            return table_files.flat(found), table.metadata.num_rows / max(1, found.num_rows)
        except pa.ArrowException as error:  # another try finds the same
            raise table_files.unreadable(uri, error) from error

    return storage.read_with(uri, read)


def _npz(found: Given, label: str | None) -> tuple[dict[str, Any], list[str]]:
    shapes = npz_shapes(found.splits["train"])
    x = next((name for name in NPZ_X if name in shapes), None)
    y = label or next((name for name in NPZ_Y if name in shapes and name != x), None)
    if x is None or y is None or y not in shapes:
        listed = ", ".join(f"{name} {list(shape)}" for name, (shape, _) in shapes.items()) or "none"
        raise RequestError(
            f"'{found.splits['train']}': found the arrays {listed}. Expected `x` [N, ...] and `y` [N], as "
            "numpy.savez(path, x=..., y=...) writes them, in a file for each split."
        )
    names: dict[str, Any] = {} if x == "x" else {"feature_columns": [x]}
    names |= {} if y == "y" else {"label_column": y}
    shape, kind = shapes[x]
    return {"kind": "npz", **found.splits, **names}, [f"examples: '{x}', {kind} {list(shape)}; label: '{y}'"]


def npz_shapes(uri: str) -> dict[str, tuple[tuple[int, ...], np.dtype[Any]]]:
    """Shape and dtype of each array of an npz, from its header. Raises: `RequestError` where it is none."""

    def read(file: Any) -> dict[str, tuple[tuple[int, ...], np.dtype[Any]]]:
        shapes = {}
        with zipfile.ZipFile(file) as archive:
            for name in archive.namelist():
                if name.endswith(".npy"):
                    with archive.open(name) as inner:
                        shape, _, kind = memmap.read_header(inner)
                    shapes[name.removesuffix(".npy")] = (shape, kind)
        return shapes

    try:
        return storage.read_with(uri, read)
    except (ValueError, EOFError, zipfile.BadZipFile) as error:
        raise RequestError(
            f"'{uri}': not a numpy archive ({error}). Expected an .npz: write it by numpy.savez(path, x=..., y=...)."
        ) from error


def _images(found: Given, label: str | None) -> tuple[dict[str, Any], list[str]]:
    if label is not None:
        raise RequestError(
            f"--label '{label}': images have no columns, and the class of each is the folder that it is in. Leave "
            "--label out."
        )
    train = found.splits["train"]
    names = image_folders.files(train)
    sizes, grey = [], True
    damaged: image_folders.Damaged | None = None
    for name in names[:: max(1, len(names) // 50)]:
        try:
            with image_folders.opened(storage.join(train, name)) as image:
                sizes.append(image.size)
                grey = grey and image.mode in ("1", "L", "LA", "I;16", "I;16B")
        except image_folders.Damaged as error:  # reading the images names all of them
            damaged = error
    if damaged is not None and not sizes:
        raise damaged
    typical = int(np.median([min(size) for size in sizes]))
    side = max([each for each in IMAGE_SIDES if each <= typical], default=IMAGE_SIDES[0])
    section = {"kind": "images", **found.splits, "image_size": [side, side], "image_mode": "grey" if grey else "rgb"}
    widths, heights = zip(*sizes, strict=True)
    seen = f"from {min(widths)} x {min(heights)} to {max(widths)} x {max(heights)} pixels"
    reasons = [
        f"images: {len(names):,}, {seen}, in {'grey' if grey else 'colour'}; scaled to {side} x {side}",
        "label: the folder that an image is in",
    ]
    return section, reasons


LOOKS = {"npz": _npz, "images": _images}
"""By the kind of files without columns: the section of the configuration, and what was guessed."""


def _headers(found: Given, section: dict[str, Any], reasons: list[str]) -> Seen:
    """What the headers and the first rows of large data say."""
    train = found.splits["train"]
    if found.kind == "images":
        return _folders(found, section, reasons)
    if found.kind == "npz":
        shape, kind = npz_shapes(train)[section.get("feature_columns", ["x"])[0]]
        label = section.get("label_column", "y")
        values = _different(train, label)
        return _unloaded(
            section, reasons, values, shape=shape[1:], rows=shape[0], scale=255.0 if kind == np.uint8 else 1
        )
    head, times = _rows(train, of_texts=section["kind"] == "text")
    name = section["label_column"]
    texts = encoded_tables.texts_of(head.column(name), train, name)
    values = np.unique([each for each in texts if each is not None])
    rows = round(head.num_rows * times)
    roles = Roles(name, section.get("feature_columns"))
    names = [] if section["kind"] == "text" else encoded_tables.feature_names(head, roles)
    width = sum(len(encoded_tables.encoding(name, head.column(name), train).names) for name in names)
    return _unloaded(section, reasons, values, shape=(width,) if names else (), rows=rows)


def _folders(found: Given, section: dict[str, Any], reasons: list[str]) -> Seen:
    """What the folders of many images say."""
    paths = {split: image_folders.files(uri) for split, uri in found.splits.items()}
    of_images = image_folders.classes_of(found.splits["train"], paths["train"])
    ids, names = label_names.resolved(label_names.ids_or_names({"train": of_images}))
    classes = range(labels.count(ids["train"], None, names))
    shape = (image_folders.CHANNELS[section["image_mode"]], *section["image_size"])
    rows = len(paths["train"])
    seen = _unloaded(section, reasons, names or classes, shape=shape, rows=rows, read="some of its images were opened")
    return replace(seen, examples={split: len(of_split) for split, of_split in paths.items()})


def _different(uri: str, label: str) -> NDArray[Any]:
    """The different labels of an npz. Raises: `RequestError` where it has none, or they are Python's objects."""
    try:
        values = storage.read_with(uri, lambda file: np.unique(np.load(file, allow_pickle=False)[label]))
    except RequestError as error:
        raise RequestError(
            f"the labels '{label}' of {error} Expected class ids, or names as an array of text."
        ) from error
    if not len(values):
        raise RequestError(f"'{uri}': no labels in '{label}'; expected one for each example. Add labels.")
    return values


def _unloaded(
    section: dict[str, Any],
    reasons: list[str],
    values: Any,
    *,
    shape: tuple[int, ...],
    rows: int,
    scale: float = 1.0,
    read: str = "its header and some of its rows were read",
) -> Seen:
    name = posixpath.basename(str(section["train"]))
    are_names = section["kind"] != "npz" or values.dtype.kind in "US"
    return Seen(
        data=section,
        shape=shape,
        scale=scale,
        classes=len(values) if are_names else int(values.max()) + 1,
        label_names=tuple(map(str, values)),
        examples={"train": rows},
        reasons=(*reasons, f"classes: {len(values)} in what was read"),
        warnings=(f"'{name}' is large: only {read}. `stillhouse run` checks all of it.",),
    )
