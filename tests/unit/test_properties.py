"""Properties of the mean, the loss and the loader of configurations for any input. Hypothesis draws the cases."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from hypothesis import example, given, settings
from hypothesis import strategies as st

from orchestrator.config import yaml_text
from orchestrator.config.run_config import RunConfig
from tests import makers
from workers.ensemble import average, contribution, mean, normalised
from workers.errors import RequestError
from workers.losses import distillation_loss

SEEDS = st.integers(0, 2**32 - 1)
POSITIVE = st.floats(0.05, 20.0)


def simplex(seed: int, *shape: int) -> torch.Tensor:
    """Probabilities that range from near certainty to near uniform."""
    rng = np.random.default_rng(seed)
    logits = rng.normal(size=shape) * rng.choice([0.1, 3.0, 30.0])
    return torch.softmax(torch.from_numpy(logits), dim=-1)


@given(SEEDS, st.integers(1, 6), st.integers(1, 5), st.integers(2, 9), st.sampled_from(["arithmetic", "geometric"]))
def test_the_mean_is_a_probability_between_its_members_in_any_order(
    seed: int, members: int, n: int, k: int, combine: str
) -> None:
    p = simplex(seed, members, n, k)
    weights = np.random.default_rng(seed).random(members) + 0.01
    found = average(p, list(weights), combine)
    torch.testing.assert_close(found.sum(-1), torch.ones(n, dtype=found.dtype), atol=1e-9, rtol=0)
    order = np.random.default_rng(seed + 1).permutation(members)
    assert torch.equal(found, average(p[order], list(weights[order]), combine))
    if combine == "arithmetic":
        assert (found >= p.min(0).values - 1e-9).all() and (found <= p.max(0).values + 1e-9).all()
    if members == 1:
        torch.testing.assert_close(found, p[0], atol=1e-9, rtol=1e-6)


@given(
    SEEDS,
    st.integers(2, 6),
    st.integers(2, 40),
    st.sampled_from(["arithmetic", "geometric"]),
    st.sampled_from([torch.int32, torch.int64]),
)
def test_partial_sums_anywhere_are_the_same_bits(
    seed: int, members: int, k: int, combine: str, dtype: torch.dtype
) -> None:
    p = simplex(seed, members, 3, k)
    weights = list(np.random.default_rng(seed).random(members) + 0.01)
    each = [contribution(p[m], share, combine, dtype) for m, share in enumerate(normalised(weights))]
    cut = 1 + seed % (members - 1)
    left, right = sum(each[:cut], torch.zeros_like(each[0])), sum(each[cut:], torch.zeros_like(each[0]))
    whole = mean(sum(each[1:], each[0]), combine)
    assert torch.equal(mean(left + right, combine), whole)
    assert (whole.sum(-1) - 1).abs().max() < 1e-7 * k * members
    if dtype == torch.int64:
        assert torch.equal(average(p, weights, combine), whole)


@given(SEEDS, st.integers(1, 6), st.integers(2, 8), POSITIVE, st.floats(0.0, 2.0), st.floats(0.0, 2.0))
def test_the_loss_is_its_formula(seed: int, n: int, k: int, t: float, soft_weight: float, hard_weight: float) -> None:
    rng = np.random.default_rng(seed)
    z = torch.from_numpy(rng.normal(size=(n, k)) * 3).requires_grad_()
    p, y = simplex(seed, n, k), torch.from_numpy(rng.integers(-1, k, n))
    loss = distillation_loss(z, p, y, temperature=t, soft_weight=soft_weight, hard_weight=hard_weight)
    soft = -(p * torch.log_softmax(z / t, -1)).sum(-1).mean() * t**2
    labelled = y >= 0
    hard = -torch.log_softmax(z, -1)[labelled, y[labelled]].mean() if labelled.any() else torch.zeros(())
    expected = soft_weight * soft + hard_weight * hard
    torch.testing.assert_close(loss.double(), expected.double(), atol=1e-9, rtol=1e-9)
    loss.backward()
    assert z.grad is not None and torch.isfinite(z.grad).all()
    shift = z.grad.sum(-1)  # changes no probability
    torch.testing.assert_close(shift, torch.zeros_like(shift), atol=1e-9, rtol=0)


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return makers.settings(tmp_path_factory.mktemp("sound"))


@pytest.fixture(scope="module")
def sound_file(sound: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("sound") / "sound.yaml"
    path.write_text(yaml.safe_dump(sound))
    return path


JUNK = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=12),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)


def places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    inner = value.items() if isinstance(value, dict) else ()
    return [path, *(found for key, each in inner for found in places(each, (*path, key)))]


@settings(max_examples=300)
@given(data=st.data())
def test_a_configuration_with_anything_anywhere_is_loaded_or_refused(
    sound: dict[str, Any], data: st.DataObject
) -> None:
    values = yaml.safe_load(yaml.safe_dump(sound))
    *parents, last = data.draw(st.sampled_from([place for place in places(values) if place]))
    section = values
    for key in parents:
        section = section[key]
    section[last] = data.draw(JUNK)
    if data.draw(st.booleans()):
        section[data.draw(st.text(max_size=8))] = data.draw(JUNK)
    try:
        config = RunConfig.from_mapping(values, "/nowhere")
    except RequestError as error:
        assert str(error)
    else:
        again = RunConfig.from_mapping(yaml.safe_load(yaml_text.dump(config._plain())), "/elsewhere")
        assert again == config, "what was resolved means the same wherever it is read"
        assert math.isfinite(config.distillation.temperature)


@settings(max_examples=200)
@given(
    start=st.integers(0, 5000),
    length=st.integers(0, 20) | st.just(5000),
    written=st.binary(max_size=200) | st.text(max_size=200).map(str.encode),
)
@example(start=0, length=0, written=b"")
def test_any_file_is_loaded_or_refused(
    sound: dict[str, Any], start: int, length: int, written: bytes, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """A sound file, of which some bytes, or all from a place on, are replaced."""
    whole = yaml.safe_dump(sound).encode()
    start %= len(whole) + 1
    content = whole[:start] + written + whole[start + length :]
    path = tmp_path_factory.getbasetemp() / "any.yaml"
    path.write_bytes(content)
    try:
        RunConfig.load(str(path))
    except RequestError as error:
        assert str(error) and content != whole


def loaded(load: Callable[[], RunConfig]) -> str | None:
    """The resolved configuration as text; None where it is refused."""
    try:
        return repr(load()._plain())
    except RequestError as error:
        assert str(error)
        return None


@settings(max_examples=200)
@given(data=st.data())
def test_an_override_has_the_effect_of_the_value_in_the_file(
    sound: dict[str, Any], sound_file: Path, data: st.DataObject
) -> None:
    place = data.draw(st.sampled_from([place for place in places(sound) if place]))
    value = data.draw(JUNK | st.sampled_from([1, 0.5, "auto", "small"]))
    values = json.loads(json.dumps(sound))  # sections of its own, which YAML would share
    *parents, last = place
    section = values
    for key in parents:
        section = section[key]
    section[last] = value
    assignment = f"{'.'.join(place)}={yaml_text.inline(value)}"
    folder = str(sound_file.resolve().parent)
    expected = loaded(lambda: RunConfig.from_mapping(values, folder, experiment=sound["name"]))
    assert loaded(lambda: RunConfig.load(str(sound_file), [assignment])) == expected


@settings(max_examples=200)
@given(data=st.data())
def test_any_text_of_an_override_is_applied_or_refused(
    sound: dict[str, Any], sound_file: Path, data: st.DataObject
) -> None:
    keys = [".".join(place) for place in places(sound) if place]
    key = data.draw(st.sampled_from(keys) | st.text(max_size=12))
    assignment = f"{key}={data.draw(st.text(max_size=40))}"
    loaded(lambda: RunConfig.load(str(sound_file), [assignment]))
