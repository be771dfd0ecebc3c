"""The cache of members' logits: looked up in the whole storage, written if the configuration requests it.

The logits serve any other temperature, rule or choice of members without a forward pass. A schedule of T needs them.
"""

from __future__ import annotations

from collections.abc import Mapping

from orchestrator.run_folder import paths
from orchestrator.run_folder.paths import RunFolder
from orchestrator.stages.context import Context
from workers import storage
from workers.artifacts import catalogue, parts, store
from workers.artifacts.key import Key
from workers.specs.members import ExampleRule
from workers.targets.layout import PartLayout
from workers.targets.member_logits import MemberLogits
from workers.targets.reader import LogitsReader
from workers.targets.soft_targets import Manifest, Part


def of_members(run: Context, keys: Mapping[str, Key]) -> dict[str, MemberLogits]:
    """The cache of each member's logits, writable if the configuration requests it.

    Otherwise it is read-only: any run of this storage that has all logits of the member; nothing is copied.
    keys: by the members' names.
    """
    if run.config.distillation.keeps_logits:
        had = run.artifacts.obtain_all((key, paths.logits) for key in keys.values())
        folder = RunFolder(run.config.folder)
        kept = {name: MemberLogits(folder.logits(key.digest)) for name, key in keys.items()}
    else:
        had = [run.artifacts.find(key, paths.logits) for key in keys.values()]
        kept = {
            name: MemberLogits(storage.parent(found.uri), read_only=True)
            for name, found in zip(keys, had, strict=True)
            if found is not None
        }
    run.note(catalogue.note("members' logits", had))
    return kept


def commit(run: Context, keys: Mapping[str, Key], layout: PartLayout) -> None:
    """Mark the logits of members that answered every piece as complete, where no record does so already."""
    pieces = set(range(layout.pieces(layout.parts - 1).stop))
    for key in keys.values():
        path = paths.logits(key.digest)
        kept = parts.files(RunFolder(run.config.folder).logits(key.digest))
        if {number for number, _, _ in kept} != pieces:
            continue
        if store.load(run.artifacts.uri(path), key) is None:
            store.commit(run.artifacts.uri(path), key, {name: checksum for _, name, checksum in kept})
        run.artifacts.register(key, path)


def with_logits(there: dict[int, Part], layout: PartLayout, kept: Mapping[str, MemberLogits]) -> dict[int, Part]:
    """Those of the parts whose members all have cached logits."""
    pieces = {name: logits.pieces for name, logits in kept.items()}

    def has_logits(number: int, part: Part) -> bool:
        return all(pieces[name].issuperset(layout.pieces(number)) for name in part.members)

    return {number: part for number, part in there.items() if has_logits(number, part)}


def reader(run: Context, planned: Manifest, kept: Mapping[str, MemberLogits], rule: ExampleRule | None) -> LogitsReader:
    """The student's reader for a schedule of T. rule: for each example."""
    config = run.config
    names = planned.names
    return LogitsReader(
        folders={name: kept[name].folder for name in names},
        weights=dict(zip(names, planned.weights, strict=True)),
        combine=config.ensemble.combine,
        layout=run.plan.layout,
        weighting=rule,
        rows=run.dataset.transfer.rows,
    )
