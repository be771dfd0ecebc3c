"""A short test with the chaos monkey; `make chaos` runs the long one."""

from pathlib import Path

import pytest

from tests.chaos import monkey


@pytest.mark.slow
def test_a_disturbed_run_comes_to_the_same(tmp_path: Path) -> None:
    assert monkey.play(seed=1, runs=1, disturbances=6, scratch=tmp_path).total() >= 6
