"""Readers of data files: one function per kind, listed in `READERS`, and `read_columns` of tables.

A reader takes the data's spec and returns each split as (examples, labels). It appends notes for the user to `notes`.
Readers do not validate the meaning of values, and execute nothing in a file: they read numpy archives without pickle.
Before they allocate, they compare a file's declared size with its content and with the available memory.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import pyarrow as pa

from workers.data import (
    encoded_tables,
    idx_files,
    image_folders,
    label_names,
    npz_files,
    tables,
    text_files,
)
from workers.data.encoded_tables import Encoding
from workers.data.labels import LABELLED
from workers.data.own_data import read_by_own, read_python
from workers.data.splits import SPLITS, Groups, Read, Splits, uris
from workers.errors import MissingColumn, RequestError
from workers.specs.data import DataSpec


def read(spec: DataSpec, notes: list[str] | None = None) -> Read:
    """The splits that `spec` names, and the groups of their examples."""
    if spec.kind == "python":
        return read_python(spec)
    notes = [] if notes is None else notes
    groups = _groups(spec, notes)  # first, since their column is easily misspelt
    if ":" in spec.kind:
        return Read(read_by_own(spec), groups)
    _check_label_is_no_input(spec)
    if spec.kind in TABLES:
        splits, encodings = read_columns(spec, notes)
        return Read(splits, groups, encodings)
    return Read(READERS[spec.kind](spec, notes), groups)


def _check_label_is_no_input(spec: DataSpec) -> None:
    """Raise `RequestError` where a model would see the label; masked texts have no label column."""
    texts = spec.texts_from if spec.kind == "text" and spec.masking is None else ()
    for key, names in {"feature_columns": spec.feature_columns or (), "text_column": texts}.items():
        if spec.labels_from in names:
            raise RequestError(
                f"data.{key}: '{spec.labels_from}' is the label column (`data.label_column`); expected columns that "
                "models may see. Leave it out."
            )


def _groups(spec: DataSpec, notes: list[str]) -> dict[str, Groups]:
    """The column `group_column` of `test`, of `validation`, and of `train` where others are drawn from it; by split.

    Appends a note where a split other than the tested one lacks it.
    """
    if spec.group_column is None:
        return {}
    tested = "train" if spec.test is None else "test"
    of = uris(spec)
    draws = spec.validation is None or spec.transfer_share is not None
    others = {"train": draws, "validation": spec.validation is not None}
    found = {tested: GROUPS[spec.kind](of[tested], spec.group_column)}
    for split in [name for name, has_use in others.items() if has_use and name not in found]:
        try:
            found[split] = GROUPS[spec.kind](of[split], spec.group_column)
        except MissingColumn:
            notes.append(f"data.group_column: {split} has no '{spec.group_column}', so {WITHOUT_GROUPS[split]}.")
    return found


def read_npz(spec: DataSpec, notes: list[str]) -> Splits:
    found: Splits = {}
    features, *more = spec.feature_columns or ("x",)
    if more:
        raise RequestError(f"data.feature_columns: {len(more) + 1} names; expected the one array of the examples.")
    for name, uri in uris(spec).items():
        wanted = (features, spec.labels_from) if name in LABELLED else (features,)
        x, *y = npz_files.arrays(uri, wanted)
        found[name] = (x, y[0] if y else None)
    return found


def read_columns(spec: DataSpec, notes: list[str]) -> tuple[Splits, Sequence[Encoding]]:
    """The splits of a table, and how its columns became numbers."""
    found: Splits = {}
    of = uris(spec)
    if spec.kind == "table":
        encoded, encodings = encoded_tables.read(of, _roles(spec), notes)
        found.update(encoded)
        return found, encodings
    plain, widths = tables.read(of, _roles(spec), notes)
    named = {split: y for split, (_, y) in plain.items() if isinstance(y, pa.ChunkedArray)}
    labels = encoded_tables.labels_of(named, of, spec.labels_from) if named else {}
    found.update({split: (x, labels.get(split, y)) for split, (x, y) in plain.items()})
    return found, _plain(widths)


def _roles(spec: DataSpec) -> tables.Roles:
    return tables.Roles(spec.labels_from, spec.feature_columns, spec.group_column)


def _plain(widths: Mapping[str, int]) -> list[Encoding]:
    return [Encoding(name, width=width) for name, width in widths.items()]


def read_images(spec: DataSpec, notes: list[str]) -> Splits:
    assert spec.image_size is not None, "checked by DataSpec"
    read = {
        name: image_folders.read(uri, spec.image_size, spec.image_mode, name in LABELLED)
        for name, uri in uris(spec).items()
    }
    y = label_names.ids_or_names({name: names for name, (_, names) in read.items() if names is not None})
    return {name: (x, y.get(name)) for name, (x, _) in read.items()}


def read_text(spec: DataSpec, notes: list[str]) -> Splits:
    """Texts and their labels; masked ones have none, since masks make them."""
    labelled = LABELLED if spec.masking is None else ()
    return {
        name: text_files.read(uri, name, spec.texts_from, spec.labels_from if name in labelled else None)
        for name, uri in uris(spec).items()
    }


def read_idx(spec: DataSpec, notes: list[str]) -> Splits:
    splits: Splits = {}
    asked_for = {**{name: getattr(spec, name) for name in SPLITS}, **spec.stages}
    for name, asked in asked_for.items():
        if asked is None:
            continue
        labelled = name in LABELLED
        images, labels = idx_files.of_split(spec, name, asked, labelled)
        # Bytes to the unit interval, the convention of every MNIST paper since LeCun et al. 1998.
        pixels = idx_files.array(images, as_floats=True)
        if pixels.dtype == np.uint8:
            pixels = pixels.astype(np.float32)
            pixels /= np.float32(255)
        splits[name] = (pixels, idx_files.array(labels) if labelled else None)
    return splits


TABLES = ("table", "parquet")
"""Kinds whose columns become the numbers of an example."""
READERS: dict[str, Callable[[DataSpec, list[str]], Splits]] = {
    "npz": read_npz,
    "idx": read_idx,
    "text": read_text,
    "images": read_images,
}


GROUPS: dict[str, Callable[[str, str], Groups]] = {
    "npz": lambda uri, name: npz_files.arrays(uri, (name,))[0],
    "parquet": tables.read_groups,
    "text": text_files.read_groups,
    "table": encoded_tables.read_groups,
}
"""By kind: the values of a column in a file."""
WITHOUT_GROUPS = {
    "train": "what is drawn from it may divide groups",
    "validation": "intervals on it take each example by itself",
}
"""What follows where a split has no groups."""
