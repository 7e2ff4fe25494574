"""Progress of long steps: a bar on a terminal, plain lines with the time left otherwise.

The time left counts from the end of the first step, which compiles: nothing is told of it before the second.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
)

shown = True  # --quiet: nothing of it


class _Silent:
    def advance(self, count: int = 1, note: str = "") -> None:
        pass


class _Pace:
    """How fast units are done after the first step, which compiles what the others run."""

    def __init__(self, total: int, done: int):
        self.total, self.done = total, done
        self._first: tuple[float, int] | None = None

    def advance(self, count: int) -> None:
        self.done += count
        self._first = self._first or (time.monotonic(), self.done)

    def left(self) -> str:
        """Return ", about 70 s left", or nothing before the second step."""
        begin, before = self._first
        if self.done == before:
            return ""
        seconds = (time.monotonic() - begin) / (self.done - before) * (self.total - self.done)
        return f", about {seconds:.0f} s left"


class _Lines:
    """Prints "name 120/400 images, 30 s, about 70 s left" at most every `every` seconds, and at the end."""

    def __init__(self, name: str, total: int, unit: str, every: float, done: int):
        self.name, self.unit, self.every = name, unit, every
        self.pace = _Pace(total, done)
        self.begin = self.last = time.monotonic()

    def advance(self, count: int = 1, note: str = "") -> None:
        self.pace.advance(count)
        now = time.monotonic()
        if now - self.last >= self.every and self.pace.done < self.pace.total:
            self.last = now
            note = f", {note}" if note else ""
            self._print(f"{now - self.begin:.0f} s{self.pace.left()}{note}")

    def close(self) -> None:
        self._print(f"{time.monotonic() - self.begin:.1f} s")

    def _print(self, tail: str) -> None:
        count = f"{self.pace.done}/{self.pace.total} {self.unit}"
        print(f"{self.name} {count}, {tail}", file=sys.stderr, flush=True)


class _Bar:
    def __init__(self, progress: Progress, task, pace: _Pace):
        self._progress, self._task, self._pace = progress, task, pace

    def advance(self, count: int = 1, note: str = "") -> None:
        self._pace.advance(count)
        left = self._pace.left().removeprefix(", ")
        self._progress.update(self._task, advance=count, left=left, note=note)


@contextmanager
def progress(
    name: str, total: int, unit: str = "", every: float = 10.0, done: int = 0
) -> Iterator[_Bar | _Lines | _Silent]:
    """Context with `advance(count=1, note="")` over `total` units of work, shown on stderr.

    Args:
      name: what is being done, "features audiojack/train".
      total: how many units there are.
      unit: what one unit is, "images".
      every: seconds between plain lines when stderr is no terminal.
      done: units that an earlier run did.
    """
    if not shown:
        yield _Silent()
        return
    console = Console(stderr=True)
    if not console.is_terminal:
        lines = _Lines(name, total, unit, every, done)
        yield lines
        lines.close()
        return
    columns = (
        TextColumn("{task.description}", markup=False),  # a category may be called [x]
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn(unit),
        TimeElapsedColumn(),
        TextColumn("{task.fields[left]}"),
        TextColumn("{task.fields[note]}", markup=False),
    )
    with Progress(*columns, console=console) as bar:
        task = bar.add_task(name, total=total, completed=done, left="", note="")
        yield _Bar(bar, task, _Pace(total, done))
