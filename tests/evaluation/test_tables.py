import json
import math

import numpy as np
import pytest
from sklearn.metrics import f1_score, roc_auc_score

from mvead_jax.data.records import Sample, View
from mvead_jax.evaluation.metrics import LEVELS
from mvead_jax.evaluation.scored import ScoredSample
from mvead_jax.evaluation.tables import format_table, level_metrics, metrics_of
from mvead_jax.runtime.files import write_json

PROTOCOL = {"method": "patchcore", "image_score": "largest"}


def scored(labels, maxima):
    """A sample whose view v has label labels[v] and image score maxima[v]; None: no such view."""
    views = tuple(View(f"C{v + 1}", "x", label) for v, label in enumerate(labels) if maxima[v] is not None)
    maps = np.stack([np.full((2, 2), np.nan if top is None else top, "f4") for top in maxima])
    maps[:, 0, 0] -= 1
    names = tuple(f"C{v + 1}" for v in range(len(labels)))
    scores = np.array([np.nan if top is None else top for top in maxima], "f4")
    return ScoredSample(Sample("a1", "a", "test", views), names, maps, scores, scores)


def category(seed, defects=True):
    """({level: metrics}, {"<level>_<metric>": [B]}) of random scores."""
    random = np.random.default_rng(seed)
    labels = (np.arange(30) % 2) * defects
    levels = {level: level_metrics(level, random.normal(size=30) + labels, labels) for level in LEVELS}
    aupro = random.random() if defects else math.nan
    levels["pixel"] |= {"aupro": aupro, "error": dict.fromkeys(LEVELS["pixel"], 0.0)}
    replicates = {
        f"{level}_{name}": levels[level][name] + random.uniform(-0.1, 0.1, 50)
        for level, names in LEVELS.items()
        for name in names
    }
    return levels, replicates


def test_scores_follow_eq_11():
    one = scored([0, 1, 0], [1.0, 3.0, 2.0])
    assert one.image_score("C3") == 2
    assert one.score == 3
    assert one.worst_view == "C2"


def test_of_views_that_tie_the_first_is_the_worst():
    assert scored([0, 0, 0], [1.0, 2.0, 2.0]).worst_view == "C2"


def test_a_missing_view_has_no_part_in_the_score():
    one = scored([0, 1], [1.0, None])
    assert one.score == 1
    assert one.worst_view == "C1"


def test_metrics_of_a_level_are_scikit_learns_with_what_they_are_of():
    random = np.random.default_rng(0)
    scores, labels = random.normal(size=40), np.arange(40) % 4 == 0
    found = level_metrics("image", scores, labels.astype(int))
    assert found["auroc"] == pytest.approx(roc_auc_score(labels, scores))
    assert (found["count"], found["defective"], found["base_rate"]) == (40, 10, 0.25)
    assert f1_score(labels, scores >= found["f1_max_threshold"]) == pytest.approx(found["f1_max"])
    assert found["fpr_at_tpr95"] == np.mean(scores[~labels] >= scores[labels].min())


def test_a_mean_is_plain_and_its_interval_that_of_resampled_means():
    (a, of_a), (b, of_b) = category(0), category(1)
    found = metrics_of({"a": a, "b": b}, PROTOCOL, [of_a, of_b])
    assert found["mean"]["image"]["ap"] == pytest.approx((a["image"]["ap"] + b["image"]["ap"]) / 2)
    both = (of_a["pixel_aupro"] + of_b["pixel_aupro"]) / 2
    assert found["mean"]["pixel"]["interval"]["aupro"] == pytest.approx(np.quantile(both, [0.025, 0.975]))
    own = np.quantile(of_b["sample_auroc"], [0.025, 0.975])
    assert found["categories"]["b"]["sample"]["interval"]["auroc"] == pytest.approx(own)


def test_a_category_without_defects_has_no_auroc_and_the_mean_says_how_many_have(tmp_path):
    (a, of_a), (b, of_b) = category(0), category(1, defects=False)
    found = metrics_of({"a": a, "b": b}, PROTOCOL, [of_a, of_b])
    assert math.isnan(found["categories"]["b"]["sample"]["auroc"])
    assert found["mean"]["sample"]["categories"] == 1
    assert found["mean"]["sample"]["auroc"] == a["sample"]["auroc"]
    assert found["mean"]["sample"]["interval"] == found["categories"]["a"]["sample"]["interval"]
    write_json(tmp_path / "metrics.json", found)
    read = json.loads((tmp_path / "metrics.json").read_text())
    assert read["categories"]["b"]["sample"]["auroc"] is None
    assert format_table(read) == format_table(found)
    assert " - " in format_table(found)


def test_the_table_has_every_level_with_intervals_base_rates_and_protocol():
    levels, replicates = category(0)
    text = format_table(metrics_of({"audiojack": levels}, PROTOCOL, [replicates]))
    found = metrics_of({"audiojack": levels}, PROTOCOL, [replicates])["mean"]["pixel"]
    low, high = (100 * one for one in found["interval"]["aupro"])
    assert f"{100 * found['aupro']:.1f} [{low:.1f}, {high:.1f}]" in text
    for word in ("sample", "image", "pixel", "AUPRO", "base rate", "mean of 1", "image_score: largest"):
        assert word in text
    assert text.isascii()
    assert max(map(len, text.splitlines())) <= 120
    assert "[" not in format_table(metrics_of({"audiojack": levels}, PROTOCOL))
