"""Opens tables as people keep them: CSV, TSV, JSON lines and Parquet, also compressed, as Arrow tables.

The separator of a CSV is seen in its header, and its decimal comma in all cells. Nested fields of JSON become columns
`a.b`.
"""

from __future__ import annotations

import codecs
import io
import json
import posixpath
import re
from collections.abc import Callable, Collection, Iterable, Sequence

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pa_csv
import pyarrow.json as pa_json
import pyarrow.parquet as pq

from workers import storage
from workers.data import memory
from workers.errors import RequestError, first_line

SEPARATORS = (",", ";", "\t", "|")
WITH_A_HEADER_LINE = (".csv", ".tsv")
"""Endings of files whose first line names the columns; other kinds have the names apart."""
WITH_COMMA = r"^\s*[-+]?\d*,\d+([eE][-+]?\d+)?\s*$"
"""Numbers with a decimal comma."""
THOUSANDS = r"^\s*[-+]?[1-9]\d{0,2},\d{3}\s*$"
"""Those of them whose comma may be of thousands."""
DECIMAL = b"decimal"
"""The key of a table's metadata under which its decimal comma is, where it has one."""
UNCLEAR = b"unclear"
"""The key of a table's metadata under which the columns are whose commas may be decimal or of thousands."""
LARGEST_BLOCK = 2**31 - 1
"""Most bytes of a CSV from which the types of columns are inferred."""
NOTHING = pa.schema([])


def separator(head: bytes) -> str:
    """The separator of a CSV by its beginning: what the header has most of."""
    lines = head.decode("utf-8", "replace").splitlines()
    header = re.sub(r'"[^"]*"', "", lines[0]) if lines else ""
    return max(SEPARATORS, key=header.count)


def ending(uri: str) -> str:
    """The ending of a file's name in lower case, without that of a compression."""
    base, last = posixpath.splitext(uri.lower())
    return posixpath.splitext(base)[1] if last in storage.COMPRESSED else last


def suffix(uri: str) -> str:
    """The ending of a file's name as it is written, with that of a compression: `.csv.gz`."""
    last = posixpath.splitext(uri)[1]
    size = len(ending(uri)) + (len(last) if last.lower() in storage.COMPRESSED else 0)
    return uri[len(uri) - size :]


def is_quoted(uri: str, *, of_texts: bool) -> bool:
    """Whether quotes around a value are no part of it. In a TSV of texts they are characters like all others."""
    return not (of_texts and ending(uri) == ".tsv")


def read(uri: str, like: pa.Schema = NOTHING, *, of_texts: bool = False) -> pa.Table:
    """The whole table of a file.

    like: the schema of train. What is text there is text here, as it is spelled, even where these cells alone would
    be numbers or dates; commas that may be decimal or of thousands are as in train. Without it such columns are texts,
    which `check_commas` refuses. of_texts: the quotes are those of `kind: text`, see `is_quoted`.

    Raises: `RequestError` where the file is missing, too large, or no table.
    """
    if ending(uri) not in READERS:
        raise RequestError(f"'{uri}': no kind of table that is known. Expected {', '.join(READERS)}, also compressed.")
    return parsed(uri, memory.read_whole(uri).getvalue(), like, of_texts=of_texts)


def parsed(uri: str, content: bytes, like: pa.Schema = NOTHING, *, of_texts: bool = False) -> pa.Table:
    """The table in the content of a file, or of its beginning.

    uri: its name, for the ending and in errors. like, of_texts: as of `read`.
    """
    if ending(uri) != ".parquet":
        content = content.removeprefix(codecs.BOM_UTF8)
        _check_text(uri, content)
    try:
        reader = READERS[ending(uri)] if is_quoted(uri, of_texts=of_texts) else _unquoted
        table = flat(reader(content, like))
    except (pa.ArrowException, OSError, ValueError) as error:
        raise unreadable(uri, error) from error
    twice = sorted({name for name in table.column_names if table.column_names.count(name) > 1})
    if twice:
        hint = ", or add a header line where the first line is data" if ending(uri) in WITH_A_HEADER_LINE else ""
        raise RequestError(
            f"'{uri}': several columns are called '{twice[0]}'. Expected each name once; rename them{hint}."
        )
    return table


def _check_text(uri: str, content: bytes) -> None:
    """Raise `RequestError` where the content is no UTF-8, or has zero bytes."""
    if b"\0" in content:
        raise RequestError(f"'{uri}': has zero bytes, so it is no text. Expected a table as text in UTF-8.")
    try:
        content.decode()
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise not_utf8(f"'{uri}', line {line}", f"byte 0x{content[error.start]:02x}") from None


def unreadable(uri: str, error: BaseException) -> RequestError:
    """The error for a file that Arrow cannot read. error: what Arrow raised."""
    return RequestError(
        f"'{uri}': cannot be read as a table ({first_line(error)}). Expected CSV, TSV, JSON lines or Parquet by the "
        "ending of the name; correct the file or its name."
    )


def not_utf8(where: str, found: str) -> RequestError:
    """The error for texts in another encoding. where: their file, and the line where it is known."""
    return RequestError(f"{where}: not UTF-8 ({found}). Convert it, for example with `iconv -f windows-1252 -t utf-8`.")


def flat(table: pa.Table) -> pa.Table:
    """The table with a column for each nested field, `a.b`."""
    while any(pa.types.is_struct(column.type) for column in table.columns):
        table = table.flatten()
    return table


def flat_names(fields: Iterable[pa.Field]) -> list[str]:
    """The names of the columns that `flat` makes of these fields."""
    nested = [flat_names(each.flatten()) if pa.types.is_struct(each.type) else [each.name] for each in fields]
    return [name for names in nested for name in names]


def is_text(kind: pa.DataType) -> bool:
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind))


def is_list(kind: pa.DataType) -> bool:
    return bool(pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind))


def plain(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """A column without the dictionary of its categories, and with texts of the one type that all functions take."""
    column = pc.cast(column, column.type.value_type) if pa.types.is_dictionary(column.type) else column
    return pc.cast(column, pa.string()) if pa.types.is_string_view(column.type) else column


def _texts(like: pa.Schema) -> set[str]:
    """The names of the columns that are text, with or without a dictionary."""
    kinds = {field.name: field.type for field in like}
    return {name for name, kind in kinds.items() if is_text(kind.value_type if pa.types.is_dictionary(kind) else kind)}


def _clear_texts(schema: pa.Schema) -> set[str]:
    """The names of the columns that are text for sure: without those that are numbers if their commas are decimal."""
    return _texts(schema) - {*_unclear(schema)}


def _unclear(schema: pa.Schema) -> list[str]:
    return [str(name) for name in json.loads((schema.metadata or {}).get(UNCLEAR, b"[]"))]


def united(schemas: Sequence[pa.Schema]) -> dict[bytes, bytes]:
    """The metadata of a table that joins those of `schemas`: of each key the first, and the unclear columns of all."""
    marks = {key: mark for each in reversed(schemas) for key, mark in (each.metadata or {}).items()}
    unclear = list(dict.fromkeys(name for each in schemas for name in _unclear(each)))
    return marks | ({UNCLEAR: json.dumps(unclear).encode()} if unclear else {})


def common(schemas: Sequence[pa.Schema]) -> pa.Schema:
    """A schema as `like` of `read` for all files of a split: what is text in one is text, and a decimal comma is one.

    schemas: of the files, each read by itself.
    """
    texts = sorted({name for each in schemas for name in _clear_texts(each)})
    marks = {DECIMAL: b","} if any(_has_decimal_comma(each) for each in schemas) else None
    return pa.schema([(name, pa.string()) for name in texts], metadata=marks)


def is_like(schema: pa.Schema, like: pa.Schema) -> bool:
    """Whether a file that was read by itself has its texts, and its decimal comma, as `like` has them."""
    return _clear_texts(schema) >= _clear_texts(like) and _has_decimal_comma(schema) == _has_decimal_comma(like)


def _has_decimal_comma(schema: pa.Schema) -> bool:
    return DECIMAL in (schema.metadata or {})


def _csv(content: bytes, like: pa.Schema) -> pa.Table:
    return _separated(content, separator(content[: 2**16]), like)


def _unquoted(content: bytes, like: pa.Schema) -> pa.Table:
    return _separated(content, "\t", like, quoted=False)


def _separated(content: bytes, by: str, like: pa.Schema, *, quoted: bool = True) -> pa.Table:
    """A table of separated values, with a decimal comma where its cells show one.

    They do where it makes numbers of a column of texts, and no column of numbers has decimal points.
    """
    found = _with_decimal(".", content, by, like, quoted)
    if by == "," or not any(_matching(column, WITH_COMMA) for column in found.columns):
        return found
    other = _with_decimal(",", content, by, like, quoted)
    texts = [(is_text(one.type), is_text(two.type)) for one, two in zip(found.columns, other.columns, strict=True)]
    gained = [k for k, each in enumerate(texts) if each == (True, False)]
    if not gained:
        return found
    unclear = all(_matching(found.column(k), WITH_COMMA) == _matching(found.column(k), THOUSANDS) for k in gained)
    if unclear and not _has_decimal_comma(like):
        names = [found.column_names[k] for k in gained]
        return found.replace_schema_metadata({UNCLEAR: json.dumps(names)})
    if (False, True) in texts:
        return found
    return other.replace_schema_metadata({DECIMAL: b","})


def check_commas(uri: str, table: pa.Table, used: Collection[str]) -> None:
    """Raise `RequestError` where a column that is used has commas that may be decimal or of thousands."""
    for name in _unclear(table.schema):
        if name in used:
            raise RequestError(
                f"'{uri}': column '{name}' has {_example(table.column(name))}, whose comma may be decimal or of "
                "thousands. Expected numbers without commas, or a cell that shows which it is."
            )


def _with_decimal(sign: str, content: bytes, by: str, like: pa.Schema, quoted: bool) -> pa.Table:
    return pa_csv.read_csv(
        io.BytesIO(content),
        read_options=pa_csv.ReadOptions(block_size=min(max(len(content), 1) + 1, LARGEST_BLOCK)),
        parse_options=pa_csv.ParseOptions(delimiter=by, quote_char='"' if quoted else False, newlines_in_values=quoted),
        convert_options=pa_csv.ConvertOptions(
            decimal_point=sign,
            column_types=dict.fromkeys(_texts(like), pa.string()),
            null_values=[*pa_csv.ConvertOptions().null_values, " "],  # of numbers; texts keep each cell as it is
        ),
    )


def _matching(column: pa.ChunkedArray, pattern: str) -> int:
    """How many cells of a column match a pattern; 0 where it is no column of texts."""
    return int(pc.sum(pc.match_substring_regex(column, pattern)).as_py() or 0) if is_text(column.type) else 0


def _example(column: pa.ChunkedArray) -> str:
    return str(pc.filter(column, pc.match_substring_regex(column, WITH_COMMA))[0])


def _json_lines(content: bytes, like: pa.Schema) -> pa.Table:
    """A table of JSON lines. Of all texts, only dates would be read as another type."""
    options = pa_json.ReadOptions(block_size=min(max(len(content), 1) + 1, LARGEST_BLOCK))
    found = pa_json.read_json(io.BytesIO(content), read_options=options)
    texts = _texts(like)
    spelled = pa.schema([_spelled(field, texts, "") for field in found.schema])
    if spelled == found.schema:
        return found
    parse = pa_json.ParseOptions(explicit_schema=spelled)
    return pa_json.read_json(io.BytesIO(content), read_options=options, parse_options=parse)


def _spelled(field: pa.Field, texts: Collection[str], above: str) -> pa.Field:
    """A field with dates as text where train has texts. above: the names of the fields that it is nested in, `a.b.`."""
    name = above + field.name
    if pa.types.is_struct(field.type):
        return field.with_type(pa.struct([_spelled(each, texts, f"{name}.") for each in field.type]))
    return field.with_type(pa.string()) if pa.types.is_timestamp(field.type) and name in texts else field


def _parquet(content: bytes, like: pa.Schema) -> pa.Table:
    return pq.read_table(pa.BufferReader(content))


READERS: dict[str, Callable[[bytes, pa.Schema], pa.Table]] = {
    ".csv": _csv,
    ".tsv": lambda content, like: _separated(content, "\t", like),
    ".jsonl": _json_lines,
    ".ndjson": _json_lines,
    ".json": _json_lines,
    ".parquet": _parquet,
}
"""By the ending: the table in a file's content, with texts where the schema of train has them."""
