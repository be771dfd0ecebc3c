"""Texts as rows of bytes: a ragged column of UTF-8, uint8.

So texts are scanned, hashed, drawn and shuffled as all other examples are. Only tokenizers decode them.
"""

from __future__ import annotations

import itertools
import os
import tempfile
from collections.abc import Sequence
from typing import IO, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from workers.data.ragged import Ragged
from workers.errors import RequestError

TEXT, PAIR = "text", "text_pair"
"""Names of the columns: the text, and the second text of a pair."""
IN_MEMORY = 2**26
"""Most bytes of a column that are held in memory; a larger one is written to a temporary file and mapped."""

Bytes = NDArray[np.uint8]


def of_strings(texts: Sequence[str]) -> Ragged:
    """The texts as rows of bytes."""
    rows = [np.frombuffer(text.encode(), np.uint8) for text in texts]
    return Ragged.packed(np.concatenate([np.zeros(0, np.uint8), *rows]), np.array([len(row) for row in rows], np.int64))


def strings(rows: Ragged) -> list[str]:
    """The texts of the rows."""
    content, ends = rows.flat.tobytes(), np.cumsum(rows.lengths).tolist()
    return [content[start:end].decode() for start, end in itertools.pairwise([0, *ends])]


def is_text(name: str, column: Ragged) -> bool:
    """Whether a column holds texts, by its name and type."""
    return name in (TEXT, PAIR) and column.dtype == np.uint8 and not column.of_value


class TextColumn:
    """Collects a column of texts, in bounded memory."""

    def __init__(self) -> None:
        self._held: list[Bytes] = []
        self._held_bytes = 0
        self._lengths: list[NDArray[np.int64]] = []
        self._file: IO[bytes] | None = None

    def add(self, texts: pa.Array | pa.ChunkedArray) -> None:
        """Append texts without nulls, of Arrow's type string or large_string."""
        for chunk in texts.chunks if isinstance(texts, pa.ChunkedArray) else [texts]:
            values, lengths = _values(chunk)
            self._lengths.append(lengths)
            self._held.append(values)
            self._held_bytes += len(values)
            if self._held_bytes > IN_MEMORY:
                self._spill()

    def _spill(self) -> None:
        try:
            if self._file is None:
                # Without a name, so that nothing is left of it. The mapping outlives this object.
                self._file = tempfile.TemporaryFile(prefix="stillhouse-texts-")  # noqa: SIM115
            for values in self._held:
                self._file.write(values.data)
        except OSError as error:
            raise RequestError(
                f"the texts need more room than there is in {tempfile.gettempdir()} ({error.strerror}). Set TMPDIR to "
                "a folder with more."
            ) from error
        self._held, self._held_bytes = [], 0

    def done(self) -> Ragged:
        """All texts as rows of bytes."""
        lengths = np.concatenate([np.zeros(0, np.int64), *self._lengths])
        if self._file is None:
            return Ragged.packed(np.concatenate([np.zeros(0, np.uint8), *self._held]), lengths)
        self._spill()
        self._file.flush()
        size = os.fstat(self._file.fileno()).st_size
        return Ragged.packed(np.memmap(self._file, np.uint8, "r", shape=(size,)), lengths)


def _values(chunk: pa.Array) -> tuple[Bytes, NDArray[np.int64]]:
    """The bytes of an Arrow array of texts, and the length of each in bytes."""
    array = pc.cast(chunk, pa.large_string())
    _, offsets, values = array.buffers()
    edges = np.frombuffer(offsets, np.int64)[array.offset : array.offset + len(array) + 1]
    found = np.frombuffer(values, np.uint8) if values is not None else np.zeros(0, np.uint8)
    return found[edges[0] : edges[-1]].copy(), np.diff(edges)


def is_blank(texts: Any) -> Any:
    """Arrow's mask of texts that hold nothing but white space."""
    return pc.equal(pc.binary_length(pc.utf8_trim_whitespace(texts)), 0)
