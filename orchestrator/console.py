"""What a person sees: one progress line a stage in a terminal, plain lines in a pipe, tables at the end.

Progress goes to stderr and results to stdout, so that a pipe gets the results alone.
"""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TextIO

from rich import box
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.table import Table

from orchestrator.report import Rows

PIPE_WIDTH = 160
PLAIN_INTERVAL_S = 5.0


def console(file: TextIO) -> Console:
    """A rich console for `file`; wide where it is no terminal, so that tables are not cut."""
    return Console(file=file, width=None if file.isatty() else PIPE_WIDTH, highlight=False, soft_wrap=False)


class Line:
    """The progress of one stage: how far it is, and a few words."""

    def __init__(self, name: str, show: Progress | None, out: Console) -> None:
        self.reused = False
        self.name, self._show, self._out = name, show, out
        self._task = show.add_task(name, total=None, said="") if show else None
        self._last_said = time.monotonic()

    def update(self, done: float, total: float, said: str) -> None:
        """`done` of `total` is there; `said` is shown beside the bar."""
        if self._show is not None and self._task is not None:
            self._show.update(self._task, completed=done, total=total, said=escape(said))
        elif time.monotonic() - self._last_said > PLAIN_INTERVAL_S:
            self._last_said = time.monotonic()
            self._out.print(f"  {self.name}: {said}", markup=False)

    def remove(self) -> None:
        """Take the line off the screen."""
        if self._show is not None and self._task is not None:
            self._show.remove_task(self._task)


class Screen:
    """Where a run is shown. `quiet` shows nothing, as for callers from Python."""

    def __init__(self, quiet: bool = False) -> None:
        self.quiet = quiet
        self.err = console(sys.stderr)
        self.out = console(sys.stdout)
        self._live: Progress | None = None
        self._stages = 0
        self._lock = threading.Lock()

    def say(self, text: str) -> None:
        if not self.quiet:
            self.err.print(text, markup=False)

    @contextmanager
    def stage(self, name: str) -> Iterator[Line]:
        """A progress line for a block, beside those of others; at its end it becomes one plain line with the time."""
        line = self._open(name)
        started = time.monotonic()
        done = False
        try:
            yield line
            done = True
        finally:
            self._close(line)
            if done:
                took = "reused" if line.reused else f"{time.monotonic() - started:.1f} s"
                self.say(f"{name:<14} {took}")

    def _open(self, name: str) -> Line:
        with self._lock:
            self._stages += 1
            if not self.quiet and self.err.is_terminal and self._live is None:
                self._live = Progress(
                    SpinnerColumn(),
                    TextColumn("{task.description:<14}"),
                    BarColumn(bar_width=28),
                    TimeElapsedColumn(),
                    TextColumn("{task.fields[said]}"),
                    console=self.err,
                    transient=True,
                )
                self._live.start()
            elif self._live is None:
                self.say(f"{name} ...")
            return Line(name, self._live, self.err if not self.quiet else Console(quiet=True))

    def _close(self, line: Line) -> None:
        with self._lock:
            self._stages -= 1
            line.remove()
            if self._stages == 0 and self._live is not None:
                self._live.stop()
                self._live = None

    def table(self, rows: Rows, title: str = "") -> None:
        """A table on stdout; the first column is text, the others figures."""
        header, *body = rows
        if title:
            self.out.print(f"\n{title}", style="bold", markup=False)
        table = Table(box=box.SIMPLE_HEAD, header_style="bold", padding=(0, 1, 0, 0), pad_edge=False)
        for k, name in enumerate(header):
            words = max(map(len, name.split()))
            table.add_column(name, justify="left" if k == 0 else "right", no_wrap=k == 0, min_width=words)
        for row in body:
            table.add_row(*(escape(cell) for cell in row))
        self.out.print(table)
