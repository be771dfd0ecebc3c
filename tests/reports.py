"""Reports for tests, without a run: every section filled, or as an earlier version wrote them."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from PIL import Image

from orchestrator.reporting import report as reports
from orchestrator.reporting.report import COMPARED, Report

ACCURACIES = {"baseline": 0.90, "ensemble": 0.96, "student": 0.94}


def system(name: str, role: str, accuracy: float, **more: Any) -> dict[str, Any]:
    """One system of a report with 1,000 test examples."""
    test = {"examples": 1000, "accuracy": accuracy, "nll": 0.5, "ece": 0.1}
    return {
        "name": name,
        "role": role,
        "parameters": 9000 if role == "ensemble" else 1000,
        "test": {**test, **more.pop("test", {})},
        "latency_ms": {"p50": 1.0, "p99": 2.0},
        "calibration": {"examples": [100, 900], "confidence": [0.55, 0.97], "accuracy": [0.5, accuracy]},
        **more,
    }


def plain(accuracies: Mapping[str, float] = ACCURACIES, members: Sequence[float] = (0.94, 0.95), **also: Any) -> Report:
    """A report without intervals, as an earlier version wrote it."""
    systems = [system(f"member-{k}", "member", value) for k, value in enumerate(members)]
    systems += [system(role, role, accuracies[role]) for role in COMPARED]
    gain = reports.gain_transferred(accuracies["baseline"], accuracies["ensemble"], accuracies["student"])
    soft = {"examples": 1, "bytes": 2_000_000, "temperature": 2.0, "combine": "arithmetic", "seconds": 3.0}
    found = {
        "name": "small",
        "systems": systems,
        "gain_transferred": gain,
        "curve": [{"members": k, "accuracy": 0.94, "nll": 0.5} for k in range(1, len(members) + 1)],
        "soft_targets": {**soft, "reused": False},
        "stages": [{"name": "members", "seconds": 12.0, "reused": True}],
        "bound_by": "student",
        "folder": "/runs/small",
    }
    return Report.model_validate({**found, **also})


def difference(of: str, over: str, points: float, interval: tuple[float, float] | None) -> dict[str, Any]:
    """A difference in points; resolved where the interval leaves 0 out."""
    resolved = interval is not None and (interval[0] > 0 or interval[1] < 0)
    bounds = None if interval is None else tuple(bound / 100 for bound in interval)
    needed = None if interval is None else 4321
    return {
        "of": of,
        "over": over,
        "accuracy": points / 100,
        "interval": bounds,
        "resolved": resolved,
        "examples_needed": needed,
    }


DIFFERENCES = [
    difference("ensemble", "member-1", 1.0, (-0.2, 2.2)),
    difference("ensemble", "baseline", 6.0, (4.0, 8.0)),
    difference("student", "baseline", 4.0, (2.0, 6.0)),
    difference("student", "ensemble", -2.0, (-3.0, -1.0)),
]


def picture() -> str:
    """A PNG of 8 by 8 pixels in base64."""
    content = io.BytesIO()
    Image.fromarray(np.arange(64, dtype=np.uint8).reshape(8, 8)).save(content, "PNG")
    return base64.b64encode(content.getvalue()).decode()


def example(kind: str, **shown: Any) -> dict[str, Any]:
    """A test example of class 0 that the student, or the ensemble, takes for class 1."""
    right, wrong = [[0, 0.7], [1, 0.3]], [[1, 0.6], [0, 0.4]]
    student = right if kind == "gained" else wrong
    ensemble = wrong if kind == "gained" else right
    answers = {"ensemble": ensemble, "student": student, "divergence": 0.5}
    return {"kind": kind, "example": 1303, "label": 0, **answers, **shown}


def full(labels: Sequence[str] = ("sea", "sky", "sun"), **also: Any) -> Report:
    """A report with every section."""
    found = plain().model_dump()
    count = len(labels)
    confusion = (np.eye(count, dtype=int) * 300 + 2).tolist()
    for each in found["systems"]:
        each["test"] |= {"brier": 0.1, "macro_f1": 0.9}
        for name in ("accuracy", "nll", "ece", "brier"):
            value = each["test"][name]
            each["test"][f"{name}_interval"] = (value - 0.01, value + 0.01)
        each["confusion"] = confusion if each["role"] in COMPARED else []
    member = {"accuracy_interval": (0.93, 0.97), "nll": 0.2, "ece": 0.01, "adds_interval": (-0.001, 0.002)}
    member |= {"lost": 0.001, "lost_interval": (-0.001, 0.003)}
    epochs = [{"epoch": k, "train_loss": 1.0 / k, "validation_accuracy": 1 - 0.5 / k} for k in range(1, 6)]
    shown = {
        "lost": {"image": picture()},
        "gained": {"text": "a text of the sea"},
        "divergent": {"values": [1.5, -2.0]},
    }
    origin = {"command": "stillhouse run config.yaml --set seed=1", "config": "name: small\n"}
    origin |= {"versions": {"torch": "2.13.0"}, "data": {"test": "ab12"}, "code": {"student": "cd34"}}
    seed = {"run": "small", "best_member": 0.95, "ensemble": 0.96, "baseline": 0.9, "gain_transferred": 0.6}
    filled = {
        "labels": list(labels),
        "classes": count,
        "differences": DIFFERENCES,
        "gain_transferred_interval": (0.4, 0.9),
        "resolved": True,
        "best_member": "member-1",
        "worth": [{"member": f"member-{k}", "accuracy": 0.95, "adds": 0.95 * (k == 1), **member} for k in (1, 0)],
        "disagreement": 0.02,
        "agreement": {"both_right": 920, "lost": 40, "gained": 20, "wrong_alike": 15, "wrong_otherwise": 5},
        "examples": [example(kind, **of) for kind, of in shown.items()],
        "training": {"baseline": epochs, "student": epochs},
        "origin": origin,
        "seeds": [{"seed": k, "student": 0.94 + k / 1000, **seed} for k in range(2)],
        "cost": {"members": {"core_hours": 1.0, "gpu_hours": 0.0}},
        "lost_members": ["member-7"],
        "paper": {"source": "a paper", "student": {"accuracy": 0.9}, "gain_transferred": 0.9},
    }
    return Report.model_validate({**found, **filled, **also})
