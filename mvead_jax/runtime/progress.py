"""Progress of long steps: a bar on a terminal, plain lines with the time left otherwise."""

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
    TimeRemainingColumn,
)

shown = True  # --quiet: nothing of it


class _Silent:
    def advance(self, count: int = 1, note: str = "") -> None:
        pass


class _Lines:
    """Prints "name 120/400 images, 30 s, about 70 s left" at most every `every` seconds, and at the end."""

    def __init__(self, name: str, total: int, unit: str, every: float, done: int):
        self.name, self.total, self.unit, self.every = name, total, unit, every
        self.done = self.before = done
        self.begin = self.last = time.monotonic()

    def advance(self, count: int = 1, note: str = "") -> None:
        self.done += count
        now = time.monotonic()
        if now - self.last >= self.every and self.done < self.total:
            self.last = now
            left = (now - self.begin) / (self.done - self.before) * (self.total - self.done)
            note = f", {note}" if note else ""
            self._print(f"{now - self.begin:.0f} s, about {left:.0f} s left{note}")

    def close(self) -> None:
        self._print(f"{time.monotonic() - self.begin:.1f} s")

    def _print(self, tail: str) -> None:
        print(f"{self.name} {self.done}/{self.total} {self.unit}, {tail}", file=sys.stderr, flush=True)


class _Bar:
    def __init__(self, progress: Progress, task):
        self._progress, self._task = progress, task

    def advance(self, count: int = 1, note: str = "") -> None:
        self._progress.update(self._task, advance=count, note=note)


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
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}", markup=False),
    )
    with Progress(*columns, console=console) as bar:
        yield _Bar(bar, bar.add_task(name, total=total, completed=done, note=""))
