"""The golden record: every number that three runs compute is that of commit 54418a2.

Its numbers were those of bea549c, before the house was rebuilt, on another CPU.
"""

from __future__ import annotations

import json

import pytest

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
