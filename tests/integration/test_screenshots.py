"""MLflow's own pages in a real browser: what three runs sent is to be seen on each of them."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from mlflow import MlflowClient

from docs import screenshots
from orchestrator import RunConfig, run
from tests.makers import write_config

CHROMIUM = shutil.which("chromium")

pytestmark = [
    pytest.mark.slow,
    pytest.mark.usefixtures("small_ray"),
    pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium (Debian: `apt-get install chromium`)"),
]

TEMPERATURES = (1.0, 2.0, 5.0)
PNG = b"\x89PNG\r\n"


def test_each_page_shows_what_three_runs_sent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("playwright.sync_api", reason="there is no playwright: `pip install '.[screenshots]'`")
    assert CHROMIUM is not None
    tracking = {"uri": f"sqlite:///{tmp_path}/mlflow.db", "experiment": "temperatures"}
    for temperature in TEMPERATURES:
        name = f"temperature-{temperature:g}"
        changes = {"name": name, "tracking": tracking, "distillation__temperature": temperature}
        assert run(RunConfig.load(str(write_config(tmp_path / name, **changes)))).status == "complete"

    out = tmp_path / "images"
    with screenshots.serving(tracking["uri"]) as url:
        client = MlflowClient(url)
        client.create_registered_model("a-student")
        subject = screenshots.look_up(client, "temperatures")
        assert [each.info.run_name for each in subject.parents] == ["temperature-5", "temperature-2", "temperature-1"]
        wanted = screenshots.shots(subject)
        names = ["experiment", "run", "metrics", "comparison", "plot", "student", "compare", "models"]
        assert [shot.name for shot in wanted] == names
        for shot in wanted:
            with screenshots.browsing(subject, CHROMIUM) as page:
                picture = screenshots.take(shot, page, url, out).read_bytes()
                shown = page.inner_text("body")
            assert picture.startswith(PNG) and len(picture) < screenshots.MAX_BYTES
            assert all(text in shown for text in shot.expected), shot.name

        with screenshots.browsing(None, CHROMIUM) as page:
            page_of = tmp_path / "temperature-5/runs/temperature-5/report.html"
            assert screenshots.take_report(page_of, page, out / "of the report").read_bytes().startswith(PNG)
            (tmp_path / "empty.html").write_text("<p>Systems</p>")
            with pytest.raises(screenshots.NotShownError, match=r"does not show \['Was the ensemble worth it\?'"):
                screenshots.take_report(tmp_path / "empty.html", page, out / "of the report")

        monkeypatch.setattr(screenshots, "SHOWN_S", 5.0)
        _, overview, *_, models = wanted
        asked_too_much = replace(overview, expected=[*overview.expected, "a figure that nobody sent"])
        with (
            screenshots.browsing(subject, CHROMIUM) as page,
            pytest.raises(screenshots.NotShownError, match=r"run: .* does not show \['a figure that nobody sent'\]"),
        ):
            screenshots.take(asked_too_much, page, url, out)
        monkeypatch.delitem(screenshots.LEFT_OUT, "_mlflow_model_registry_promo_modal_dismissed_v1")
        with (
            screenshots.browsing(subject, CHROMIUM) as page,
            pytest.raises(screenshots.NotShownError, match=r"models: .* does not show all, for a dialog is before it"),
        ):
            screenshots.take(models, page, url, out)
    assert sorted(path.stem for path in out.glob("*.png")) == sorted([*names, "run.failed", "models.failed"])
