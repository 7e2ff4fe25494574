import json

import cv2
import numpy as np
import pytest
from geometry_scenes import match_scene, real_photos

from mvead_jax.geometry.cameras import from_opencv, fundamental_from_cameras
from mvead_jax.geometry.fundamental import (
    THRESHOLD,
    eight_point,
    estimate_fundamental,
    line_errors,
    sampson_distances,
)


def same(F, G, tolerance):
    return min(np.abs(F - G).max(), np.abs(F + G).max()) < tolerance


def test_eight_points_of_exact_matches_give_the_true_matrix():
    a, b, truth = match_scene(0, noise=0.0, outliers=0)
    F = eight_point(a, b)
    assert same(F, truth, 1e-8)
    assert np.linalg.norm(F) == pytest.approx(1)
    assert np.linalg.svd(F, compute_uv=False)[2] < 1e-15
    assert same(eight_point(a[:8], b[:8]), truth, 1e-5)


@pytest.mark.parametrize("seed", range(3))
def test_eight_points_are_opencvs(seed):
    a, b, _ = match_scene(seed, noise=0.5, outliers=0)
    theirs, _ = cv2.findFundamentalMat(a - 0.5, b - 0.5, cv2.FM_8POINT)
    ours, theirs = (np.median(line_errors(F, a, b)) for F in (eight_point(a, b), from_opencv(theirs)))
    assert ours == pytest.approx(theirs, rel=0.05)


def test_eight_points_refuse_what_they_cannot_solve():
    with pytest.raises(ValueError, match="7 matches"):
        eight_point(np.ones((7, 2)), np.ones((7, 2)))
    with pytest.raises(ValueError, match="one place"):
        eight_point(np.ones((9, 2)), np.random.default_rng(0).normal(size=(9, 2)))


@pytest.mark.parametrize("outliers", [0, 60, 150])
def test_the_robust_estimate_finds_the_matrix_among_wrong_matches(outliers):
    a, b, truth = match_scene(1, noise=0.3, outliers=outliers)
    found = estimate_fundamental(a, b)
    assert found.ok, found.reason
    assert found.reason == ""
    inside = np.arange(len(a)) < 150
    assert found.inliers[inside].mean() > 0.95
    assert found.inliers[~inside].mean() < 0.1 if outliers else True
    clean_a, clean_b, _ = match_scene(1, noise=0.0, outliers=0)
    assert np.median(line_errors(found.F, clean_a, clean_b)) < 0.3
    assert 0.05 < found.sampson_median < 0.6
    assert not found.planar
    again = estimate_fundamental(a, b)
    np.testing.assert_array_equal(again.F, found.F)
    assert same(estimate_fundamental(b, a).F.T, found.F, 1e-2)
    assert np.median(line_errors(truth, clean_a, clean_b)) < 1e-6


def random_points(n, seed=0):
    return np.random.default_rng(seed).uniform(0, 256, (n, 2))


@pytest.mark.parametrize("count", [20, 60, 400])
@pytest.mark.parametrize("seed", range(4))
def test_matches_at_random_are_no_geometry(count, seed):
    found = estimate_fundamental(random_points(count, seed), random_points(count, seed + 100))
    assert not found.ok
    assert "chance" in found.reason or "do not agree" in found.reason


def homography(a, H):
    x = np.column_stack([a, np.ones(len(a))]) @ H.T
    return x[:, :2] / x[:, 2:]


@pytest.mark.parametrize(
    ("a", "b", "reason"),
    [
        (random_points(0), random_points(0), "0 different matches"),
        (random_points(12), random_points(12, 1), "12 different matches"),
        (np.tile(random_points(3), (50, 1)), np.tile(random_points(3, 1), (50, 1)), "3 different matches"),
        (random_points(100), random_points(100), "the two images are the same"),
        (np.ones((100, 2)), np.ones((100, 2)), "1 different matches"),
        (np.full((100, 2), np.nan), random_points(100), "0 different matches"),
        (np.full((100, 2), np.inf), random_points(100), "0 different matches"),
        (
            random_points(100),
            homography(random_points(100), np.array([[0.9, 0.1, 20], [-0.2, 1.0, 30], [3e-4, 2e-4, 1]])),
            "homography",
        ),
        (np.linspace(0, 200, 200).reshape(100, 2), np.linspace(9, 99, 200).reshape(100, 2), ""),
    ],
)
def test_what_cannot_be_estimated_is_flagged_with_its_reason(a, b, reason):
    found = estimate_fundamental(a, b)
    assert not found.ok
    assert found.reason
    assert reason in found.reason
    assert found.F.shape == (3, 3)
    assert np.isfinite(found.F).all()
    assert found.inliers.shape == (len(a),)


def test_a_few_nan_points_cost_only_themselves():
    a, b, _ = match_scene(2, noise=0.3, outliers=20)
    a[::10] = np.nan
    found = estimate_fundamental(a, b)
    assert found.ok
    assert not found.inliers[::10].any()


def test_a_flat_scene_and_a_turning_camera_are_flagged():
    rng = np.random.default_rng(0)
    for flat in (True, False):
        K = np.array([[700.0, 0, 128], [0, 700, 128], [0, 0, 1]])
        c, s = np.cos(0.15), np.sin(0.15)
        turn = np.array([[c, 0, s], [0, 1, 0], [-s, 0, c]])
        points = rng.uniform(-40, 40, (150, 3)) * [1, 1, 0 if flat else 1] + [0, 0, 300]
        shift = np.array([-60.0, 0, 10]) if flat else np.zeros(3)
        a, b = points @ K.T, (points @ turn.T + shift) @ K.T
        a, b = (x[:, :2] / x[:, 2:] + rng.normal(0, 0.2, (150, 2)) for x in (a, b))
        found = estimate_fundamental(a, b)
        assert not found.ok
        assert found.planar


def test_sampson_is_first_order_and_line_errors_are_distances():
    a, b, F = match_scene(3, noise=0.0, outliers=0)
    shifted = b + np.random.default_rng(0).normal(0, 0.4, b.shape)
    lines = np.column_stack([a, np.ones(len(a))]) @ F
    in_b = np.abs((lines * np.column_stack([shifted, np.ones(len(b))])).sum(1)) / np.hypot(*lines[:, :2].T)
    sampson = sampson_distances(F, a, shifted)
    assert (sampson <= in_b + 1e-9).all()
    assert (line_errors(F, a, shifted) >= in_b - 1e-9).all()
    assert sampson_distances(np.zeros((3, 3)), a, b).min() == np.inf


def test_opencvs_convention_is_turned_into_ours():
    a, b, truth = match_scene(4, noise=0.0, outliers=0)
    theirs, _ = cv2.findFundamentalMat(a - 0.5, b - 0.5, cv2.FM_8POINT)
    x, y = (np.column_stack([p - 0.5, np.ones(len(p))]) for p in (a, b))
    assert np.abs(((y @ theirs) * x).sum(1)).max() < 1e-6
    assert same(from_opencv(theirs), truth, 1e-6)


# Real photographs, kept outside the project.


@pytest.fixture(scope="module")
def temple():
    """Points of the object in each calibrated photograph, angles between them, SIFT matches of a pair."""
    folder = real_photos("middlebury_temple")
    views = json.loads((folder / "cameras.json").read_text())["views"]
    K, R, t = (np.array([view[name] for view in views.values()]) for name in ("K", "R", "t"))
    box = np.array([[-0.023121, -0.038009, -0.091940], [0.078626, 0.121636, -0.017395]])
    points = np.random.default_rng(0).uniform(*box, (500, 3))
    x = np.einsum("vij,vnj->vni", K, np.einsum("vij,nj->vni", R, points) + t[:, None])
    sift = cv2.SIFT_create()
    seen = [sift.detectAndCompute(cv2.imread(str(folder / name), 0), None) for name in views]

    def matches(i, j):
        good = [
            (seen[i][0][m.queryIdx].pt, seen[j][0][m.trainIdx].pt)
            for m, n in cv2.BFMatcher().knnMatch(seen[i][1], seen[j][1], k=2)
            if m.distance < 0.8 * n.distance
        ]
        return (np.array(p).reshape(-1, 2) + 0.5 for p in zip(*good, strict=True))

    axis = R[:, 2]
    apart = np.rad2deg(np.arccos(np.clip(axis @ axis.T, -1, 1)))
    assert fundamental_from_cameras(K, R, t).shape == (16, 16, 3, 3)
    return x[..., :2] / x[..., 2:], apart, matches


def test_neighbours_of_the_temple_are_found_and_bad_pairs_flagged(temple):
    x, apart, matches = temple
    near, wrong = [], []
    for i in range(16):
        for j in range(i + 1, 16):
            if apart[i, j] < 1:
                continue
            found = estimate_fundamental(*matches(i, j))
            error = np.median(line_errors(found.F, x[i], x[j])) if found.F.any() else np.inf
            if abs(apart[i, j] - 22.7) < 0.2:
                near.append(error)
            if found.ok and error > 10:
                wrong.append((i, j, error))
    assert len(near) >= 10
    assert np.mean(np.array(near) < 3) >= 0.9
    assert not wrong


def test_chessboard_stereo_agrees_with_opencv():
    truth = json.loads((real_photos("opencv_doc") / "stereo_truth.json").read_text())
    left, right = (np.array(truth[f"undistorted_{side}"]).reshape(-1, 2) for side in ("left", "right"))
    left, right = left + 0.5, right + 0.5
    theirs8, _ = cv2.findFundamentalMat(left - 0.5, right - 0.5, cv2.FM_8POINT)
    robust, _ = cv2.findFundamentalMat(left - 0.5, right - 0.5, cv2.USAC_MAGSAC, 1.0, 0.9999)
    ours8, ours = eight_point(left, right), estimate_fundamental(left, right)
    assert ours.ok, ours.reason
    for mine, theirs in ((ours8, theirs8), (ours.F, robust)):
        errors = [np.median(line_errors(F, left, right)) for F in (mine, from_opencv(theirs))]
        assert errors[0] <= 1.05 * errors[1]


def test_aloe_is_found_to_a_pixel():
    folder = real_photos("opencv_doc")
    sift = cv2.SIFT_create(4000)
    (ka, da), (kb, db) = (
        sift.detectAndCompute(cv2.imread(str(folder / name), 0), None) for name in ("aloeL.jpg", "aloeR.jpg")
    )
    good = [
        (ka[m.queryIdx].pt, kb[m.trainIdx].pt)
        for m, n in cv2.BFMatcher().knnMatch(da, db, k=2)
        if m.distance < 0.8 * n.distance
    ]
    a, b = (np.array(p) + 0.5 for p in zip(*good, strict=True))
    found = estimate_fundamental(a, b)
    assert found.ok, found.reason
    assert found.sampson_median < 1
    assert found.inliers.mean() > 0.5
    assert THRESHOLD == 1.5
