"""Reports of finished runs, made without a run."""

from __future__ import annotations

from orchestrator.config.schema import PaperSpec
from orchestrator.reporting import report as reports
from orchestrator.reporting.report import (
    Calibration,
    CurvePoint,
    Latency,
    Report,
    Role,
    SoftTargets,
    System,
    TestMetrics,
)


def system(name: str, role: Role, accuracy: float, nll: float = 0.5) -> System:
    """A system of 9 parameters on 400 test examples, with the user's own metric `wer`."""
    return System(
        name=name,
        role=role,
        parameters=9,
        test=TestMetrics(examples=400, accuracy=accuracy, nll=nll, ece=0.1, wer=nll),
        latency_ms=Latency(p50=1.0, p99=2.0),
        calibration=Calibration(examples=[], confidence=[], accuracy=[]),
    )


def report(ensemble: float = 0.95, baseline: float = 0.931, student: float = 0.918, nll: float = 0.5) -> Report:
    """A report of two members, of 94% and 96% accuracy, beside a paper's figures."""
    systems = [system("member-0", "member", 0.94, nll), system("member-1", "member", 0.96, nll)]
    systems += [system(r, r, a, nll) for r, a in zip(reports.COMPARED, (baseline, ensemble, student), strict=True)]
    return Report(
        name="small",
        systems=systems,
        gain_transferred=reports.gain_transferred(baseline, ensemble, student),
        curve=[CurvePoint(members=1, accuracy=0.5, nll=nll)],
        soft_targets=SoftTargets(examples=1, bytes=1, temperature=2.0, combine="arithmetic", seconds=1.0, reused=False),
        stages=[],
        bound_by="student",
        paper=PaperSpec(source="a paper", student={"accuracy": 0.9}, gain_transferred=0.9),
    )
