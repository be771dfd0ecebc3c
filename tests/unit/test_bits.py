"""Where two runs part in bits: found from records, checksums, histories and parts."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch

from orchestrator.cli import bits
from orchestrator.cli.command import main
from orchestrator.reporting.report import as_json
from orchestrator.run_folder.paths import RunFolder
from tests.reports import plain
from workers import storage
from workers.artifacts import store
from workers.artifacts.kinds import NETWORK
from workers.data.numbering import RowNames
from workers.errors import RequestError
from workers.targets import kinds, soft_targets
from workers.targets.soft_targets import Manifest, MemberRecord, Numerics
from workers.training.loop import Epoch

NUMERICS = Numerics(device="cpu", precision="float32", threads=1, micro_batch=64, stacked=False)
FINGERPRINT = "0123456789abcdef"
NETWORKS = ("member-0", "member-1", "baseline", "student")


def network(run: str, name: str, losses: Sequence[float], weights: str, seed: int) -> None:
    history = [
        vars(Epoch(epoch=k, train_loss=loss, validation_accuracy=0.9, validation_nll=0.3, seconds=k, examples=9))
        for k, loss in enumerate(losses)
    ]
    uri = storage.join(RunFolder(run).shown(name), "training.json")
    store.commit(uri, NETWORK.key(seed=seed), {"model.safetensors": weights}, {}, history=history)


def targets(run: str, values: np.ndarray, numerics: Numerics = NUMERICS, parts: int | list[int] = 2) -> int:
    """Soft targets [8, 2] in so many parts, or cut before these rows; returns their bytes."""
    folder, found = RunFolder(run).soft_targets(FINGERPRINT), []
    for number, rows in enumerate(np.array_split(np.arange(8), parts)):
        dense = kinds.of_mean(torch.tensor(values[rows]), "float32", None, 2.0)
        names = RowNames(rows.astype(np.int64))
        found.append(soft_targets.write_part(folder, number, names, dense, members=["member-0"], numerics=numerics))
    manifest = Manifest(
        fingerprint=FINGERPRINT, temperature=2.0, combine="arithmetic", weights=[1.0], classes=2, examples=8,
        dtype="float32", top_k=None, views=1, members=[MemberRecord(name="member-0", sha256="a")], parts=found,
        seconds=1.0, complete=True,
    )  # fmt: skip
    soft_targets.write_manifest(folder, manifest)
    return sum(part.size for part in found)


SOFT = np.full((8, 2), 0.5, np.float32)


def finished(folder: Path, **changes: object) -> str:
    """A run's folder. losses, weights, seed: of a network by name, where they are not the usual ones."""
    run = str(folder)
    for name in NETWORKS:
        losses = changes.get("losses", {}).get(name, [0.5, 0.4, 0.3])  # type: ignore[attr-defined]
        weights = changes.get("weights", {}).get(name, f"of {name}")  # type: ignore[attr-defined]
        network(run, name, losses, weights, changes.get("seeds", {}).get(name, 0))  # type: ignore[attr-defined]
    size = targets(run, changes.get("soft", SOFT), changes.get("numerics", NUMERICS), changes.get("parts", 2))  # type: ignore[arg-type]
    report = plain(members=(0.94, 0.95))
    soft = report.soft_targets.model_copy(update={"bytes": size, "fingerprint": FINGERPRINT})
    storage.write_text(RunFolder(run).report, as_json(report.model_copy(update={"soft_targets": soft})))
    return run


def nudged() -> np.ndarray:
    found = SOFT.copy()
    found[5] = [0.5 + 2**-10, 0.5 - 2**-10]
    return found


CASES = [
    ({}, "All 5 artifacts are the same to the bit."),
    (
        {"losses": {"member-1": [0.5, 0.4, 0.31]}, "weights": {"student": "other"}},
        "The runs part in member-1: epoch 3: train_loss 0.3 and 0.31. Its inputs are the same.",
    ),
    (
        {"weights": {"baseline": "other"}, "seeds": {"baseline": 7}},
        "The runs part in baseline: weights, after 3 epochs of the same figures. Of its inputs differ: seed: 0 -> 7.",
    ),
    ({"losses": {"student": [0.5, 0.4]}}, "The runs part in student: 3 and 2 epochs, the same as far as both go."),
    (
        {"soft": nudged()},
        "The runs part in soft targets: part 1, row 1 (example 5): 'probabilities' differs in 1 of 4 rows, by up to "
        "0.000977. Its inputs are the same.",
    ),
    ({"parts": 4}, "The runs part in soft targets: 8 rows in 2 parts and 8 rows in 4 parts."),
    ({"parts": [3]}, "The runs part in soft targets: 8 rows in 2 parts, of other sizes."),
    ({"numerics": NUMERICS.model_copy(update={"threads": 2})}, "All 5 artifacts are the same to the bit."),
    (
        {"numerics": NUMERICS.model_copy(update={"threads": 2}), "soft": nudged()},
        "by up to 0.000977. Of its inputs differ: threads 1 and 2.",
    ),
]


@pytest.mark.parametrize(("changes", "expected"), CASES)
def test_the_first_difference_of_two_runs_is_named(changes: dict[str, object], expected: str, tmp_path: Path) -> None:
    one, other = finished(tmp_path / "one"), finished(tmp_path / "other", **changes)
    found = bits.compared(one, other)
    assert expected in bits.verdict(found)
    shown = bits.rows(found)
    assert all(bit == "the same" for _, bit in shown[1:-1])


def test_data_of_a_run_without_a_record_of_it_is_not_compared(tmp_path: Path) -> None:
    one, other = finished(tmp_path / "one"), finished(tmp_path / "other")
    split = {"name": "train", "digest": "f00", "source_type": "local", "source": "{}", "profile": "{}"}
    record = json.dumps({"request": "0123456789abcdef", "tags": {}, "datasets": [split]})
    storage.write_text(RunFolder(one).tracking, record)
    assert bits.verdict(bits.compared(one, other)) == "All 5 artifacts are the same to the bit."
    storage.write_text(RunFolder(other).tracking, record)
    assert bits.compared(one, other)[0] == bits.Compared("data, train", "")


def test_soft_targets_that_another_run_made(tmp_path: Path) -> None:
    """A sweep's runs, or further students, share a store in the folder of the run that made it."""
    one, other = finished(tmp_path / "one"), finished(tmp_path / "runs" / "other", soft=nudged())
    (tmp_path / "runs" / "maker").mkdir()
    (tmp_path / "runs" / "other" / "soft_targets").rename(tmp_path / "runs" / "maker" / "soft_targets")
    assert "The runs part in soft targets" in bits.verdict(bits.compared(one, other))


def test_runs_without_a_common_artifact_are_named(tmp_path: Path) -> None:
    one, other = finished(tmp_path / "one"), str(tmp_path / "other")
    storage.write_text(RunFolder(other).report, as_json(plain()))
    with pytest.raises(RequestError, match=rf"^'{one}' and '{other}': the runs have no artifact in common"):
        bits.compared(one, other)


def test_the_command_shows_where_two_runs_part(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    one, other = finished(tmp_path / "one"), finished(tmp_path / "other", soft=nudged())
    assert main(["diff", one, other]) == 0
    shown = capsys.readouterr().out
    assert "the same" in shown and "The runs part in soft targets" in shown
    assert main(["diff", one, str(tmp_path / "none")]) == 2
    assert "no report.json in it" in capsys.readouterr().err
