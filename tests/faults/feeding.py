"""Images that come into a watched folder as on a bad day: in any order, late, in pieces, twice."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

Pictures = Mapping[tuple[str, str], bytes]  # of a sample's view
_KINDS = ("whole", "in pieces", "late", "doubled", "touched", "replaced")


@dataclass(frozen=True)
class Event:
    """At `second` the file `path` gets these bytes, or more of them."""

    second: float
    path: str
    content: bytes
    appends: bool = False


def feed(
    pictures: Pictures, *, others: Sequence[bytes], seconds: float, timeout: float, seed: int
) -> list[Event]:
    """What happens in the folder, in order.

    Half of the images come once and whole, each of its sample's within four seconds. The others come in two
    pieces, or after the timeout, or twice under two names (the second with other bytes, which count nothing),
    or are written again with the same bytes, or replaced by those of their own after others of `others`.
    """
    rng = np.random.default_rng(seed)
    samples = sorted({sample for sample, _ in pictures})
    begins = dict(zip(samples, rng.uniform(0, seconds, len(samples)), strict=True))
    events = []
    for (sample, view), content in pictures.items():
        at = begins[sample] + rng.uniform(0, 4)
        path = f"{sample}/{view}.jpg"
        other = others[rng.integers(len(others))]
        later = at + rng.uniform(3, 3 + 2 * timeout)
        match rng.choice(_KINDS, p=[0.5, 0.1, 0.1, 0.1, 0.1, 0.1]):
            case "whole":
                events += [Event(at, path, content)]
            case "late":
                events += [Event(later + timeout, path, content)]
            case "in pieces":
                half = len(content) // 2
                events += [Event(at, path, content[:half]), Event(later, path, content[half:], appends=True)]
            case "doubled":
                events += [Event(at, path, content), Event(later, f"{sample}/{view}.jpeg", other)]
                events += [Event(later, f"{sample}/{view}.png", other)]
            case "touched":
                events += [Event(at, path, content), Event(later, path, content)]
            case "replaced":
                events += [Event(at, path, other), Event(later, path, content)]
    return sorted(events, key=lambda event: event.second)


def apply(event: Event, folder: Path) -> None:
    path = folder / event.path
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("ab" if event.appends else "wb") as file:
        file.write(event.content)


def wrong_lines(lines: Sequence[Mapping], pictures: Pictures) -> list[str]:
    """What of a journal is not as it must be when all images have come and are decided: numbered, each line
    of a sample revising the one before with other images, the last by all views as they are."""
    wrong, last = [], {}
    for number, line in enumerate(lines, 1):
        key = line["sample"]
        before = last.get(key)
        digests = {view: one["sha256"] for view, one in line["pictures"].items()}
        if line["number"] != number or line["revises"] != (before["number"] if before else None):
            wrong.append(f"line {number}: number {line['number']}, revises {line['revises']}")
        if before and digests == {view: one["sha256"] for view, one in before["pictures"].items()}:
            wrong.append(f"line {number}: decided again without news")
        last[key] = line
    expected: dict[str, dict[str, str]] = {}
    for (sample, view), content in pictures.items():
        expected.setdefault(sample, {})[view] = hashlib.sha256(content).hexdigest()
    for sample, digests in expected.items():
        line = last.get(sample)
        if line is None or {view: one["sha256"] for view, one in line["pictures"].items()} != digests:
            wrong.append(f"{sample}: not decided by all its images")
        elif "error" in line:
            wrong.append(f"{sample}: {line['error']}")
    return wrong + [f"{sample}: no such sample" for sample in last.keys() - expected.keys()]
