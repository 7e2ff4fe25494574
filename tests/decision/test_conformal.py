"""p-values and thresholds beside their definition, and the guarantee."""

import math
from fractions import Fraction

import numpy as np
import pytest
from scipy import stats

from mvead_jax.decision.conformal import allowed_above, p_value, samples_needed, threshold

TARGETS = (0.01, 0.05, 0.07, 0.1, 0.25, 0.29, 0.5, 0.9)


def test_p_values_are_those_of_a_loop():
    rng = np.random.default_rng(0)
    for count in (1, 2, 19, 40):
        scores = rng.integers(0, 12, count).astype(np.float32)  # many ties
        for score in range(-1, 13):
            higher = sum(1 for one in scores if one >= score)
            assert p_value(scores, score) == (1 + higher) / (count + 1)


@pytest.mark.parametrize("target", TARGETS)
def test_a_score_lies_above_the_threshold_exactly_if_its_p_value_is_at_most_the_target(target):
    rng = np.random.default_rng(1)
    for count in range(samples_needed(target), samples_needed(target) + 60):
        scores = rng.integers(0, 10, count).astype(np.float32)
        limit = threshold(scores, target)
        for score in np.arange(-0.5, 10.5, 0.5):
            assert (score > limit) == (p_value(scores, score) <= target)


@pytest.mark.parametrize("target", TARGETS)
def test_the_threshold_is_the_order_statistic_of_the_definition(target):
    for count in range(samples_needed(target), samples_needed(target) + 60):
        scores = np.random.default_rng(count).permutation(count).astype(np.float32)
        rank = math.ceil((count + 1) * (1 - Fraction(str(target))))
        assert threshold(scores, target) == sorted(scores)[rank - 1]


@pytest.mark.parametrize("target", TARGETS)
def test_one_sample_fewer_than_needed_can_fail_nothing(target):
    needed = samples_needed(target)
    assert needed == math.ceil(1 / Fraction(str(target))) - 1
    assert allowed_above(needed, target) >= 1
    assert allowed_above(needed - 1, target) == 0
    with pytest.raises(ValueError, match="too few"):
        threshold(np.zeros(needed - 1, np.float32), target)


def false_alarms(scores, count, target):
    """Share of the rows' other scores that lie above the threshold of the first `count` of each row."""
    limits = np.array([threshold(row[:count], target) for row in scores])
    return (scores[:, count:] > limits[:, None]).mean(1)


@pytest.mark.parametrize(("count", "target"), [(19, 0.05), (40, 0.05), (59, 0.1), (10, 0.3)])
def test_exchangeable_scores_fail_as_often_as_the_beta_binomial_says(count, target):
    """The mean of many calibration sets lies within four standard errors of floor((n + 1) a) / (n + 1), and
    the counts of one score each are spread as the law says."""
    rounds, new = 4000, 50
    scores = np.random.default_rng([2, count]).gamma(2, size=(rounds, count + new)).astype(np.float32)
    above = allowed_above(count, target)
    law = stats.betabinom(new, above, count + 1 - above)
    rates = false_alarms(scores, count, target)
    error = law.std() / new / math.sqrt(rounds)
    assert abs(rates.mean() - above / (count + 1)) < 4 * error
    assert rates.mean() < target + 4 * error
    assert rates.std() * new == pytest.approx(law.std(), rel=0.1)


def test_scores_that_depend_on_each_other_keep_the_guarantee_if_they_are_exchangeable():
    """A common shift of each row, as of a light that changed for all: nothing changes."""
    rng = np.random.default_rng(3)
    scores = (rng.normal(size=(4000, 60)) + 10 * rng.normal(size=(4000, 1))).astype(np.float32)
    law = stats.betabinom(41, 1, 19)
    assert false_alarms(scores, 19, 0.05).mean() < 0.05 + 4 * law.std() / 41 / math.sqrt(4000)


def test_ties_make_fewer_false_alarms_and_never_more():
    coarse = np.random.default_rng(4).integers(0, 3, (4000, 80)).astype(np.float32)
    assert false_alarms(coarse, 40, 0.05).mean() < 0.05
    assert not false_alarms(np.ones((2, 80)), 40, 0.05).any()


def test_a_threshold_without_the_plus_one_breaks_the_guarantee():
    """The simulation can fail: the plain 95 % quantile of 19 scores lets about 10 % through."""
    scores = np.random.default_rng(5).normal(size=(4000, 69))
    limits = np.sort(scores[:, :19], 1)[:, math.ceil(0.95 * 18) - 1]
    assert (scores[:, 19:] > limits[:, None]).mean() > 0.08
