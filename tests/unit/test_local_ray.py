"""Where a Ray that is started in place keeps its sockets."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from orchestrator.cluster import local_ray, ray_private
from workers.errors import RequestError


@pytest.fixture(autouse=True)
def own_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RAY_TMPDIR", raising=False)


def deep(tmp_path: Path, length: int) -> Path:
    place = tmp_path / ("x" * max(1, length - len(str(tmp_path)) - 1))
    place.mkdir()
    return place


def test_a_short_folder_is_left_to_ray(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TMPDIR", "/tmp")
    with local_ray.temporary_folder() as folder:
        assert folder is None


@pytest.mark.parametrize("name", ["x" * 90, "x" * 200, "two words", "ü"])
def test_a_short_plain_link_leads_to_others(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    place = tmp_path / name
    place.mkdir()
    monkeypatch.setenv("TMPDIR", str(place))
    with local_ray.temporary_folder() as folder:
        assert folder is not None and len(folder) <= local_ray.DEEPEST and local_ray.PLAIN.fullmatch(folder)
        assert Path(folder).resolve() == place / "ray"
        private = Path(folder).parent
        assert stat.S_IMODE(private.stat().st_mode) == 0o700
    assert not private.exists() and (place / "ray").is_dir()


def test_what_cannot_be_written_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("TMPDIR", str(tmp_path / "file"))
    with (
        pytest.raises(RequestError, match=r"file/ray' cannot be written .*: set TMPDIR to one"),
        local_ray.temporary_folder(),
    ):
        pass


def test_no_place_for_a_short_link(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_TMPDIR", str(deep(tmp_path, 90)))
    monkeypatch.setattr(local_ray, "SHORT_PLACES", ("/proc",))
    with (
        pytest.raises(
            RequestError, match=r"RAY_TMPDIR: '.*x' is no path for Ray's sockets, .* none of /proc can be written"
        ),
        local_ray.temporary_folder(),
    ):
        pass


def test_the_longest_socket_of_ray_fits() -> None:
    """As Ray names them: a session by its time and process, two sockets in it."""
    from ray._private.utils import validate_socket_filepath

    session = "session_2026-11-28_01-55-21_316000_4194304"  # the largest process number on Linux
    for socket in ("plasma_store", "plasma_store.1", "raylet", "raylet.1"):
        validate_socket_filepath(os.path.join("/" + "x" * (local_ray.DEEPEST - 1), session, "sockets", socket))


def test_workers_import_from_where_the_driver_does(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As `ray.init` does with the folder that the driver was started in."""
    known = str(tmp_path / "known")
    monkeypatch.syspath_prepend(known)
    config = ray_private.job_config()
    config._py_driver_sys_path.extend([known, str(tmp_path)])
    assert list(config._get_proto_job_config().py_driver_sys_path) == [known]
