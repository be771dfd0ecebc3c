"""The gate of an export: both sides of each threshold, what makes no gate, and what it says."""

from __future__ import annotations

import math
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from orchestrator.cli.export import Asked, _passed, export
from orchestrator.export import gate
from orchestrator.export.gate import Gate, Passed
from workers.errors import GateError, RequestError
from workers.evaluation import bootstrap

FOUND = Passed(share=Fraction(97, 100), share_low=0.955, p99_ms=10.0)

CASES: dict[str, tuple[Gate, Passed, list[str]]] = {
    "no threshold": (Gate(), FOUND, []),
    "share just reached": (Gate(min_share=0.97), FOUND, []),
    "share just missed": (Gate(min_share=0.9701), FOUND, ["0.01 points short"]),
    "latency just reached": (Gate(max_latency_ms=10.0), FOUND, []),
    "latency just missed": (Gate(max_latency_ms=9.99), FOUND, ["0.01 ms too slow"]),
    "lower end just reached": (Gate(min_share=0.955, confidence=0.95), FOUND, []),
    "lower end just missed": (Gate(min_share=0.956, confidence=0.95), FOUND, ["More test examples would narrow"]),
    "share missed with its interval": (
        Gate(min_share=0.98, confidence=0.9),
        FOUND,
        ["which `--confidence` asks for, 2.5 points"],
    ),
    "no interval": (Gate(min_share=0.9, confidence=0.95), Passed(Fraction(97, 100), None, 1.0), ["has no interval"]),
    "without confidence no interval is needed": (Gate(min_share=0.9), Passed(Fraction(97, 100), None, 1.0), []),
    "a share above 1 just reached": (Gate(min_share=1.02), Passed(Fraction(102, 100), None, 1.0), []),
    "a share above 1 just missed": (Gate(min_share=1.5), FOUND, ["at least 150.00%: 53 points short"]),
    "both missed": (Gate(min_share=0.98, max_latency_ms=1.0), FOUND, ["1 points short", "9 ms too slow"]),
    "an ensemble that is never right": (Gate(min_share=0.5), Passed(None, None, 1.0), ["right on no test example"]),
    "NaN is not met": (
        Gate(min_share=0.5, max_latency_ms=1.0, confidence=0.95),
        Passed(Fraction(1), math.nan, math.nan),
        ["has no interval", "--max-latency-ms"],
    ),
    "in float it would pass": (
        Gate(min_share=0.98),
        Passed(Fraction(97, 100), 0.96, 1.0, Fraction(985, 1000)),
        ["Without `--quantize`"],
    ),
    "in float neither": (
        Gate(min_share=0.98),
        Passed(Fraction(97, 100), 0.96, 1.0, Fraction(975, 1000)),
        ["A larger student"],
    ),
    "int8 is advised": (Gate(max_latency_ms=1.0), FOUND, ["`--quantize int8`"]),
}


@pytest.mark.parametrize("case", CASES)
def test_both_sides_of_each_threshold(case: str) -> None:
    thresholds, found, expected = CASES[case]
    short = gate.shortfalls(thresholds, found)
    assert len(short) == len(expected)
    for line, part in zip(short, expected, strict=True):
        assert part in line


@pytest.mark.parametrize("percent", range(1, 101))
def test_a_share_that_equals_its_threshold_passes_and_one_example_less_does_not(percent: int) -> None:
    text = f"0.{percent:02d}" if percent < 100 else "1"
    for ensemble in (100, 300, 700, 9_900, 99_999_900):
        right = ensemble * percent // 100
        for thresholds in (Gate(min_share=gate.threshold(text)), Gate(min_share=float(text))):
            assert not gate.shortfalls(thresholds, Passed(Fraction(right, ensemble), None, 1.0))
            (short,) = gate.shortfalls(thresholds, Passed(Fraction(right - 1, ensemble), None, 1.0))
            assert "--min-share" in short


@pytest.mark.parametrize(
    ("text", "share", "met"),
    [
        ("0.97", Fraction(97, 100), True),
        ("0.9700000000000000000001", Fraction(97, 100), False),
        ("0.9699999999999999999999", Fraction(97, 100), True),
        ("97e-2", Fraction(97, 100), True),
        ("0.333333333333333333", Fraction(1, 3), True),
        ("0.333333333333333334", Fraction(1, 3), False),
    ],
)
def test_a_threshold_is_the_decimal_number_that_is_written(text: str, share: Fraction, met: bool) -> None:
    assert bool(gate.shortfalls(Gate(min_share=gate.threshold(text)), Passed(share, None, 1.0))) != met


@pytest.mark.parametrize(
    ("text", "p99_ms", "met"),
    [
        ("0.3", 0.1 + 0.2, True),
        ("10", 10.000000000000002, True),
        ("10", 10.000001, False),
        ("0.1", (1.1 - 1.0), True),
        ("0.099999", 0.1, False),
    ],
)
def test_a_latency_is_compared_by_the_digits_of_its_clock(text: str, p99_ms: float, met: bool) -> None:
    found = Passed(Fraction(1), None, p99_ms)
    assert bool(gate.shortfalls(Gate(max_latency_ms=gate.threshold(text)), found)) != met


@pytest.mark.parametrize("right", range(1, 200))
def test_shares_are_ratios_of_counts(right: int) -> None:
    """As floats, (right / 300) / (200 / 300) is less than right / 200 for some of them."""
    correct = {"export": right, "student": right, "ensemble": 200}
    measured: Any = SimpleNamespace(correct=correct, share_interval=None, latency_ms={"p99": 1.0})
    found = _passed(measured, quantized=True)
    assert found.share == found.as_float == Fraction(right, 200)
    assert not gate.shortfalls(Gate(min_share=gate.threshold(f"{5 * right / 1000:.3f}")), found)


@pytest.mark.parametrize(("low", "met"), [(0.97, True), (0.1 * 9.7, True), (0.97 - 2e-16, True), (0.97 - 1e-11, False)])
def test_the_end_of_an_interval_is_compared_by_the_digits_that_it_has(low: float, met: bool) -> None:
    thresholds = Gate(min_share=gate.threshold("0.97"), confidence=0.95)
    assert bool(gate.shortfalls(thresholds, Passed(Fraction(1), low, 1.0))) != met


@pytest.mark.parametrize("text", ["a", "", "1/3", "0.9.7"])
def test_a_threshold_that_is_no_number_is_refused(text: str) -> None:
    with pytest.raises(ValueError):
        gate.threshold(text)


@pytest.mark.parametrize("text", ["0", "nan", "inf", "1e-999999999", "1e999999999", "97"])
def test_a_number_that_is_no_threshold_is_refused(text: str) -> None:
    for thresholds in (Gate(min_share=gate.threshold(text)), Gate(max_latency_ms=gate.threshold(f"-{text}"))):
        with pytest.raises(RequestError, match="expected"):
            gate.check(thresholds, registers=False)


def test_what_is_not_met_is_status_3_and_says_that_nothing_was_written() -> None:
    gate.enforce(Gate(min_share=0.97), FOUND)
    with pytest.raises(GateError, match="nothing was written or registered") as raised:
        gate.enforce(Gate(min_share=0.99), FOUND)
    assert raised.value.exit_status == 3


@pytest.mark.parametrize(
    ("thresholds", "registers", "message"),
    [
        (Gate(confidence=0.95), False, "and no share is asked for. Expected `--min-share`"),
        (Gate(confidence=0.95, max_latency_ms=1.0), False, "--confidence 0.95: the level of the share's"),
        (Gate(), True, "through the gate alone"),
        (Gate(min_share=97.0), False, "--min-share: 97"),
        (Gate(min_share=gate.threshold("2.0000001")), False, "--min-share: 2.0000001;"),
        (Gate(min_share=0.0), False, "--min-share"),
        (Gate(min_share=float("nan")), False, "--min-share"),
        (Gate(max_latency_ms=-1.0), False, "--max-latency-ms"),
        (Gate(max_latency_ms=float("inf")), False, "--max-latency-ms"),
        (Gate(min_share=0.9, confidence=95.0), False, "--confidence: 95"),
        (Gate(min_share=0.9, confidence=1.0), False, "--confidence"),
        (Gate(min_share=0.9, confidence=0.999), False, "--confidence: 0.999; expected a level above 0.5, up to 0.995"),
    ],
)
def test_what_is_no_gate_is_refused(thresholds: Gate, registers: bool, message: str) -> None:
    with pytest.raises(RequestError, match=message) as raised:
        gate.check(thresholds, registers=registers)
    assert raised.value.exit_status == 2


def test_the_highest_level_has_resamples_beyond_its_ends() -> None:
    assert bootstrap.RESAMPLES * (1 - gate.HIGHEST) / 2 >= 10
    gate.check(Gate(min_share=0.9, confidence=gate.HIGHEST), registers=False)


def test_one_threshold_is_enough_to_register() -> None:
    for share in (1.0, 1.5, 2.0):
        gate.check(Gate(min_share=share), registers=True)
    gate.check(Gate(max_latency_ms=5.0), registers=True)
    gate.check(Gate(), registers=False)


@pytest.mark.parametrize("name", ["team/digits", "o'brien", "models:digits"])
def test_a_name_that_mlflow_has_not_is_refused_first(name: str, tmp_path: Path) -> None:
    asked = Asked(run=str(tmp_path / "none"), to=str(tmp_path / "out"), format="onnx", gate=Gate(min_share=0.9))
    with pytest.raises(RequestError, match=r"--register: .* is no name of a model in MLflow"):
        export(replace(asked, register=name))
    with pytest.raises(RequestError, match=r"report\.json"):
        export(replace(asked, register="digits"))
