"""Commands on the folder of a run, where a file of it is not what a run wrote: a wrong request that names the file."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from orchestrator.cli import bits, differences
from orchestrator.observers import tracking_record
from orchestrator.reporting import report as reports
from orchestrator.reporting import sums
from orchestrator.run_folder import stores
from orchestrator.run_folder.paths import RunFolder
from orchestrator.run_folder.resolved import config_of
from tests.reports import plain
from workers import storage
from workers.errors import RequestError

READERS: dict[str, list[Callable[[str], Any]]] = {
    "report.json": [reports.load],
    "config.yaml": [config_of, lambda folder: differences.differing(folder, folder, plain(), plain())],
    "tracking.json": [tracking_record.read, lambda folder: list(bits._data(RunFolder(folder), RunFolder(folder)))],
    "sums.safetensors": [sums.read],
}


@pytest.mark.parametrize("damage", [b"", b"{", b"\xff\xfe", b"[1]", b"\x08\0\0\0\0\0\0\0{}"])
@pytest.mark.parametrize(("name", "read"), [(name, read) for name, several in READERS.items() for read in several])
def test_a_damaged_file_is_named(name: str, read: Callable[[str], Any], damage: bytes, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(damage)
    with pytest.raises(RequestError, match=name):
        read(str(tmp_path))


def test_sums_are_read_as_they_were_written(tmp_path: Path) -> None:
    of = {"student": np.ones((2, 3))}
    sums.write(str(tmp_path), of, "digest")
    found, test = sums.read(str(tmp_path))
    assert test == "digest" and np.array_equal(found["student"], of["student"])


def test_a_damaged_store_is_passed_over(tmp_path: Path) -> None:
    folder = RunFolder(str(tmp_path))
    storage.write_text(storage.join(folder.soft_targets("0" * 16), "manifest.json"), '{"format": 2, "parts": ')
    assert stores.store_of(folder, "0" * 16) is None


def test_a_store_beside_the_run_that_cannot_be_read_is_passed_over(tmp_path: Path) -> None:
    Path(RunFolder(str(tmp_path / "other")).soft_targets("0" * 16), "manifest.json").mkdir(parents=True)
    assert stores.store_of(RunFolder(str(tmp_path / "small")), "0" * 16) is None
