"""Splits of several files: a folder of them, or a pattern such as `train-*.parquet`, in the order of their names."""

from __future__ import annotations

import posixpath
from collections.abc import Callable, Collection, Mapping, Sequence

import pyarrow as pa

from workers import storage
from workers.data import memory, table_files
from workers.errors import RequestError, first_line

Read = Callable[[str, pa.Schema], pa.Table]
"""Reads rows of a file; the schema is as `like` of `table_files.read`."""
MERGING = (pa.ArrowInvalid, pa.ArrowTypeError, pa.ArrowNotImplementedError)
"""What Arrow raises for types or values that do not go together."""


def files(uri: str, endings: Collection[str], expected: str = "") -> list[str]:
    """The files of a split, in the order of their names; hidden ones only where a pattern names them.

    endings: of a folder's files. expected: what the message names instead of these.

    Raises: `RequestError` where a folder or a pattern has no file, or files of several kinds.
    """
    path = storage.filesystem(uri)[1]
    inner = ""
    if "*" in path:
        fixed = posixpath.dirname(path.partition("*")[0]) or "."
        asked = storage.is_hidden(posixpath.relpath(path, fixed))
        given = {each: posixpath.relpath(storage.filesystem(each)[1], fixed) for each in storage.matching(uri)}
        found = [each for each, place in given.items() if asked or not storage.is_hidden(place)]
    elif storage.is_folder(uri):
        seen = [name for name in storage.names(uri) if not storage.is_hidden(name)]
        found = sorted(storage.join(uri, name) for name in seen if table_files.ending(name) in endings)
        inner = f" A pattern such as '{storage.join(uri, '*', '*')}' names the files of the folders in it."
    else:
        return [uri]
    if not found:
        raise RequestError(f"'{uri}': no file of data. Expected {expected or ', '.join(endings)}.{inner}")
    kinds: dict[object, list[str]] = {}
    for each in found:
        kinds.setdefault(table_files.READERS.get(table_files.ending(each)), []).append(each)
    if len(kinds) > 1:
        one, other = (each[0] for each in sorted(kinds.values(), key=len, reverse=True)[:2])
        raise RequestError(
            f"'{uri}': '{posixpath.basename(one)}' and '{posixpath.basename(other)}' are files of several kinds. "
            f"Expected one kind; name its files by a pattern, such as '{storage.join(storage.parent(one), '*')}"
            f"{table_files.suffix(one)}'."
        )
    return found


def table(uris: Sequence[str], like: pa.Schema = table_files.NOTHING, *, of_texts: bool = False) -> pa.Table:
    """The rows of all files of a split, one file after another.

    like, of_texts: as of `table_files.read`. Without like, a column that is text in one CSV is text in all, as it is
    spelled, and a decimal comma is one in all; of JSON lines, dates alone become texts.

    Raises: `RequestError` where a file cannot be read, or has other columns than the first.
    """
    require_memory(uris)
    return joined(read_each(uris, lambda uri, like: table_files.read(uri, like, of_texts=of_texts), like))


def read_each(uris: Sequence[str], read: Read, like: pa.Schema = table_files.NOTHING) -> dict[str, pa.Table]:
    """What `read` finds in each file of a split, by its URI; a file may be read twice. like: as of `table`."""
    found = {uri: read(uri, like) for uri in uris}
    if like is not table_files.NOTHING or len(uris) == 1:
        return found
    common = table_files.common([each.schema for each in found.values()])
    others = [
        uri
        for uri, each in found.items()
        if table_files.ending(uri) != ".parquet" and not table_files.is_like(each.schema, common)
    ]
    return found | {uri: read(uri, common) for uri in others}


def require_memory(uris: Sequence[str]) -> None:
    """Raise `RequestError` where several files together exceed the memory limit; before the first of them is read."""
    if len(uris) > 1:
        memory.require(sum(map(storage.size, uris)), f"'{uris[0]}' and the {len(uris) - 1} other files of its split")


def joined(tables: Mapping[str, pa.Table]) -> pa.Table:
    """The rows of all tables, by the URIs of their files. Raises: `RequestError` as of `schema`."""
    schema({uri: each.schema for uri, each in tables.items()})
    return concatenated(tables)


def concatenated(tables: Mapping[str, pa.Table]) -> pa.Table:
    """The rows of all tables, by the URIs of their files; empty cells where a table lacks a column of another.

    Raises: `RequestError` where their values do not go together.
    """
    if len(tables) == 1:
        return next(iter(tables.values()))
    try:
        found = pa.concat_tables(tables.values(), promote_options="permissive")
    except MERGING as error:  # such as whole numbers beyond 2^53 beside fractions
        raise RequestError(
            f"'{next(iter(tables))}' and the other files of its split have values that no type holds together "
            f"({first_line(error)}). Write them with the same types."
        ) from error
    marks = table_files.united([each.schema for each in tables.values()])  # Arrow keeps those of the first table alone
    return found.replace_schema_metadata(marks)


def schema(schemas: Mapping[str, pa.Schema]) -> pa.Schema:
    """The schema of all files of a split, by their URIs: the columns of the first, in types that hold those of all.

    Raises: `RequestError` with the file whose columns are others, or of types that do not go together.
    """
    (first, found), *others = schemas.items()
    for uri, other in others:
        unequal = sorted({*found.names} ^ {*other.names})
        if unequal:
            line = ", and a header line in each" if table_files.ending(uri) in table_files.WITH_A_HEADER_LINE else ""
            raise RequestError(
                f"'{uri}' and '{first}' are files of one split, and '{unequal[0]}' is a column of one of them alone. "
                f"Expected the same columns in all files{line}."
            )
        try:
            found = pa.unify_schemas([found, other], promote_options="permissive")
        except MERGING as error:
            raise RequestError(
                f"'{uri}': a column is of another type than in the files before it, of which the first is '{first}' "
                f"({first_line(error)}). Write all files of a split with the same types."
            ) from error
    return found
