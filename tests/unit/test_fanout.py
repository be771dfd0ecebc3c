"""Every observer has every event, whatever becomes of the others."""

from __future__ import annotations

import threading
from dataclasses import replace
from pathlib import Path

import pytest

from orchestrator.observers.events import EpochEnded, Event, Note, RunEnded, StageEnded, SystemTrained
from orchestrator.observers.fanout import Background, Fanout, Progress, ended_by
from orchestrator.observers.jsonl import EventLog
from orchestrator.run_folder import history
from workers.training.loop import Epoch


def epoch(number: int) -> Epoch:
    return Epoch(epoch=number, train_loss=0.5, validation_accuracy=0.9, validation_nll=0.4, examples=100, seconds=1.0)


def fails(event: Event) -> None:
    raise KeyError(7)


@pytest.mark.parametrize("first", [True, False])
def test_an_observer_that_fails_is_logged_once_and_stops_no_other(
    first: bool, caplog: pytest.LogCaptureFixture
) -> None:
    seen: list[Event] = []
    events = Fanout([fails, seen.append] if first else [seen.append, fails])
    for number in (0, 1, 2, 2):  # a worker that was restarted reports its last epoch again
        events.epoch("member-0", epoch(number))
    assert [event.epoch.epoch for event in seen if isinstance(event, EpochEnded)] == [0, 1, 2]
    assert [record.getMessage() for record in caplog.records] == ["an event could not be recorded: KeyError: 7"]


def test_epochs_whose_news_was_lost_are_emitted_once_training_is_complete() -> None:
    seen: list[Event] = []
    events, both = Fanout([seen.append]), [epoch(0), epoch(1)]
    events.epoch("student", both[0])
    events.trained("student", both, reused=False)
    events.epoch("student", both[1])  # it was late, not lost
    events.trained("baseline", both, reused=True)  # of an earlier run, whose record has them
    assert seen == [
        EpochEnded("student", both[0]),
        EpochEnded("student", both[1]),
        SystemTrained("student", both),
        SystemTrained("baseline", both),
    ]


def test_epochs_that_an_earlier_run_recorded_are_not_recorded_again(tmp_path: Path) -> None:
    """A run that goes on behind epoch 1 emits the others, an epoch of which only the history knows among them."""
    folder = str(tmp_path)
    earlier = Fanout([EventLog(folder)])
    for number in (0, 1):
        earlier.epoch("student", ended(number, 10.0 + number))
    emitted: list[Event] = []
    log = EventLog(folder)
    events = Fanout([log, emitted.append], history.epochs(folder))
    events.epoch("student", ended(3, 20.0))
    events.trained("student", [ended(0, 10.0), ended(1, 11.0), ended(2, 12.5), ended(3, 20.0)], reused=False)
    assert [event.epoch.epoch for event in emitted if isinstance(event, EpochEnded)] == [3, 2]
    assert sorted(number for _, number, _ in history.epochs(folder)) == [0, 1, 2, 3]
    Fanout([log], history.epochs(folder)).epoch("student", ended(0, 30.0))  # trained anew
    assert ("student", 0, 30.0) in history.epochs(folder)


def ended(number: int, at_s: float) -> Epoch:
    return replace(epoch(number), ended_s=at_s)


def test_one_epoch_of_many_threads_is_emitted_once() -> None:
    seen: list[Event] = []
    events, begin = Fanout([seen.append]), threading.Barrier(8)

    def report() -> None:
        begin.wait()
        for number in range(200):
            events.epoch("member-0", epoch(number))

    threads = [threading.Thread(target=report) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(seen) == 200


def test_a_stage_that_fails_is_no_stage_of_the_report() -> None:
    seen: list[Event] = []
    events = Fanout([seen.append])
    with pytest.raises(ValueError, match="full"), events.stage("members"):
        raise ValueError("full")
    with events.stage("baseline") as stage:
        stage.reused = True
    assert [(stage.name, stage.reused) for stage in events.stages] == [("baseline", True)]
    ended = [event for event in seen if isinstance(event, StageEnded)]
    assert [(event.name, event.failed) for event in ended] == [("", True), ("stage finished", False)]


def test_a_slow_observer_holds_up_nothing_but_its_own_end() -> None:
    seen: list[Event] = []
    go_on = threading.Event()

    def slow(event: Event) -> None:
        go_on.wait(10)
        seen.append(event)

    with Background(slow) as background:
        events = Fanout([background])
        for number in range(3):
            events.note(str(number))
            Progress("soft targets", events).update(number, 3, "")
        assert not seen
        go_on.set()
        events.drain()
        assert seen == [Note("0"), Note("1"), Note("2")]
        events.note("3")
    assert seen[-1] == Note("3")


def test_how_a_run_ended() -> None:
    assert ended_by(None) == RunEnded("FINISHED") and ended_by(None).name == "complete"
    failed = ended_by(ValueError("full"))
    assert failed == RunEnded("FAILED", "ValueError: full") and failed.name == "failed"
    assert ended_by(KeyboardInterrupt()).status == "KILLED"
