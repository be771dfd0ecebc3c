"""Intervals of a run: paired differences, what is resolved and what would resolve it, the share of a gain."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from orchestrator.reporting import report as reports
from orchestrator.reporting import statistics
from workers.evaluation import bootstrap, calibration, metrics, prospects
from workers.evaluation.metrics import Blocks

CLASSES = 4
PAIRS = [("ensemble", "member-0"), ("ensemble", "baseline"), ("student", "baseline")]
Float64 = NDArray[np.float64]


def sums(right: NDArray[np.bool_], seed: int = 0) -> Float64:
    """Of a system that is right for these examples, with a confidence of 0.4 to 0.99."""
    n, draw = len(right), np.random.default_rng(seed)
    labels = draw.integers(0, CLASSES, n)
    confidence = draw.uniform(0.4, 0.99, n)
    p = np.repeat((1 - confidence)[:, None] / (CLASSES - 1), CLASSES, axis=1)
    p[np.arange(n), np.where(right, labels, (labels + 1) % CLASSES)] = confidence
    return metrics.measure(np.log(p), labels, Blocks(np.arange(n), n)).of_blocks


def systems(n: int, seed: int = 0) -> dict[str, Float64]:
    """An ensemble that is right in 92% and mostly where the baseline is, 86%; the student repairs half of the rest."""
    draw = np.random.default_rng(seed)
    baseline = draw.random(n) < 0.86
    ensemble = np.where(baseline, draw.random(n) < 0.98, draw.random(n) < 0.55)
    student = np.where(baseline, draw.random(n) < 0.985, draw.random(n) < 0.3)
    member = np.where(draw.random(n) < 0.002, ~ensemble, ensemble)
    each = {"member-0": member, "ensemble": ensemble, "baseline": baseline, "student": student}
    return {name: sums(right) for name, right in each.items()}


def test_a_difference_of_pairs_is_surer_than_the_figures() -> None:
    given = systems(1500)
    found = statistics.estimate(given, PAIRS)
    accuracy = {name: interval["accuracy"] for name, interval in found.intervals.items()}
    for name, interval in accuracy.items():
        own = given[name][:, metrics.CORRECT].mean()
        assert interval is not None and interval.low < own < interval.high
        assert interval.error == pytest.approx(np.sqrt(own * (1 - own) / 1500), rel=0.1)
    best, over, transferred = found.differences
    assert (not best.resolved and best.needed is None) or best.needed > 1500
    assert over.resolved and transferred.resolved and over.interval is not None
    errors = [interval.error for name in ("ensemble", "baseline") if (interval := accuracy[name]) is not None]
    assert over.interval.error < 0.75 * np.hypot(*errors)  # of two test sets
    assert found.gain is not None and 0.1 < found.gain.low < 0.6 < found.gain.high + 0.3


def test_a_share_of_a_gain_that_may_be_none_has_no_interval() -> None:
    given = systems(60)
    given["ensemble"] = given["baseline"].copy()
    given["ensemble"][0] += sums(np.ones(1, bool))[0] - sums(np.zeros(1, bool))[0]
    found = statistics.estimate(given, PAIRS)
    assert found.gain is None and not found.differences[1].resolved
    assert found.differences[1].needed is not None and found.differences[1].needed > 60


def test_so_many_examples_as_are_needed_resolve_it_four_times_in_five() -> None:
    draw = np.random.default_rng(1)

    def pair(n: int) -> dict[str, Float64]:
        of = draw.choice([0, 1, 2, 3], n, p=[0.06, 0.04, 0.8, 0.1])
        one, other = (of == 0) | (of == 2), (of == 1) | (of == 2)
        each = {"ensemble": one, "baseline": other, "student": one}
        return {name: sums(right) for name, right in each.items()}

    (found,) = statistics.estimate(pair(20_000), [("ensemble", "baseline")]).differences
    assert found.needed is not None
    resolved = [
        statistics.estimate(pair(found.needed), [("ensemble", "baseline")]).differences[0].resolved for _ in range(40)
    ]
    assert 0.6 <= np.mean(resolved) <= 0.95


def test_a_system_that_is_never_wrong_is_not_certain() -> None:
    given = systems(80)
    given["ensemble"] = sums(np.ones(80, bool))
    interval = statistics.estimate(given, PAIRS).intervals["ensemble"]["accuracy"]
    assert interval is not None and 0.94 < interval.low < 0.97 and interval.high == 1.0


def test_of_a_large_test_set_each_example_counts() -> None:
    """They are joined in blocks at random, of which there are fewer."""
    count, blocks = 10_000, bootstrap.blocks_of(np.arange(10_000))
    p, labels = np.tile([0.0, -np.inf], (count, 1)), np.zeros(count, np.int64)
    right = metrics.measure(p, labels, Blocks(blocks, int(blocks.max()) + 1)).of_blocks
    expected = bootstrap.of_share(count, count).bounds
    found = statistics.accuracy(right)[1], statistics.difference(right, right).interval
    assert found[0] is not None and found[0].bounds == pytest.approx(expected)
    assert found[1] is not None and found[1].high == pytest.approx(bootstrap.unseen(count))
    ece = calibration.interval(right)
    assert ece is not None and ece.bounds == pytest.approx((0.0, bootstrap.unseen(count)))
    next_one, most = prospects.next_worth([right] * 3, right), bootstrap.unseen(count) / 8
    assert 0.9 * most < next_one.high < most


def test_a_mean_over_choices_is_surer_than_one_of_them() -> None:
    """Two members are right in four of five examples each, independently; the last point is both together."""
    each = (np.random.default_rng(0).random((2, 400)) < 0.8).astype(np.float64)
    right = np.stack([each.mean(axis=0), each.max(axis=0)], axis=1)
    mean, both = statistics.curve(np.ones(400), right)
    assert mean is not None and both is not None
    assert mean.low < right[:, 0].mean() < mean.high
    assert mean.error == pytest.approx(right[:, 0].std() / np.sqrt(400), rel=0.1)
    one = bootstrap.of_share(each[0].sum(), 400)
    assert mean.high - mean.low < 0.8 * (one.high - one.low)
    assert both.bounds == bootstrap.of_share(right[:, 1].sum(), 400).bounds
    (never_wrong,) = statistics.curve(np.ones(50), np.ones((50, 1)))
    assert never_wrong is not None and never_wrong.bounds == bootstrap.of_share(50, 50).bounds


def test_a_report_has_the_interval_of_a_difference_beside_its_accuracy() -> None:
    given = systems(200)
    found = reports.as_difference(statistics.difference(given["student"], given["baseline"]))
    assert found.accuracy_interval == found.interval is not None


def test_a_share_and_its_interval_by_hand() -> None:
    """Of 400 examples one system has 360 right, among them all 340 of the other."""
    right = np.arange(400) < np.array([[340], [360]])
    one, other = (sums(each) for each in right)
    value, interval = statistics.share(one, other)
    assert value == statistics.share_of(one, other) == pytest.approx(340 / 360)
    assert interval is not None
    assert interval.low < value < interval.high < 1.0, "paired: the first is never right where the other is not"
    wider = statistics.share(one, other, 0.99)[1]
    narrower = statistics.share(one, other, 0.8)[1]
    assert wider is not None and narrower is not None
    assert wider.low < interval.low < narrower.low


def test_a_share_of_nothing_is_undefined() -> None:
    value, interval = statistics.share(sums(np.ones(50, bool)), sums(np.zeros(50, bool)))
    assert np.isnan(value) and interval is None


@pytest.mark.parametrize("level", [0.95, 0.99])
def test_a_share_of_systems_that_agree_on_few_examples_is_not_certain(level: float) -> None:
    right = sums(np.ones(8, bool))
    value, interval = statistics.share(right, right, level)
    unseen = bootstrap.unseen(8, level)
    assert value == 1.0 and interval is not None
    assert interval.bounds == pytest.approx((1 - unseen, 1 / (1 - unseen)))
    if level == bootstrap.LEVEL:
        accuracy = statistics.accuracy(right)[1]
        assert accuracy is not None and interval.low == pytest.approx(accuracy.low) == pytest.approx(0.676, abs=5e-4)


@pytest.mark.parametrize(("examples", "resolved"), [(2, False), (3, False), (4, False), (5, True), (8, True)])
def test_a_system_that_is_always_right_where_the_other_is_wrong_needs_examples(examples: int, resolved: bool) -> None:
    found = statistics.difference(sums(np.ones(examples, bool)), sums(np.zeros(examples, bool)))
    assert found.accuracy == 1.0 and found.resolved == resolved and found.interval is not None
    low = 1 - 2 * bootstrap.unseen(examples)
    assert found.interval.bounds == pytest.approx((low if resolved else min(low, 0.0), 1.0))
    assert found.needed is not None and (resolved or found.needed > examples)


def test_systems_that_agree_everywhere_differ_by_what_the_test_set_may_lack() -> None:
    one = sums(np.arange(500) < 450)
    found, unseen = statistics.difference(one, one), bootstrap.unseen(500)
    assert found.interval is not None and not found.resolved and found.needed is None
    assert found.interval.bounds == pytest.approx((-unseen, unseen))
    share = statistics.share(one, one)[1]
    assert share is not None and share.low == pytest.approx(0.9 * (1 - unseen) / (0.9 * (1 - unseen) + unseen))


def test_a_share_of_a_gain_that_never_varies_is_not_certain() -> None:
    given = systems(300)
    given["student"] = given["ensemble"]
    found = statistics.estimate(given, PAIRS)
    assert found.gain is not None and found.gain.low < 0.95 and found.gain.high > 1.05


def test_what_has_no_bounds_has_no_interval_where_it_does_not_vary() -> None:
    given = {name: sums(np.ones(20, bool)) for name in ("ensemble", "baseline", "student")}
    for of in given.values():
        of[:, metrics.NLL] = 0.3
    interval = statistics.estimate(given, [("student", "ensemble")]).intervals["student"]
    assert interval["nll"] is None and interval["accuracy"] is not None


@pytest.mark.parametrize(
    ("better", "worse", "resolved"), [(3, 0, False), (4, 0, False), (5, 0, True), (6, 1, False), (7, 1, True)]
)
@pytest.mark.parametrize("examples", [200, 3000])
def test_few_examples_on_which_two_systems_differ_resolve_as_mcnemars_test_does(
    better: int, worse: int, resolved: bool, examples: int
) -> None:
    """By its mid-p: 0.125, 0.0625, 0.031, 0.07 and 0.039."""
    one, other = np.ones((2, examples), bool)
    other[:better], one[better : better + worse] = False, False
    blocks = bootstrap.blocks_of(np.arange(examples))
    labels, p = np.zeros(examples, np.int64), np.log(np.array([[0.1, 0.9], [0.9, 0.1]]))
    pair = [
        metrics.measure(p[of.astype(int)], labels, Blocks(blocks, int(blocks.max()) + 1)).of_blocks
        for of in (one, other)
    ]
    found, back = statistics.difference(*pair), statistics.difference(*reversed(pair))
    assert found.resolved == back.resolved == resolved
    assert found.interval is not None and back.interval is not None
    assert found.interval.low >= 0.0 >= back.interval.high or worse
    assert found.needed is not None and (resolved or found.needed > examples)


def test_the_worth_of_a_member_is_as_unsure_as_a_difference() -> None:
    """With the second member three examples more are right, with the third as many as before."""
    best = [sums(np.arange(500) < right) for right in (450, 453, 453)]
    without = [sums(np.arange(500) < right) for right in (450, 453, 453)]
    _, second, third = statistics.members([0, 1, 2], best, without)
    assert second.adds == pytest.approx(0.006) and second.adds_interval is not None and second.adds_interval.holds_zero
    assert third.adds_interval is not None and third.adds_interval.holds_zero
    first = statistics.members([0, 1, 2], best, without)[0]
    assert first.lost == pytest.approx(0.006) and first.lost_interval is not None and first.lost_interval.holds_zero


def test_the_accuracy_of_all_members_has_the_interval_of_the_ensembles() -> None:
    best = [sums(np.arange(500) < right) for right in (450, 455)]
    first, both = statistics.members([0, 1], best, best[::-1])
    assert both.with_it_interval == statistics.accuracy(best[1])[1]
    assert first.with_it_interval == first.adds_interval == statistics.accuracy(best[0])[1]


@pytest.mark.parametrize("blocks", [1, 2])
def test_what_is_drawn_from_two_blocks_has_no_interval(blocks: int) -> None:
    """Two examples, or two groups of uneven size."""
    draw = np.random.default_rng(0)
    for size in (1, 40):
        right = {name: draw.random(size * blocks) < share for name, share in (("one", 0.9), ("other", 0.4))}
        if size == 1:
            right = {"one": np.ones(blocks, bool), "other": np.arange(blocks) > 0}
        of = np.minimum(np.arange(size * blocks) // (size // 2 + 1), blocks - 1)
        labels, p = np.zeros(len(of), np.int64), np.log(np.array([[0.1, 0.9], [0.9, 0.1]]))
        one, other = (
            metrics.measure(p[each.astype(int)], labels, Blocks(of, blocks)).of_blocks for each in right.values()
        )
        found = statistics.difference(one, other)
        assert found.interval is None and not found.resolved and found.needed is None
        assert statistics.share(one, other)[1] is None


def test_what_did_not_resolve_a_difference_is_not_enough() -> None:
    """Of four groups, all in favour of one system, more examples are needed than there are."""
    of = np.repeat(np.arange(4), 100)
    labels, p = np.zeros(400, np.int64), np.log(np.array([[0.1, 0.9], [0.9, 0.1]]))
    other = np.arange(400) % 100 < 80
    one = other | (np.arange(400) % 100 >= 97)
    pair = [metrics.measure(p[each.astype(int)], labels, Blocks(of, 4)).of_blocks for each in (one, other)]
    pair[0][0, metrics.CORRECT] += 1
    found = statistics.difference(*pair)
    assert found.accuracy > 0.03 and not found.resolved and found.needed is not None and found.needed > 400


def test_a_share_of_a_gain_that_is_barely_resolved_has_an_interval() -> None:
    """In some resamples the ensemble gains nothing, though its gain is resolved."""
    ensemble, baseline = np.ones((2, 400), bool)
    baseline[:20], ensemble[20:26] = False, False
    student = baseline.copy()
    student[:14] = True
    given = {"ensemble": sums(ensemble), "baseline": sums(baseline), "student": sums(student)}
    found = statistics.estimate(given, [("ensemble", "baseline")])
    assert found.differences[0].resolved and found.gain is not None
    assert 0.0 < found.gain.low < 1.0 < found.gain.high


def test_a_share_of_a_gain_is_resolved_only_where_the_students_own_gain_is() -> None:
    """Four examples more than the baseline are no resolved gain, and so no resolved share of one."""
    baseline, ensemble, student = np.ones((3, 400), bool)
    baseline[:40], student[4:40] = False, False
    given = {"ensemble": sums(ensemble), "baseline": sums(baseline), "student": sums(student)}
    found = statistics.estimate(given, [("ensemble", "baseline"), ("student", "baseline")])
    assert [each.resolved for each in found.differences] == [True, False]
    assert found.gain is not None and found.gain.holds_zero and found.gain.high > 0.1


def test_an_ensemble_that_is_worse_has_no_gain_to_share() -> None:
    given = systems(1500)
    given["ensemble"], given["baseline"] = given["baseline"], given["ensemble"]
    found = statistics.estimate(given, [("ensemble", "baseline")])
    assert found.differences[0].resolved and found.differences[0].accuracy < 0 and found.gain is None
