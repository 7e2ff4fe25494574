"""Split-conformal p-values and thresholds, as pure functions of scores.

Take n calibration scores and that of a new good sample, exchangeable with them: every order of the n + 1 is
equally likely. Then P(p <= a) <= a for the p-value

    p = (1 + #{calibration >= score}) / (n + 1),

whatever the scores' distribution and however many of them tie. "p <= a" is the same as "score > threshold"
for the k-th smallest calibration score, k = ceil((n + 1)(1 - a)). This holds on average over calibration
sets: given one, the false-alarm rate is Beta(n + 1 - k, k) distributed, or lower with ties.

Vovk, Gammerman and Shafer, "Algorithmic learning in a random world", 2005; Bates et al., "Testing for
outliers with conformal p-values", Annals of Statistics 51, 2023.
"""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
from jaxtyping import Float


def p_value(calibration: Float[np.ndarray, " n"], score: float) -> float:
    """The conformal p-value of a score; a tie counts as higher, so never too small."""
    return (1 + int(np.count_nonzero(calibration >= score))) / (len(calibration) + 1)


def threshold(calibration: Float[np.ndarray, " n"], false_alarms: float) -> float:
    """What the score of a sample that fails lies above.

    Args:
      calibration: at least `samples_needed(false_alarms)` scores.
      false_alarms: the target, above 0 and below 1.

    Raises:
      ValueError: too few scores.
    """
    above = allowed_above(len(calibration), false_alarms)
    if not above:
        raise ValueError(f"{len(calibration)} scores are too few for {false_alarms:g}")
    return float(np.sort(calibration)[-above])


def allowed_above(count: int, false_alarms: float) -> int:
    """floor((n + 1) a) = n + 1 - k: the ranks, from the highest of n + 1, that fail."""
    return math.floor((count + 1) * _exact(false_alarms))


def samples_needed(false_alarms: float) -> int:
    """The smallest n with which anything can fail: p is 1 / (n + 1) at its smallest."""
    return math.ceil(1 / _exact(false_alarms)) - 1


def _exact(false_alarms: float) -> Fraction:
    """The decimal that was written: 0.29 * 100 is 28.999... in floats."""
    return Fraction(repr(float(false_alarms)))
