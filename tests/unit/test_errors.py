"""The messages of errors, and which of them a run changes."""

from __future__ import annotations

import pytest

from orchestrator import execution
from workers.errors import RequestError, RunError, UnfitText, first_line


def test_the_first_line_of_an_error_may_be_its_class() -> None:
    assert first_line(ValueError("\nno table\nat all")) == "no table"
    assert first_line(ValueError("")) == first_line(ValueError(" \n")) == "ValueError"


def test_a_run_that_has_begun_refuses_texts_alone() -> None:
    """They are all looked at only once they have tokens; other requests were valid."""
    with pytest.raises(UnfitText, match="too long"), execution._validated():
        raise UnfitText("too long")
    with pytest.raises(RunError, match="lost"), execution._validated():
        raise RequestError("lost")
