import math

import numpy as np
import pytest

from mvead_jax.comparison.defect_kinds import ALL, MEASURES, UNKNOWN, kind_in_name, kinds_of
from mvead_jax.evaluation.score_files import ImageLine

VIEWS = 4


def random_images(seed, categories=("a", "b"), samples=30):
    """Labels of views at random; scores of few values, so that some tie."""
    rng = np.random.default_rng(seed)
    found = []
    for category in categories:
        for number in range(samples):
            code = rng.choice(["OK", "NG_HS", "NG_AK", "NG_ZW"])
            for view in range(VIEWS):
                label = None if rng.random() < 0.05 else int(code != "OK" and rng.random() < 0.4)
                name = f"{category}_{number:04d}_{code}"
                found.append(ImageLine(category, name, f"C{view + 1}", "", label, float(rng.integers(12))))
    return found


def slow(images, category, kind, measure):
    """The share of pairs (defect, normal) in the right order, by the words of the module's docstring."""
    own = [image for image in images if image.category == category]

    def views(name):
        return [image for image in own if image.sample == name]

    def seen(name):
        return sum(image.label == 1 for image in views(name))

    names = {image.sample for image in own}
    if measure == "sample":
        defects = [n for n in names if seen(n) and (kind == ALL or n.endswith(kind))]
        normals = [n for n in names if not seen(n) and any(i.label == 0 for i in views(n))]
        high, low = ([max(i.score for i in views(n)) for n in chosen] for chosen in (defects, normals))
    else:
        wanted = {"image": range(1, 99), "seen once": [1], "seen twice": [2], "seen more": range(3, 99)}[
            measure
        ]
        high = [
            i.score
            for i in own
            if i.label == 1 and (kind == ALL or i.sample.endswith(kind)) and seen(i.sample) in wanted
        ]
        low = [i.score for i in own if i.label == 0]
    pairs = [(x > y) + 0.5 * (x == y) for x in high for y in low]
    return len(high), sum(pairs) / len(pairs) if pairs else math.nan


@pytest.mark.parametrize("seed", range(4))
def test_every_measure_is_the_share_of_pairs_in_order(seed):
    images = random_images(seed)
    found = kinds_of(images)
    for category in "ab":
        for kind in ("HS", "AK", "ZW", ALL):
            for measure in MEASURES:
                count, expected = slow(images, category, kind, measure)
                one = found["categories"][category][kind][measure]
                assert one["defects"] == count
                assert one["auroc"] == pytest.approx(expected, nan_ok=True)


def test_the_order_of_the_lines_does_not_matter():
    images = random_images(0)
    shuffled = [images[n] for n in np.random.default_rng(1).permutation(len(images))]
    assert repr(kinds_of(shuffled)) == repr(kinds_of(images))  # NaN is unlike itself


def test_the_mean_is_over_the_categories_that_have_the_kind():
    images = random_images(1)
    images = [i for i in images if not (i.category == "b" and i.sample.endswith("HS"))]
    found = kinds_of(images)
    assert "HS" not in found["categories"]["b"]
    mean, own = found["mean"], found["categories"]
    assert mean["HS"]["image"] == {**own["a"]["HS"]["image"], "categories": 1}
    both = [own[c]["AK"]["image"]["auroc"] for c in "ab"]
    assert mean["AK"]["image"]["auroc"] == pytest.approx(np.mean(both))
    assert mean["AK"]["image"]["categories"] == 2


def test_raw_scores_of_two_categories_are_never_mixed():
    images = random_images(2)
    moved = [
        ImageLine(i.category, i.sample, i.view, "", i.label, i.score + 1000 * (i.category == "b"))
        for i in images
    ]
    assert repr(kinds_of(moved)) == repr(kinds_of(images))


def test_a_defective_object_whose_defect_no_view_shows_is_normal():
    images = [
        ImageLine("a", "a_0001_NG_HS", "C1", "", 0, 5.0),
        ImageLine("a", "a_0002_NG_HS", "C1", "", 1, 3.0),
    ]
    found = kinds_of(images)["categories"]["a"]["HS"]
    assert found["sample"] == {"auroc": 0.0, "defects": 1}


def test_defects_without_a_normal_have_no_auroc():
    found = kinds_of([ImageLine("a", "a_0001_NG_HS", "C1", "", 1, 1.0)])
    assert math.isnan(found["mean"]["HS"]["image"]["auroc"])
    assert found["mean"]["HS"]["image"]["categories"] == 0


@pytest.mark.parametrize(
    ("sample", "kind"),
    [
        ("audiojack_0001_NG_HS", "HS"),
        ("audiojack__0064_NG__HS", "HS"),
        ("bottle_cap_0001_NG_A_B", "A_B"),
        ("x_NG_y_0003_OK", UNKNOWN),
        ("my part 7", UNKNOWN),
    ],
)
def test_the_kind_is_read_from_the_right_of_the_name(sample, kind):
    assert kind_in_name(sample) == kind
