"""What a terminal and a pipe show: late news harms nothing, and a run does not depend on its screen."""

from __future__ import annotations

import logging
import os
import pty
import re
import sys
import threading
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from orchestrator.observers.fanout import Fanout
from orchestrator.observers.jsonl import EventLog
from orchestrator.observers.terminal import LineFormatter, LogLines, Screen, visible
from workers.training.loop import Epoch


class Terminal:
    """A pseudo-terminal as stderr, and what was written to it."""

    def __init__(self) -> None:
        self._master, slave = pty.openpty()
        self.file = os.fdopen(slave, "w", buffering=1)
        self._shown = b""
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        while True:
            try:
                self._shown += os.read(self._master, 4096)
            except OSError:
                return

    def wait_until_shown(self, text: str) -> None:
        """Progress is painted ten times a second, and later on a loaded machine."""
        until = time.monotonic() + 30
        while text.encode() not in self._shown:
            assert time.monotonic() < until, f"not shown: {text}"
            time.sleep(0.01)

    def shown(self) -> str:
        """All of it, once it is closed."""
        self.file.close()
        self._reader.join(timeout=5)
        return self._shown.decode()


def on_a_terminal(monkeypatch: pytest.MonkeyPatch) -> Terminal:
    """Called in a test and no fixture: pytest sets stderr after fixtures."""
    found = Terminal()
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setattr(sys, "stderr", found.file)
    return found


def epoch(number: int) -> Epoch:
    return Epoch(
        epoch=number,
        train_loss=0.5,
        validation_accuracy=0.9,
        validation_nll=0.4,
        examples=100,
        seconds=1.0,
        waited_s=0.0,
    )


def epochs_in(folder: Path) -> int:
    return (folder / "events.jsonl").read_text().count('"event": "epoch"')


def test_epochs_after_their_stage_are_recorded_and_not_shown(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    terminal = on_a_terminal(monkeypatch)
    events = Fanout([EventLog(str(tmp_path)), Screen()])
    with events.stage("members", ["member-0"], epochs=3):
        events.epoch("member-0", epoch(0))
    events.epoch("member-0", epoch(1))  # the line is closed
    with events.stage("baseline", ["baseline"], epochs=1):
        events.epoch("member-0", epoch(2))  # and another has taken its place
    assert epochs_in(tmp_path) == 3 and not caplog.records
    shown = terminal.shown()
    for stage in ("members", "baseline"):
        assert re.search(rf"{stage:<14} \d+\.\d s", shown), stage
    assert "Traceback" not in shown


def test_many_threads_share_one_screen(monkeypatch: pytest.MonkeyPatch) -> None:
    """Stages open and close in one thread, while others report on lines that may be gone."""
    terminal = on_a_terminal(monkeypatch)
    screen, failed = Screen(), []
    events = Fanout([screen])
    lines: list[Any] = []
    over = threading.Event()

    def report(number: int) -> None:
        try:
            while not over.is_set():
                for line in [*lines]:
                    line.update(number, 10, f"[{number}")
                screen.say(f"note {number}")
                time.sleep(0.001)
        except Exception as error:
            failed.append(error)

    threads = [threading.Thread(target=report, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for number in range(20):
        with events.stage(f"outer {number}") as outer, events.stage("inner") as inner:
            lines += [outer, inner]
            time.sleep(0.005)
    over.set()
    for thread in threads:
        thread.join(timeout=10)
    assert not failed and not screen.quiet and "outer 19" in terminal.shown()


def test_a_terminal_that_is_gone_ends_no_run(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    terminal = on_a_terminal(monkeypatch)
    screen = Screen()
    with Fanout([screen]).stage("members") as line:
        terminal.file.close()
        for _ in range(3):
            line.update(1, 2, "epoch 1")
            screen.say("a note")
    with Fanout([screen]).stage("baseline") as line:
        line.update(1, 2, "epoch 1")
    assert screen.quiet and len([r for r in caplog.records if "not shown any more" in r.getMessage()]) == 1


def test_start_up_in_a_terminal_is_one_line_and_then_its_time(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = on_a_terminal(monkeypatch)
    with Screen() as screen:
        before_s = time.monotonic()
        screen.wait_for("loading torch")
        began_s = time.monotonic()
        terminal.wait_until_shown("loading torch")
        screen.wait_for("starting Ray")
        terminal.wait_until_shown("starting Ray")
        least_s = time.monotonic() - began_s
        screen.started()
        most_s = time.monotonic() - before_s
        screen.started()
        with Fanout([screen]).stage("members"):
            pass
    shown = terminal.shown()
    (seconds,) = re.findall(r"start-up {7}(\d+\.\d) s", shown)
    assert least_s - 0.06 <= float(seconds) <= most_s + 0.06, "rounded to tenths"


def test_a_start_that_fails_leaves_a_clean_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = on_a_terminal(monkeypatch)

    def start() -> None:
        with Screen() as screen:
            screen.wait_for("reading the data")
            raise ValueError("no data")

    with pytest.raises(ValueError, match="no data"):
        start()
    assert terminal.shown().rpartition("\x1b[2K")[2] == "\x1b[?25h\r", "the line is gone and the cursor back"


@pytest.mark.parametrize("colours", ["", "1"])
def test_a_pipe_gets_a_plain_line_for_each_thing_that_is_waited_for(
    colours: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FORCE_COLOR", colours)
    monkeypatch.setenv("TERM", "xterm")
    with Screen() as screen:
        for what in ("loading torch", "reading the data"):
            screen.wait_for(what)
        screen.started()
        with Fanout([screen]).stage("members") as line:
            line.reused = True
    said = capsys.readouterr().err.splitlines()
    assert said[:2] == ["  start-up: loading torch", "  start-up: reading the data"]
    assert re.fullmatch(r"start-up {7}\d+\.\d s", said[2]) and said[3:] == ["members ...", "members        reused"]


@pytest.mark.parametrize("variable", ["FORCE_COLOR", "TTY_COMPATIBLE"])
def test_a_sentence_is_one_line_in_a_pipe_with_colours(
    variable: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(variable, "1")
    Screen().text("word " * 1000)
    assert capsys.readouterr().out.count("\n") == 1


def test_a_screen_for_python_shows_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    with Screen(quiet=True) as screen:
        screen.wait_for("loading torch")
        screen.started()
        with Fanout([screen]).stage("members") as line:
            line.update(1, 2, "epoch 1")
        screen.say("a note")
    assert capsys.readouterr() == ("", "")


def record(name: str, level: int, text: str) -> logging.LogRecord:
    return logging.LogRecord(name, level, "file.py", 1, text, (), None)


def warn_of_python(text: str) -> logging.LogRecord:
    shown = warnings.formatwarning(text, UserWarning, "/a/file.py", 12, "x = 1")
    return record("py.warnings", logging.WARNING, shown)


@pytest.mark.parametrize(
    ("said", "line"),
    [
        (record("orchestrator.run_folder.lock", logging.WARNING, "the run is dead"), "warning: the run is dead"),
        (record("workers.storage", logging.INFO, "asked again"), "asked again"),
        (record("ray.train", logging.INFO, "started"), "ray.train: started"),
        (record("mlflow.store", logging.ERROR, "gone: token=abc"), "error: mlflow.store: gone: token=***"),
        (warn_of_python("not writable"), "warning: UserWarning: not writable"),
    ],
)
def test_log_lines_have_one_style(said: logging.LogRecord, line: str) -> None:
    assert LineFormatter("%(message)s").format(said) == line


def test_log_lines_appear_above_the_progress(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = on_a_terminal(monkeypatch)
    handler = LogLines()
    with Screen() as screen, Fanout([screen]).stage("members"):
        handler.emit(record("orchestrator.run_folder.lock", logging.WARNING, "the run is dead"))
    shown: Callable[[], str] = terminal.shown
    assert "warning: the run is dead\r\n" in shown()


def test_texts_of_files_do_not_steer_the_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    """A label such as this would set the title of the window, and clear it."""
    label, shown = "cat\x1b]0;x\x07\x1b[2J\x9b2J\tü", "cat\\x1b]0;x\\x07\\x1b[2J\\x9b2J"
    assert visible(label) == f"{shown}\tü"
    screen = Screen()
    screen.table([[label, "errors"], [label, "1"]], title=label)
    screen.out.print(label, markup=False)
    screen.say(label)
    said = capsys.readouterr()
    assert said.out.count(shown) == 4 and said.err.count(shown) == 1
    record = logging.LogRecord("orchestrator", logging.WARNING, "", 0, label, None, None)
    assert shown in LineFormatter("%(message)s").format(record)
    assert "\x1b" not in said.out + said.err


@pytest.mark.parametrize("columns", [30, 60, 80, 300])
def test_a_table_has_all_its_figures_on_a_screen_of_any_width(
    columns: int, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    screen = Screen()
    screen.out.width = columns
    figures = [f"{k}.0000" for k in range(12)]
    header = [f"figure {k}" for k in range(12)]
    screen.table([["system", *header], ["mean of 10 members", *figures], ["student", *figures]])
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= columns
    words = " ".join(lines).split()
    assert [words.count(each) for each in figures] == [2] * 12
    assert words.count("mean") == words.count("student") == (1 if columns == 300 else words.count("system"))


@pytest.mark.parametrize("columns", [40, 60, 80])
def test_an_interval_is_on_one_line(columns: int, capsys: pytest.CaptureFixture[str]) -> None:
    screen = Screen()
    screen.out.width = columns
    rows = [["student", "94.9%", "94.1 to 95.8", "0.19", "1.28M"], ["ensemble", "96.1%", "95.3 to 96.8", "0.15", "12M"]]
    screen.table([["system", "accuracy", "95% interval", "nll", "size in memory"], *rows])
    told = capsys.readouterr().out
    assert "94.1 to 95.8" in told and "95.3 to 96.8" in told and max(map(len, told.splitlines())) <= columns


def test_what_is_longer_than_a_line_is_folded_and_kept(capsys: pytest.CaptureFixture[str]) -> None:
    screen = Screen()
    screen.out.width = 40
    path = "/a/path/of/many/folders/that/fits/in/no/line/train.npz"
    screen.table([["differs in", "one"], ["data.train", path], ["日本語", "2"]])
    lines = capsys.readouterr().out.splitlines()
    folded = "".join(line[13:].strip() for line in lines if "/" in line)
    assert folded == path and any(line.split() == ["日本語", "2"] for line in lines)


def test_names_that_hold_codes_of_emoji_or_of_markup_are_shown_as_they_are(capsys: pytest.CaptureFixture[str]) -> None:
    name, screen = "user:id:class [b]x[/b] :x:", Screen()
    screen.table([[name], [name]], title=name)
    screen.out.print(name, markup=False)
    screen.say(name)
    said = capsys.readouterr()
    assert said.out.count(name) == 4 and said.err.count(name) == 1


def test_secrets_are_not_shown(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    uri, shown = "s3://key:hunter2@host/bucket", "s3://***@host/bucket"
    screen = Screen()
    screen.say(f"teacher of member-0 lost (OSError: {uri})")
    screen.out.print(f"{uri} can be written", markup=False)
    screen.table([["storage", "runs"], [uri, "1"]])
    said = capsys.readouterr()
    assert said.err.count(shown) == 1 and said.out.count(shown) == 2 and "hunter2" not in said.err + said.out
    terminal = on_a_terminal(monkeypatch)
    with Screen() as screen:
        screen.wait_for(uri)
        terminal.wait_until_shown(shown)
    live = terminal.shown()
    assert "hunter2" not in live
