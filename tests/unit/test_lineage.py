"""The lineage of an export: members and soft targets are those of the run's report, whatever else its folder holds."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from orchestrator.export import lineage
from orchestrator.export.lineage import Lineage
from orchestrator.run_folder.paths import RunFolder
from tests.reports import plain
from workers import storage
from workers.artifacts import store
from workers.artifacts.kinds import NETWORK
from workers.targets import soft_targets
from workers.targets.soft_targets import Manifest, MemberRecord

FIRST, LATER = "1" * 16, "2" * 16
"""Fingerprints of two stores of one folder, of the same T."""


def made(run: str, fingerprint: str, weights: str) -> None:
    """A complete store in a run's folder. weights: the beginning of the members' digests."""
    manifest = Manifest(
        fingerprint=fingerprint, temperature=2.0, combine="arithmetic", weights=[0.5, 0.5], classes=2, examples=0,
        dtype="float32", top_k=None, views=1, parts=[], seconds=1.0, complete=True,
        members=[MemberRecord(name=f"member-{k}", sha256=f"{weights}{k}") for k in range(2)],
    )  # fmt: skip
    soft_targets.write_manifest(RunFolder(run).soft_targets(fingerprint), manifest)


@pytest.fixture
def run(tmp_path: Path) -> str:
    """A folder with the files of a run that `of` reads, and the record of a network that an earlier run trained."""
    found = str(tmp_path / "runs" / "small")
    storage.write_text(RunFolder(found).config, "name: small\n")
    storage.write_text(storage.join(RunFolder(found).shown("student"), "model.safetensors"), "weights")
    record = storage.join(RunFolder(found).shown("member-0"), "training.json")
    store.commit(record, NETWORK.key(seed=0), {"model.safetensors": "of an earlier member"})
    return found


def of(run: str, fingerprint: str) -> Lineage:
    soft = plain().soft_targets.model_copy(update={"fingerprint": fingerprint})
    report = plain(soft_targets=soft.model_dump(), origin={"data": {"test": "ab"}})
    dataset: Any = None  # the report has the digests of the data
    weights = storage.join(RunFolder(run).shown("student"), "model.safetensors")
    return lineage.of(run, dataset, report, weights)


def test_members_are_those_of_the_reports_soft_targets(run: str) -> None:
    made(run, FIRST, "first")
    made(run, LATER, "later")
    found = of(run, FIRST)
    assert found.soft_targets == FIRST and found.members == {"member-0": "first0", "member-1": "first1"}


def test_soft_targets_may_lie_in_the_folder_of_another_run(run: str, tmp_path: Path) -> None:
    made(str(tmp_path / "runs" / "maker"), FIRST, "first")
    assert of(run, FIRST).members == {"member-0": "first0", "member-1": "first1"}


@pytest.mark.parametrize("fingerprint", ["", FIRST])
def test_soft_targets_that_are_gone_have_no_digests_of_members(fingerprint: str, run: str) -> None:
    found = of(run, fingerprint)
    assert found.soft_targets == fingerprint and found.members == {"member-0": "", "member-1": ""}
