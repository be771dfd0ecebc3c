"""The logits of each member, cached beside the mean (`distillation.keep: members`).

The logits of a member depend only on its weights and on the transfer set. So the cache serves every other temperature,
rule and choice of members: an eleventh member costs only its own forward passes, another T none. The cache takes as
much storage per member as one mean in float32. The teachers themselves read and write it.
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
    """One member's logits, a Parquet file per piece of the layout.

    Columns: those that identify each row, as in the store of soft targets, and `logits`, a fixed-size list of float32.
    Rows are in the order of the piece.
    """

    folder: str
    read_only: bool = False
    """Whether another run owns the folder: this run writes and removes nothing there, and the folder may vanish."""
    _files: dict[int, str] | None = field(default=None, repr=False)

    @property
    def pieces(self) -> frozenset[int]:
        """The cached pieces, judged by file names alone."""
        return frozenset(self._named())

    def _named(self) -> dict[int, str]:
        if self._files is None:
            self._files = {number: name for number, name, _ in parts.files(self.folder)}
        return self._files

    def read(self, piece: int) -> Tensor | None:
        """[rows, K] float32 in the order of the piece; None where they are missing or damaged."""
        name = self._named().get(piece)
        if name is None:
            return None
        uri = storage.join(self.folder, name)
        raw = storage.read_if_there(uri)
        if raw is None:  # the run that owns the folder was deleted meanwhile
            return None
        if not parts.is_whole(name, raw):
            logger.warning("logits '%s' are not what was written; thrown away and computed again", uri)
            if not self.read_only:
                storage.remove(uri)
            return None
        column = pq.read_table(io.BytesIO(raw)).column("logits").combine_chunks()
        return torch.from_numpy(np.array(column.flatten().to_numpy())).view(len(column), -1)

    def write(self, piece: int, names: RowNames, logits: Tensor) -> None:
        """Write the logits [rows, K] of a piece. names: identify the rows."""
        if self.read_only:
            return
        values = pa.FixedSizeListArray.from_arrays(pa.array(logits.reshape(-1).numpy()), logits.shape[1])
        parts.write_file(self.folder, piece, pa.table({**names.columns, "logits": values}))


def bytes_of(members: int, examples: int, classes: int) -> int:
    """Approximate storage for the logits of `members` members. examples: over all views."""
    return 4 * members * examples * classes
