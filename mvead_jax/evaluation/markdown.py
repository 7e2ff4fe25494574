"""Tables, figures and protocols as Markdown in plain ASCII."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any


def format_protocols(protocols: Mapping[str, Mapping[str, Any]]) -> str:
    """How our figures came about, as a list; empty without any run."""
    found = protocol_points(protocols)
    return f"Protocol of our figures:\n\n{points(found)}" if found else ""


def protocol_points(
    protocols: Mapping[str, Mapping[str, Any]], groups: Mapping[str, Sequence[str]] | None = None
) -> list[tuple[str, list[str]]]:
    """Return how our figures came about: once what all runs share, then what each has of its own.

    Args:
      protocols: of each run, by its name.
      groups: names of runs by the name of their group, larger groups first: where all runs of a group share a
        value, the group is named in their place.
    """
    keys = list(dict.fromkeys(key for own in protocols.values() for key in own))
    found: list[tuple[str, list[str]]] = []
    for key in keys:
        values = {name: _words(own.get(key)) for name, own in protocols.items()}
        different = list(dict.fromkeys(values.values()))
        if len(different) == 1:
            found.append((f"{key}: {different[0]}", []))
            continue
        having = [[name for name, own in values.items() if own == value] for value in different]
        lines = [
            f"{', '.join(_grouped(own, values, groups or {}))}: {value}"
            for own, value in zip(having, different, strict=True)
        ]
        found.append((f"{key}:", lines))
    return found


def _grouped(
    names: Sequence[str], known: Mapping[str, Any], groups: Mapping[str, Sequence[str]]
) -> list[str]:
    """Return names with those of whole groups in their place. known: names that count as members of a group."""
    left, found = list(names), []
    for group, every in groups.items():
        members = {name for name in every if name in known}
        if len(members) > 1 and members <= set(left):
            found.append(group)
            left = [name for name in left if name not in members]
    return [*found, *left]


def points(items: Sequence[tuple[str, Sequence[str]]]) -> str:
    """A list, each item with the points below it."""
    lines = [line for text, below in items for line in (f"- {text}", *(f"    - {own}" for own in below))]
    return "\n".join(lines)


def ascii_text(text: str) -> str:
    """A text in which every letter that is not ASCII shows its number."""
    return text.encode("ascii", "backslashreplace").decode("ascii")


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
