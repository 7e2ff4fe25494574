"""Real-IAD's file names, and the samples that they make up.

<category>_0001_OK_C1_<time>.jpg
<category>_0001_NG_<CODE>_C1_<time>.jpg
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from mvead_jax.data.records import Sample, Split, View, natural_key

PATTERN = "rename it: a name is <category>_<4 digits>_<OK or NG_CODE>_C<view>_<time>"
# The official evaluator's sample key, then the view. A real name has two underscores before its number
# (audiojack__0064_NG_HS_...), so the category's end is not its first digit.
_NAME = re.compile(r"(?P<key>[a-zA-Z][a-zA-Z0-9_]*_[0-9]{4}_[A-Z][A-Z_]*[A-Z])_(?P<view>C[0-9]+)_")


class Named(NamedTuple):
    """An image: the sample key of its file name, its split, and the view."""

    key: str
    split: Split
    view: View


def category_of_key(key: str) -> str:
    """Return the category of a sample key: "audiojack" of "audiojack_0001_NG_HS"."""
    return re.sub(r"_+[0-9]{4}_[A-Z_]+$", "", key)


def sample_of_name(name: str) -> tuple[str, str] | None:
    """Return (sample key, view) of a file name in Real-IAD's pattern, or None."""
    match = _NAME.match(name)
    return (match["key"], match["view"]) if match else None


def by_sample(entries: Iterable[Named]) -> tuple[list[tuple[str, list[Named]]], list[str]]:
    """Return the entries by sample key, and the views that a sample has twice.

    A doubled underscore before the number is taken as a slip of the pen, unless that would give a sample the
    same view twice: then the keys are kept apart.
    """
    merged: dict[tuple[Split, str], list[Named]] = defaultdict(list)
    for entry in entries:
        merged[entry.split, re.sub(r"_+([0-9]{4}_)", r"_\1", entry.key)].append(entry)
    grouped, problems = [], []
    for (_, key), group in merged.items():
        if not _doubled(group):
            grouped.append((key, group))
            continue
        parts: dict[str, list[Named]] = defaultdict(list)
        for entry in group:
            parts[entry.key].append(entry)
        for own_key, part in parts.items():
            for view in _doubled(part):
                files = ", ".join(sorted(entry.view.image for entry in part if entry.view.name == view))
                problems.append(f"sample {own_key} has view {view} twice, keep one: {files}")
            grouped.append((own_key, part))
    return grouped, problems


def sample_of(category: str, key: str, group: Sequence[Named], label: int | None = None) -> Sample:
    """Return the sample of the images of one key. label: what is known of it as a whole."""
    views = sorted((entry.view for entry in group), key=lambda view: natural_key(view.name))
    return Sample(key, category, group[0].split, tuple(views), label)


def _doubled(group: Sequence[Named]) -> list[str]:
    return [view for view, count in Counter(entry.view.name for entry in group).items() if count > 1]
