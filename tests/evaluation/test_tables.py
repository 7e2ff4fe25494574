import json
import math

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from mvead_jax.data.records import Sample, View
from mvead_jax.evaluation.scored import ScoredSample
from mvead_jax.evaluation.tables import format_table, metrics_of
from mvead_jax.files import write_json

PROTOCOL = {"method": "patchcore", "image_score": "largest"}


def scored(category, number, labels, maxima):
    """A sample whose view v has label labels[v] and image score maxima[v]; None: no such view."""
    views = tuple(View(f"C{v + 1}", "x", label) for v, label in enumerate(labels) if maxima[v] is not None)
    maps = np.stack([np.full((2, 2), np.nan if top is None else top, "f4") for top in maxima])
    maps[:, 0, 0] -= 1
    return ScoredSample(
        Sample(f"{category}{number}", category, "test", views),
        tuple(f"C{v + 1}" for v in range(len(labels))),
        maps,
    )


def random_samples(category, count, seed):
    rng = np.random.default_rng(seed)
    return [
        scored(category, n, list(map(int, rng.integers(0, 2, 3) * (n % 2))), list(rng.normal(size=3)))
        for n in range(count)
    ]


def test_scores_follow_eq_11():
    one = scored("a", 1, [0, 1, 0], [1.0, 3.0, 2.0])
    assert one.image_score("C3") == 2
    assert one.score == 3
    assert one.worst_view == "C2"


def test_of_views_that_tie_the_first_is_the_worst():
    assert scored("a", 1, [0, 0, 0], [1.0, 2.0, 2.0]).worst_view == "C2"


def test_a_missing_view_has_no_part_in_the_score():
    one = scored("a", 1, [0, 1], [1.0, None])
    assert one.score == 1
    assert one.worst_view == "C1"


def test_metrics_are_those_of_the_samples_and_images_of_a_category():
    found = random_samples("a", 20, 0) + random_samples("b", 20, 1)
    metrics = metrics_of(found, PROTOCOL)
    own = [one for one in found if one.sample.category == "b"]
    expected = roc_auc_score([one.sample.label for one in own], [one.score for one in own])
    assert metrics["categories"]["b"]["sample"]["auroc"] == pytest.approx(expected)
    expected = roc_auc_score(
        [view.label for one in own for view in one.sample.views],
        [one.image_score(view.name) for one in own for view in one.sample.views],
    )
    assert metrics["categories"]["b"]["image"]["auroc"] == pytest.approx(expected)
    both = [metrics["categories"][name]["image"]["ap"] for name in "ab"]
    assert metrics["mean"]["image"]["ap"] == pytest.approx(np.mean(both))


def test_unlabelled_samples_count_for_nothing():
    found = random_samples("a", 20, 0)
    more = [*found, scored("a", 99, [None, None, None], [9.0, 9.0, 9.0])]
    assert metrics_of(more, PROTOCOL)["categories"] == metrics_of(found, PROTOCOL)["categories"]


def test_a_category_without_defects_has_no_auroc_and_the_mean_says_how_many_have(tmp_path):
    found = random_samples("a", 20, 0) + [scored("b", n, [0, 0, 0], [1.0, 2.0, float(n)]) for n in range(3)]
    metrics = metrics_of(found, PROTOCOL)
    assert math.isnan(metrics["categories"]["b"]["sample"]["auroc"])
    assert metrics["mean"]["sample"]["categories"] == 1
    assert metrics["mean"]["sample"]["auroc"] == metrics["categories"]["a"]["sample"]["auroc"]
    write_json(tmp_path / "metrics.json", metrics)
    assert json.loads((tmp_path / "metrics.json").read_text())["categories"]["b"]["sample"]["auroc"] is None
    assert " - " in format_table(metrics)


def test_the_table_carries_base_rates_and_protocol():
    text = format_table(metrics_of(random_samples("audiojack", 20, 0), PROTOCOL))
    assert "base rate" in text
    assert "audiojack" in text
    assert "mean of 1" in text
    assert "image_score: largest" in text
    assert text.isascii()
