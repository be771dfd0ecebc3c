"""Exceptions of models, devices and storage on their way to the driver."""

from __future__ import annotations

import pickle
import traceback

import pytest
import torch
from ray._raylet import raise_sys_exit_with_custom_error_message

from workers import faults
from workers.errors import BadAnswer, RequestError, RunError
from workers.faults import START, Fault


class Unpicklable(Exception):
    """As a user's module may define it: it cannot be made again from its arguments."""

    def __init__(self, one: int, two: int) -> None:
        super().__init__(f"{one} and {two}")


def raised(error: BaseException, **about: object) -> Fault:
    with pytest.raises(Fault) as found, faults.caught(**about):  # type: ignore[arg-type]
        raise error
    return found.value


def test_a_fault_crosses_processes_with_text_place_and_traceback() -> None:
    there = raised(Unpicklable(1, 2), of="member-1", at=lambda: 3)
    here = pickle.loads(pickle.dumps(there))
    assert (str(here), here.of, here.at, here.by_peer) == ("Unpicklable: 1 and 2", "member-1", 3, False)
    shown = "".join(traceback.format_exception(RunError("the run failed"), value=here, tb=None))
    assert "raise error" in shown and "Unpicklable: 1 and 2" in shown


@pytest.mark.parametrize("error", [RunError("diverged"), BadAnswer("NaN", "member-0"), Fault("OSError", "no")])
def test_errors_about_the_run_stay_as_they_are(error: Exception) -> None:
    with pytest.raises(type(error)) as found, faults.caught("member-1"):
        raise error
    assert found.value is error
    with pytest.raises(ZeroDivisionError), faults.caught(but=(ArithmeticError,)):
        _ = 1 / 0


def test_a_model_that_calls_sys_exit_is_a_fault_and_ray_that_ends_a_process_is_not() -> None:
    assert str(raised(SystemExit(0), of="member-1")) == "SystemExit: 0"
    with pytest.raises(SystemExit), faults.caught("member-1"):
        raise_sys_exit_with_custom_error_message("The process receives a SIGTERM.")


def test_a_fault_has_the_type_the_message_and_a_headline() -> None:
    assert str(raised(RequestError("'a': no such file."))) == "'a': no such file."
    assert str(raised(ValueError())) == "ValueError: no message"
    oom = raised(torch.OutOfMemoryError("CUDA out of memory.\nGPU 0 has 79 GiB"))
    assert str(oom) == "OutOfMemoryError: CUDA out of memory.\nGPU 0 has 79 GiB" and oom.at == START
    assert oom.headline == "OutOfMemoryError: CUDA out of memory."
    long = raised(ValueError("x" * 10_000 + "the end"))
    assert len(str(long)) < 5000 and str(long).endswith("the end") and len(long.headline) == 200


@pytest.mark.parametrize(
    ("error", "by_peer"),
    [
        (RuntimeError("[/pytorch/third_party/gloo/gloo/transport/tcp/pair.cc:547] Connection closed by peer"), True),
        (RuntimeError("Connection reset by peer"), True),
        (ConnectionResetError(104, "Connection reset by peer"), True),
        (torch.distributed.DistNetworkError("The client socket has timed out"), True),
        (torch.distributed.DistBackendError("NCCL error: remote process exited"), True),
        (RuntimeError("CUDA error: uncorrectable ECC error encountered"), False),
        (torch.OutOfMemoryError("CUDA out of memory"), False),
        (ValueError("connection reset is no class of mine"), False),
    ],
)
def test_what_only_shows_that_another_worker_ended(error: Exception, by_peer: bool) -> None:
    assert raised(error).by_peer is by_peer
