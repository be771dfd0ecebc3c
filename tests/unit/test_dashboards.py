"""What Grafana and Prometheus are given: sound, and alerts that sound when they should."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from workers import telemetry

ROOT = Path(__file__).parents[2]
DASHBOARDS = ROOT / "dashboards"


def dashboard() -> dict[str, Any]:
    return dict(json.loads((DASHBOARDS / "grafana.json").read_text()))


def test_every_panel_asks_something_of_the_chosen_source() -> None:
    found = dashboard()
    variables = {each["name"]: each for each in found["templating"]["list"]}
    assert variables["datasource"]["type"] == "datasource" and variables["datasource"]["query"] == "prometheus"
    panels = [panel for panel in found["panels"] if panel["type"] != "row"]
    assert len({panel["id"] for panel in found["panels"]}) == len(found["panels"])
    for panel in panels:
        assert panel["targets"] and panel["datasource"]["uid"] == "${datasource}", panel["title"]
        for target in panel["targets"]:
            assert target["expr"] and target["datasource"]["uid"] == "${datasource}"
            used = set(re.findall(r"\$(\w+)", target["expr"])) - {"__rate_interval", "__range"}
            assert used <= set(variables), panel["title"]


@pytest.mark.parametrize("file", ["grafana.json", "alerts.yml"])
def test_only_metrics_that_there_are(file: str) -> None:
    named = set(re.findall(r"ray_(stillhouse_\w+)", (DASHBOARDS / file).read_text()))
    assert named and named <= {*telemetry.COUNTERS, *telemetry.GAUGES}


@pytest.mark.skipif(shutil.which("promtool") is None, reason="there is no promtool on this machine")
def test_rules_sound_when_they_should(tmp_path: Path) -> None:
    for file in (DASHBOARDS / "alerts.yml", DASHBOARDS / "prometheus.yml", Path(__file__).with_name("alerts.test.yml")):
        shutil.copy(file, tmp_path)
    for words in (["check", "config", "prometheus.yml"], ["test", "rules", "alerts.test.yml"]):
        done = subprocess.run(["promtool", *words], cwd=tmp_path, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr
