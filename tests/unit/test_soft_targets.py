"""The store: content-addressed, verified, resumable, and readable by plain pyarrow."""

import json
import logging
import os
import time
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

from tests.makers import NUMERICS, stored
from workers import storage
from workers.artifacts import parts as part_files
from workers.data.numbering import RowNames
from workers.errors import RunError
from workers.targets import kinds, soft_targets
from workers.targets.dense import Dense
from workers.targets.soft_targets import Manifest, MemberRecord, Numerics, Part
from workers.targets.top_k import TopK

P = np.random.default_rng(0).dirichlet(np.ones(4), 25).astype(np.float32)


def manifest(parts: dict[int, Part]) -> Manifest:
    return Manifest(
        fingerprint="f", temperature=2.0, combine="arithmetic", weights=[1.0], classes=4, dtype="float32", top_k=None,
        examples=25, views=1, members=[MemberRecord(name="member-0", sha256="0")], parts=list(parts.values()),
        seconds=1.0, complete=True,
    )  # fmt: skip


def dense(probabilities: np.ndarray) -> Dense:
    return Dense(torch.from_numpy(probabilities))


def flip_a_byte(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(bytes(content))


def test_what_is_there_is_known_by_name_and_verified_where_it_is_read(tmp_path: Path) -> None:
    _, parts = stored(tmp_path, P)
    found, abandoned = soft_targets.listed(str(tmp_path), refused={parts[2].path})
    assert set(found) == {0, 1} and not abandoned
    for number in found:
        one, other = (soft_targets.read_part(str(tmp_path), part) for part in (found[number], parts[number]))
        np.testing.assert_array_equal(one.ids, other.ids)
        assert torch.equal(one.targets.probabilities, other.targets.probabilities)
    soft_targets.abandon(str(tmp_path))
    assert soft_targets.listed(str(tmp_path))[1]
    flip_a_byte(tmp_path / parts[1].path)
    with pytest.raises(RunError, match="the checksum is not the one that was written"):
        soft_targets.read_part(str(tmp_path), found[1])


def read_meanwhile(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the parts that are read from here on."""
    read: list[str] = []
    read_bytes = storage.read_bytes

    def noted(uri: str) -> bytes:
        if uri.endswith(".parquet"):
            read.append(uri.rsplit("/", 1)[1])
        return read_bytes(uri)

    monkeypatch.setattr(storage, "read_bytes", noted)
    return read


def test_what_a_manifest_vouches_for_is_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _, parts = stored(tmp_path, P)
    read = read_meanwhile(monkeypatch)
    assert soft_targets.salvage(str(tmp_path)) == parts and len(read) == len(parts)  # nothing vouches for them
    soft_targets.write_manifest(str(tmp_path), manifest(parts))
    read.clear()
    assert soft_targets.salvage(str(tmp_path)) == parts and not read
    soft_targets.write_manifest(str(tmp_path), manifest(parts).model_copy(update={"complete": False}))
    assert soft_targets.salvage(str(tmp_path)) == parts and len(read) == len(parts)


def test_what_was_changed_since_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _, parts = stored(tmp_path, P)
    soft_targets.write_manifest(str(tmp_path), manifest(parts))
    read = read_meanwhile(monkeypatch)
    time.sleep(0.05)  # file systems tell moments apart by some milliseconds
    flip_a_byte(tmp_path / parts[1].path)
    (tmp_path / parts[2].path).write_bytes((tmp_path / parts[2].path).read_bytes()[:-1])
    os.utime(tmp_path / parts[2].path, (0, 0))  # of another size, though it looks old
    assert soft_targets.salvage(str(tmp_path)) == {0: parts[0]}
    assert sorted(read) == sorted([parts[1].path, parts[2].path])


def test_what_is_written_is_read(tmp_path: Path) -> None:
    layout, parts = stored(tmp_path, P)
    assert [part.rows for part in parts.values()] == [10, 10, 5]
    for number, part in parts.items():
        rows = soft_targets.read_part(str(tmp_path), part)
        np.testing.assert_array_equal(rows.ids, layout.ids(number))
        assert isinstance(rows.targets, Dense)
        np.testing.assert_array_equal(rows.targets.probabilities, P[rows.ids])
        np.testing.assert_allclose(rows.entropy, -(P * np.log(P)).sum(1)[rows.ids], rtol=1e-5)
    assert soft_targets.manifest_at(str(tmp_path)) is None
    soft_targets.write_manifest(str(tmp_path), manifest(parts))
    assert soft_targets.manifest_at(str(tmp_path)) == manifest(parts)
    written = json.loads((tmp_path / "manifest.json").read_text())
    assert written["complete"] is True and written["parts"][0]["members"] == ["member-0"]


def test_plain_pyarrow_reads_it(tmp_path: Path) -> None:
    _, parts = stored(tmp_path, P)
    table = pq.read_table([tmp_path / part.path for part in parts.values()])
    ids = table.column("example_id").to_numpy()
    assert sorted(ids) == list(range(25))
    np.testing.assert_array_equal(np.array(table.column("probabilities").to_pylist(), np.float32), P[ids])


def test_half_precision_halves_the_bytes_and_sums_to_one(tmp_path: Path) -> None:
    _, parts = stored(tmp_path, P.astype(np.float16))
    rows = soft_targets.read_part(str(tmp_path), parts[0])
    assert isinstance(rows.targets, Dense) and rows.targets.probabilities.dtype == torch.float16
    np.testing.assert_allclose(rows.targets.probabilities.double().sum(1), 1.0, atol=2e-3)


def test_the_largest_and_the_rest(tmp_path: Path) -> None:
    top = kinds.of_mean(torch.from_numpy(P), "float16", 2)
    part = soft_targets.write_part(
        str(tmp_path), 0, RowNames(np.arange(25)), top, members=["member-0"], numerics=NUMERICS
    )
    table = pq.read_table(tmp_path / part.path)
    assert table.column_names == ["example_id", "top_ids", "top_probabilities", "tail"]
    best = np.argsort(-P, axis=1)[:, :2]
    np.testing.assert_array_equal(np.array(table.column("top_ids").to_pylist()), best)
    rows = soft_targets.read_part(str(tmp_path), part)
    assert isinstance(rows.targets, TopK) and isinstance(top, TopK)
    for name in ("ids", "probabilities", "tail"):
        assert torch.equal(getattr(rows.targets, name), getattr(top, name))
    tail = 1 - np.take_along_axis(P, best, 1).sum(1)
    np.testing.assert_allclose(rows.targets.tail.numpy(), tail, atol=1e-3)


def test_what_is_there_is_salvaged_and_the_rest_cleared_away(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    _, parts = stored(tmp_path, P)
    assert soft_targets.salvage(str(tmp_path)) == parts
    flip_a_byte(tmp_path / parts[1].path)
    with pytest.raises(RunError, match=f"{parts[1].path}': the checksum is not"):
        soft_targets.read_part(str(tmp_path), parts[1])
    with caplog.at_level(logging.WARNING):
        assert soft_targets.salvage(str(tmp_path)) == {0: parts[0], 2: parts[2]}
    assert parts[1].path in caplog.text and "thrown away" in caplog.text
    assert sorted(p.name for p in tmp_path.iterdir()) == sorted([parts[0].path, parts[2].path])
    assert soft_targets.salvage(str(tmp_path / "nowhere")) == {}


def test_auto_of_an_earlier_version_is_float32_on_a_cpu_and_unknown_on_a_gpu() -> None:
    earlier = {"threads": 1, "micro_batch": 8, "precision": "auto"}
    assert [Numerics(device=device, **earlier).precision for device in ("cpu", "cuda")] == ["float32", "auto"]


def test_a_part_made_by_more_takes_the_place_of_one_by_survivors(tmp_path: Path) -> None:
    ids = np.arange(5)
    fewer = soft_targets.write_part(
        str(tmp_path), 0, RowNames(ids), dense(P[:5]), members=["member-0"], numerics=NUMERICS
    )
    more = soft_targets.write_part(
        str(tmp_path), 0, RowNames(ids), dense(P[5:10]), members=["member-0", "member-1"], numerics=NUMERICS
    )
    assert soft_targets.salvage(str(tmp_path)) == {0: more}
    assert not (tmp_path / fewer.path).exists()


def test_a_part_of_the_complete_store_takes_the_place_of_an_equal_one(tmp_path: Path) -> None:
    """As where a complete store is copied over a partial one, whose pass had other last bits."""
    for number in (0, 1):
        folder = tmp_path / str(number)
        both = [stored(folder, probabilities)[1] for probabilities in (P, P[::-1])]
        soft_targets.write_manifest(str(folder), manifest(both[number]))
        assert soft_targets.salvage(str(folder)) == both[number]
        assert len(part_files.files(str(folder))) == len(both[number])


def test_the_same_rows_make_the_same_bytes(tmp_path: Path) -> None:
    one, other = stored(tmp_path / "a", P)[1], stored(tmp_path / "b", P)[1]
    assert one == other
    assert {p.name: p.read_bytes() for p in (tmp_path / "a").iterdir()} == {
        p.name: p.read_bytes() for p in (tmp_path / "b").iterdir()
    }


def test_numbers_of_parts_have_as_many_digits_as_they_take(tmp_path: Path) -> None:
    made = {
        n: soft_targets.write_part(
            str(tmp_path), n, RowNames(np.arange(5)), dense(P[:5]), members=["member-0"], numerics=NUMERICS
        )
        for n in (7, 999_999, 1_000_000, 12_345_678)
    }
    assert [part.path.split("-")[1] for part in made.values()] == ["000007", "999999", "1000000", "12345678"]
    assert {number for number, _, _ in part_files.files(str(tmp_path))} == set(made)
    assert soft_targets.salvage(str(tmp_path)) == made
