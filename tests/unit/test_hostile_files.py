"""Files that declare more than they hold, or more than memory: refused with status 2, within bounded memory."""

from __future__ import annotations

import gzip
import io
import json
import os
import random
import re
import struct
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.makers import blobs
from workers.data import loading, memory
from workers.errors import RequestError
from workers.specs.data import DataSpec

ROOM = 2**28
"""Bytes of address space beyond what a reader has once it is loaded; half of it is what one file may take."""
X, Y = blobs(60, 0)
MIB = 2**20

READ = f"""
import json, resource, sys
import psutil
from workers.data import dataset as data
from workers.data import loading
from workers.errors import RequestError
from workers.specs.data import DataSpec
limit = psutil.Process().memory_info().vms + {ROOM}
resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
for line in sys.stdin:
    try:
        loading.load(DataSpec.model_validate(json.loads(line)), 0)
        print("read")
    except RequestError as error:
        print(str(error).replace(chr(10), " "))
    except BaseException as error:
        print("raised", repr(error)[:500].replace(chr(10), " "))
"""


def header(shape: tuple[int, ...], dtype: str = "<f4", order: bool = False) -> bytes:
    file = io.BytesIO()
    np.lib.format.write_array_header_1_0(file, {"descr": dtype, "fortran_order": order, "shape": shape})
    return file.getvalue()


def saved(array: np.ndarray) -> bytes:
    file = io.BytesIO()
    np.save(file, array)
    return file.getvalue()


def npz(path: Path, x: bytes, compression: int = zipfile.ZIP_STORED, y: bytes | None = None) -> None:
    with zipfile.ZipFile(path, "w", compression) as archive:
        archive.writestr("x.npy", x)
        archive.writestr("y.npy", saved(Y) if y is None else y)


def zeros(path: Path, head: bytes, count: int, opened: Callable[[str], Any]) -> None:
    """`head` and then `count` bytes of nothing."""
    with opened(str(path)) as file:
        file.write(head)
        for _ in range(count // 2**24):
            file.write(bytes(2**24))


def npz_bomb(path: Path) -> None:
    """An honest header of 384 MiB of zeros, compressed to a thousandth."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        with archive.open("x.npy", "w") as file:
            file.write(header((384 * MIB // 1024, 256)))
            for _ in range(384 // 16):
                file.write(bytes(16 * MIB))
        archive.writestr("y.npy", saved(Y))


def constant_column(path: Path) -> None:
    """40 million equal numbers, 320 MiB, in some kilobytes."""
    table = pa.table({"x": pa.array(np.zeros(2**22)), "y": pa.array(np.zeros(2**22, np.int8))})
    with pq.ParquetWriter(path, table.schema) as writer:
        for _ in range(10):
            writer.write_table(table)


def idx(path: Path, sizes: tuple[int, ...], count: int, opened: Callable[[str], Any]) -> None:
    zeros(path, struct.pack(f">BBBB{len(sizes)}I", 0, 0, 8, len(sizes), *sizes), count, opened)


def packed(path: str) -> Any:
    return gzip.open(path, "wb", compresslevel=1)


def plain(path: str) -> Any:
    return open(path, "wb")


CASES: dict[str, tuple[str, Callable[[Path], None], str]] = {
    "header alone": ("npz", lambda p: npz(p, header((10**10,))), "header of 'x' says float32 .*; found 0"),
    "overflow": ("npz", lambda p: npz(p, header((2**33, 2**33))), "header of 'x' says"),
    "negative": ("npz", lambda p: npz(p, header((-4, 8)) + bytes(128)), "header of 'x' says"),
    "columns": ("npz", lambda p: npz(p, header((2**31, 2), order=True)), "header of 'x' says"),
    "compressed header": ("npz", lambda p: npz(p, header((10**10,)), zipfile.ZIP_DEFLATED), "found 0"),
    "labels": ("npz", lambda p: npz(p, saved(X), y=header((10**9, 10**9), "<i8")), "header of 'y' says int64"),
    "bomb": ("npz", npz_bomb, "would take 384.0 MiB of memory; expected at most .* MiB, 50% of what is available"),
    "archive in gzip": ("npz.gz", lambda p: zeros(p, b"PK", 400 * MIB, packed), "once decompressed; expected"),
    "idx": ("idx", lambda p: idx(p, (2**31, 28, 28), 0, plain), "its header says .* bytes; found 0"),
    "idx overflow": ("idx", lambda p: idx(p, (2**32 - 1,) * 3, 0, plain), "its header says .*; found 0"),
    "idx of many sizes": ("idx", lambda p: idx(p, (1,) * 255, 0, plain), "its header says .*; found 0"),
    "more than the header": ("idx.gz", lambda p: idx(p, (60, 2, 2), 400 * MIB, packed), r"; found more\. Download"),
    "idx in gzip": ("idx.gz", lambda p: idx(p, (2**24, 4, 4), 256 * MIB, packed), "which would take .* of memory"),
    "constant": ("parquet", constant_column, "rows of 2 columns would take .* MiB of memory"),
    "not text": ("parquet", lambda p: p.write_bytes(b"PAR1" + b"\xff" * 60 + b"PAR1"), "not a Parquet file"),
}  # fmt: skip


@pytest.fixture(scope="module")
def answers(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """What a process with little memory says of each file."""
    folder = tmp_path_factory.mktemp("hostile")
    (folder / "labels").write_bytes(struct.pack(">BBBBI", 0, 0, 8, 1, 60) + bytes(60))
    requests = []
    for number, (ending, make, _) in enumerate(CASES.values()):
        path = folder / f"{number}.{ending}"
        make(path)
        kind = ending.removesuffix(".gz")
        split: Any = {"images": path.name, "labels": "labels"} if kind == "idx" else path.name
        requests.append(json.dumps({"kind": kind, "root": str(folder), "train": split, "test": split}))
    ran = subprocess.run(
        [sys.executable, "-c", READ],
        input="\n".join(requests),
        capture_output=True,
        text=True,
        timeout=120,
        env={**os.environ, "PYTHONPATH": ":".join(sys.path), "OMP_NUM_THREADS": "1"},
    )
    assert ran.returncode == 0, ran.stderr
    return dict(zip(CASES, ran.stdout.splitlines(), strict=True))


@pytest.mark.parametrize("case", CASES)
def test_it_is_refused_within_bounded_memory(case: str, answers: dict[str, str]) -> None:
    assert re.search(CASES[case][2], answers[case]), answers[case]
    assert not answers[case].startswith(("read", "raised", "data: reading it needs more memory"))


def test_what_agrees_is_read(tmp_path: Path) -> None:
    """The same checks on honest files: compressed, in Fortran order, several row groups."""
    np.savez_compressed(tmp_path / "train.npz", x=np.asfortranarray(X), y=Y)
    np.savez(tmp_path / "test.npz", x=X[::2] + 1, y=Y[::2])
    files = {"train": "train.npz", "test": "test.npz"}
    assert loading.load(DataSpec(kind="npz", root=str(tmp_path), **files), 0).train.x.shape == (54, 8)
    table = pa.table({"x": pa.array(X.tolist()), "y": Y})
    pq.write_table(table, tmp_path / "train.parquet", row_group_size=7)
    pq.write_table(table.slice(3, 20), tmp_path / "test.parquet")
    files = {"train": "train.parquet", "test": "test.parquet"}
    assert loading.load(DataSpec(kind="parquet", root=str(tmp_path), **files), 0).train.x.shape == (54, 8)


def test_a_sparse_archive_is_named(tmp_path: Path) -> None:
    import scipy.sparse

    scipy.sparse.save_npz(tmp_path / "train.npz", scipy.sparse.csr_matrix(X))
    np.savez(tmp_path / "test.npz", x=X, y=Y)
    with pytest.raises(RequestError, match=r"no array 'x'.*scipy sparse matrix: save its \.toarray\(\)"):
        loading.load(DataSpec(kind="npz", root=str(tmp_path), train="train.npz", test="test.npz"), 0)


@pytest.mark.parametrize("kind", ["npz", "parquet", "idx"])
def test_whatever_is_damaged_is_a_request(tmp_path: Path, kind: str) -> None:
    """Bytes changed at random: read or refused, but never anything else."""
    if kind == "npz":
        np.savez(tmp_path / "a", x=X, y=Y)
    elif kind == "parquet":
        pq.write_table(pa.table({"x": X.tolist(), "y": Y}), tmp_path / "a.parquet")
    else:
        (tmp_path / "a.idx").write_bytes(struct.pack(">BBBBIII", 0, 0, 8, 3, 60, 2, 2) + bytes(240))
        (tmp_path / "l").write_bytes(struct.pack(">BBBBI", 0, 0, 8, 1, 60) + bytes([k % 3 for k in range(60)]))
    path = tmp_path / f"a.{kind}"
    whole, rng, refused = path.read_bytes(), random.Random(0), 0
    split: Any = {"images": path.name, "labels": "l"} if kind == "idx" else path.name
    spec = DataSpec.model_validate({"kind": kind, "root": str(tmp_path), "train": split, "test": split})
    for _ in range(150):
        content = bytearray(whole)
        where = rng.choice((range(200), range(len(whole) - 400, len(whole)), range(len(whole))))
        for _ in range(rng.randint(1, 4)):
            content[rng.choice(where) % len(content)] = rng.randrange(256)
        path.write_bytes(bytes(content))
        try:
            loading.load(spec, 0)
        except RequestError:
            refused += 1
    assert refused > 20


def test_memory_is_what_the_tightest_limit_leaves(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(memory, "_CGROUPS", ((str(tmp_path), "max", "current", "inactive_file"),))
    free = memory.available()
    (tmp_path / "max").write_text("1000\n")
    (tmp_path / "current").write_text("700\n")
    (tmp_path / "memory.stat").write_text("anon 500\ninactive_file 200\n")
    assert memory.available() == 500 < free and memory.limit() == 250
    (tmp_path / "max").write_text("max\n")
    assert memory.available() > 500
    assert [memory.size(n) for n in (5, 2**20, 3 * 2**29)] == ["5 bytes", "1.0 MiB", "1.5 GiB"]
