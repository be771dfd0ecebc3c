"""Files of texts: JSON lines, CSV, TSV, Parquet, and folders of Hugging Face `datasets`.

A split is one file, a folder of files, or a pattern such as `train-*.parquet`, whose files follow in the order of
their names. Each file is read in batches, so that texts of any total size pass through little memory. Nested fields are
columns `a.b`, as those of tables.
"""

from __future__ import annotations

import importlib.util
import io
import json
import posixpath
import reprlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Literal, cast

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pa_csv
import pyarrow.parquet as pq

from workers import storage
from workers.data import shards, table_files
from workers.data.arrays import Index
from workers.data.examples import Columns
from workers.data.label_names import NamedLabels
from workers.data.labels import label_fix
from workers.data.texts import PAIR, TEXT, TextColumn, is_blank
from workers.errors import MissingColumn, RequestError, first_line

ROWS = 8192
"""Rows of a batch."""
SAVED = {"state.json", "dataset_info.json", ".arrow"}
"""Names and endings of the files of a split that `datasets` saved. Two of them mark its folder,
even a damaged one; a `state.json` alone is of another program."""
SAVED_SPLITS = "dataset_dict.json"
"""The file that marks a folder of several such splits."""
LARGEST_ID = 2**63 - 1
"""Largest class id that an array of int64 holds."""

TEXTS, LABEL, GROUPS = "text_column", "label_column", "group_column"
Names = Mapping[str, str]
"""Names of columns, each with the key of `data` that gives it."""
Take = Callable[[pa.Table, tuple[str, ...]], None]
"""Takes a batch, and the names that the file declares for its class ids."""
Batches = Iterator[tuple[pa.Table, tuple[str, ...]]]


def read(uri: str, split: str, texts: Sequence[str], label: str | None) -> tuple[Columns, Any]:
    """The texts of a split, and its labels: class ids [N] or `NamedLabels`; None without a label column.

    texts: the columns of the text, and of the second text of a pair. Raises: `RequestError` with the row where a text
    or label is null, of a wrong type, or a text is empty.
    """
    where = f"data.{split} ('{uri}')"
    columns, labels = [TextColumn() for _ in texts], _Labels(label or "")
    rows = 0

    def take(batch: pa.Table, declared: tuple[str, ...]) -> None:
        nonlocal rows
        for name, column in zip(texts, columns, strict=True):
            column.add(_texts(batch.column(name), where, name, rows))
        if label is not None:
            labels.add(batch.column(label), declared, where, rows)
        rows += len(batch)

    _read_split(uri, dict.fromkeys(texts, TEXTS) | ({} if label is None else {label: LABEL}), take)
    named = dict(zip((TEXT, PAIR), (column.done() for column in columns), strict=False))
    return Columns(named), labels.done() if label is not None else None


def is_saved(held: Sequence[str]) -> bool:
    """Whether a folder that holds these names is one that `datasets` saved, of a split or of several."""
    return SAVED_SPLITS in held or len(SAVED & {*held, *(posixpath.splitext(name)[1] for name in held)}) > 1


def read_groups(uri: str, name: str) -> list[Any]:
    """The values of the column `name` in a split, of any type; None for null."""
    found: list[Any] = []
    _read_split(uri, {name: GROUPS}, lambda batch, _: found.extend(batch.column(name).to_pylist()))
    return found


def _texts(found: pa.ChunkedArray, where: str, name: str, first: int) -> pa.ChunkedArray:
    """A batch of texts, checked. first: number of its first row."""
    found = table_files.plain(found)
    if not (table_files.is_text(found.type) or pa.types.is_null(found.type)):
        raise RequestError(f"{where}: column '{name}' is {found.type}; expected texts. Set `data.text_column`.")
    _check_no_null(found, where, name, first)
    _check_not_blank(found, where, name, first)
    return found


def _check_not_blank(found: pa.ChunkedArray, where: str, name: str, first: int) -> None:
    blank = np.flatnonzero(is_blank(found).to_numpy(zero_copy_only=False))
    if len(blank):
        raise RequestError(
            f"{where}: '{name}' of example {first + blank[0]} is empty; expected at least one character other than "
            "white space. Leave such rows out, and give those without a label as `data.unlabeled`."
        )


def _check_no_null(found: pa.ChunkedArray, where: str, name: str, first: int) -> None:
    if found.null_count:
        row = first + int(np.flatnonzero(pc.is_null(found).to_numpy(zero_copy_only=False))[0])
        raise RequestError(
            f"{where}: '{name}' of example {row} is null. Expected a value in each row; leave such rows out, and give "
            "those without a label as `data.unlabeled`."
        )


class _Labels:
    """Collects the label column of a split: class ids, or names as places in the list of those seen so far."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._places: dict[str, int] = {}
        self._ids: list[Index] = []
        self._kind = ""
        self._declared: tuple[str, ...] = ()

    def add(self, found: pa.ChunkedArray, declared: tuple[str, ...], where: str, first: int) -> None:
        _check_no_null(found, where, self._name, first)
        kind = found.type.value_type if pa.types.is_dictionary(found.type) else found.type
        if pa.types.is_boolean(kind):  # named as those of tables
            found, kind = pc.if_else(table_files.plain(found), "True", "False"), pa.string()
        are_names = table_files.is_text(kind)
        if not are_names and not pa.types.is_integer(kind):
            raise RequestError(
                f"{where}: the label column '{self._name}' is {kind}; expected names or class ids. Set "
                "`data.label_column`."
            )
        is_kind = "names" if are_names else "ids"
        if self._kind not in ("", is_kind) or (self._ids and self._declared != declared):
            raise RequestError(
                f"{where}: the label column '{self._name}' is another in example {first} than before, {is_kind} "
                f"{', '.join(declared)}. Expected names, or ids of the same classes, in all files."
            )
        if are_names:
            _check_not_blank(table_files.plain(found), where, self._name, first)
        self._kind, self._declared = is_kind, declared
        self._ids.append(self._places_of(found) if are_names else self._ids_of(found, where, first))
        if declared and (wrong := np.flatnonzero(self._ids[-1] >= len(declared))).size:
            raise RequestError(
                f"{where}: the label of example {first + wrong[0]} is {self._ids[-1][wrong[0]]}, and the file names "
                f"{len(declared)} classes; expected ids from 0 to {len(declared) - 1}. Correct the label, or the "
                "classes that the file declares."
            )

    def _ids_of(self, found: pa.ChunkedArray, where: str, first: int) -> Index:
        ids = found.to_numpy()
        if len(wrong := np.flatnonzero(ids > LARGEST_ID)):  # as int64 it could be -1, which means no label
            raise RequestError(
                f"{where}: the label '{self._name}' of example {first + wrong[0]} is {ids[wrong[0]]}; expected class "
                "ids from 0, or names."
            )
        return cast(Index, ids.astype(np.int64))

    def _places_of(self, found: pa.ChunkedArray) -> Index:
        encoded = pa.concat_arrays(pc.cast(table_files.plain(found), pa.large_string()).chunks).dictionary_encode()
        of_batch = [self._places.setdefault(name, len(self._places)) for name in encoded.dictionary.to_pylist()]
        places: Index = np.array(of_batch, np.int64)[encoded.indices.to_numpy()]
        return places

    def done(self) -> Any:
        ids = np.concatenate([np.zeros(0, np.int64), *self._ids])
        if self._kind == "names":
            return NamedLabels(ids, tuple(self._places))
        return NamedLabels(ids, self._declared, declared=True) if self._declared else ids


def _read_split(uri: str, names: Names, take: Take) -> None:
    """Pass the batches of all files of a split to `take`."""
    held = storage.names(uri) if storage.is_folder(uri) else []
    if is_saved(held):
        for batch, declared in _of_datasets(uri, held, names):
            take(_valid(batch, uri), declared)
        return
    for file in shards.files(uri, READERS, _known()):
        _read_file(file, names, take)


def _read_file(uri: str, names: Names, take: Take) -> None:
    """Pass the batches of a file to `take`, each once, even where the storage fails in the middle and is retried."""
    reader = READERS.get(table_files.ending(uri))
    if reader is None:
        raise RequestError(f"'{uri}': not a known file of texts. Expected {_known()}.")
    done = 0

    def read_batches(file: Any) -> None:
        nonlocal done
        try:
            for number, (batch, declared) in enumerate(reader(file, uri, names)):
                if number >= done:
                    take(_valid(batch, uri), declared)
                    done += 1
        except (pa.ArrowInvalid, pa.ArrowNotImplementedError, UnicodeError) as error:  # another try finds the same
            if reader is not _parquet and (isinstance(error, UnicodeError) or "invalid UTF" in str(error)):
                raise table_files.not_utf8(f"'{uri}'", first_line(error)) from error
            raise RequestError(f"'{uri}': cannot be read ({first_line(error)}). Write the file anew.") from error

    storage.read_with(uri, read_batches)


def _valid(batch: pa.Table, uri: str) -> pa.Table:
    """The batch. Raises: `RequestError` where values are damaged, such as texts that the file stores without UTF-8."""
    for name in batch.column_names:
        try:
            batch.column(name).validate(full=True)
        except pa.ArrowInvalid as error:
            raise RequestError(
                f"'{uri}': column '{name}' has damaged values ({first_line(error)}). Expected texts in UTF-8, or whole "
                "numbers; write the file anew."
            ) from error
    return batch


def _known() -> str:
    return f"{', '.join(READERS)}, each also compressed, or a folder that `datasets` saved (`save_to_disk`)"


def _label_of(names: Names) -> str:
    """The column of labels; empty without."""
    return next((name for name, key in names.items() if key == LABEL), "")


def _check_names(where: str, names: Names, found: Sequence[str]) -> None:
    twice = [name for name in names if found.count(name) > 1]
    if twice:
        raise RequestError(f"{where}: several columns are called '{twice[0]}'. Expected each name once; rename them.")
    missing = [name for name in names if name not in found]
    if missing:
        key = names[missing[0]]
        fix = label_fix(missing[0], found) if key == LABEL else f"Set `data.{key}`."
        raise MissingColumn(f"{where}: no column '{missing[0]}'; found {', '.join(map(repr, found)) or 'none'}. {fix}")


def _parquet(file: Any, uri: str, names: Names) -> Batches:
    table = pq.ParquetFile(file)
    _check_names(f"'{uri}'", names, table_files.flat_names(table.schema_arrow))
    declared = _declared(table.schema_arrow, _label_of(names))
    for batch in table.iter_batches(ROWS, columns=list(names)):
        yield table_files.flat(pa.Table.from_batches([batch])), declared


def _declared(schema: pa.Schema, name: str) -> tuple[str, ...]:
    """The class names that `datasets` wrote into the metadata of a Parquet file; empty without."""
    try:
        features = json.loads((schema.metadata or {})[b"huggingface"])["info"]["features"]
        while name not in features:
            above, _, name = name.partition(".")
            features = features[above]
        return tuple(map(str, features[name]["names"])) if features[name]["_type"] == "ClassLabel" else ()
    except (KeyError, ValueError, TypeError, RecursionError):
        return ()


def _separated(delimiter: str | None, quote: str | Literal[False]) -> Callable[[Any, str, Names], Batches]:
    """A reader of values separated by `delimiter`, with a header. None: as the header shows.

    quote: the character around a value; False: none.
    """

    def read_separated(file: Any, uri: str, names: Names) -> Batches:
        separator = delimiter or table_files.separator(file.readline())
        file.seek(0)
        parse = pa_csv.ParseOptions(delimiter=separator, quote_char=quote, newlines_in_values=quote is not False)
        header = _header(file, parse)
        _check_names(f"'{uri}'", names, header)
        reader = pa_csv.open_csv(
            file,
            read_options=pa_csv.ReadOptions(block_size=2**23),
            parse_options=parse,
            convert_options=pa_csv.ConvertOptions(
                column_types={name: pa.string() for name in names},
                include_columns=list(names),
                strings_can_be_null=False,
            ),
        )
        for batch in reader:
            yield pa.Table.from_batches([batch]), ()

    return read_separated


def _header(file: Any, parse: pa_csv.ParseOptions) -> list[str]:
    """The names of the columns; the file is at its beginning again."""
    first = file.readline()
    while first.count(b'"') % 2 and parse.quote_char and (more := file.readline()):  # a name with a line end
        first += more
    file.seek(0)
    return pa_csv.read_csv(io.BytesIO(first), parse_options=parse).column_names if first.strip() else []


def _json_lines(file: Any, uri: str, names: Names) -> Batches:
    """A key that a row lacks is null there. Only groups may be null, so that a later row may be the first with one."""
    wanted, keys = set(names), dict[str, None]()
    needed = {name: key for name, key in names.items() if key != GROUPS}
    rows: list[Mapping[str, Any]] = []
    for number, line in enumerate(file, 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except UnicodeDecodeError as error:
            found = f"byte 0x{error.object[error.start]:02x}"
            raise table_files.not_utf8(f"'{uri}', line {number}", found) from None
        except (ValueError, RecursionError) as error:
            raise RequestError(
                f"'{uri}', line {number}: not JSON ({error}). Expected an object in each line."
            ) from None
        if not isinstance(row, dict):
            raise RequestError(f"'{uri}', line {number}: {type(row).__name__}; expected an object in each line.")
        if not row.keys() >= wanted:
            row = _flat(row)
        if not keys.keys() >= wanted:
            keys |= dict.fromkeys(row)
        rows.append(row)
        if len(rows) == ROWS:
            _check_names(f"'{uri}'", needed, [*keys])
            yield _table(rows, names, uri), ()
            rows = []
    if rows or keys:
        _check_names(f"'{uri}'", names, [*keys])
    if rows:
        yield _table(rows, names, uri), ()


def _flat(row: Mapping[str, Any]) -> dict[str, Any]:
    """The row with a key for each nested field, `a.b`."""
    found = dict(row)
    while nested := {key: value for key, value in found.items() if isinstance(value, dict)}:
        inner = {f"{above}.{key}": value for above, fields in nested.items() for key, value in fields.items()}
        found = {key: value for key, value in found.items() if key not in nested} | inner
    return found


def _table(rows: Sequence[Mapping[str, Any]], names: Names, uri: str) -> pa.Table:
    columns = {}
    for name in names:
        values = [_whole(row.get(name)) for row in rows]
        wrong = [each for each in values if not isinstance(each, str | int | None)]
        if wrong:
            raise RequestError(
                f"'{uri}': '{name}' is {reprlib.repr(wrong[0])} in one row; expected text, or a whole number as "
                "class id or group."
            )
        try:
            columns[name] = pa.array(values)
        except OverflowError:
            large = next(value for value in values if isinstance(value, int) and not -LARGEST_ID <= value <= LARGEST_ID)
            raise RequestError(
                f"'{uri}': '{name}' is {large} in one row; expected class ids from 0, or texts."
            ) from None
        except (pa.ArrowException, UnicodeEncodeError) as error:
            raise RequestError(
                f"'{uri}': '{name}' mixes text with numbers, or is no Unicode ({error}). Expected one of both in all "
                "rows: write all values as text in UTF-8, or all as whole numbers."
            ) from None
    return pa.table(columns)


def _whole(value: Any) -> Any:
    """The value; the integer of a number like 17.0, as which pandas writes whole numbers beside empty cells."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _of_datasets(uri: str, held: Sequence[str], names: Names) -> Batches:
    """The batches of a folder that `Dataset.save_to_disk` wrote."""
    if SAVED_SPLITS in held:
        splits = [name for name in held if storage.is_folder(storage.join(uri, name))]
        raise RequestError(
            f"'{uri}' holds several splits, {', '.join(splits)}; expected one of them, such as "
            f"'{storage.join(uri, splits[0] if splits else 'train')}'."
        )
    if importlib.util.find_spec("datasets") is None:
        raise RequestError(
            f"'{uri}' is a folder of `datasets`, which is not installed here. Install it by "
            "`pip install 'stillhouse[text]'`."
        )
    import datasets

    try:
        saved = datasets.load_from_disk(uri)
        saved = saved if {*names} <= {*saved.column_names} else saved.flatten()
        _check_names(f"'{uri}'", names, saved.column_names)
        label = saved.features.get(_label_of(names))
        declared = tuple(label.names) if isinstance(label, datasets.ClassLabel) else ()
        for batch in saved.select_columns(list(names)).with_format("arrow").iter(ROWS):
            yield batch, declared
    except (RequestError, MemoryError):
        raise
    except Exception as error:  # of each library that `datasets` is made of
        raise RequestError(
            f"'{uri}': cannot be read as a folder of `datasets` ({first_line(error)}). Expected all files of "
            "`save_to_disk`; save it anew."
        ) from error


READERS: dict[str, Callable[[Any, str, Names], Batches]] = {
    ".jsonl": _json_lines,
    ".json": _json_lines,
    ".ndjson": _json_lines,
    ".csv": _separated(None, '"'),
    ".tsv": _separated("\t", False),
    ".parquet": _parquet,
}
