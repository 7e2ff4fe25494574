"""Matches of patch features: on synthetic features whose places are known, and on a rendered rig."""

import numpy as np
import pytest
from fake_realiad import write_realiad
from PIL import Image

from mvead_jax.data.realiad import load_index
from mvead_jax.geometry.epipolar import patch_centers
from mvead_jax.geometry.feature_matching import (
    appearances,
    in_place,
    match_features,
    match_patches,
    part_patches,
    peaks,
)
from mvead_jax.runtime.errors import UserError

GRID = (8, 8)
PRESENT = np.ones(2, bool)


def field(points, seed=0, width=24):
    """A smooth random function of the plane [n,2] -> [n,width]: features that move with the part."""
    rng = np.random.default_rng(seed)
    waves, phase = rng.normal(0, 0.6, (2, width)), rng.uniform(0, 6, width)
    return np.cos(points @ waves + phase)


def scene(shift, flipped=False):
    """Features [8,2,N,D] of a part in the middle 6 x 6 patches; view b shows it `shift` patches further on.

    Only the appearance that makes view b look like view a (flipped or not, turn 2) shows it.
    """
    rng = np.random.default_rng(1)
    centers = patch_centers(GRID, 1.0)
    features = 0.01 * rng.normal(size=(8, 2, 64, 24))
    for view, offset in ((0, np.zeros(2)), (1, np.asarray(shift))):
        x = centers - offset
        inside = (np.abs(x - 4) < 3).all(1)
        features[6 if flipped and view else 2 if view else 0, view, inside] = field(x[inside])
        features[0, view, inside] = field(x[inside], seed=0 if view == 0 else 7)
    return features


def test_appearances_put_back_in_place_are_the_picture():
    images = np.random.default_rng(0).normal(size=(2, 5, 5, 3))
    shown = appearances(images)
    assert shown.shape == (8, 2, 5, 5, 3)
    assert len({shown[k, 0].tobytes() for k in range(8)}) == 8
    back = in_place(shown.reshape(8, 2, 25, 3), (5, 5))
    np.testing.assert_array_equal(back, np.broadcast_to(images.reshape(2, 25, 3), back.shape))


@pytest.mark.parametrize("flipped", [False, True])
def test_a_part_that_moved_is_matched_to_a_fraction_of_a_patch(flipped):
    shift = np.array([0.3, -0.2])
    found = match_patches(scene(shift, flipped), PRESENT, GRID)
    a, b = found[0, 1, flipped]
    assert len(a) >= 20
    off = np.linalg.norm(b - a - shift, axis=1)
    assert np.median(off) < 0.15  # whole patches would be np.hypot(0.3, 0.2) off
    other = found[0, 1, not flipped]
    assert np.mean(np.linalg.norm(other[1] - other[0] - shift, axis=1) < 0.3) < 0.2


def test_the_parabola_finds_the_peak_of_a_parabola():
    centers = patch_centers(GRID, 1.0)
    places = np.random.default_rng(0).uniform(1.2, 6.8, (50, 2))
    likeness = 1 - ((centers[None] - places[:, None]) ** 2).sum(-1)
    np.testing.assert_allclose(peaks(likeness, likeness.argmax(1), GRID), places, atol=1e-9)
    corner = np.zeros((1, 64))
    corner[0, 0] = 1
    np.testing.assert_array_equal(peaks(corner, np.array([0]), GRID), [[0.5, 0.5]])


def test_background_is_what_resembles_the_border():
    features = scene((0, 0))[0, 0]
    expected = (np.abs(patch_centers(GRID, 1.0) - 4) < 3).all(1)
    np.testing.assert_array_equal(part_patches(features, GRID), expected)
    a, _ = match_patches(scene((0, 0)), PRESENT, GRID)[0, 1, False]
    assert (np.abs(a - 4) <= 3.5).all()


def test_constant_features_and_missing_views_give_no_match():
    constant = match_patches(np.ones((8, 2, 64, 24)), PRESENT, GRID)
    missing = match_patches(scene((0, 0)), np.array([True, False]), GRID)
    for found in (constant, missing):
        assert set(found) == {(0, 1, False), (0, 1, True)}
        assert all(len(end) == 0 for ends in found.values() for end in ends)


class Colours:
    """A backbone of sorts: mean colour and contrast of 8 x 8 pixels; not the same when flipped or turned."""

    image_size, shapes = 64, {"patches": (*GRID, 9)}

    def __init__(self, bad=False):
        self.bad, self.calls = bad, []

    def __call__(self, images):
        self.calls.append(len(images))
        tiles = np.asarray(images).reshape(len(images), 8, 8, 8, 8, 3)
        parts = [tiles.mean((2, 4)), tiles[:, :, :4].mean((2, 4)), tiles[:, :, :, :, 4:].mean((2, 4))]
        features = np.concatenate(parts, axis=-1)
        return {"patches": features * np.nan if self.bad else features}


@pytest.fixture
def samples(tmp_path):
    """Five times the same sample: all images of a view are one image, 64 x 64."""
    root = write_realiad(tmp_path, categories=("cap",), train=5, views=3)
    index = load_index(root, ["cap"]).select(category="cap", split="train")
    rng = np.random.default_rng(0)
    pictures = rng.integers(0, 255, (3, 4, 4, 3), np.uint8)
    for sample in index.samples:
        for picture, view in zip(pictures, sample.views, strict=True):
            small = np.zeros((8, 8, 3), np.uint8)
            small[2:6, 2:6] = picture
            Image.fromarray(small).resize((64, 64), Image.Resampling.BICUBIC).save(root / view.image)
    return index


def test_matches_are_pooled_in_pixels_and_what_stands_still_is_capped(samples):
    extractor = Colours()
    once, pooled = match_features(samples, extractor, 1, 7), match_features(samples, extractor, 5, 7)
    assert set(extractor.calls) == {7}  # one shape to compile, however the images divide
    assert pooled.evidence == "features"
    assert set(pooled.pairs) == {(a, b, f) for a, b in ((0, 1), (0, 2), (1, 2)) for f in (False, True)}
    for key, own in pooled.pairs.items():
        assert len(once.pairs[key]) > 0
        assert len(own) == 3 * len(once.pairs[key])
        assert own.static == 2 * len(once.pairs[key])
        for points in (own.points_a, own.points_b):
            assert (points > 8).all()
            assert (points < 56).all()


def test_features_that_are_not_finite_are_named(samples):
    with pytest.raises(UserError, match="features that are not finite"):
        match_features(samples, Colours(bad=True), 1)
