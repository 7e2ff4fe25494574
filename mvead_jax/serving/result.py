"""The layout of a result in JSON: what the Inspector gives, `mvead serve` answers and `mvead watch` writes.

docs/serving.md lists the keys; a test holds the list, these types and the values against each other.
"""

from __future__ import annotations

import math
from typing import Literal, TypedDict

from mvead_jax.decision.decide import Basis, Decision


class ViewJson(TypedDict):
    """A view beside the same view of the held-out samples; None where there is no calibration. score: which the
    threshold is for; of a run with score.image_evidence the image's own score, beside it in the result, is another."""

    score: float
    p_value: float | None
    threshold: float | None


class DecisionJson(TypedDict):
    """Pass or fail of the sample, and why. Its fields are those of `Decision`."""

    decision: Literal["pass", "fail", "undecided"]
    p_value: float | None
    threshold: float | None
    basis: Basis
    false_alarms: float | None
    held_out: int
    view: str
    place: list[float] | None
    views: dict[str, ViewJson]


class ResultJson(TypedDict):
    """What was found on one part. Its fields are those of `Inspection`, without the maps."""

    category: str
    score: float
    worst_view: str
    place: list[int]
    views: dict[str, float]
    missing: list[str]
    warnings: list[str]
    decision: DecisionJson | None
    text: str


def decision_json(decision: Decision) -> DecisionJson:
    """Return a decision without the score, which stands beside it, and without words."""
    return {
        "decision": decision.decision,
        "p_value": decision.p_value,
        "threshold": decision.threshold,
        "basis": decision.basis,
        "false_alarms": None if math.isnan(decision.false_alarms) else decision.false_alarms,
        "held_out": decision.calibration,
        "view": decision.blamed,
        "place": None if decision.place is None else list(decision.place),
        "views": {
            one.view: {"score": one.score, "p_value": one.p_value, "threshold": one.threshold}
            for one in decision.views
        },
    }
