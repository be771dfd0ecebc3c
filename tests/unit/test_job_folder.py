"""What goes with a job: just what Ray would send, and it comes to an end."""

from __future__ import annotations

import os
import tempfile
import threading
import zipfile
from pathlib import Path

import pytest

from orchestrator.cli import job_folder
from orchestrator.cluster import ray_private
from workers.errors import RequestError


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    place = tmp_path / "an experiment"
    (place / "data").mkdir(parents=True)
    (place / "config.yaml").write_text("name: a")
    (place / "models.py").write_text("")
    (place / "data" / "train.npz").write_bytes(bytes(1000))
    return place


def sent_by_ray(sent: job_folder.JobFolder) -> dict[str, int]:
    """The files that Ray packs, with their sizes; None of its threads may hang."""
    from ray._private.runtime_env.packaging import create_package, get_uri_for_directory

    with tempfile.TemporaryDirectory() as scratch:
        target = Path(scratch, "package.zip")

        def pack() -> None:
            get_uri_for_directory(str(sent.root), include_gitignore=False, excludes=sent.excludes)
            create_package(str(sent.root), target, include_gitignore=False, excludes=sent.excludes)

        packing = threading.Thread(target=pack, daemon=True)
        packing.start()
        packing.join(timeout=30)
        assert not packing.is_alive()
        with zipfile.ZipFile(target) as package:
            return {entry.filename: entry.file_size for entry in package.infolist() if not entry.is_dir()}


def test_the_folder_goes_one_level_down_without_what_is_left_out(folder: Path) -> None:
    (folder / "runs").mkdir()
    (folder / "runs" / "old").write_bytes(bytes(5000))
    (folder / "results [1]").mkdir()
    (folder / "results [1]" / "old").write_bytes(bytes(5000))
    (folder / "secret.pem").write_text("key")
    (folder / ".rayignore").write_text("data/*.npz\n")
    with job_folder.prepared(folder, ["*.pem"], [folder / "runs", folder / "results [1]"]) as sent:
        assert set(sent_by_ray(sent)) == {f"{job_folder.NAME}/{n}" for n in (".rayignore", "config.yaml", "models.py")}
        assert set(sent.sizes) == {".rayignore", "config.yaml", "models.py"}
    assert not sent.root.exists() and (folder / "config.yaml").exists()


def test_links_that_lead_back_and_pipes_stay_behind(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "valid.npz").write_bytes(bytes(500))
    links = {
        "loop": "..",
        "itself": "itself",
        "nothing": "nowhere",
        "data/up [1]": "..",
        "data/other": "../../elsewhere",
    }
    for name, target in links.items():
        (folder / name).symlink_to(target)
    for here, there in (("a", "b"), ("b", "a")):
        (folder / here).mkdir()
        (folder / here / "x").symlink_to(f"../{there}")
    os.mkfifo(folder / "pipe")
    with job_folder.prepared(folder, [], []) as sent:
        files = sent_by_ray(sent)
    assert set(sent.sizes) == {"config.yaml", "models.py", "data/train.npz", "data/other/valid.npz"}
    assert set(files) == {f"{job_folder.NAME}/{name}" for name in sent.sizes}


def test_a_folder_that_holds_the_temporary_one(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder / "tmp").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder / "tmp"))
    with job_folder.prepared(folder, [], []) as sent:
        assert set(sent.sizes) == {"config.yaml", "models.py", "data/train.npz"}


@pytest.mark.parametrize("sparse", [False, True])
def test_what_is_too_large_is_named(sparse: bool, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    limit = 600_000_000 if sparse else 2_000_000
    monkeypatch.setattr(ray_private, "package_bytes_limit", lambda: limit)
    with (folder / "data" / "train.npz").open("wb") as file:
        file.truncate(limit) if sparse else file.write(bytes(limit))
    (folder / "more.npz").write_bytes(bytes(10_000))
    with (
        pytest.raises(RequestError, match=r"The largest: data/train.npz \((600|2) MB\), more.npz .*`.rayignore`"),
        job_folder.prepared(folder, [], []),
    ):
        pass
    (folder / ".rayignore").write_text("train.npz\n")
    with job_folder.prepared(folder, [], []) as sent:
        assert sent.bytes < 20_000


def test_many_small_files_are_counted_as_they_are_packed(folder: Path, tmp_path: Path) -> None:
    for number in range(200):
        (folder / "data" / f"{number:03}.txt").write_text("x")
    with job_folder.prepared(folder, [], []) as sent:
        from ray._private.runtime_env.packaging import create_package

        package = tmp_path / "package.zip"
        create_package(str(sent.root), package, include_gitignore=False, excludes=sent.excludes)
        assert sent.bytes * 0.8 < package.stat().st_size <= sent.bytes * 1.2


def test_the_limit_is_that_of_rays_dashboard() -> None:
    assert ray_private.package_bytes_limit() == 100 * 2**20


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads everything")
def test_a_file_that_cannot_be_read_is_named(folder: Path) -> None:
    (folder / "data" / "train.npz").chmod(0)
    with pytest.raises(RequestError, match=r"'data/train.npz' .* cannot be read"), job_folder.prepared(folder, [], []):
        pass
