"""What compare.py found, for people: Markdown in plain ASCII."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from mvead_jax.evaluation.markdown import markdown
from mvead_jax.evaluation.metrics import LEVELS, TITLES

_SHOWN = 20  # problems and differences of a kind; --json has all


def format_comparison(found: Mapping[str, Any]) -> str:
    """Metrics, scores, ranks, environments, and the verdict last."""
    parts = [f"A: {found['a']}\nB: {found['b']}\n{found['images']} images in both"]
    parts += [_metrics(found, level) for level in LEVELS if level in found["metrics"]["mean"]]
    parts.append("Percent; differences B - A [95 % of the paired bootstrap over samples] p.")
    parts.append(_scores(found))
    parts.append(_list("Environments differ in:", found["environment"]) or "Environments: no difference.")
    limits = found["tolerances"]
    stated = f"scores within {limits['score']:g} of their median, metrics within {limits['metric']:g}"
    if found["pass"]:
        parts.append(f"PASS: the same samples and settings, {stated}")
    else:
        parts.append(_list(f"FAIL ({stated}):", found["problems"]))
    return "\n\n".join(parts)


def _metrics(found: Mapping[str, Any], level: str) -> str:
    names = LEVELS[level]
    lines = []
    for category, levels in found["metrics"].items():
        own = levels[level]
        cells = [_percent(own["auroc"][run]) for run in "ab"]
        lines.append([category, *cells, *(_difference(own[name]) for name in names)])
    header = [level, "AUROC A", "AUROC B", *(f"{TITLES[name]} B - A" for name in names)]
    return markdown(header, lines, left=1)


def _scores(found: Mapping[str, Any]) -> str:
    lines = [
        [
            *(category, f"{own['equal']} of {own['count']}", f"{own['largest']:.2g}", f"{own['mean']:.2g}"),
            *(f"{own['relative_largest']:.2g}", f"{own['relative_mean']:.2g}"),
            f"{found['ranks'][category]['moved']} of {found['ranks'][category]['count']}",
            f"{found['ranks'][category]['kendall_tau']:.6f}",
        ]
        for category, own in found["scores"].items()
    ]
    header = [
        "image scores",
        "bit-equal",
        "largest difference",
        "mean",
        "largest / median score",
        "mean / median",
    ]
    return markdown([*header, "sample ranks changed", "Kendall tau"], lines, left=1)


def _list(title: str, lines: list[str]) -> str:
    if not lines:
        return ""
    more = [f"- ... and {len(lines) - _SHOWN} more"] if len(lines) > _SHOWN else []
    return "\n".join([title, *(f"- {line}" for line in lines[:_SHOWN]), *more])


def _difference(one: Mapping[str, Any]) -> str:
    if math.isnan(one["difference"]):
        return "-"
    value = f"{100 * one['difference']:+.2f}"
    if math.isnan(one["p"]):
        return value
    low, high = one["interval"]
    return f"{value} [{100 * low:+.2f}, {100 * high:+.2f}] p {one['p']:.3f}"


def difference_cells(one: Mapping[str, Any]) -> tuple[str, str, str, str, str]:
    """Return a metric of A, of B, their difference, its interval and p, as cells of a table."""
    if math.isnan(one["difference"]):
        return _percent(one["a"]), _percent(one["b"]), "-", "", ""
    value = f"{100 * one['difference']:+.2f}"
    if math.isnan(one["p"]):
        return _percent(one["a"]), _percent(one["b"]), value, "", ""
    low, high = one["interval"]
    interval = f"{100 * low:+.2f} to {100 * high:+.2f}"
    return _percent(one["a"]), _percent(one["b"]), value, interval, f"{one['p']:.3f}"


def _percent(value: float) -> str:
    return "-" if math.isnan(value) else f"{100 * value:.2f}"
