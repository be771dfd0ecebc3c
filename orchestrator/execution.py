"""The execution of a run: pre-flight checks, plan, and stages, on the machines and with the observers that it opens."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from orchestrator.cluster import connection
from orchestrator.cluster.heartbeat import Heartbeat
from orchestrator.config.run_config import RunConfig
from orchestrator.observers import tracking_record
from orchestrator.observers.opened import observers, untracked
from orchestrator.plan.facts import DataFacts, Facts
from orchestrator.plan.plan import plan as planned
from orchestrator.reporting import files
from orchestrator.run_folder import lock, owned
from orchestrator.run_folder.lock import Lock
from orchestrator.run_folder.paths import RunFolder
from orchestrator.stages import places, preflight
from orchestrator.stages.context import BaseContext, Context, Options
from orchestrator.stages.stage import Results, Stage, execute
from orchestrator.stages.tokens import tokenized, without_texts
from workers import storage, telemetry
from workers.artifacts.catalogue import Catalogue
from workers.errors import RequestError, RunError
from workers.redact import redacted


def executed(config: RunConfig, stages: Sequence[Stage[Any]], options: Options) -> Results:
    """Check a configuration, plan it, and execute stages in its folder.

    Raises: `RequestError` for an invalid request, before the run starts or writes anything; `RunError` later,
    also for a text that only tokenizing all of them has found.
    """
    screen, fresh = options.screen, options.starts_over(config.name)
    lock.check_free(config.folder)
    owned.check(config, fresh=fresh)
    dataset = preflight.check(config, screen.wait_for)
    config = preflight.settled(config, dataset)
    with connection.connect(
        config.ensemble.start_timeout_s, verbose=options.verbose, wait_for=screen.wait_for
    ) as machines:
        telemetry.label(config.name)
        dataset = options.sampled(dataset, machines)
        plan = planned(config, Facts(DataFacts.of(dataset), machines, preflight.beside_bytes(config)))
        dataset = preflight.check_placed(config, dataset, plan.teachers.size)
        places.check_shared(config.storage)
        screen.wait_for(f"the run's folder and its tracker, {redacted(config.tracking.uri)}")
        record = tracking_record.of(config, dataset, options.part_of)
        opened = (
            observers(config, screen, record, fresh=fresh)
            if options.tracked
            else untracked(config, screen, fresh=fresh)
        )
        with (
            Lock(config.folder),
            opened as (events, page),
            Heartbeat(events.epoch, events.note) as heartbeat,
            _validated(),
        ):
            owned.mark(config.folder)
            files.remove(config.folder)
            storage.write_text(RunFolder(config.folder).config, config.to_redacted_yaml())
            tracking_record.write(record, config.folder)
            catalogue = Catalogue(config.storage, config.name, among=options.done if options.fresh else None)
            base = BaseContext(
                config=config, machines=machines, events=events, heartbeat=heartbeat, artifacts=catalogue
            )
            dataset = tokenized(base, dataset)
            given, dataset = dataset.test.x, without_texts(config, dataset)
            data = connection.share(dataset)
            context = Context(
                **vars(base), dataset=dataset, data=data, plan=plan, page=page, options=options, test_inputs=given
            )
            for note in (*filter(None, [options.note]), *dataset.notes):
                events.note(note)
            found = execute(stages, context)
    options.done.add(config.name)
    return found


@contextmanager
def _validated() -> Iterator[None]:
    """What the checks found is valid. So where the block raises a `RequestError`, which is status 2 and leaves nothing
    behind, it is a `RunError`: a file was lost, a node lacks it, or one of all texts, once it has tokens, is unfit."""
    try:
        yield
    except RequestError as error:
        raise RunError(str(error)) from error
