"""The letters of `examples/tabular`, which other examples share: each row is in one split."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from workers.user_code import factories

EXAMPLE = Path(__file__).parents[2] / "examples" / "tabular"


def test_no_letter_is_in_two_splits() -> None:
    splits = factories.load("letters:splits", str(EXAMPLE))
    found = splits(labelled=13_667)
    rows = [found["unlabeled"], *(found[name][0] for name in ("train", "validation", "test"))]
    assert [len(each) for each in rows] == [1, 13_667, 1000, 4000]
    assert len(np.unique(np.concatenate(rows), axis=0)) == 18_668
    with pytest.raises(ValueError, match=r"labelled is 16,000, of 18,668 rows, .* expected less than 13,668"):
        splits(labelled=16_000)  # rows of the test would be labelled
    with pytest.raises(ValueError, match="expected less than 9,668"):
        splits(labelled=9_668, apart=4000)
