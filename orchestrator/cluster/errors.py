"""What a Ray task or actor raised, as an error of ours: one sentence about what failed, and where to look further."""

from __future__ import annotations

from orchestrator.cluster import ray_private
from workers.errors import RequestError, RunError
from workers.faults import Fault, fault


def cause(error: BaseException) -> BaseException:
    """What a Ray task or actor really raised, from under Ray's own wrapping."""
    import ray

    while isinstance(error, ray.exceptions.RayTaskError) and error.cause is not None:
        error = error.cause
    return error


def as_run_error(doing: str, error: BaseException) -> BaseException:
    """`error` as one sentence about what was being done; errors that already speak to the user stay as they are."""
    inner = cause(error)
    if isinstance(inner, (RequestError, RunError)):
        return inner
    return failed(doing, inner if isinstance(inner, Fault) else fault(inner))


def failed(doing: str, raised: Fault, often: str = "") -> RunError:
    """An exception of a model, a device or storage in its own words, what was being done, and how often it was tried
    (`failures.often`)."""
    return RunError(
        f"{doing} failed{often}: {str(raised).rstrip('.')}. What was complete is kept; the same command resumes. "
        f"--debug shows the traceback, and Ray's logs are in {ray_private.log_folder()}."
    )
