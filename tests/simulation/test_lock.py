"""The lock admits one run at a time in every simulated contest, and the simulation detects faulty locks."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from orchestrator.run_folder.lock import Lock
from tests.simulation.locks import run
from tests.simulation.promises import Broken
from workers import storage
from workers.storage import retries

CONTESTS = 150
NOTICED_WITHIN = 200


def test_every_contest_keeps_the_promises() -> None:
    for seed in range(CONTESTS):
        run(seed)


def test_a_contest_replays_with_a_trace() -> None:
    traces: list[list[str]] = [[], []]
    for lines in traces:
        run(5, lines.append)
    assert [line.split(":")[0] for line in traces[0]] == [line.split(":")[0] for line in traces[1]]  # tokens differ
    assert any("enters" in line for line in traces[0])


Patch = Callable[[pytest.MonkeyPatch], None]


def _without_asking(uri: str, content: bytes) -> bool:
    """`storage.create` without a conditional request."""
    if storage.exists(uri):
        return False
    storage.write_bytes(uri, content)
    return True


def _not_ours(uri: str, content: bytes) -> bool:
    """`storage.create` that does not recognise its own file after a lost response."""
    fs, path = storage.filesystem(uri)
    try:
        retries.patiently(uri, lambda: fs.pipe_file(path, content, mode="create"))
        return True
    except FileExistsError:
        return False


MUTATIONS: dict[str, Patch] = {
    "the store does not decide": lambda patch: patch.setattr(storage, "create", _without_asking),
    "a lost response is another's lock": lambda patch: patch.setattr(storage, "create", _not_ours),
    "an owner elsewhere is dead at once": lambda patch: patch.setattr(Lock, "_counts", lambda *_: False),
    "a dead owner is alive": lambda patch: patch.setattr(Lock, "_is_alive", lambda *_: True),
    "the owner does not count": lambda patch: patch.setattr(Lock, "_beat", lambda self: None),
    "a lock is removed without looking": lambda patch: patch.setattr(
        Lock, "_remove", lambda self: storage.remove(self.uri)
    ),
    "no lock is removed": lambda patch: patch.setattr(Lock, "_remove", lambda self: None),
}


@pytest.mark.parametrize("mutation", MUTATIONS)
def test_a_lock_that_is_wrong_is_noticed(mutation: str, monkeypatch: pytest.MonkeyPatch) -> None:
    MUTATIONS[mutation](monkeypatch)
    with pytest.raises(Broken, match=r"replay: python -m tests\.simulation --lock"):
        for seed in range(NOTICED_WITHIN):
            run(seed)
