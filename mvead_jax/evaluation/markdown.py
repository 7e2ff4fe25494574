"""Tables, figures and protocols as Markdown in plain ASCII."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any


def format_protocols(protocols: Mapping[str, Mapping[str, Any]]) -> str:
    """How our figures came about: once what all runs share, then what each has of its own."""
    if not protocols:
        return ""
    keys = list(dict.fromkeys(key for own in protocols.values() for key in own))
    values = {key: {name: _words(own.get(key)) for name, own in protocols.items()} for key in keys}
    lines = ["Protocol of our figures:", ""]
    for key in keys:
        different = list(dict.fromkeys(values[key].values()))
        if len(different) == 1:
            lines.append(f"- {key}: {different[0]}")
            continue
        lines.append(f"- {key}:")
        for value in different:
            having = ", ".join(name for name, own in values[key].items() if own == value)
            lines.append(f"    - {having}: {value}")
    return "\n".join(lines)


def _words(value: Any) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {one}" for key, one in value.items())
    return str(value)


def markdown(header: Sequence[str], lines: Sequence[Sequence[str]], left: int) -> str:
    """A Markdown table in aligned columns; the first `left` are text, the others numbers."""
    widths = [max(len(row[n]) for row in (header, *lines)) for n in range(len(header))]
    rule = ["-" * w if n < left else "-" * (w - 1) + ":" for n, w in enumerate(widths)]
    rows = [
        [
            cell.ljust(w) if n < left else cell.rjust(w)
            for n, (cell, w) in enumerate(zip(row, widths, strict=True))
        ]
        for row in (header, *lines)
    ]
    return "\n".join("| " + " | ".join(row) + " |" for row in (rows[0], rule, *rows[1:]))


def figure(value: float | None, digits: int = 1) -> str:
    return "-" if value is None else f"{value:.{digits}f}"


def difference(value: float | None) -> str:
    return "-" if value is None else f"{value:+.1f}"
