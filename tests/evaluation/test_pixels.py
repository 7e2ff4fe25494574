"""All pixel metrics against scikit-learn and the slow AUPRO; the streaming mode against its own bounds."""

import json
import math
from collections import Counter
from fractions import Fraction
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from metric_cases import cases, slow_aupro
from sklearn import metrics as sklearn_metrics

from mvead_jax.evaluation import ranking
from mvead_jax.evaluation.counting import Sketch, thinned
from mvead_jax.evaluation.metrics import Curve, auroc
from mvead_jax.evaluation.pixels import pixel_metrics
from mvead_jax.evaluation.regions import aupro
from mvead_jax.runtime.files import write_json

METRICS = ("auroc", "ap", "f1_max", "aupro")


def in_batches(maps, masks, size=5):
    return lambda: ((maps[n : n + size], masks[n : n + size]) for n in range(0, len(maps), size))


@pytest.mark.parametrize("name", cases())
def test_exact_metrics_are_those_of_scikit_learn(name):
    maps, masks = cases()[name]
    found = pixel_metrics(in_batches(maps, masks))
    scores, labels = maps.ravel().astype(float), masks.ravel().astype(int)
    assert found.bounds["auroc"].value == pytest.approx(
        sklearn_metrics.roc_auc_score(labels, scores), abs=1e-9
    )
    assert found.bounds["ap"].value == pytest.approx(
        sklearn_metrics.average_precision_score(labels, scores), abs=1e-9
    )
    assert found.bounds["f1_max"].value == pytest.approx(ranking.f1_max(scores, labels), abs=1e-9)
    assert found.f1_max_threshold == ranking.f1_max_threshold(scores, labels)
    f1 = sklearn_metrics.f1_score(labels, scores >= found.f1_max_threshold)
    assert found.bounds["f1_max"].value == pytest.approx(f1, abs=1e-9)
    assert found.bounds["aupro"].value == aupro(maps, masks)
    assert [found.bounds[metric].error for metric in METRICS] == [0, 0, 0, 0]
    assert (found.pixels, found.defective) == (maps.size, labels.sum())


@pytest.mark.parametrize("mixed", [False, True])
def test_the_auroc_of_more_pairs_than_int64_holds_is_right(mixed):
    none = np.zeros(2)
    true, false = np.array([6 * 10**8 - 1, 1]), np.array([10, 33 * 10**9])
    own = Curve(np.array([2.0, 1.0]), true, false, none, np.array([False, mixed]))
    share = Fraction(1, 2 * 6 * 10**8 * (33 * 10**9 + 10))
    tied = 2 * (6 * 10**8 - 1) * 33 * 10**9 + 10 * (6 * 10**8 - 1)
    low, high = auroc(own)
    assert low == pytest.approx(float((tied + (not mixed) * 33 * 10**9) * share), abs=1e-12)
    assert high == pytest.approx(float((tied + (1 + mixed) * 33 * 10**9) * share), abs=1e-12)
    assert low <= high <= 1


@pytest.mark.parametrize("share", [0.2, 0.05, 0.02])
@pytest.mark.parametrize("name", cases())
def test_the_true_value_lies_within_the_bounds_that_streaming_reports(name, share):
    maps, masks = cases()[name]
    exact = pixel_metrics(in_batches(maps, masks))
    found = pixel_metrics(in_batches(maps, masks), exact_pixels=100, mixed_share=share)
    logarithms = math.log(masks.size) * 2.44
    for metric, apart in zip(METRICS, (1, logarithms, 2, 1), strict=True):
        true, (low, high) = exact.bounds[metric].value, found.bounds[metric]
        assert low - 1e-12 <= true <= high + 1e-12
        assert high - low <= apart * 2 * share + 1e-12
    assert (found.pixels, found.defective) == (exact.pixels, exact.defective)
    labels, scores = masks.ravel().astype(int), maps.ravel()
    f1 = sklearn_metrics.f1_score(labels, scores >= found.f1_max_threshold)
    assert found.bounds["f1_max"].low == pytest.approx(f1, abs=1e-12)


@pytest.mark.parametrize("kind", ["smooth", "tied", "outlier", "narrow", "upside down"])
def test_streaming_as_it_is_set_is_never_wrong_by_more_than_1e_4(kind):
    random = np.random.default_rng(0)
    shape = (6, 512, 512)
    masks = np.zeros(shape, bool)
    masks[:, :400] = True  # 1.2e6 pixels in 6 regions,
    masks[:, 402::4, ::8] = True  # and 11 thousand regions of one
    maps = random.gamma(3, 1, shape).astype(np.float32) + masks
    if kind == "tied":
        maps = np.round(maps, 2)
    elif kind == "outlier":
        maps[0, 0, 0] = maps[3, 511, 511] = 100 * maps.max()
    elif kind == "narrow":
        maps = np.float32(1) + maps * np.float32(1e-5)
    elif kind == "upside down":
        maps = -maps
    exact = pixel_metrics(in_batches(maps, masks, 1))
    found = pixel_metrics(in_batches(maps, masks, 1), exact_pixels=2**20)
    for metric in METRICS:
        true, bounds = exact.bounds[metric].value, found.bounds[metric]
        assert abs(bounds.value - true) <= bounds.error + 1e-12
        assert bounds.error < 1e-4
    if kind == "smooth":
        assert found.bounds["auroc"].error > 0  # or nothing was tested


def test_one_outlier_moves_no_metric_that_is_a_rank_of_all_others():
    maps, masks = cases()["random"]
    spoiled, _ = cases()["outlier"]
    for budget in (10**6, 400):
        before = pixel_metrics(in_batches(maps, masks), exact_pixels=budget, mixed_share=2e-3)
        after = pixel_metrics(in_batches(spoiled, masks), exact_pixels=budget, mixed_share=2e-3)
        for metric in ("auroc", "aupro"):
            one, other = before.bounds[metric], after.bounds[metric]
            assert abs(one.value - other.value) < 2e-3
            assert other.error <= 1.1 * one.error + 1e-4


@pytest.mark.parametrize("budget", [10**6, 400])
def test_the_size_of_the_batches_does_not_matter(budget):
    maps, masks = cases()["random"]
    found = [
        pixel_metrics(in_batches(maps, masks, size), exact_pixels=budget, mixed_share=0.01)
        for size in (1, 5, 12)
    ]
    assert found[0] == found[1] == found[2]


def test_images_may_differ_in_size():
    maps, masks = cases()["random"]
    parts = [(maps[:5, :20], masks[:5, :20]), (maps[5:, :, :8], masks[5:, :, :8])]
    found = pixel_metrics(lambda: iter(parts))
    scores, labels = (np.concatenate([part[n].ravel() for part in parts]) for n in (0, 1))
    assert found.bounds["auroc"].value == ranking.auroc(scores, labels)
    assert found.pixels == len(scores)


@pytest.mark.parametrize("budget", [10**6, 400])
def test_regions_say_how_much_of_them_is_above_the_best_threshold(budget):
    maps, masks = cases()["random"]
    found = pixel_metrics(in_batches(maps, masks), exact_pixels=budget)
    per_image = Counter(region.image for region in found.regions)
    assert not any(per_image[image] for image in range(0, 12, 3))
    assert sum(region.area for region in found.regions) == masks.sum()
    hits = sum(region.found * region.area for region in found.regions)
    assert hits == pytest.approx((maps[masks] >= found.f1_max_threshold).sum())
    region = found.regions[0]
    x, y, width, height = region.box
    inside = maps[region.image, y : y + height, x : x + width]
    assert region.largest <= inside.max()


@pytest.mark.parametrize("value", [False, True])
def test_of_one_class_only_what_is_defined_has_a_value(value):
    maps = np.random.default_rng(0).random((2, 4, 4), np.float32)
    found = pixel_metrics(in_batches(maps, np.full(maps.shape, value)))
    assert math.isnan(found.bounds["auroc"].value)
    assert math.isnan(found.bounds["aupro"].value)
    assert found.bounds["ap"].value == 1 if value else math.isnan(found.bounds["ap"].value)
    assert found.bounds["f1_max"].value == 1 if value else math.isnan(found.bounds["f1_max"].value)
    assert found.pixels == 32


def test_without_a_pixel_nothing_is_defined():
    found = pixel_metrics(list)
    assert (found.pixels, found.defective, found.regions) == (0, 0, ())
    assert all(math.isnan(found.bounds[metric].value) for metric in METRICS)


def test_the_content_of_metrics_json(tmp_path):
    maps, masks = cases()["random"]
    content = pixel_metrics(in_batches(maps, masks)).to_dict()
    write_json(tmp_path / "metrics.json", content)
    read = json.loads((tmp_path / "metrics.json").read_text())
    assert read == content
    assert set(METRICS) < set(read)
    assert read["error"] == dict.fromkeys(METRICS, 0)
    assert read["base_rate"] == masks.mean()


def test_maps_that_can_be_read_only_once_are_refused():
    maps, masks = cases()["random"]
    once = in_batches(maps, masks)()
    with pytest.raises(ValueError, match="start again at the first image"):
        pixel_metrics(lambda: once)


def test_the_image_that_is_wrong_is_named():
    maps, masks = cases()["random"]
    maps[7, 0, 0] = np.nan
    with pytest.raises(ValueError, match="image 7: its map holds NaN"):
        pixel_metrics(in_batches(maps, masks))
    with pytest.raises(ValueError, match="image 5: maps change from float32 to float64"):
        pixel_metrics(lambda: [(maps[:5], masks[:5]), (maps[:5].astype(float), masks[:5])])


@given(
    st.lists(st.tuples(st.integers(0, 9), st.integers(1, 30)), min_size=1, max_size=80),
    st.integers(1, 30),
    st.sampled_from([0.3, 0.1, 0.03]),
)
@settings(deadline=None)
def test_between_two_edges_lies_less_than_the_share(pixels, chunk, share):
    scores = np.array([score for score, _ in pixels], np.float32)
    weight = 1 / np.array([area for _, area in pixels])
    parts = [slice(n, n + chunk) for n in range(0, len(pixels), chunk)]
    sketches = [
        thinned([Sketch(scores[part], np.ones(len(scores[part])), weight[part])], share) for part in parts
    ]
    whole = thinned(sketches, share)
    assert whole.count.sum() == len(pixels)
    assert whole.weight.sum() == pytest.approx(weight.sum())
    assert (whole.scores[0], whole.scores[-1]) == (scores.min(), scores.max())
    for sketch, times, own in [(sketches[0], 1, parts[0]), (whole, 2, slice(None))]:
        for low, high in pairwise(sketch.scores):
            between = (scores[own] > low) & (scores[own] < high)
            assert between.sum() < times * share * len(scores[own]) + 1e-9
            assert weight[own][between].sum() < times * share * weight[own].sum() + 1e-9


def test_streaming_agrees_with_the_definition_of_aupro():
    maps, masks = cases(shape=(5, 32, 32))["random"]
    low, high = pixel_metrics(in_batches(maps, masks), exact_pixels=40, mixed_share=0.1).bounds["aupro"]
    assert low < high
    assert low <= slow_aupro(maps, masks) <= high
