import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import metrics

from mvead_jax.evaluation.ranking import (
    auroc,
    average_precision,
    f1_max,
    f1_max_threshold,
    fpr_at_tpr,
)


def sklearn_f1_max(labels, scores):
    precision, recall, _ = metrics.precision_recall_curve(labels, scores)
    return (2 * precision * recall / np.maximum(precision + recall, 1e-300)).max()


@given(st.lists(st.tuples(st.integers(-3, 3), st.booleans()), min_size=2, max_size=60))
@settings(deadline=None)
def test_agrees_with_scikit_learn_on_scores_full_of_ties(pairs):
    scores = np.array([score for score, _ in pairs], "f4")
    labels = np.array([label for _, label in pairs], int)
    if 0 < labels.sum() < len(labels):
        assert auroc(scores, labels) == pytest.approx(metrics.roc_auc_score(labels, scores), abs=1e-12)
    if labels.sum():
        expected = metrics.average_precision_score(labels, scores)
        assert average_precision(scores, labels) == pytest.approx(expected, abs=1e-12)
        best = f1_max(scores, labels)
        assert best == pytest.approx(sklearn_f1_max(labels, scores), abs=1e-12)
        reaching = {t for t in scores if metrics.f1_score(labels, scores >= t) >= best - 1e-12}
        assert f1_max_threshold(scores, labels) == max(reaching)


@given(
    st.lists(st.tuples(st.integers(-3, 3), st.booleans()), min_size=2, max_size=60),
    st.sampled_from([0.05, 0.07, 0.5, 0.57, 0.95, 1.0]),
)
@settings(deadline=None)
def test_the_fpr_at_a_tpr_is_that_of_the_first_threshold_that_reaches_it(pairs, tpr):
    scores = np.array([score for score, _ in pairs], "f4")
    labels = np.array([label for _, label in pairs], int)
    if 0 < labels.sum() < len(labels):
        false, true, _ = metrics.roc_curve(labels, scores, drop_intermediate=False)
        expected = false[np.argmax(true >= tpr)]
        assert fpr_at_tpr(scores, labels, tpr) == pytest.approx(expected, abs=1e-12)
    else:
        assert math.isnan(fpr_at_tpr(scores, labels, tpr))


@pytest.mark.parametrize("tpr", [0, -0.1, 1.1, math.nan])
def test_a_tpr_outside_its_range_is_refused(tpr):
    with pytest.raises(ValueError, match="at most 1"):
        fpr_at_tpr(np.array([1.0, 2.0]), np.array([0, 1]), tpr)


def test_agrees_with_scikit_learn_on_many_distinct_scores():
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 2, 5000)
    scores = (rng.normal(size=5000) + labels).astype("f4")
    assert auroc(scores, labels) == pytest.approx(metrics.roc_auc_score(labels, scores), abs=1e-12)
    expected = metrics.average_precision_score(labels, scores)
    assert average_precision(scores, labels) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("kind", [np.uint8, np.int8, np.int64, np.float16, bool])
def test_the_type_of_the_scores_does_not_matter(kind):
    scores, labels = np.array([0, 0, 1, 1]).astype(kind), np.array([0, 0, 1, 1])
    assert auroc(scores, labels) == average_precision(scores, labels) == f1_max(scores, labels) == 1
    assert auroc(np.array([-128, 127], np.int8), np.array([0, 1])) == 1


def test_infinite_scores_are_scores():
    assert auroc(np.array([np.inf, 1.0, -np.inf]), np.array([1, 0, 0])) == 1
    assert auroc(np.array([np.inf, np.inf]), np.array([1, 0])) == 0.5


@pytest.mark.parametrize("metric", [auroc, average_precision, f1_max, f1_max_threshold, fpr_at_tpr])
def test_a_ranking_without_defects_has_no_value(metric):
    assert math.isnan(metric(np.array([1.0, 2.0]), np.array([0, 0])))
    assert math.isnan(metric(np.array([]), np.array([], int)))


def test_constant_scores_say_nothing():
    scores, labels = np.full(10, 3.0), np.arange(10) < 4
    assert auroc(scores, labels) == 0.5
    assert average_precision(scores, labels) == 0.4
    assert f1_max(scores, labels) == pytest.approx(8 / 14)
    assert f1_max_threshold(scores, labels) == 3
    assert fpr_at_tpr(scores, labels) == 1


def test_auroc_of_defects_alone_has_no_value():
    assert math.isnan(auroc(np.array([1.0, 2.0]), np.array([1, 1])))
    assert average_precision(np.array([1.0, 2.0]), np.array([1, 1])) == 1


def test_nan_scores_and_strange_labels_are_refused():
    with pytest.raises(ValueError, match="NaN"):
        auroc(np.array([1.0, np.nan]), np.array([0, 1]))
    with pytest.raises(ValueError, match="0 or 1"):
        auroc(np.array([1.0, 2.0]), np.array([0, 2]))
    with pytest.raises(ValueError, match="one length"):
        auroc(np.array([1.0, 2.0]), np.array([0, 1, 1]))
