"""Outlines as evidence: of a ball whose outline and tangent planes are known, and of drawn images."""

import cv2
import numpy as np
import pytest

from mvead_jax.geometry.cameras import fundamental_from_cameras
from mvead_jax.geometry.outlines import category_mismatch, outline_mismatch, part_outline


def look_at(center, focal=900.0):
    """K, R, t of a camera at `center` that looks at the origin, 256 x 256."""
    forward = -np.asarray(center, float) / np.linalg.norm(center)
    right = np.cross(forward, [0, 0, 1.0])
    right /= np.linalg.norm(right)
    R = np.stack([right, np.cross(forward, right), forward])
    return np.array([[focal, 0, 128], [0, focal, 128], [0, 0, 1.0]]), R, -R @ center


def project(points, K, R, t):
    x = (points @ R.T + t) @ K.T
    return x[:, :2] / x[:, 2:]


@pytest.fixture(scope="module")
def balls():
    """F of two views and the outlines in them of an ellipsoid beside the origin: hulls of dense points."""
    points = np.random.default_rng(0).normal(size=(40000, 3))
    points = points / np.linalg.norm(points, axis=1, keepdims=True) * [30, 20, 12] + [6, 14, 4]
    cameras = [look_at(center) for center in ([220, 0, 220.0], [0, 220, 220.0])]
    F = fundamental_from_cameras(*(np.stack(part) for part in zip(*cameras, strict=True)))[0, 1]
    hulls = [cv2.convexHull(project(points, *c).astype(np.float32))[:, 0].astype(float) for c in cameras]
    return F, hulls[0], hulls[1]


def moved(F, x, y):
    """F after view b moved by (x, y) pixels."""
    return F @ np.array([[1, 0, -x], [0, 1, -y], [0, 0, 1.0]])


def test_lines_that_touch_one_outline_touch_the_other(balls):
    F, a, b = balls
    assert outline_mismatch(F, a, b) < 0.1
    assert outline_mismatch(F, a, b) == pytest.approx(outline_mismatch(F.T, b, a))
    assert outline_mismatch(-3 * F, a, b) == pytest.approx(outline_mismatch(F, a, b))


@pytest.mark.parametrize("scale", [4, 8])
def test_a_wrong_f_misses_by_about_what_it_is_off(balls, scale):
    F, a, b = balls
    misses = [outline_mismatch(moved(F, *(scale * np.array(way))), a, b) for way in ((1, 0), (0, 1))]
    assert max(misses) > 0.5 * scale
    mirror = np.array([[-1, 0, 256], [0, 1, 0], [0, 0, 1.0]])
    assert outline_mismatch(F @ mirror, a, b) > 3


def test_an_epipole_inside_the_outline_says_nothing(balls):
    _, a, b = balls
    F = np.cross(np.eye(3), [*a.mean(0), 1])  # [e]x: its epipole in both views is a's middle
    assert np.isnan(outline_mismatch(F, a, b))
    assert np.isnan(category_mismatch(F, [{"A": a, "B": b}], "A", "B"))
    assert np.isnan(category_mismatch(F, [{"A": a}, {}], "A", "B"))
    assert np.isnan(outline_mismatch(np.zeros((3, 3)), a, b))


def test_the_median_sample_counts(balls):
    F, a, b = balls
    samples = [{"A": a, "B": b}] * 2 + [{"A": a, "B": b + 30}]
    assert category_mismatch(F, samples, "A", "B") == outline_mismatch(F, a, b)


@pytest.mark.parametrize("size", [(256, 256), (512, 384)])
def test_the_outline_of_a_drawn_part(size):
    w, h = size
    rng = np.random.default_rng(0)
    picture = np.clip(rng.normal((90, 95, 100), 4, (h, w, 3)), 0, 255).astype(np.uint8)
    corners = np.array([[0.3, 0.25], [0.75, 0.35], [0.7, 0.75], [0.25, 0.6]]) * [w, h]
    cv2.fillPoly(picture, [corners.astype(np.int32)], (190, 170, 60))
    outline = part_outline(picture)
    gap = np.linalg.norm(outline[:, None] - corners[None], axis=2).min(0)
    assert gap.max() < 4 * max(size) / 256


def test_pictures_without_an_outline_have_none():
    plain = np.full((128, 128, 3), 90, np.uint8)
    noise = np.random.default_rng(0).integers(0, 255, (128, 128, 3)).astype(np.uint8)
    cut = plain.copy()
    cut[40:90, 60:] = (200, 160, 40)
    for picture in (plain, noise, cut):
        assert part_outline(picture) is None
