"""The messages of errors, and which of them a run changes."""

from __future__ import annotations

import pytest

from orchestrator import execution
from workers.errors import RequestError, RunError, first_line


def test_the_first_line_of_an_error_may_be_its_class() -> None:
    assert first_line(ValueError("\nno table\nat all")) == "no table"
    assert first_line(ValueError("")) == first_line(ValueError(" \n")) == "ValueError"


def test_a_run_that_has_begun_fails_and_refuses_nothing() -> None:
    """Also for a text that only tokenizing all of them finds: status 2 leaves nothing behind."""
    for kind in (RequestError, *RequestError.__subclasses__()):
        with pytest.raises(RunError, match="lost") as found, execution._validated():
            raise kind.__new__(kind, "lost")  # whatever its constructor takes
        assert found.value.exit_status == 1
