"""Readers of a part: soft targets from the store at one T, or members' logits for a schedule of T."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from workers import ensemble
from workers.data.positions import Positions
from workers.specs.members import ExampleRule
from workers.targets import soft_targets
from workers.targets.layout import PartLayout
from workers.targets.member_logits import MemberLogits
from workers.targets.member_mixture import MemberMixture
from workers.targets.soft_targets import DamagedPart, Part, PartFile, Rows


class Reader(Protocol):
    """Reads part `number`, in the order of `PartLayout.ids`. Raises: `DamagedPart`."""

    def __call__(self, number: int, part: Part | PartFile, /) -> Rows: ...


@dataclass(frozen=True)
class StoreReader:
    """Reads soft targets, softened at `temperature`, from the store at `folder`."""

    folder: str
    temperature: float

    def __call__(self, number: int, part: Part | PartFile, /) -> Rows:
        try:
            return soft_targets.read_part(self.folder, part, self.temperature)
        except DamagedPart:
            soft_targets.remove_manifest(self.folder)  # so that the next run verifies every part
            raise


@dataclass(frozen=True)
class LogitsReader:
    """Reads the logits of the members of a part, with their weights, for the loader to average at any T.

    folders: of each member's logits, by name. weights: of all members; those of a part's members are scaled to sum to
    1, as in the teachers' pass. combine: the rule of the mean. weighting: the rule for each example.
    rows: number of rows of each example; None: one.
    """

    folders: Mapping[str, str]
    weights: Mapping[str, float]
    combine: str
    layout: PartLayout
    weighting: ExampleRule | None = None
    rows: Positions | None = None

    def __call__(self, number: int, part: Part | PartFile, /) -> Rows:
        if not isinstance(part, Part):
            raise ValueError(f"part {number} is on its way; expected one that is known to be complete")
        shares = ensemble.normalised([self.weights[name] for name in part.members])
        weight = dict(zip(part.members, shares, strict=True))
        logits = {name: self._of_member(name, number) for name in weight}
        some = next(iter(logits.values()))
        of_all = torch.stack([logits[name] if name in logits else torch.zeros_like(some) for name in self.folders], 1)
        weights = torch.tensor([weight.get(name, 0.0) for name in self.folders], dtype=torch.float64)
        mixture = MemberMixture(of_all, weights.repeat(len(some), 1), self.combine, part.numerics.bits, self.weighting)
        ids = self.layout.ids(number)
        return Rows(self._rows.repeated(ids, ids), mixture, np.zeros(len(some), np.float32))

    @property
    def _rows(self) -> Positions:
        return self.rows or Positions(self.layout.examples)

    @cached_property
    def _kept(self) -> dict[str, MemberLogits]:
        return {name: MemberLogits(folder) for name, folder in self.folders.items()}

    def _of_member(self, name: str, number: int) -> Tensor:
        """[rows, K] float32 in the order of the part."""
        pieces = [self._kept[name].read(piece) for piece in self.layout.pieces(number)]
        found = [logits for logits in pieces if logits is not None]
        if len(found) < len(pieces):
            raise DamagedPart(
                f"logits '{self.folders[name]}' of {name}: part {number} is missing or not what was written. Run the "
                "same command again: it is computed anew."
            )
        return torch.cat(found)[torch.from_numpy(self.layout.row_order(number, self._rows))]
