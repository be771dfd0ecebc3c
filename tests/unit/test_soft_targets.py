"""The store: whole or not there, verified, and readable by plain pyarrow."""

import json
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from workers import soft_targets
from workers.errors import RunError
from workers.soft_targets import Manifest, MemberRecord


def make(folder: Path) -> tuple[np.ndarray, Manifest]:
    p = np.random.default_rng(0).dirichlet(np.ones(4), 25).astype(np.float32)
    parts = [
        soft_targets.write_part(str(folder), n, start, p[start : start + 10], ["member-0"])
        for n, start in enumerate((0, 10, 20))
    ]
    manifest = Manifest(
        fingerprint="f", temperature=2.0, combine="arithmetic", weights=[1.0], classes=4,
        members=[MemberRecord(name="member-0", sha256="0")], parts=parts, micro_batch=8, device="cpu",
        seconds=1.0, complete=True,
    )  # fmt: skip
    return p, manifest


def test_what_is_written_is_read(tmp_path: Path) -> None:
    p, manifest = make(tmp_path)
    assert soft_targets.find(str(tmp_path)) is None  # no manifest yet: there is no store
    soft_targets.write_manifest(str(tmp_path), manifest)
    assert soft_targets.find(str(tmp_path)) == manifest
    np.testing.assert_array_equal(soft_targets.read(str(tmp_path), manifest), p)
    table = pq.read_table(tmp_path / "part-00001.parquet")
    assert table.column("example_id").to_pylist() == list(range(10, 20))
    np.testing.assert_array_equal(np.array(table.column("probabilities").to_pylist(), np.float32), p[10:20])
    written = json.loads((tmp_path / "manifest.json").read_text())
    assert written["complete"] is True and written["parts"][0]["members"] == ["member-0"]


def test_a_flipped_byte_is_found(tmp_path: Path) -> None:
    _, manifest = make(tmp_path)
    soft_targets.write_manifest(str(tmp_path), manifest)
    part = tmp_path / "part-00001.parquet"
    content = bytearray(part.read_bytes())
    content[len(content) // 2] ^= 1
    part.write_bytes(bytes(content))
    assert soft_targets.find(str(tmp_path)) is None
    with pytest.raises(RunError, match=r"part-00001\.parquet': the checksum"):
        soft_targets.read(str(tmp_path), manifest)


def test_the_same_rows_make_the_same_bytes(tmp_path: Path) -> None:
    one, other = make(tmp_path / "a")[1], make(tmp_path / "b")[1]
    assert [part.sha256 for part in one.parts] == [part.sha256 for part in other.parts]
