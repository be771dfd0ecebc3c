"""The messages of errors."""

from __future__ import annotations

from workers.errors import first_line


def test_the_first_line_of_an_error_may_be_its_class() -> None:
    assert first_line(ValueError("\nno table\nat all")) == "no table"
    assert first_line(ValueError("")) == first_line(ValueError(" \n")) == "ValueError"
