"""Opens tables as people keep them: CSV, TSV, JSON lines and Parquet, also compressed, as Arrow tables.

The separator of a CSV and its decimal comma are seen in its first lines. Nested fields of JSON become columns `a.b`.
"""

from __future__ import annotations

import io
import posixpath
import re
from collections.abc import Callable, Collection
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.csv as pa_csv
import pyarrow.json as pa_json
import pyarrow.parquet as pq

from workers.data import memory
from workers.errors import RequestError

SEPARATORS = (",", ";", "\t", "|")
COMPRESSED = (".gz", ".bz2", ".xz", ".zst", ".lz4")
DECIMAL_COMMA = re.compile(r"[-+]?\d+,\d+")
SNIFFED_LINES = 50
LARGEST_BLOCK = 2**31 - 1
"""Most bytes of a CSV from which the types of columns are inferred."""
NOTHING = pa.schema([])


@dataclass(frozen=True)
class Dialect:
    """How a CSV separates values, and the sign before decimals."""

    separator: str
    decimal: str


def dialect(head: bytes) -> Dialect:
    """The dialect of a CSV by its first lines; a separator is what the header has most of."""
    lines = head.decode("utf-8", "replace").splitlines()[:SNIFFED_LINES]
    header = re.sub(r'"[^"]*"', "", lines[0]) if lines else ""
    separator = max(SEPARATORS, key=header.count)
    if separator == ",":
        return Dialect(separator, ".")
    cells = [cell.strip(' "') for line in lines[1:] for cell in line.split(separator)]
    return Dialect(separator, "," if any(DECIMAL_COMMA.fullmatch(cell) for cell in cells) else ".")


def ending(uri: str) -> str:
    """The ending of a file's name, without that of a compression."""
    base, last = posixpath.splitext(uri.lower())
    return posixpath.splitext(base)[1] if last in COMPRESSED else last


def read(uri: str, like: pa.Schema = NOTHING) -> pa.Table:
    """The whole table of a file.

    like: the schema of train. What is text there is text here, as it is spelled, even where these cells alone would
    be numbers or dates. Raises: `RequestError` where the file is missing, too large, or no table.
    """
    if ending(uri) not in READERS:
        raise RequestError(f"'{uri}': no kind of table that is known. Expected {', '.join(READERS)}, also compressed.")
    return parsed(uri, memory.read_whole(uri).getvalue(), like)


def parsed(uri: str, content: bytes, like: pa.Schema = NOTHING) -> pa.Table:
    """The table in the content of a file, or of its beginning. uri: its name, for the ending and in errors."""
    if ending(uri) != ".parquet":
        _check_text(uri, content)
    try:
        table = flat(READERS[ending(uri)](content, like))
    except (pa.ArrowException, OSError, ValueError) as error:
        raise RequestError(f"'{uri}': cannot be read as a table ({str(error).splitlines()[0]}).") from error
    twice = sorted({name for name in table.column_names if table.column_names.count(name) > 1})
    if twice:
        raise RequestError(f"'{uri}': several columns are called '{twice[0]}'. Expected each name once; rename them.")
    return table


def _check_text(uri: str, content: bytes) -> None:
    """Raise `RequestError` where the content is no UTF-8, or has zero bytes."""
    if b"\0" in content:
        raise RequestError(f"'{uri}': has zero bytes, so it is no text. Expected a table as text in UTF-8.")
    try:
        content.decode()
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise RequestError(
            f"'{uri}', line {line}: not UTF-8 (byte 0x{content[error.start]:02x}). Convert it, for example with `iconv "
            "-f windows-1252 -t utf-8`."
        ) from None


def flat(table: pa.Table) -> pa.Table:
    """The table with a column for each nested field, `a.b`."""
    while any(pa.types.is_struct(column.type) for column in table.columns):
        table = table.flatten()
    return table


def is_text(kind: pa.DataType) -> bool:
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind))


def _texts(like: pa.Schema) -> set[str]:
    """The names of the columns that are text, with or without a dictionary."""
    kinds = {field.name: field.type for field in like}
    return {name for name, kind in kinds.items() if is_text(kind.value_type if pa.types.is_dictionary(kind) else kind)}


def _csv(content: bytes, like: pa.Schema) -> pa.Table:
    return _separated(content, dialect(content[: 2**16]), like)


def _tsv(content: bytes, like: pa.Schema) -> pa.Table:
    return _separated(content, Dialect("\t", dialect(content[: 2**16]).decimal), like)


def _separated(content: bytes, how: Dialect, like: pa.Schema) -> pa.Table:
    content = content.removeprefix(b"\xef\xbb\xbf")
    return pa_csv.read_csv(
        io.BytesIO(content),
        read_options=pa_csv.ReadOptions(block_size=min(max(len(content), 1) + 1, LARGEST_BLOCK)),
        parse_options=pa_csv.ParseOptions(delimiter=how.separator, newlines_in_values=True),
        convert_options=pa_csv.ConvertOptions(
            decimal_point=how.decimal, column_types=dict.fromkeys(_texts(like), pa.string())
        ),
    )


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
    ".tsv": _tsv,
    ".jsonl": _json_lines,
    ".ndjson": _json_lines,
    ".json": _json_lines,
    ".parquet": _parquet,
}
"""By the ending: the table in a file's content, with texts where the schema of train has them."""
