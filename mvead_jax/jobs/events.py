"""What happened in a workdir, line by line: metrics.jsonl, {"stage": ..., ...} each."""

from __future__ import annotations

import json
from contextlib import suppress
from pathlib import Path
from typing import Any

from mvead_jax.runtime.files import append_line, keep_lines

FILE = "metrics.jsonl"


def record(workdir: Path, event: dict[str, Any]) -> None:
    """Append one line to metrics.jsonl."""
    append_line(workdir / FILE, json.dumps(event))


def forget(workdir: Path, event: dict[str, Any]) -> None:
    """Take the lines of such an event out of metrics.jsonl: what they tell of is made again."""
    keep_lines(workdir / FILE, lambda line: not event.items() <= line.items())


def read_events(workdir: Path) -> list[dict[str, Any]]:
    """Return the events of a workdir but for those that a kill cut short."""
    path, found = workdir / FILE, []
    if not path.exists():
        return []  # a workdir may travel without it
    for line in path.read_text(encoding="utf-8").splitlines():
        with suppress(ValueError):
            event = json.loads(line)
            if isinstance(event, dict) and "stage" in event:
                found.append(event)
    return found
