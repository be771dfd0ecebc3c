"""Converts exceptions of Ray tasks and actors to errors for the user: the failed work, and where to find details."""

from __future__ import annotations

from orchestrator.cluster import ray_private
from workers.errors import RequestError, RunError
from workers.faults import Fault, fault


def cause(error: BaseException) -> BaseException:
    """The original exception of a Ray task or actor, without Ray's wrappers."""
    import ray

    while isinstance(error, ray.exceptions.RayTaskError) and error.cause is not None:
        error = error.cause
    return error


def as_run_error(doing: str, error: BaseException) -> BaseException:
    """Convert `error` to one that names the failed work; errors meant for the user stay unchanged."""
    inner = cause(error)
    if isinstance(inner, (RequestError, RunError)):
        return inner
    return failed(doing, inner if isinstance(inner, Fault) else fault(inner))


def failed(doing: str, raised: Fault, often: str = "") -> RunError:
    """The error for an exception of a model, a device or storage, with its text.

    doing: the failed work. often: the number of attempts (`failures.often`).
    """
    return RunError(
        f"{doing} failed{often}: {str(raised).rstrip('.')}. What was complete is kept; the same command resumes. "
        f"--debug shows the traceback, and Ray's logs are in {ray_private.log_folder()}."
    )
