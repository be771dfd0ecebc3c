"""Train a network by Ray Train, until it is trained, fails, or the cluster lacks resources for its workers.

Ray Train runs the workers, keeps their checkpoints and restarts them, as `worker_failures` decides. It waits for
resources without a message or a limit, so this module adds a timeout and messages to the user.
"""

from __future__ import annotations

import json
import logging
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, NoReturn

import ray
import ray.train
from pyarrow.fs import FSSpecHandler, PyFileSystem
from ray.train.torch import TorchTrainer

from orchestrator.cluster import errors, interrupts
from orchestrator.cluster.failures import Failures, often
from orchestrator.cluster.ray_private import CONTROLLER, WORKER, actors_of_this_job
from orchestrator.cluster.reservation import Need, Waiting
from orchestrator.cluster.watch import is_any_alive
from orchestrator.stages.worker_failures import GivenUp, Restarts, place
from workers import processes, storage
from workers.errors import RunError, StillhouseError
from workers.faults import Fault
from workers.processes import Where
from workers.training.loop import Epoch
from workers.training.ray_worker import HISTORY, WorkerJob
from workers.training.ray_worker import train as train_on_worker

if TYPE_CHECKING:
    from orchestrator.stages.context import Context

logger = logging.getLogger(__name__)

START_S = 30.0
"""How long Ray Train may take to start workers that it has resources for."""
HEED_S = 5.0
"""How long Ray Train may take to react to Ctrl-C."""
POLL_S = 2.0
DAMAGED = ("CheckpointManagerInitializationError", "UnicodeDecodeError")
"""Errors of Ray Train that mean that its list of checkpoints is truncated, or names missing ones."""


def fit(run: Context, work: WorkerJob, name: str) -> list[Epoch]:
    """Train with the planned workers. The checkpoints are at `name` in the job's folder until `clear`.

    Raises: `RunError` where the training fails, and where no worker runs within `ensemble.start_timeout_s`.
    """
    workers, folder, timeout_s = run.plan.student, work.folder, run.config.ensemble.start_timeout_s
    least, most, held = workers.least, workers.most, dict(workers.held)
    shown = {what: amount for what, amount in held.items() if what != "CPU"}
    waiting = Waiting(Need(f"workers of the {work.role}", least, held, shown), timeout_s, run.events.note)
    scaling = ray.train.ScalingConfig(
        num_workers=most if least == most else (least, most),  # type: ignore[arg-type]  # the stub is of Train V1
        use_gpu="GPU" in held,
        resources_per_worker=held,
        placement_strategy="PACK" if "GPU" in held else "SPREAD",
    )
    written = storage.join(folder, HISTORY)
    storage.remove(written)
    fs, path = storage.filesystem(folder)
    remote = None if storage.is_local(folder) else PyFileSystem(FSSpecHandler(fs))
    trainer = TorchTrainer(
        train_on_worker,
        train_loop_config={"job": work},
        scaling_config=scaling,
        run_config=ray.train.RunConfig(
            name=name,
            storage_path=path,
            storage_filesystem=remote,
            checkpoint_config=ray.train.CheckpointConfig(num_to_keep=2),
            failure_config=ray.train.FailureConfig(max_failures=-1),  # `Restarts` decides
            callbacks=[Restarts(work.role, run.heartbeat.queue)],  # type: ignore[list-item]  # the stub is of Train V1
        ),
    )
    lost = Failures()
    while (ended := _ended(trainer, waiting)) is not None:
        if not isinstance(ended, ray.exceptions.RayActorError) or not lost.may_restart(None):
            _fail(f"training the {work.role}", ended)
        run.events.note(f"training the {work.role}: Ray Train's controller died; another goes on from the checkpoint")
        if any(sign in str(ended) for sign in DAMAGED):
            logger.warning("its checkpoints are not what was written: thrown away, and trained from the start")
            storage.remove(storage.join(folder, name))
    return [Epoch(**epoch) for epoch in json.loads(storage.read_text(written))]


def _ended(trainer: TorchTrainer, waiting: Waiting) -> Exception | None:
    """The exception that ended Ray Train early; None where the workers finished."""
    try:
        with _own_interrupts(), _given_up_in_the_end(waiting):
            trainer.fit()
    except StillhouseError:
        raise
    except Exception as error:
        return error
    return None


def _fail(doing: str, ended: Exception) -> NoReturn:
    """Raise `RunError` with the cause of Ray Train's failure."""
    given_up = getattr(ended, "controller_failure", None)
    if not isinstance(given_up, GivenUp):
        raise errors.as_run_error(doing, ended) from ended
    raised = given_up.raised
    if not isinstance(raised, Fault):
        raise raised
    raise errors.failed(doing + place(raised), raised, often(given_up.attempts, given_up.repeated)) from raised


def clear(folder: str, name: str) -> None:
    """Remove the checkpoints, once the record of the finished training is written."""
    storage.remove(storage.join(folder, name))
    storage.remove(storage.join(folder, HISTORY))


@contextmanager
def _given_up_in_the_end(waiting: Waiting) -> Iterator[None]:
    """Report and end an endless wait: Ray Train waits for resources without a message, and ignores Ctrl-C meanwhile."""
    over = threading.Event()
    refused: list[RunError] = []

    def look(seen_s: float) -> float:
        if is_any_alive(_there(WORKER)):
            seen_s = time.monotonic()
        try:
            # Ray Train asks for workers once it has resources for all of them.
            waiting.check(begun=time.monotonic() - seen_s < START_S, granted=lambda: bool(actors_of_this_job(WORKER)))
        except RunError as error:
            refused.append(error)
        if refused or interrupts.pressed_for_s() > HEED_S:
            for controller in _there(CONTROLLER):
                processes.end(controller)
        return seen_s

    def watch() -> None:
        seen_s = time.monotonic()
        while not over.wait(POLL_S):
            try:
                seen_s = look(seen_s)
            except Exception as error:  # Ray may have died
                logger.debug("no news of workers: %s", error)

    watcher = threading.Thread(target=watch, name="watcher of workers", daemon=True)
    watcher.start()
    try:
        yield
    except Exception:
        if refused:
            raise refused[0] from None
        raise
    finally:
        over.set()
        watcher.join()


def _there(kind: str) -> list[Where]:
    """The processes of this run's Ray Train actors, started or starting."""
    return [Where(actor["Address"]["NodeID"], actor["Pid"]) for actor in actors_of_this_job(kind) if actor["Pid"]]


@contextmanager
def _own_interrupts() -> Iterator[None]:
    """Restore the handler of Ctrl-C after the block, since Ray Train replaces it and does not restore it."""
    main = threading.current_thread() is threading.main_thread()
    before = signal.getsignal(signal.SIGINT)
    try:
        yield
    except SystemExit as error:
        raise KeyboardInterrupt from error
    finally:
        if main:
            signal.signal(signal.SIGINT, before)
