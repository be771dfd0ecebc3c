"""Keys: one digest for one content, another for another kind, version or value, and the difference in words."""

from __future__ import annotations

import hashlib
import json
from typing import Any

import pytest

from workers.artifacts.key import Key, changes
from workers.artifacts.kinds import KINDS

WHAT: dict[str, Any] = {"training": {"epochs": 2, "rate": 5e-3}, "seed": 7, "files": {}, "names": ["a", "b"]}


def sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def test_the_digest_is_that_of_canonical_json() -> None:
    text = (
        '{"kind": "network", "version": 3, "what": {"files": {}, "names": ["a", "b"], "seed": 7, '
        '"training": {"epochs": 2, "rate": 0.005}}}'
    )
    assert Key("network", 3, **WHAT).digest == sha256(text)
    assert Key("network", 3, **dict(reversed(WHAT.items()))) == Key("network", 3, **WHAT)


@pytest.mark.parametrize(
    "other",
    [
        Key("predictions", 3, **WHAT),
        Key("network", 4, **WHAT),
        Key("network", 3, **{**WHAT, "seed": 8}),
        Key("network", 3, **{**WHAT, "seed": "7"}),
        Key("network", 3, **{**WHAT, "names": ["b", "a"]}),
        Key("network", 3, **WHAT, more=None),
    ],
)
def test_whatever_differs_makes_another_key(other: Key) -> None:
    assert other.digest != Key("network", 3, **WHAT).digest


def test_a_key_in_a_key_stands_for_its_digest() -> None:
    inner, other = Key("soft targets", 2, temperature=2.0), Key("soft targets", 2, temperature=4.0)
    outer = Key("network", 3, store=inner)
    assert outer.digest == Key("network", 3, store=inner.digest).digest != Key("network", 3, store=other).digest
    assert outer.flat() == {"store": inner.digest}
    assert outer.former == sha256(json.dumps({"format": 2, "store": sha256('{"format": 2, "temperature": 2.0}')}))


def test_a_value_that_is_no_json_is_refused() -> None:
    with pytest.raises(TypeError, match="a key cannot contain set"):
        _ = Key("network", 3, names={"a"}).digest


def test_credentials_are_in_the_digest_and_not_in_the_words() -> None:
    one, other = (Key("network", 3, data={"uri": f"s3://me:{word}@host/x", "token": word}) for word in ("abc1", "def2"))
    assert one.digest != other.digest
    assert "abc1" not in json.dumps(one.flat())


def test_a_difference_is_named() -> None:
    before = Key("network", 3, **WHAT, code={"models.py": "a" * 64}, built={"weights": "b" * 64})
    after = Key("network", 3, **{**WHAT, "training": {"epochs": 3, "rate": 5e-3}}, code={"models.py": "c" * 64})
    assert changes(before.flat(), after.flat()) == "code.models.py changed, training.epochs: 2 -> 3"
    assert changes(before.flat(), before.flat()) == ""
    assert changes({}, {str(k): "1" for k in range(7)}).endswith("4 is new and 2 more")


def test_every_kind_has_its_version_in_its_keys() -> None:
    for name, kind in KINDS.items():
        key = kind.key(seed=1)
        assert (key.kind, key.version) == (name, kind.version)
        assert key.digest == Key(name, kind.version, seed=1).digest != Key(name, kind.version + 1, seed=1).digest
