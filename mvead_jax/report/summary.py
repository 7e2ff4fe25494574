"""The words and figures at the top of the page, from metrics.json."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from mvead_jax.evaluation.metrics import LEVELS, TITLES
from mvead_jax.evaluation.vanished import vanished_warning
from mvead_jax.report.findings import FoundSample
from mvead_jax.report.outcomes import UNDECIDED, Cut, outcome

_LEVEL_TITLES = {"sample": "Sample", "image": "View", "pixel": "Pixel", "decision": "Decision"}
_TITLES = TITLES | {"false_alarms": "false alarms", "detections": "found"}
# What the first screen shows; the rest stands in the table below it.
_FIRST = (("sample", "auroc"), ("sample", "ap"), ("image", "auroc"), ("pixel", "ap"), ("pixel", "aupro"))
_DECIDED = (("sample", "auroc"), ("image", "auroc"), ("pixel", "aupro"))
_DECISIONS = (("decision", "false_alarms"), ("decision", "detections"))
_ALL = tuple((level, metric) for level, names in LEVELS.items() for metric in names)


def summary(
    metrics: Mapping[str, Any], samples: Sequence[FoundSample], cuts: Mapping[str, Cut]
) -> dict[str, Any]:
    """What the template says besides the samples: labelled, title words, tables, protocol."""
    words = metrics["protocol"]
    count = {name: [one for one in samples if one.category == name] for name in cuts}
    labelled = any(one.label is not None for one in samples)
    rows = [
        {
            "name": name,
            "samples": len(own),
            "defective": sum(one.label == 1 for one in own),
            "highest": max(one.score for one in own),
            "levels": metrics["categories"].get(name, {}),
        }
        for name, own in count.items()
    ]
    decided = any("false_alarms" in row["levels"].get("decision", {}) for row in rows)
    first, full = (_DECIDED + _DECISIONS, _ALL + _DECISIONS) if decided else (_FIRST, _ALL)
    trained = words.get("backbone_trained", True)
    return {
        "labelled": labelled,
        "told": any(cut.threshold is not None for cut in cuts.values()),
        "calibrated": any(cut.calibrated for cut in cuts.values()),
        "by_user": any(cut.basis == "user" for cut in cuts.values()),
        "decided": any(one.decision for one in samples),
        "method": str(words.get("method", "")),
        "backbone": str(words.get("backbone", "")),
        "untrained": not trained,
        "scored": str(words.get("scored", "")),
        "setting": str(words.get("setting", "")),
        "evaluation": str(words.get("evaluation", "")),
        "total": len(samples),
        "verdict": verdict(samples, cuts),
        "first": _table(first, rows, metrics["mean"]) if labelled else None,
        "full": _table(full, rows, metrics["mean"]) if labelled else None,
        "vanished": vanished_warning(words),
        "rows": rows,
        "intervals": str(words.get("intervals", "none")),
        "protocol": {key: _word(value) for key, value in words.items()},
    }


def verdict(samples: Sequence[FoundSample], cuts: Mapping[str, Cut]) -> str:
    """What became of the samples, in a sentence or two."""
    made = Counter(outcome(one, cuts[one.category]) for one in samples)
    found, missed, alarms, passed = (made[word] for word in ("found", "missed", "false alarm", "passed"))
    if found + missed + alarms + passed:
        words = (
            [f"{found} of {_parts(found + missed, 'defective')} found, {missed} missed"]
            if found + missed
            else []
        )
        words += (
            [f"{alarms} of {_parts(alarms + passed, 'good')} called defective"] if alarms + passed else []
        )
        return "; ".join(words) + _undecided(samples) + "."
    if decided := Counter(one.decision for one in samples if one.decision):
        return f"{decided['fail']} of {_parts(len(samples), '')} fail, {decided['pass']} pass{_undecided(samples)}."
    worst = max(samples, key=lambda one: one.score)
    return f"No threshold is known, so nothing passes or fails; the highest score is {worst.score:.4g}, of {worst.id}."


def _parts(count: int, kind: str) -> str:
    return " ".join(word for word in (str(count), kind, "part" if count == 1 else "parts") if word)


def _undecided(samples: Sequence[FoundSample]) -> str:
    count = sum(one.decision == UNDECIDED for one in samples)
    return f"; {count} undecided" if count else ""


def _table(columns, rows, mean) -> dict[str, Any]:
    return {
        "titles": [(_LEVEL_TITLES[level], _TITLES[metric]) for level, metric in columns],
        "cells": [[_cell(row["levels"], *column) for column in columns] for row in rows],
        "mean": [_cell(mean, *column) for column in columns],
    }


def _cell(levels: Mapping[str, Any], level: str, metric: str) -> tuple[str, str]:
    """("84.6", "79-90"): percent and its interval, empty where there is none."""
    own = levels.get(level, {})
    if level == "decision":  # rates, each with an interval of its own
        own = own.get(metric, {})
        value, interval = own.get("rate"), own.get("interval")
    else:
        value, interval = own.get(metric), own.get("interval", {}).get(metric)
    if value is None:
        return "-", ""
    low, high = interval or (None, None)
    return f"{100 * value:.1f}", "" if low is None or high is None else f"{100 * low:.0f}–{100 * high:.0f}"


def _word(value: Any) -> str:
    return "none" if value is None else str(value)
