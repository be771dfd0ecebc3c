"""The logits of each member, kept beside the mean (`distillation.keep: members`).

The logits of a member depend on its weights and on the transfer set alone. Kept, they serve every other temperature,
rule and choice of members: an eleventh member costs its own forward passes, another T none at all. They take the bytes
of as many means in float32 as there are members, and are read and written by the teachers themselves.
"""

from __future__ import annotations

import io
import logging
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from torch import Tensor

from workers import storage
from workers.artifacts import parts
from workers.data.numbering import RowNames

logger = logging.getLogger(__name__)


@dataclass
class MemberLogits:
    """One member's logits, a Parquet file a piece of the layout: columns that name each row as in the store of
    soft targets, `logits` fixed-size list of float32, in the order of the piece."""

    folder: str
    read_only: bool = False
    """Whether the folder is another run's: nothing is written or removed there, and it may vanish."""
    _files: dict[int, str] | None = field(default=None, repr=False)

    @property
    def pieces(self) -> frozenset[int]:
        """The pieces that are kept, as far as names show."""
        return frozenset(self._named())

    def _named(self) -> dict[int, str]:
        if self._files is None:
            self._files = {number: name for number, name, _ in parts.files(self.folder)}
        return self._files

    def read(self, piece: int) -> Tensor | None:
        """[rows, K] float32 in the order of the piece; None where they are not kept or not what was written."""
        name = self._named().get(piece)
        if name is None:
            return None
        uri = storage.join(self.folder, name)
        raw = storage.read_if_there(uri)
        if raw is None:  # the run that it belongs to was deleted meanwhile
            return None
        if not parts.is_whole(name, raw):
            logger.warning("logits '%s' are not what was written; thrown away and computed again", uri)
            if not self.read_only:
                storage.remove(uri)
            return None
        column = pq.read_table(io.BytesIO(raw)).column("logits").combine_chunks()
        return torch.from_numpy(np.array(column.flatten().to_numpy())).view(len(column), -1)

    def write(self, piece: int, names: RowNames, logits: Tensor) -> None:
        """Keep the logits [rows, K] of a piece, each row named."""
        if self.read_only:
            return
        values = pa.FixedSizeListArray.from_arrays(pa.array(logits.reshape(-1).numpy()), logits.shape[1])
        parts.write_file(self.folder, piece, pa.table({**names.columns, "logits": values}))


def bytes_of(members: int, examples: int, classes: int) -> int:
    """About what the logits of so many members take in storage. examples: over all views."""
    return 4 * members * examples * classes
