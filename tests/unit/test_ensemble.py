"""The mean is right to rounding. Its bits for any order and grouping of the members: test_properties.py."""

import pytest
import torch

from workers import ensemble
from workers.ensemble import average


def predictions(members: int = 4, rows: int = 50, classes: int = 7, seed: int = 0) -> torch.Tensor:
    rng = torch.Generator().manual_seed(seed)
    return torch.softmax(4 * torch.randn(members, rows, classes, generator=rng), -1)


def test_arithmetic_is_the_weighted_mean() -> None:
    p = predictions()
    expected = (p.double() * torch.tensor([0.1, 0.2, 0.3, 0.4]).double()[:, None, None]).sum(0)
    torch.testing.assert_close(average(p, [1, 2, 3, 4]).double(), expected, rtol=0, atol=1e-7)


def test_geometric_is_the_renormalised_mean_of_logs() -> None:
    p = predictions()
    expected = torch.softmax(p.double().log().mean(0), -1)
    torch.testing.assert_close(average(p, None, "geometric").double(), expected, rtol=0, atol=1e-7)


def test_each_example_may_have_weights_of_its_own() -> None:
    p = predictions(members=2, rows=2)
    found = average(p, torch.tensor([[1.0, 0.0], [0.0, 3.0]]))
    torch.testing.assert_close(found, torch.stack([p[0, 0], p[1, 1]]), rtol=0, atol=1e-9)


def test_a_zero_probability_survives_the_geometric_mean() -> None:
    p = torch.tensor([[[1.0, 0.0]], [[0.5, 0.5]]])
    found = average(p, None, "geometric")
    assert torch.isfinite(found).all() and found[0, 0] > 0.999


def test_wrong_requests_are_named() -> None:
    p = predictions()
    with pytest.raises(ValueError, match="no member"):
        average([])
    with pytest.raises(ValueError, match="3 weights for 4 members"):
        average(p, [1, 1, 1])
    with pytest.raises(ValueError, match="not all 0"):
        average(p, [0, 0, 0, 0])
    with pytest.raises(ValueError, match="expected arithmetic or geometric"):
        average(p, None, "harmonic")
    assert ensemble.normalised([2, 2]) == [0.5, 0.5]
