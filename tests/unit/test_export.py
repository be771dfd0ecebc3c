"""What may be set of a run that is exported."""

from __future__ import annotations

from pathlib import Path

import pytest

from orchestrator.cli import export
from workers.errors import RequestError


def test_redacted_values_of_a_run_are_given_again_and_others_are_not_changed(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text(
        "data:\n  root: sftp://***@host/data\n  classes: 3\nstudents:\n- model: {factory: https://***@host/m}\n"
    )
    again = ["tracking.uri=http://host", "data.root=sftp://me:pw@host/data", "students.0.model.factory=x"]
    export._check_overrides(str(tmp_path), again)
    for other in ("data.classes=4", "data={root: /data}", "data.root.inner=x", "students.1.model.factory=x", "seed=1"):
        with pytest.raises(RequestError, match=r"an export takes a run as it is.*redacted \('\*\*\*'\)"):
            export._check_overrides(str(tmp_path), [*again, other])
