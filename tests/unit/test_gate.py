"""The gate of an export: both sides of each threshold, what makes no gate, and what it says."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from orchestrator.cli.export import Asked, export
from orchestrator.export import gate
from orchestrator.export.gate import Gate, Passed
from workers.errors import GateError, RequestError

FOUND = Passed(share=0.97, share_low=0.955, p99_ms=10.0)

CASES: dict[str, tuple[Gate, Passed, list[str]]] = {
    "no threshold": (Gate(), FOUND, []),
    "share just reached": (Gate(min_share=0.97), FOUND, []),
    "share just missed": (Gate(min_share=0.9701), FOUND, ["0.01 points short"]),
    "latency just reached": (Gate(max_latency_ms=10.0), FOUND, []),
    "latency just missed": (Gate(max_latency_ms=9.99), FOUND, ["0.01 ms too slow"]),
    "lower end just reached": (Gate(min_share=0.955, confidence=0.95), FOUND, []),
    "lower end just missed": (Gate(min_share=0.956, confidence=0.95), FOUND, ["More test examples would narrow"]),
    "share missed with its interval": (Gate(min_share=0.98, confidence=0.9), FOUND, ["90% interval from 95.50%"]),
    "no interval": (Gate(min_share=0.9, confidence=0.95), Passed(0.97, None, 1.0), ["has no interval"]),
    "without confidence no interval is needed": (Gate(min_share=0.9), Passed(0.97, None, 1.0), []),
    "both missed": (Gate(min_share=0.98, max_latency_ms=1.0), FOUND, ["1 points short", "9 ms too slow"]),
    "NaN is not met": (Gate(min_share=0.5), Passed(float("nan"), None, 1.0), ["--min-share"]),
    "in float it would pass": (Gate(min_share=0.98), Passed(0.97, 0.96, 1.0, 0.985), ["Without `--quantize`"]),
    "in float neither": (Gate(min_share=0.98), Passed(0.97, 0.96, 1.0, 0.975), ["A larger student"]),
    "int8 is advised": (Gate(max_latency_ms=1.0), FOUND, ["`--quantize int8`"]),
}


@pytest.mark.parametrize("case", CASES)
def test_both_sides_of_each_threshold(case: str) -> None:
    thresholds, found, expected = CASES[case]
    short = gate.shortfalls(thresholds, found)
    assert len(short) == len(expected)
    for line, part in zip(short, expected, strict=True):
        assert part in line


def test_what_is_not_met_is_status_3_and_says_that_nothing_was_written() -> None:
    gate.enforce(Gate(min_share=0.97), FOUND)
    with pytest.raises(GateError, match="nothing was written or registered") as raised:
        gate.enforce(Gate(min_share=0.99), FOUND)
    assert raised.value.exit_status == 3


@pytest.mark.parametrize(
    ("thresholds", "registers", "message"),
    [
        (Gate(confidence=0.95), False, "a gate without a threshold"),
        (Gate(confidence=0.95, max_latency_ms=1.0), False, "a gate without a threshold"),
        (Gate(), True, "through the gate alone"),
        (Gate(min_share=97.0), False, "--min-share: 97"),
        (Gate(min_share=0.0), False, "--min-share"),
        (Gate(min_share=float("nan")), False, "--min-share"),
        (Gate(max_latency_ms=-1.0), False, "--max-latency-ms"),
        (Gate(max_latency_ms=float("inf")), False, "--max-latency-ms"),
        (Gate(min_share=0.9, confidence=95.0), False, "--confidence: 95"),
        (Gate(min_share=0.9, confidence=1.0), False, "--confidence"),
    ],
)
def test_what_is_no_gate_is_refused(thresholds: Gate, registers: bool, message: str) -> None:
    with pytest.raises(RequestError, match=message) as raised:
        gate.check(thresholds, registers=registers)
    assert raised.value.exit_status == 2


def test_one_threshold_is_enough_to_register() -> None:
    gate.check(Gate(min_share=1.0), registers=True)
    gate.check(Gate(max_latency_ms=5.0), registers=True)
    gate.check(Gate(), registers=False)


@pytest.mark.parametrize("name", ["team/digits", "o'brien", "models:digits"])
def test_a_name_that_mlflow_has_not_is_refused_first(name: str, tmp_path: Path) -> None:
    asked = Asked(run=str(tmp_path / "none"), to=str(tmp_path / "out"), format="onnx", gate=Gate(min_share=0.9))
    with pytest.raises(RequestError, match=r"--register: .* is no name of a model in MLflow"):
        export(replace(asked, register=name))
    with pytest.raises(RequestError, match=r"report\.json"):
        export(replace(asked, register="digits"))
