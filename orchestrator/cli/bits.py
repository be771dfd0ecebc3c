"""Where two runs part in bits: `stillhouse diff`. Artifact by artifact in the order in which a run makes them.

It reads records, checksums and histories, and of the first part of soft targets that differs the rows. So the first
difference is found to the split, member, epoch, or row; single steps are on no record.
"""

from __future__ import annotations

import io
import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from orchestrator.observers import tracking_record
from orchestrator.reporting import report as reports
from orchestrator.reporting.content import Rows
from orchestrator.reporting.report import Report
from orchestrator.run_folder import paths, stores
from orchestrator.run_folder.paths import RunFolder
from orchestrator.run_folder.resolved import keys_of
from orchestrator.stages import trained
from workers import storage
from workers.artifacts import key as keys
from workers.artifacts import store as artifacts
from workers.artifacts.kinds import PREDICTIONS
from workers.errors import RequestError
from workers.targets.soft_targets import Part

if TYPE_CHECKING:
    import pyarrow as pa

SPLITS = ("train", "validation", "test", "unlabeled")
HISTORY = ("train_loss", "validation_accuracy", "validation_nll")
"""Figures of an epoch that follow from bits; times do not."""


@dataclass(frozen=True)
class Compared:
    """An artifact of both runs. differs: how it differs; empty where both are the same to the bit. inputs: which of its
    inputs differ, in words, empty for none; None where it has no inputs on record."""

    name: str
    differs: str
    inputs: str | None = None


def compared(one: str, other: str) -> list[Compared]:
    """Every artifact that both runs have, in the order of a run.

    one, other: folders. Raises: `RequestError` where one of them is no finished run, or they have none in common.
    """
    folders = [storage.absolute(each) for each in (one, other)]
    first, second = (reports.load(each) for each in folders)
    found = list(_all(RunFolder(folders[0]), RunFolder(folders[1]), first, second))
    if not found:
        raise RequestError(
            f"'{one}' and '{other}': the runs have no artifact in common; expected two runs of members, soft targets "
            "or students. Name two runs of one configuration."
        )
    return found


def _all(one: RunFolder, other: RunFolder, first: Report, second: Report) -> Iterator[Compared]:
    yield from _data(one, other)
    members = [system.name for system in first.members if system.name in {each.name for each in second.members}]
    for name in members:
        yield from _network(name, one, other)
    for name, split in itertools.product(members, ("validation", "test")):
        yield from _predictions(name, split, one, other)
    yield from _network("baseline", one, other)
    yield from _soft_targets((one, first), (other, second))
    for name in [*_stages(one, other), "student"]:
        yield from _network(name, one, other)
    for name in ("baseline", "student"):
        yield from _predictions(name, "test", one, other)


def _data(one: RunFolder, other: RunFolder) -> Iterator[Compared]:
    """The splits by their digests; nothing where a run has no record of its data."""
    records = [tracking_record.read(each.uri) for each in (one, other)]
    found = [{each.name: each.digest for each in record.datasets} for record in records if record is not None]
    if len(found) < 2:
        return
    for name in SPLITS:
        digests = [of.get(name) for of in found]
        if any(digests):
            yield Compared(f"data, {name}", "" if digests[0] == digests[1] else "other examples or labels")


def _network(name: str, one: RunFolder, other: RunFolder) -> Iterator[Compared]:
    """A trained network: the first epoch whose figures differ, or else its weights."""
    found = [trained.record_in(each.shown(name)) for each in (one, other)]
    if found[0] is None or found[1] is None:  # a loaded member, or one of an earlier version
        return
    inputs = "" if found[0].key == found[1].key else keys.changes(found[0].what, found[1].what)
    histories = [trained.epochs(each) for each in found if each is not None]
    for number, (before, after) in enumerate(zip(*histories, strict=False)):
        for figure in HISTORY:
            values = [getattr(epoch, figure) for epoch in (before, after)]
            if values[0] != values[1]:
                yield Compared(name, f"epoch {number + 1}: {figure} {values[0]!r} and {values[1]!r}", inputs)
                return
    if len(histories[0]) != len(histories[1]):
        yield Compared(name, f"{len(histories[0])} and {len(histories[1])} epochs, the same as far as both go", inputs)
        return
    same = found[0].files == found[1].files
    yield Compared(name, "" if same else f"weights, after {len(histories[0])} epochs of the same figures", inputs)


def _stages(one: RunFolder, other: RunFolder) -> list[str]:
    """The earlier stages of the student that both runs have, in their order."""
    named = [[stage["name"] for stage in _student_of(each).get("stages") or ()][:-1] for each in (one, other)]
    return [f"stage-{name}" for name in named[0] if name in named[1]]


def _student_of(of: RunFolder) -> Mapping[str, Any]:
    """The student's section of a run's resolved configuration; empty where the folder has none."""
    found: Mapping[str, Any] = keys_of(of.uri).get("student", {}) if storage.exists(of.config) else {}
    return found


def _predictions(name: str, split: str, one: RunFolder, other: RunFolder) -> Iterator[Compared]:
    uris = [storage.join(each.uri, paths.predictions(name, split)) for each in (one, other)]
    found = [artifacts.read(uri, PREDICTIONS) for uri in uris]
    if found[0] is None or found[1] is None:
        return
    contents = [sorted(each.files.values()) for each in found if each is not None]
    inputs = "" if found[0].key == found[1].key else keys.changes(found[0].what, found[1].what)
    differs = "" if contents[0] == contents[1] else "other log-probabilities"
    yield Compared(f"predictions of {name}, {split}", differs, inputs)


def _soft_targets(one: tuple[RunFolder, Report], other: tuple[RunFolder, Report]) -> Iterator[Compared]:
    """The store that each report describes: the first part that differs, and its first row."""
    found = [stores.store_of(folder, report.soft_targets.fingerprint) for folder, report in (one, other)]
    if found[0] is None or found[1] is None:
        return
    (place, before), (elsewhere, after) = found[0], found[1]
    inputs = "" if before.fingerprint == after.fingerprint else keys.changes(before.what, after.what)
    shapes = [[part.rows for part in each.parts] for each in (before, after)]
    if shapes[0] != shapes[1]:
        cuts = [_cut(each) for each in shapes]
        differs = f"{cuts[0]} and {cuts[1]}" if cuts[0] != cuts[1] else f"{cuts[0]}, of other sizes"
        yield Compared("soft targets", differs, inputs)
        return
    for number, (first, second) in enumerate(zip(before.parts, after.parts, strict=True)):
        if first.sha256 != second.sha256:
            tables = [_table(folder, part) for folder, part in ((place, first), (elsewhere, second))]
            differs = _rows(*tables)
            if differs:
                yield Compared("soft targets", f"part {number}, {differs}", inputs or _made_by(first, second))
                return
    yield Compared("soft targets", "", inputs)


def _cut(rows: Sequence[int]) -> str:
    return f"{sum(rows):,} rows in {len(rows)} parts"


def _table(folder: str, part: Part) -> pa.Table:
    import pyarrow.parquet as pq

    return pq.read_table(io.BytesIO(storage.read_bytes(storage.join(folder, part.path))))


def _rows(one: pa.Table, other: pa.Table) -> str:
    """The first row that differs, and by how much; empty where the same numbers were computed otherwise."""
    if one.column_names != other.column_names:
        return f"columns {', '.join(one.column_names)} and {', '.join(other.column_names)}"
    for name in one.column_names:
        before, after = (_array(each, name) for each in (one, other))
        if before.shape != after.shape:
            return f"'{name}' of shapes {list(before.shape)} and {list(after.shape)}"
        wrong = np.flatnonzero((before != after).reshape(len(before), -1).any(axis=1))
        if len(wrong):
            row = int(wrong[0])
            by = np.abs(before[wrong].astype(np.float64) - after[wrong].astype(np.float64)).max()
            example = int(_array(one, "example_id")[row])
            share = f"in {len(wrong):,} of {len(before):,} rows, by up to {by:.3g}"
            return f"row {row} (example {example}): '{name}' differs {share}"
    return ""


def _array(table: pa.Table, name: str) -> Any:
    """A column as an array: [rows], or [rows, width] of a column of lists."""
    column = table[name].combine_chunks()
    width = getattr(column.type, "list_size", None)
    return column.to_numpy(zero_copy_only=False) if width is None else column.flatten().to_numpy().reshape(-1, width)


def _made_by(one: Part, other: Part) -> str:
    """In what the computation of two parts differed."""
    if one.members != other.members:
        return f"members {', '.join(one.members)} and {', '.join(other.members)}"
    before, after = (part.numerics.model_dump() for part in (one, other))
    return ", ".join(f"{name} {before[name]} and {after[name]}" for name in before if before[name] != after[name])


def rows(found: Sequence[Compared]) -> Rows:
    """The table: every artifact up to the first that differs, and that one."""
    shown = list(itertools.takewhile(lambda each: not each.differs, found))
    shown += found[len(shown) : len(shown) + 1]
    return [["artifact", "bits"], *([each.name, each.differs or "the same"] for each in shown)]


def verdict(found: Sequence[Compared]) -> str:
    """Where the runs part, and what of the inputs of that artifact differs."""
    first = next((each for each in found if each.differs), None)
    if first is None:
        return f"All {len(found)} artifacts are the same to the bit."
    cause = f" Of its inputs differ: {first.inputs}." if first.inputs else " Its inputs are the same."
    return f"The runs part in {first.name}: {first.differs}.{'' if first.inputs is None else cause}"
