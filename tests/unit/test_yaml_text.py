"""YAML as people write it: numbers are numbers, texts stay texts, and what could be read in two ways is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.config import yaml_text
from orchestrator.config.run_config import RunConfig
from tests.makers import write_config
from workers.errors import RequestError


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-1", 0.1),
        ("1E5", 1e5),
        ("1.e-3", 1e-3),
        (".5e2", 50.0),
        ("1e+3", 1000.0),
        ("-2e0", -2.0),
        ("1_000", 1000),
        ("0x1F", 31),
        ("0o17", 15),
        ("1:30", "1:30"),
        ("2024-01-01", "2024-01-01"),
        ("12e", "12e"),
        ("1e1.5", "1e1.5"),
        ("=", "="),
        ("off", False),
        ("~", None),
        ("{on: 1, no: 2}", {"on": 1, "no": 2}),
        ("{a: {<<: {b: 1, c: 2}, b: 3}}", {"a": {"b": 3, "c": 2}}),
    ],
)
def test_plain_values_have_the_types_of_yaml_1_2(text: str, value: Any) -> None:
    found = yaml_text.parse(text)
    assert (type(found), found) == (type(value), value)


@pytest.mark.parametrize(
    ("text", "message"),
    [("seed: 010", "'010' begins with a 0"), ("[08]", "'08' begins"), ("a: 1\nb: 2\na: 3", "key 'a' is given twice")],
)
def test_what_has_two_readings_is_refused(text: str, message: str) -> None:
    with pytest.raises(yaml.YAMLError, match=message):
        yaml_text.parse(text)


@pytest.mark.parametrize("text", ["1e5", "010", "08", "1:30", "2024-01-01", "yes", "1_0", "0o7", "1.", "=", "~", ""])
def test_what_is_written_is_read_again(text: str) -> None:
    value = {"kwargs": {text: text}, "numbers": [1e-5, 1e20, 3, -0.0]}
    assert yaml_text.parse(yaml_text.dump(value)) == value


TEXTS = st.one_of(
    st.text(st.characters(exclude_categories=["Cs"]), max_size=12),
    st.from_regex(r"[-+.]?[0-9._eExXob:]{1,6}|[?!&*%@`|>{}\[\],#'\" :-]{1,4}\w?", fullmatch=True),
    st.sampled_from(
        ["yes", "No", "on", "~", "null", "08", "1e5", "2024-01-01", "=", "<<", "a #b", "a: b", "a\n---\nb"]
    ),
)


@given(value=TEXTS | st.lists(TEXTS, max_size=4) | st.dictionaries(TEXTS, TEXTS))
def test_a_value_on_one_line_is_read_again_behind_any_key(value: Any) -> None:
    shown = yaml_text.inline(value)
    text = f"a:\n  b: {shown}  # a comment\n  c:\n    - {shown}\nd: {{e: {yaml_text.inline({'f': value})}}}\n"
    assert yaml_text.parse(text) == {"a": {"b": value, "c": [value]}, "d": {"e": {"f": value}}}
    assert len(shown.splitlines()) == 1


def test_a_long_value_stays_on_one_line() -> None:
    value = ["a column " * 20] * 200
    shown = yaml_text.inline(value)
    assert "\n" not in shown and "&" not in shown and yaml_text.parse(shown) == value


def test_numbers_in_files_and_overrides_reach_the_models(tmp_path: Path) -> None:
    path = write_config(tmp_path)
    text = path.read_text().replace("hidden: 24", "hidden: 24\n      dropout: 1e-1")
    path.write_text(text)
    config = RunConfig.load(str(path), ["student.model.kwargs.dropout=.5e-1", "student.training.learning_rate=1e-2"])
    assert config.ensemble.model.kwargs["dropout"] == 0.1 and config.student.model.kwargs["dropout"] == 0.05
    assert config.student.recipe.learning_rate == 0.01


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("name=2024", r"name: found 2024; expected a valid string in quotes \(YAML reads it as a number\)"),
        ("name=1e5", "name: found 100000.0; expected a valid string in quotes"),
        ("name=no", "name: found False; expected a valid string in quotes .*yes, no, on and off"),
        ("name=", "name: found nothing; expected a valid string"),
        ("seed=010", "'seed=010': the value is not YAML .*begins with a 0"),
        ("seed=1:30", "seed: found '1:30'; expected an integer"),
        ("student.training.epochs=yes", "found true; expected a number"),
        ("student.model.kwargs={1: 2}", "kwargs.1: found 1; expected a valid string in quotes"),
        ("student.model.kwargs.a=[{1: 2}]", r"model\.kwargs: found the key 1 in it; expected texts as keys, in quotes"),
    ],
)
def test_a_text_that_yaml_reads_as_another_type_is_refused_with_the_fix(
    tmp_path: Path, override: str, message: str
) -> None:
    path = write_config(tmp_path, tracking={})
    with pytest.raises(RequestError, match=message) as found:
        RunConfig.load(str(path), [override])
    assert "tracking" not in str(found.value)  # which takes its experiment's name from `name`


def test_a_key_that_is_no_text_is_refused(tmp_path: Path) -> None:
    path = write_config(tmp_path)
    path.write_text(path.read_text() + "1: 2\n")
    with pytest.raises(RequestError, match="1: found 1; expected a string as the key in quotes"):
        RunConfig.load(str(path))
    path.write_text(path.read_text().replace("1: 2\n", "seed: 2\n"))
    with pytest.raises(RequestError, match=r"line \d+, column 1: not YAML \(the key 'seed' is given twice\)"):
        RunConfig.load(str(path))
