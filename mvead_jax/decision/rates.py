"""How often the decision was right on labelled samples, with exact intervals, and a table of it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any


def clopper_pearson(hits: int, count: int, level: float = 0.95) -> tuple[float, float]:
    """The exact interval of a rate: hits of count independent trials. (0, 1) without a trial."""
    from scipy.stats import beta  # here: it takes a second, and an Inspector needs none

    tail = (1 - level) / 2
    low = float(beta.ppf(tail, hits, count - hits + 1)) if hits else 0.0
    high = float(beta.ppf(1 - tail, hits + 1, count - hits)) if hits < count else 1.0
    return low, high


def rates(decisions: Sequence[str], labels: Sequence[int | None]) -> dict[str, Any]:
    """Of the samples of one category: what failed, and the rates on those that are decided and labelled.

    Args:
      decisions: pass, fail or undecided. labels: 1 defective, 0 good, None unknown.

    Returns:
      counts "pass", "fail", "undecided"; "false_alarms" (of the good) and "detections" (of the defective) as
      {"rate", "count", "of", "undecided", "interval"}: 95 %, Clopper-Pearson, of rate = count / of; NaN where
      no such sample is decided.
    """
    found: dict[str, Any] = {word: decisions.count(word) for word in ("pass", "fail", "undecided")}
    for name, wanted in (("false_alarms", 0), ("detections", 1)):
        own = [made for made, label in zip(decisions, labels, strict=True) if label == wanted]
        decided = [made for made in own if made != "undecided"]
        hits, count = decided.count("fail"), len(decided)
        found[name] = {
            "rate": hits / count if count else math.nan,
            "count": hits,
            "of": count,
            "undecided": len(own) - count,
            "interval": list(clopper_pearson(hits, count)),
        }
    return found


def format_decisions(metrics: Mapping[str, Any]) -> str:
    """The decisions of metrics.json as plain lines for the terminal; empty where none were made."""
    lines = decision_lines(metrics)
    return (
        "\n".join(["decision", *(f"  {line}" for line in lines), f"  {metrics['protocol']['decision']}"])
        if lines
        else ""
    )


def decision_lines(metrics: Mapping[str, Any]) -> list[str]:
    """Return what failed and what passed of each category of metrics.json, and how often that was right."""
    lines = []
    for category, levels in metrics["categories"].items():
        if "decision" not in levels:
            continue
        own = levels["decision"]
        counts = f"{own['fail']} fail, {own['pass']} pass"
        counts += f", {own['undecided']} undecided" if own["undecided"] else ""
        parts = [f"{category}: {counts}"]
        for key, name in (("false_alarms", "false alarms"), ("detections", "found")):
            if own[key]["of"]:
                parts.append(f"{name} {_share(own[key])}")
        lines.append("; ".join(parts))
    return lines


def _share(own: Mapping[str, Any]) -> str:
    low, high = (100 * end for end in own["interval"])
    return f"{own['count']} of {own['of']} ({100 * own['rate']:.1f} %, 95 % {low:.1f} to {high:.1f})"
