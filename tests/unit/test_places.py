"""A job is refused where it would write to a folder of its submitter's machine alone."""

from __future__ import annotations

from pathlib import Path

import pytest

from orchestrator.cli import submit
from orchestrator.cli.job_folder import JobFolder
from orchestrator.cluster import environment
from orchestrator.config.run_config import RunConfig
from orchestrator.stages import places
from tests.makers import settings
from workers.errors import RequestError


@pytest.mark.parametrize("case", ["another machine", "the same machine", "a shared folder"])
def test_a_folder_of_the_submitter_alone_is_refused(case: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    project = tmp_path / "a project"
    project.mkdir()
    monkeypatch.setenv("RAY_RUNTIME_ENV_IGNORE_GITIGNORE", "1")  # as `submit` sets it for good
    with monkeypatch.context() as there:
        there.chdir(project)
        if case != "the same machine":
            there.setattr(submit, "machine", lambda: "another-boot 4026531836")
        variables = submit._environment(project, JobFolder(tmp_path, []))["env_vars"]
    for name in (environment.SUBMITTED_ON, environment.SUBMITTED_FROM):
        monkeypatch.setenv(name, variables[name])
    if case != "a shared folder":
        project.rmdir()
    config = RunConfig.from_mapping(settings(tmp_path, storage=str(project / "runs")), str(tmp_path))
    if case == "another machine":
        with pytest.raises(RequestError, match=r"^storage: '.*a project/runs' is a folder of the machine that submit"):
            places.check_submitted(config)
    else:
        places.check_submitted(config)
