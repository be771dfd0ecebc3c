"""The spread over seeds: means, deviations, and intervals of the mean, of figures and of their differences."""

import numpy as np
import pytest
from scipy import stats

from orchestrator.reporting import report as reports
from orchestrator.reporting import spread
from orchestrator.reporting.spread import SeedFigures
from tests.reports import plain


def test_each_row_has_mean_deviation_interval_and_every_seed() -> None:
    student = [0.90, 0.91, 0.935]
    seeds = [
        SeedFigures(
            seed=k, run=f"r-{k}", best_member=0.94, ensemble=0.95, baseline=0.88, student=s, gain_transferred=0.5
        )
        for k, s in enumerate(student)
    ]
    header, *rows = spread.rows(seeds, "frame accuracy")
    of = {row[0]: row[1:] for row in rows}
    assert header[-3:] == ["seed 0", "seed 1", "seed 2"]
    mean, deviation = np.mean(student), np.std(student, ddof=1)
    low, high = stats.t.interval(0.95, 2, mean, deviation / np.sqrt(3))
    bounds = f"{100 * low:.2f}% to {100 * high:.2f}%"
    assert of["student, frame accuracy"][:3] == [f"{100 * mean:.2f}%", f"{100 * deviation:.2f}", bounds]
    assert of["student, frame accuracy"][3:] == ["90.00%", "91.00%", "93.50%"]
    assert of["ensemble over baseline, points"][:2] == ["+7.00", "0.00"]
    assert float(of["student over baseline, points"][0]) == pytest.approx(100 * (mean - 0.88), abs=0.01)
    assert of["student over ensemble, points"][0].startswith("-")
    assert of["student's share of the ensemble's accuracy"][1] == f"{100 * deviation / 0.95:.2f}"


def test_a_difference_that_rounds_to_none_has_no_minus_sign() -> None:
    seeds = [
        SeedFigures(
            seed=k, run=f"r-{k}", best_member=0.9, ensemble=0.9, baseline=0.9, student=0.9 - 1e-6, gain_transferred=None
        )
        for k in range(2)
    ]
    of = {row[0]: row[1:] for row in spread.rows(seeds, "accuracy")}
    assert of["student over ensemble, points"] == ["+0.00", "0.00", "+0.00 to +0.00", "+0.00", "+0.00"]


def test_a_repetition_has_the_interval_of_its_share() -> None:
    found = reports.of_seed(plain(gain_transferred_interval=(0.4, 0.9), resolved=True))
    assert (found.gain_transferred_interval, found.resolved) == ((0.4, 0.9), True)


def test_the_mean_of_two_seeds_is_no_accuracy_above_one() -> None:
    seeds = [
        SeedFigures(seed=k, run=f"r-{k}", best_member=s, ensemble=s, baseline=0.02, student=s, gain_transferred=1.0)
        for k, s in enumerate((0.97, 0.99))
    ]
    of = {row[0]: row[3] for row in spread.rows(seeds, "accuracy")}
    assert of["student, accuracy"] == "85.29% to 100.00%"
    assert of["student over baseline, points"] == "+83.29 to +100.00"
    assert of["student's share of the ensemble's accuracy"] == "100.00% to 100.00%"
    seeds[0].student, seeds[1].ensemble = 1.0, 0.9
    (share,) = [row[3] for row in spread.rows(seeds, "accuracy") if row[0].startswith("student's share")]
    assert float(share.partition(" to ")[2].removesuffix("%")) > 100.0
