"""The outcome of an undisturbed run, which that of every disturbed one has to equal."""

from __future__ import annotations

import pytest

from tests.chaos import monkey


@pytest.fixture(scope="session")
def expected(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """sha256 of the soft targets and of the student of `monkey.prepare`, by path."""
    folder = monkey.prepare(tmp_path_factory.mktemp("undisturbed"))
    monkey.run_until_complete(folder, None)
    return monkey.outcome(folder)
