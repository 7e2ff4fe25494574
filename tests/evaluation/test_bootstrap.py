"""Weighted counts against metrics of samples that were really drawn."""

import math

import numpy as np
import pytest
from metric_cases import cases

from mvead_jax.evaluation.bootstrap import copies, interval, paired, ranking_replicates, replicates
from mvead_jax.evaluation.pixel_bootstrap import count_samples, pixel_replicates
from mvead_jax.evaluation.pixels import pixel_metrics
from mvead_jax.evaluation.ranking import auroc, average_precision, f1_max

SLOW = {"auroc": auroc, "ap": average_precision, "f1_max": f1_max}


def test_a_resample_has_as_many_samples_of_either_label():
    labels = np.array([1, 0, 0, 1, 1, -1, 0, 1])
    drawn = copies(labels, 50, 3, "usb")
    for label in (1, 0, -1):
        assert (drawn[:, labels == label].sum(1) == (labels == label).sum()).all()
    np.testing.assert_array_equal(drawn, copies(labels, 50, 3, "usb"))
    assert (drawn != copies(labels, 50, 4, "usb")).any()
    assert (drawn != copies(labels, 50, 3, "tape")).any()


@pytest.mark.parametrize("digits", [0, 6])  # with and without ties
def test_replicates_are_the_metrics_of_the_samples_that_were_drawn(digits):
    random = np.random.default_rng(0)
    sample = np.repeat(np.arange(12), 3)
    labels = (random.random(36) < 0.3).astype(int)
    scores = np.round(random.normal(size=36) + labels, digits)
    drawn = copies(np.arange(12) % 2, 40, 0, "a")
    found = ranking_replicates(scores, labels, sample, drawn, "image")
    for row, own in enumerate(drawn):
        again = np.repeat(np.arange(36), own[sample])
        for name, metric in SLOW.items():
            np.testing.assert_allclose(found[name][row], metric(scores[again], labels[again]), rtol=1e-12)


def test_without_both_labels_or_any_score_a_replicate_is_not_defined():
    drawn = copies(np.zeros(4, int), 5, 0, "a")
    found = ranking_replicates(np.arange(4.0), np.zeros(4, int), np.arange(4), drawn, "image")
    assert all(np.isnan(own).all() for own in found.values())
    none = np.zeros(0, int)
    assert ranking_replicates(np.arange(4.0), np.arange(4) % 2, np.arange(4), drawn[:0], "image")[
        "ap"
    ].shape == (0,)
    found = ranking_replicates(none, none, none, drawn, "image")
    assert [len(own) for own in found.values()] == [5, 5, 5]
    assert all(map(math.isnan, interval(found["auroc"])))


def test_the_interval_covers_the_truth_about_as_often_as_it_says():
    random, truth, hits = np.random.default_rng(0), 0.7602, 0  # P(N(1, 1) > N(0, 1))
    labels = np.repeat([0, 1], 60)
    for trial in range(200):
        scores = random.normal(size=120) + labels
        drawn = copies(labels, 200, trial, "a")
        low, high = interval(ranking_replicates(scores, labels, np.arange(120), drawn, "image")["auroc"])
        hits += low <= truth <= high
    assert 0.89 < hits / 200 < 0.99


def test_bins_cost_less_than_a_thousandth():
    maps, masks = cases(shape=(24, 32, 32))["outlier"]
    exact = pixel_metrics(lambda: [(maps, masks)]).to_dict()
    counts = count_samples(lambda: ((at // 3, maps[at : at + 1], masks[at : at + 1]) for at in range(24)), 8)
    assert counts.true.sum() == masks.sum()
    assert counts.false.sum() == (~masks).sum()
    assert counts.weight.sum() == pytest.approx(exact["regions"])
    binned = replicates(lambda part: counts.curves(part, 0.3), np.ones((1, 8), int), "pixel")
    for name, value in binned.items():
        assert value[0] == pytest.approx(exact[name], abs=1e-3), name


@pytest.mark.parametrize("name", ["random", "skewed", "outlier", "tied", "narrow"])
def test_pixel_replicates_are_those_of_the_pixels_that_were_drawn(name):
    maps, masks = cases(shape=(24, 32, 32))[name]
    sample = np.repeat(np.arange(8), 3)
    exact = pixel_metrics(lambda: [(maps, masks)]).to_dict()
    drawn = copies(np.arange(8) % 2, 6, 0, "a")

    def samples():
        return ((at, maps[sample == at], masks[sample == at]) for at in range(8))

    found = pixel_replicates(samples, drawn, exact)
    for row, own in enumerate(drawn):
        again = np.repeat(np.arange(24), own[sample])
        expected = pixel_metrics(lambda chosen=again: [(maps[chosen], masks[chosen])]).to_dict()
        for metric in ("auroc", "ap", "f1_max", "aupro"):
            assert found[metric][row] == pytest.approx(expected[metric], abs=2e-3), metric


def test_the_same_run_twice_differs_by_nothing_and_a_better_one_surely():
    random = np.random.default_rng(0)
    labels, sample = np.repeat([0, 1], 100), np.arange(200)
    worse = random.normal(size=200) + labels
    better = worse + labels
    drawn = copies(labels, 500, 0, "a")
    of_worse, of_better = (
        ranking_replicates(own, labels, sample, drawn, "image")["auroc"] for own in (worse, better)
    )
    assert paired(0.7, 0.7, of_worse, of_worse) == (0, (0, 0), 1)
    found = paired(auroc(better, labels), auroc(worse, labels), of_better, of_worse)
    assert found.interval[0] > 0
    assert found.p == pytest.approx(2 / 501)


def test_of_equals_p_is_small_as_rarely_as_it_says():
    random, small = np.random.default_rng(1), 0
    labels, sample = np.repeat([0, 1], 60), np.arange(120)
    for trial in range(150):
        drawn = copies(labels, 200, trial, "a")
        runs = [random.normal(size=120) + labels for _ in range(2)]
        values = [ranking_replicates(own, labels, sample, drawn, "image")["auroc"] for own in runs]
        small += paired(*(auroc(own, labels) for own in runs), *values).p < 0.1
    assert 0.03 < small / 150 < 0.19
