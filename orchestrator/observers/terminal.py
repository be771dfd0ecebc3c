"""Terminal output: one progress line per stage in a terminal, plain lines in a pipe, tables at the end.

Progress goes to stderr and results to stdout, so that a pipe gets only the results. Several threads report progress;
one lock guards the state of the screen. A screen that fails is switched off, and the run continues without it.
"""

from __future__ import annotations

import logging
import re
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal, TextIO

from rich import box
from rich.console import Console
from rich.padding import Padding
from rich.progress import BarColumn, Progress, SpinnerColumn, TaskID, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text

from orchestrator.observers import layout
from orchestrator.observers.events import (
    EpochEnded,
    Event,
    Note,
    StageEnded,
    StageProgressed,
    StageStarted,
    TeacherBack,
    TeacherLost,
    TeacherMoves,
)
from workers.redact import HidingFormatter, redacted

if TYPE_CHECKING:
    from orchestrator.reporting.content import Rows

logger = logging.getLogger(__name__)

PIPE_WIDTH = 160
PLAIN_INTERVAL_S = 5.0
START = "start-up"
"""Name of the phase before the first stage."""
OURS = ("orchestrator", "workers", "__main__")


_CONTROLS = {code: f"\\x{code:02x}" for code in (*range(32), *range(127, 160)) if chr(code) not in "\t\n"}


def visible(text: str) -> str:
    """`text` with escaped control characters: labels and names of another user's files must not steer a terminal."""
    return text.translate(_CONTROLS)


class Output(Console):
    """A rich console that redacts secrets, escapes control characters, and leaves a closed pipe to its caller.

    rich itself would send such characters to the terminal, and end the process at a closed pipe.
    """

    @property
    def on_terminal(self) -> bool:
        """Whether it writes to a terminal. FORCE_COLOR, as CI services set it, makes one of any file for rich."""
        return self.is_terminal and self.file.isatty()

    def render_str(self, text: str, **how: Any) -> Text:
        return super().render_str(visible(redacted(text)), **how)

    def on_broken_pipe(self) -> None:
        raise BrokenPipeError


def console(file: TextIO) -> Output:
    """A rich console for `file`; wide if it is not a terminal, so that tables are in one part.

    Without rich's emoji: names such as `user:id:class` hold codes of them.
    """
    width = None if file.isatty() else PIPE_WIDTH
    return Output(file=file, width=width, highlight=False, soft_wrap=False, emoji=False)


class Line:
    """The progress of one stage. Updates after its end have no effect."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.task: TaskID | None = None
        self.over = False
        self.epochs = self.ended = 0
        """Expected and completed epochs of all systems that the stage trains."""
        self.last_shown_s = time.monotonic()


class Screen:
    """The display of a run. The end of its block clears remaining progress lines.

    quiet: show nothing, for callers from Python.
    """

    def __init__(self, quiet: bool = False) -> None:
        self.quiet = quiet
        self.err = console(sys.stderr)
        self.out = console(sys.stdout)
        self._live: Progress | None = None
        self._open_lines: list[Line] = []
        self._start: tuple[Line, float] | None = None
        self._lock = threading.RLock()
        self._stages: dict[str, Line] = {}
        self._training: dict[str, Line] = {}
        """The line of the stage that trains a system."""
        self._shown: dict[type[Event], Callable[[Any], None]] = {
            StageStarted: self._begin,
            StageProgressed: self._progress,
            StageEnded: self._end,
            EpochEnded: self._epoch,
            Note: lambda event: self.say(event.text),
            TeacherLost: self._lost,
            TeacherBack: lambda event: self.say(f"teacher of {', '.join(event.members)} is back"),
            TeacherMoves: self._moves,
        }

    def __enter__(self) -> Screen:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for line in [*self._open_lines]:
            self._close(line)

    def __call__(self, event: Event) -> None:
        """Show an event of the run."""
        for kind, show in self._shown.items():
            if isinstance(event, kind):
                show(event)

    def _begin(self, event: StageStarted) -> None:
        self.started()
        line = self._open(event.stage)
        line.epochs = event.epochs * len(event.systems)
        self._stages[event.stage] = line
        self._training |= dict.fromkeys(event.systems, line)

    def _end(self, event: StageEnded) -> None:
        self._close(self._stages.pop(event.stage))
        if not event.failed:
            self.say(f"{event.stage:<14} {'reused' if event.reused else f'{event.seconds:.1f} s'}")

    def _progress(self, event: StageProgressed) -> None:
        line = self._stages.get(event.stage)
        if line is not None:
            self.progress(line, event.done, event.total, event.text)

    def _epoch(self, event: EpochEnded) -> None:
        line, epoch = self._training.get(event.system), event.epoch
        if line is not None:
            line.ended += 1
            of = "" if event.system == line.name else f"{event.system}, "
            text = (
                f"{of}epoch {epoch.epoch + 1}: loss {epoch.train_loss:.4f}, "
                f"validation {epoch.validation_accuracy:.2%}, {epoch.examples / epoch.seconds:,.0f} examples/s"
            )
            self.progress(line, line.ended, line.epochs, text)

    def _lost(self, event: TeacherLost) -> None:
        self.say(f"teacher of {', '.join(event.members)} lost ({event.evidence}): {event.action}")

    def _moves(self, event: TeacherMoves) -> None:
        self.say(f"teacher of {', '.join(event.members)} moves to another node ({event.evidence})")

    def say(self, text: str) -> None:
        """One plain line, above the progress."""
        self._show(lambda: self.err.print(text, markup=False, soft_wrap=True))

    def wait_for(self, what: str, *, brief: bool = False) -> None:
        """Show the current step before the first stage; `started` ends it.

        brief: omit it from plain lines, so that an immediate rejection prints a single message.
        """
        if self._start is None:
            self._start = (self._open(START), time.monotonic())
        line, _ = self._start
        if brief and self._live is None:
            return
        line.last_shown_s = 0.0  # show every step at once
        self.progress(line, 0, None, what)

    def started(self) -> None:
        """End the start-up phase."""
        if self._start is not None:
            line, began_s = self._start
            self._start = None
            self._close(line)
            self.say(f"{line.name:<14} {time.monotonic() - began_s:.1f} s")

    def progress(self, line: Line, done: float, total: float | None, text: str) -> None:
        """Show the progress of a stage; no effect after its end."""
        with self._lock:
            if line.over:
                return
            if self._live is not None and line.task is not None:
                live, task = self._live, line.task
                self._show(lambda: live.update(task, completed=done, total=total, text=redacted(text)))
            elif time.monotonic() - line.last_shown_s > PLAIN_INTERVAL_S:
                line.last_shown_s = time.monotonic()
                self.say(f"  {line.name}: {text}")

    def _open(self, name: str) -> Line:
        line = Line(name)
        with self._lock:
            self._open_lines.append(line)
            if self.quiet:
                return line
            if self.err.on_terminal and not self.err.is_dumb_terminal:
                self._show(lambda: self._add_to_live(line))
            elif name != START:
                self.say(f"{name} ...")
        return line

    def _add_to_live(self, line: Line) -> None:
        if self._live is None:
            self._live = Progress(
                SpinnerColumn("dots" if self.err.encoding.startswith("utf") else "line"),
                TextColumn("{task.description:<14}", markup=False),
                BarColumn(bar_width=28),
                TimeElapsedColumn(),
                TextColumn("{task.fields[text]}", markup=False),
                console=self.err,
                transient=True,
            )
            self._live.start()
        line.task = self._live.add_task(line.name, total=None, text="")

    def _close(self, line: Line) -> None:
        with self._lock:
            if line.over:
                return
            line.over = True
            self._open_lines.remove(line)
            live = self._live
            if live is None:
                return
            if line.task is not None:
                task = line.task
                self._show(lambda: live.remove_task(task))
            if not self._open_lines:
                self._live = None
                self._show(live.stop)

    def _show(self, action: Callable[[], None]) -> None:
        """Perform an action on the terminal. A failure switches the screen off, since the run must not depend on it."""
        with self._lock:
            if self.quiet:
                return
            try:
                action()
            except Exception as error:  # from rich, or a closed terminal
                self.quiet, live, self._live = True, self._live, None
                if live is not None:
                    with suppress(Exception):
                        live.stop()
                logger.warning("progress is not shown any more: %s: %s", type(error).__name__, error)

    def text(self, words: str) -> None:
        """Print sentences to stdout: folded to the width of a terminal, and a line each in a pipe."""
        self.out.print(words, markup=False, soft_wrap=not self.out.on_terminal)

    def table(self, rows: Rows, title: str = "") -> None:
        """Print a table to stdout; the first column is text, the others are numbers.

        What is wider than the screen is printed in parts (`layout`), so that no figure is cut.
        """
        rows = [[visible(redacted(cell)) for cell in row] for row in rows]
        header, *body = rows
        if title:
            self.out.print(f"\n{title}", style="bold", markup=False)
        for columns in layout.parts(rows, self.out.width):
            table = Table(
                box=box.SIMPLE_HEAD, header_style="bold", padding=(0, 1, 0, 0), pad_edge=False, show_edge=False
            )
            for number, width in columns:
                justify: Literal["left", "right"] = "left" if number == 0 else "right"
                table.add_column(Text(header[number]), justify=justify, width=width, overflow="fold")
            for row in body:
                table.add_row(*(Text(row[column.number]) for column in columns))
            self.out.print(Padding(table, (1, 0, 1, layout.EDGE), expand=False))


class LineFormatter(HidingFormatter):
    """Formats log lines like the screen's own: plain text, with the level of warnings and the name of other loggers."""

    def format(self, record: logging.LogRecord) -> str:
        text = visible(super().format(record))
        if record.name == "py.warnings":  # FILE:LINE: CATEGORY: TEXT, and the line of code below it
            text = re.sub(r"^.*?:\d+: ", "", text.splitlines()[0])
        elif record.name.partition(".")[0] not in OURS:
            text = f"{record.name}: {text}"
        return text if record.levelno < logging.WARNING else f"{record.levelname.lower()}: {text}"


class LogLines(logging.StreamHandler[TextIO]):
    """Writes log lines to the current value of sys.stderr, so that they appear above a progress line."""

    def __init__(self) -> None:
        logging.Handler.__init__(self)
        self.setFormatter(LineFormatter("%(message)s"))

    @property
    def stream(self) -> TextIO:  # type: ignore[override]
        return sys.stderr
