"""Which samples a person should see first: misses and false alarms, the worst of both before all others."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from jaxtyping import Bool, Float

from mvead_jax.evaluation.ranking import f1_max_threshold
from mvead_jax.report.findings import FoundSample

Outcome = Literal["missed", "false alarm", "found", "passed", ""]
MISTAKES = ("missed", "false alarm")
FAIL, UNDECIDED = "fail", "undecided"  # as samples.csv has it of a run that decides


@dataclass(frozen=True)
class Cut:
    """Where the samples of a category are told apart.

    Attributes:
      threshold: what defects score above, or if the basis is not "held_out" at least; None where there is none.
        The decisions of samples.csv go first, for a sample that lacks a view has a threshold of its own.
      basis: "held_out": it was set on held-out normal samples; "user": by a user; "test_labels": it is that of
        the best F1 on these very labels; empty where there is none.
      spread: standard deviation of the samples' scores, by which distances from the threshold are compared
        between categories; 1 where there is none.
      held_out: scores of the held-out samples with all views, ascending; none where none were held out.
    """

    threshold: float | None
    basis: str
    spread: float
    held_out: tuple[float, ...] = ()

    @property
    def calibrated(self) -> bool:
        return self.basis == "held_out"

    @property
    def lowest(self) -> float | None:
        """The lowest score of a sample with all views that fails, with the precision of scores."""
        if self.threshold is None:
            return None
        limit = np.float32(self.threshold)
        return float(np.nextafter(limit, np.float32(np.inf)) if self.calibrated else limit)


def cut_of(samples: Sequence[FoundSample], decided: Mapping[str, Any] | None = None) -> Cut:
    """The cut of a category.

    Args:
      decided: "decision" of the category in metrics.json: its "threshold" and "basis", and "held_out_scores".
    """
    scores = np.array([one.score for one in samples])
    spread = float(scores.std()) or 1.0
    if decided and decided.get("threshold") is not None:
        held_out = tuple(decided.get("held_out_scores", ()))
        return Cut(float(decided["threshold"]), decided.get("basis", "test_labels"), spread, held_out)
    known = [one for one in samples if one.label is not None]
    if {one.label for one in known} != {0, 1}:
        return Cut(None, "", spread)
    best = f1_max_threshold(np.array([one.score for one in known]), np.array([one.label for one in known]))
    return Cut(best, "test_labels", spread)


def called(sample: FoundSample, cut: Cut) -> str:
    """Return what a sample is called: the run's decision, else by the threshold; empty where none is known."""
    if sample.decision or cut.threshold is None:
        return sample.decision
    return FAIL if sample.score >= cut.threshold else "pass"


def outcome(sample: FoundSample, cut: Cut) -> Outcome:
    """What became of a labelled sample; empty where the label or the threshold is not known."""
    word = called(sample, cut)
    if sample.label is None or word in ("", UNDECIDED):
        return ""
    if sample.label:
        return "found" if word == FAIL else "missed"
    return "false alarm" if word == FAIL else "passed"


def rank(sample: FoundSample, cut: Cut) -> tuple[bool, float, int]:
    """The sort key of the page: mistakes first; then by how far the score lies on the wrong side of the
    threshold, in spreads; of an unlabelled sample by how far it lies above."""
    middle = 0.0 if cut.threshold is None else cut.threshold
    above = (sample.score - middle) / cut.spread
    wrong = -above if sample.label == 1 and cut.threshold is not None else above
    return outcome(sample, cut) not in MISTAKES, -wrong, sample.number


def failing_patches(maps: Float[np.ndarray, "n h w"], cut: Cut) -> Bool[np.ndarray, "n h w"] | None:
    """Which patches fail by themselves; None where no threshold is known.

    Args: maps: with the precision of their file, so that the patch that decides is not rounded below it.
    """
    if cut.lowest is None:
        return None
    return maps >= cut.lowest - abs(cut.lowest) * 2.0**-11
