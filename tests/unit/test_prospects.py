"""The prospects of an ensemble: forecast from three members as it then is, and as often as the interval says."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from numpy.typing import NDArray

from orchestrator import prospects as command
from orchestrator.config.run_config import RunConfig
from orchestrator.reporting import forecasts
from tests.makers import write_config
from workers.errors import RequestError
from workers.evaluation import metrics, prospects
from workers.evaluation.metrics import Blocks, Sums
from workers.evaluation.tasks import Totals

Float64 = NDArray[np.float64]
CLASSES, NOISE = 6, 0.7


def logits(labels: NDArray[np.int64], difficulty: Float64, members: int, seed: int, noise: float = NOISE) -> Float64:
    """Of networks [M, N, K] that share what is hard about an example, and err by themselves beside."""
    draw = np.random.default_rng(seed)
    own = draw.normal(0.0, noise, (members, len(labels), CLASSES))
    return 2.2 * np.eye(CLASSES)[labels] + difficulty + own


def sums_of(given: Float64, labels: NDArray[np.int64]) -> Sums:
    """Of an ensemble of these networks [m, N, K]."""
    p = np.exp(given - given.max(axis=2, keepdims=True))
    mean = np.log((p / p.sum(axis=2, keepdims=True)).mean(axis=0))
    return metrics.measure(mean, labels, Blocks(np.arange(len(labels)), len(labels)))


def sums(given: Float64, labels: NDArray[np.int64]) -> Float64:
    """[B, COLUMNS] of an ensemble of these networks [m, N, K]."""
    return sums_of(given, labels).of_blocks


def data(n: int, seed: int) -> tuple[NDArray[np.int64], Float64]:
    draw = np.random.default_rng(seed)
    return draw.integers(0, CLASSES, n), draw.normal(0.0, 1.2, (n, CLASSES))


def predicted(n: int, seed: int, longer: float | None = None, count: int = 10) -> prospects.Forecast:
    labels, difficulty = data(n, seed)
    three = logits(labels, difficulty, 3, seed + 1)
    rivals = {}
    if longer is not None:
        other = sums(logits(labels, difficulty, 1, seed + 2, longer), labels)
        rivals = {"training": prospects.Single(more=2.0, sums=other), "size": prospects.Single(more=4.0, sums=other)}
    return prospects.forecast([sums(three[k : k + 1], labels) for k in range(3)], sums(three, labels), rivals, count)


def truth(members: int) -> float:
    labels, difficulty = data(60_000, 999)
    return float(sums(logits(labels, difficulty, members, 5), labels)[:, metrics.CORRECT].mean())


def test_ten_members_are_forecast_from_three() -> None:
    found = predicted(20_000, 3)
    gain = truth(10) - truth(1)
    assert gain > 0.03
    assert found.gain.value == pytest.approx(gain, rel=0.15)  # the law is a little cautious
    assert found.gain.low < found.gain.value < found.gain.high and found.gain.high - found.gain.low < 0.02
    assert found.together.value == pytest.approx(truth(3), abs=0.01) and (found.trained, found.examples) == (3, 20_000)
    assert found.rivals == {}


def test_the_interval_holds_the_gain_about_as_often_as_it_says() -> None:
    gain = truth(10) - truth(1)
    held = [(f := predicted(500, 10 * k)).gain.low <= gain <= f.gain.high for k in range(60)]
    assert 0.85 <= np.mean(held) <= 1.0


def test_a_single_network_is_beaten_or_not() -> None:
    same, far_better = (predicted(4000, 3, noise).rivals for noise in (NOISE, 0.5 * NOISE))
    assert min(rival.beats for rival in same.values()) > 0.9
    longer, larger = far_better["training"], far_better["size"]
    assert longer.beats < 0.1
    # the same step upwards took twice the training, and four times the size: so ten times the size does less
    assert longer.as_much.value > larger.as_much.value > larger.measured.value > 0.0
    found = predicted(4000, 3, 0.5 * NOISE)
    assert larger.measured.value > found.one.value
    words = forecasts.verdict(found)
    assert "10 members are forecast to gain +" in words
    assert "than one network with 10 times the training." in words and words.endswith("10 times the size.")
    shown = [row[:2] for row in forecasts.rows(found)]
    assert ["one network, 2 times the training", f"{100 * longer.measured.value:.2f}"] in shown
    assert ["one network, 10 times the size, forecast", f"{100 * larger.as_much.value:.2f}"] in shown


def test_a_gain_that_rounds_to_none_has_no_minus_sign() -> None:
    of = prospects.Estimate(-1e-6, -1e-6, 0.01)
    found = prospects.Forecast(count=3, trained=3, examples=10, one=of, together=of, members=of, gain=of, rivals={})
    assert forecasts.rows(found)[-1][1:] == ["+0.00", "+0.00 to +1.00"]


@pytest.mark.parametrize("more", [{}, {"training": 2.0}, {"training": 2.0, "size": 3.0}])
def test_the_forecast_of_what_was_measured(more: dict[str, float]) -> None:
    """Sums are of members, then of single networks, then of all together."""
    labels, difficulty = data(500, 3)
    networks = logits(labels, difficulty, 3 + len(more), 4)
    singles = {f"member-{k}": sums_of(networks[k : k + 1], labels) for k in range(len(networks))}
    best = [sums_of(networks[: k + 1], labels) for k in range(len(networks))]
    worth = SimpleNamespace(best=best)
    totals = Totals({**singles, "ensemble": best[-1]}, worth=worth)  # type: ignore[arg-type]
    found = command.forecast_from(totals, more, 10, 0)
    assert found.trained == 3 and [*found.rivals] == [*more]
    measured = [rival.measured.value for rival in found.rivals.values()]
    expected = [singles[f"member-{3 + k}"].accuracy for k in range(len(more))]
    assert measured == pytest.approx(expected)


def test_the_next_member_is_worth_less_and_less() -> None:
    """By the law a + b / K, the (m + 1)-th member adds b / (m (m + 1))."""
    random = np.random.default_rng(0)
    rows = 20_000

    def sums(accuracy: float) -> NDArray[np.float64]:
        found = np.zeros((rows, metrics.COLUMNS))
        found[:, metrics.EXAMPLES], found[:, metrics.CORRECT] = 1, random.random(rows) < accuracy
        return found

    worths = []
    for count in (2, 5, 10):
        singles = [sums(0.80) for _ in range(count)]
        together = sums(0.80 + 0.06 * (1 - 1 / count))
        found = prospects.next_worth(singles, together)
        assert found.low < found.value < found.high
        assert found.low < 0.06 / (count * (count + 1)) < found.high
        worths.append(found.value)
    assert worths[0] > worths[1] > worths[2] > 0


@pytest.mark.parametrize(("members", "key"), [(None, "ensemble.size"), (2, "--members")])
def test_two_members_are_too_few_to_forecast_more(members: int | None, key: str, tmp_path: Path) -> None:
    config = RunConfig.load(str(write_config(tmp_path, ensemble__size=2)))
    with pytest.raises(RequestError, match=f"^{key}: 2; expected at least 3"):
        command.prospects(config, command.Asked(members=members))


def of_right(right: NDArray[np.bool_]) -> Float64:
    found = np.zeros((len(right), metrics.COLUMNS))
    found[:, metrics.EXAMPLES], found[:, metrics.CORRECT] = 1, right
    return found


def test_no_accuracy_is_forecast_above_one() -> None:
    """By the law ten members would be right for more examples than there are."""
    singles = [of_right(np.arange(200) // 4 != k) for k in range(3)]
    rivals = {"training": prospects.Single(more=2.0, sums=of_right(np.ones(200, bool)))}
    found = prospects.forecast(singles, of_right(np.ones(200, bool)), rivals, 10)
    rival = found.rivals["training"]
    for each in (found.one, found.together, found.members, rival.measured, rival.as_much):
        assert 0.0 <= each.low <= each.value <= each.high <= 1.0
    assert found.gain.value == pytest.approx(1 - found.one.value) and found.gain.high < 0.1


def test_networks_that_are_always_right_may_beat_each_other() -> None:
    """A tie counts as half a win. The law forecasts half of the draws below one member, and so below one network."""
    right = of_right(np.ones(200, bool))
    rivals = {"training": prospects.Single(more=2.0, sums=right)}
    found = prospects.forecast([right] * 3, right, rivals, 10)
    assert found.members.value == found.rivals["training"].as_much.value == 1.0
    assert found.rivals["training"].beats == pytest.approx(0.25, abs=0.03)


@pytest.mark.parametrize(("examples", "is_flat"), [(40, False), (4000, True)])
def test_members_that_agree_on_few_examples_may_still_gain(examples: int, is_flat: bool) -> None:
    """A tenth of a point, as of `stop_when_flat`; the examples that are missing could make more of it."""
    same = of_right(np.arange(examples) % 10 > 0)
    found = prospects.next_worth([same] * 3, same)
    assert found.value == 0.0 and found.low < 0.0 < found.high
    assert (100 * found.high < 0.1) == is_flat
    gain = prospects.forecast([same] * 3, same, {}, 10).gain
    assert gain.value == pytest.approx(0.0, abs=1e-12) and gain.low < 0.0 < gain.high
