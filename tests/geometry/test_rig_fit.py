"""One rig for all pairs, from matches of which most are wrong."""

import functools
from itertools import combinations

import numpy as np
import pytest

from mvead_jax.geometry.estimate import judged
from mvead_jax.geometry.fundamental import line_errors, signed_sampson
from mvead_jax.geometry.images import between_new_images, mirroring
from mvead_jax.geometry.matching import CategoryMatches, Matches
from mvead_jax.geometry.rig_fit import Nominal, _sampson_slopes, fit_rig, split_by_sample
from mvead_jax.rig.camera_file import cameras_json
from mvead_jax.rig.cameras import five_cameras, project

SIZE = 256


def simulated(mirrored, seed=0, right=80, wrong=400, sizes=(SIZE,) * 5):
    """Matches of a part under the rig's cameras, and its points in each stored view [V,n,2]."""
    rig = five_cameras(SIZE)
    rng = np.random.default_rng(seed)
    points = rng.uniform([-20, -20, 0], [20, 20, 18], (500, 3))
    x = np.stack([project(points, rig.K[v], rig.R[v], rig.t[v]) for v in range(5)])
    for v in range(5):
        if mirrored[v]:
            x[v, :, 0] = SIZE - x[v, :, 0]
        x[v] *= sizes[v] / SIZE
    pairs = {}
    for a, b in combinations(range(5), 2):
        for flipped in (False, True):
            good = right if flipped == (mirrored[a] != mirrored[b]) else 0
            some = rng.integers(0, len(points), good)
            ends = [
                np.concatenate(
                    [
                        x[v][some] + rng.normal(0, 0.4, (good, 2)),
                        rng.uniform(30, 226, (wrong, 2)) * sizes[v] / SIZE,
                    ]
                )
                for v in (a, b)
            ]
            order = rng.permutation(good + wrong)
            pairs[a, b, flipped] = Matches(ends[0][order], ends[1][order], rng.integers(0, 12, good + wrong))
    matches = CategoryMatches(tuple(f"C{v + 1}" for v in range(5)), tuple((s, s) for s in sizes), pairs, 12)
    return matches, x


@functools.cache
def fitted(mirrored):
    matches, x = simulated(mirrored)
    return matches, x, fit_rig(matches)


TWO = (True, False, False, False, True)


@pytest.mark.parametrize(
    "mirrored", [(False, False, False, False, False), (False, False, True, False, False), TWO]
)
def test_cameras_and_mirrored_views_are_found(mirrored):
    _, x, found = fitted(mirrored)
    assert tuple(found.mirrored) == mirrored
    assert found.margin > 1.02
    for a, b in combinations(range(5), 2):
        assert np.median(line_errors(found.F[a, b], x[a], x[b])) < 1.5
    np.testing.assert_array_equal(found.F, found.F.transpose(1, 0, 3, 2))


def test_the_same_matches_give_the_same_rig_to_the_bit():
    matches, _, found = fitted(TWO)
    np.testing.assert_array_equal(fit_rig(matches).F, found.F)


def test_views_may_have_different_sizes():
    sizes = (256, 512, 256, 512, 384)
    matches, x = simulated((False, False, False, True, False), sizes=sizes)
    found = fit_rig(matches)
    for a, b in combinations(range(5), 2):
        assert np.median(line_errors(found.F[a, b], x[a], x[b])) < 1.5 * max(sizes[a], sizes[b]) / 256


@pytest.mark.parametrize(
    "azimuth",
    [(0.0, 0.0, 90.0, 270.0, 180.0), (0.0, 20.0, 110.0, 200.0, 290.0), (0.0, 0.0, 180.0, 90.0, 270.0)],
)
def test_the_order_of_the_side_views_need_not_be_known(azimuth):
    matches, x = simulated((False, True, False, False, False))
    found = fit_rig(matches, Nominal(azimuth=azimuth))
    for a, b in combinations(range(5), 2):
        assert np.median(line_errors(found.F[a, b], x[a], x[b])) < 1.5


def test_without_enough_matches_or_with_other_views_there_is_no_rig():
    matches, _ = simulated((False,) * 5)
    assert fit_rig(matches, Nominal((90.0, 45.0), (0.0, 0.0))) is None
    few = {key: own.at(np.arange(5)) for key, own in matches.pairs.items()}
    assert fit_rig(CategoryMatches(matches.views, matches.sizes, few, 12)) is None


def test_slopes_are_differences():
    rng = np.random.default_rng(0)
    F = rng.normal(size=(3, 3))
    x, y = (np.column_stack([rng.normal(size=(6, 2)), np.ones(6)]) for _ in range(2))
    e, slopes = _sampson_slopes(F, x, y)
    np.testing.assert_allclose(e, signed_sampson(F, x, y))
    for k in range(9):
        step = 1e-6 * np.eye(9)[k].reshape(3, 3)
        np.testing.assert_allclose(
            slopes[:, k], (signed_sampson(F + step, x, y) - signed_sampson(F - step, x, y)) / 2e-6, atol=1e-7
        )


def test_held_out_samples_are_in_one_part_only():
    matches, _ = simulated((False,) * 5)
    fit, judge = split_by_sample(matches)
    for key, own in matches.pairs.items():
        assert not set(fit.pairs[key].sample) & set(judge.pairs[key].sample)
        assert len(fit.pairs[key]) + len(judge.pairs[key]) == len(own)
        assert 0.2 < len(judge.pairs[key]) / len(own) < 0.5


def test_evidence_tells_the_true_matrix_from_one_a_few_pixels_off():
    mirrored = (False, False, True, False, False)
    matches, points = simulated(mirrored, right=60, wrong=600)
    content = cameras_json(["flange"], SIZE)["categories"]["flange"]["pairs"]
    for pair in content:
        a, b = int(pair["a"][1]) - 1, int(pair["b"][1]) - 1
        if a > b:
            continue
        own = matches.pairs[a, b, mirrored[a] != mirrored[b]]
        F = np.array(pair["F"])
        assert judged(F, own, matches.sizes, (a, b)).reason == ""
        shifts = [np.array([[1.0, 0, x], [0, 1, 7 - x], [0, 0, 1]]) for x in (0, 7)]
        moved = max(
            (np.linalg.inv(shift).T @ F for shift in shifts),
            key=lambda G, a=a, b=b: np.median(line_errors(G, points[a], points[b])),
        )
        assert "expected by chance" in judged(moved, own, matches.sizes, (a, b)).reason
    nothing = judged(np.zeros((3, 3)), own, matches.sizes, (a, b))
    assert nothing.near == 0
    assert nothing.reason


def test_mirroring_all_views_is_told_apart_by_the_nominal_sense_of_rotation():
    matches, x = simulated((True,) * 5)
    found = fit_rig(matches)
    assert found.mirrored.all()
    plain = between_new_images(found.F, np.stack([mirroring(SIZE)] * 5))
    assert np.isfinite(plain).all()
    assert np.median(line_errors(found.F[0, 1], x[0], x[1])) < 1.5
