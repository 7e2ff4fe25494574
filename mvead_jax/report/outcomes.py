"""Which samples a person should see first: misses and false alarms, the worst of both before all others."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from mvead_jax.evaluation.ranking import f1_max_threshold
from mvead_jax.report.findings import FoundSample

Outcome = Literal["missed", "false alarm", "found", "passed", ""]
DEFECTIVE = "defective"  # as samples.csv says it of a calibrated run


@dataclass(frozen=True)
class Cut:
    """Where the samples of a category are told apart.

    Attributes:
      threshold: a sample is called defective if its score is at least this; None where there is none.
      calibrated: it was set on held-out normal samples; else it is that of the best F1 on these very labels.
      spread: standard deviation of the samples' scores, by which distances from the threshold are compared
        between categories; 1 where there is none.
    """

    threshold: float | None
    calibrated: bool
    spread: float


def cut_of(samples: Sequence[FoundSample], calibrated: float | None = None) -> Cut:
    """The cut of a category.

    Args:
      calibrated: the threshold of a calibrated run.
    """
    scores = np.array([one.score for one in samples])
    spread = float(scores.std()) or 1.0
    if calibrated is not None:
        return Cut(calibrated, True, spread)
    known = [one for one in samples if one.label is not None]
    if {one.label for one in known} != {0, 1}:
        return Cut(None, False, spread)
    best = f1_max_threshold(np.array([one.score for one in known]), np.array([one.label for one in known]))
    return Cut(best, False, spread)


def outcome(sample: FoundSample, cut: Cut) -> Outcome:
    """What became of a labelled sample; empty where the label or the threshold is not known."""
    if sample.label is None or (cut.threshold is None and not sample.decision):
        return ""
    called = sample.decision == DEFECTIVE if sample.decision else sample.score >= cut.threshold
    if sample.label:
        return "found" if called else "missed"
    return "false alarm" if called else "passed"


def surprise(sample: FoundSample, cut: Cut) -> float:
    """How far the score lies on the wrong side of the threshold, in spreads; of an unlabelled sample how far
    it lies above."""
    middle = 0.0 if cut.threshold is None else cut.threshold
    above = (sample.score - middle) / cut.spread
    return -above if sample.label == 1 and cut.threshold is not None else above


def telling(samples: Sequence[FoundSample], cut: Cut, most: int) -> list[FoundSample]:
    """Up to `most` samples of a category in the order in which the report lists them, and among them as many
    of the highest scores as of the misses and false alarms."""
    first = sorted(samples, key=lambda one: (-surprise(one, cut), one.number))
    highest = sorted(samples, key=lambda one: (-one.score, one.number))
    return list(dict.fromkeys(one for pair in zip(first, highest, strict=True) for one in pair))[:most]
