"""The golden record: every number that three runs compute is that of commit 54418a2.

Its numbers were those of bea549c, before the house was rebuilt, on another CPU.
"""

from __future__ import annotations

import json

import pytest
import torch

from tests.golden import record


@pytest.mark.slow
@pytest.mark.parametrize("case", record.CASES)
def test_every_number_is_as_recorded(case: str) -> None:
    expected = json.loads((record.HERE / "record.json").read_text())
    machine = record.machine()
    if machine != expected["machine"]:
        pytest.skip(f"recorded on {expected['machine']}; this is {machine}, which rounds otherwise")
    found = record.record(record.COMMAND, {case: record.CASES[case]})
    assert not record.differences(expected["cases"][case], found["cases"][case])


def test_a_difference_is_named() -> None:
    assert record.differences({"a": [1, 2]}, {"a": [1, 3]}) == ["/a/1: expected 2, found 3"]
    assert record.differences({"a": 1}, {"b": 1}) == ["/a: expected 1, found None", "/b: expected None, found 1"]
    assert not record.differences({"a": [{"b": 1}]}, {"a": [{"b": 1}]})


def test_a_machine_is_the_same_with_another_build_of_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "__version__", "2.13.0+cu130")
    assert record.machine()["torch"] == "2.13.0"
