"""Files of tokens: Arrow's IPC format, a file for each block of texts, with its number and checksum in its name.

Each column of tokens is a list of int32 in the file. A local file is mapped, so that a large set takes no memory of the
process; one of a remote storage is read into memory.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa

from workers import storage
from workers.artifacts import parts
from workers.artifacts.key import Key
from workers.artifacts.kinds import TOKENS
from workers.data import ragged
from workers.data.ragged import Ragged
from workers.data.tokens import Tokenization

logger = logging.getLogger(__name__)

ENDING = ".arrow"


def write_block(folder: str, number: int, columns: Mapping[str, Ragged]) -> tuple[str, str]:
    """Write one block; returns the file's name and its sha256."""
    table = pa.table({name: _as_lists(rows) for name, rows in columns.items()})
    sink = pa.BufferOutputStream()
    with pa.ipc.new_file(sink, table.schema) as writer:
        writer.write_table(table)
    content = sink.getvalue().to_pybytes()
    checksum = storage.sha256(content)
    name = parts.name_of(number, checksum, ENDING)
    storage.write_bytes(storage.join(folder, name), content)
    return name, checksum


def key_of(texts: str, tokenization: Tokenization) -> Key:
    """The key of the tokens of texts with this digest."""
    return TOKENS.key(texts=texts, **tokenization.identity)


def tokenize_block(folder: str, number: int, texts: Sequence[Ragged], tokenization: Tokenization) -> tuple[str, str]:
    """Tokenize one block of texts, and of second texts of pairs, and write the tokens."""
    return write_block(folder, number, tokenization(*texts))


def _as_lists(rows: Ragged) -> pa.LargeListArray:
    return pa.LargeListArray.from_arrays(pa.array(ragged.edges_of(rows.lengths)), pa.array(rows.flat))


def read(folder: str, names: Sequence[str]) -> dict[str, Ragged]:
    """The columns of the blocks in these files, one block after another."""
    blocks = [_read_block(storage.join(folder, name)) for name in names]
    return {column: ragged.joined([block[column] for block in blocks]) for column in blocks[0]}


def is_whole(folder: str, name: str) -> bool:
    """Whether the content of a file matches the checksum in its name; a file that does not is removed."""
    uri, (_, _, checksum) = storage.join(folder, name), parts.named([name], ENDING)[0]
    if storage.file_sha256(uri).startswith(checksum):
        return True
    logger.warning("tokens '%s' are not what was written; thrown away and computed again", uri)
    storage.remove(uri)
    return False


def _read_block(uri: str) -> dict[str, Ragged]:
    path = Path(storage.filesystem(uri)[1]) if storage.is_local(uri) else None
    source = pa.memory_map(str(path)) if path is not None else pa.BufferReader(storage.read_raw(uri))
    whole = source.read_buffer()
    table = pa.ipc.open_file(whole).read_all()
    return {name: _rows(table.column(name).chunk(0), whole, path) for name in table.column_names}


def _rows(lists: pa.LargeListArray, whole: pa.Buffer, path: Path | None) -> Ragged:
    """The rows of a column; mapped from the file where there is one, so that other processes map it, too."""
    lengths = np.diff(lists.offsets.to_numpy()).astype(np.int64)
    values = lists.values.to_numpy()
    if path is None or len(values) == 0:
        return Ragged.packed(values, lengths)
    offset = values.ctypes.data - whole.address
    return Ragged.packed(np.memmap(path, values.dtype, "r", offset, values.shape), lengths)
