"""Commands of tests: what a block started ends with it, however it ends."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from tests import commands

NESTED = ("sh", "-c", "sleep 60 & echo up; wait")


@pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="processes are found by /proc alone")
def test_a_command_ends_with_all_that_it_started() -> None:
    mark = commands.new_mark()
    with (
        pytest.raises(RuntimeError, match="the test fails"),
        commands.running(*NESTED, mark=mark) as outer,
        commands.running(*NESTED) as inner,
    ):
        for each in (outer, inner):
            assert each.stdout is not None and each.stdout.readline() == "up\n"
        assert len(commands.processes(mark)) == 2, "without those of the inner block"
        raise RuntimeError("the test fails")
    assert commands.processes(mark) == [] and inner.poll() is not None


def test_a_command_that_takes_too_long_is_ended() -> None:
    with pytest.raises(subprocess.TimeoutExpired):
        commands.run("sleep", 60, timeout_s=0.2)


def test_a_condition_is_not_waited_for_once_its_command_has_ended() -> None:
    with commands.running("sh", "-c", "echo broken >&2; exit 3") as process:
        with pytest.raises(AssertionError, match=r"ended with 3: \('', 'broken\\n'\)"):
            commands.wait_until(lambda: False, 60, process=process)
        with pytest.raises(AssertionError, match="not yet"):
            commands.wait_until(lambda: False, 0.0, "not yet")


def test_a_command_joins_no_cluster_of_the_developers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:1")
    assert commands.output("sh", "-c", "echo address: $RAY_ADDRESS") == "address:\n"
    with pytest.raises(AssertionError, match=r"status 1:\nbefore"):
        commands.output("sh", "-c", "echo before; exit 1")
