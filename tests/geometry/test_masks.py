"""From a category's geometry to its mask: whose axis, whose scale, and what an untrusted pair may do."""

import dataclasses

import numpy as np
import pytest

from mvead_jax.config.schema import GeometryConfig
from mvead_jax.geometry.cameras import fundamental_from_cameras
from mvead_jax.geometry.category import CategoryGeometry, PairGeometry
from mvead_jax.geometry.epipolar import epipolar_mask
from mvead_jax.geometry.images import between_new_images, resizing
from mvead_jax.geometry.masks import all_keys, category_keys
from mvead_jax.rig.cameras import five_cameras
from mvead_jax.runtime.errors import UserError

GRID, INPUT = (4, 4), 64
SIZES = ((80, 60), (80, 60), (40, 40))  # of the stored images
EVERYTHING = np.ones((16, 16), bool)


@pytest.fixture(scope="module")
def geometry():
    """Cameras C1, C3, C4 of the rig, in images of several sizes; the pair C1, C4 is not trusted."""
    rig, chosen = five_cameras(1), [0, 2, 3]
    F = fundamental_from_cameras(rig.K[chosen], rig.R[chosen], rig.t[chosen])
    F = between_new_images(F, np.stack([resizing((1, 1), size) for size in SIZES]))
    pairs = {(a, b): PairGeometry(F[a, b], (a, b) != (0, 2), "given") for a, b in ((0, 1), (0, 2), (1, 2))}
    return CategoryGeometry(("C1", "C3", "C4"), SIZES, pairs)


@pytest.fixture(scope="module")
def expected():
    """The mask of the same cameras for the network's input, all pairs."""
    rig, chosen = five_cameras(INPUT), [0, 2, 3]
    F = fundamental_from_cameras(rig.K[chosen], rig.R[chosen], rig.t[chosen])
    return np.asarray(epipolar_mask(F.astype("f4"), GRID, INPUT / 4, 1.0))


def make(geometry, views=("C1", "C3", "C4"), **changes):
    return keys_of(geometry, views, **changes).mask


def keys_of(geometry, views=("C1", "C3", "C4"), **changes):
    return category_keys("cap", geometry, views, INPUT, GRID, GeometryConfig(**changes))


def test_an_untrusted_pair_is_excluded_and_said(geometry, expected, caplog):
    caplog.set_level("INFO", "mvead_jax")
    mask = make(geometry)
    assert mask.dtype == bool
    assert not mask[0, 2].any()
    assert not mask[2, 0].any()
    for a, b in ((0, 1), (1, 0), (1, 2), (2, 1)):
        np.testing.assert_array_equal(mask[a, b], expected[a, b])
        assert 0 < mask[a, b].mean() < 1
    assert "geometry cap: 2 of 3 pairs trusted (exclude: C1 C4)" in caplog.text


def test_an_untrusted_pair_may_see_everything_but_nobody_itself(geometry, expected):
    mask = make(geometry, on_failure="unconstrained")
    np.testing.assert_array_equal(mask[0, 2], EVERYTHING)
    np.testing.assert_array_equal(mask[2, 0], EVERYTHING)
    np.testing.assert_array_equal(mask[0, 1], expected[0, 1])
    assert not mask[np.arange(3), np.arange(3)].any()


def test_an_untrusted_pair_can_stop_the_run_in_one_line(geometry, expected):
    with pytest.raises(UserError, match=r"cap: no trusted geometry for C1 C4, .*exclude") as error:
        make(geometry, on_failure="error")
    assert "\n" not in str(error.value)
    pairs = {at: dataclasses.replace(pair, ok=True) for at, pair in geometry.pairs.items()}
    mask = make(dataclasses.replace(geometry, pairs=pairs), on_failure="error")
    np.testing.assert_array_equal(mask, expected)


def test_cameras_that_the_category_lacks_stay_dark_on_a_wider_axis(geometry):
    views = ("C1", "C2", "C3", "C4", "C5")
    for on_failure in ("exclude", "unconstrained"):
        narrow, wide = (make(geometry, axis, on_failure=on_failure) for axis in (geometry.views, views))
        assert wide.shape == (5, 5, 16, 16)
        np.testing.assert_array_equal(wide[np.ix_([0, 2, 3], [0, 2, 3])], narrow)
        assert not wide[[1, 4]].any()
        assert not wide[:, [1, 4]].any()


def test_a_wider_threshold_only_adds_keys(geometry):
    narrow, wide = (make(geometry, threshold=threshold) for threshold in (0.5, 1.5))
    assert (narrow <= wide).all()
    assert narrow.sum() < wide.sum()


def test_the_matrices_of_the_keys_are_those_of_the_mask_on_the_same_axis(geometry):
    wide = keys_of(geometry, ("C1", "C2", "C3", "C4", "C5"), on_failure="unconstrained", threshold=0.7)
    again = np.asarray(epipolar_mask(wide.F, GRID, wide.patch_size, 0.7))
    for a, b in ((0, 2), (2, 0), (2, 3), (3, 2)):  # the trusted pairs
        np.testing.assert_array_equal(again[a, b], wide.mask[a, b])
    assert not wide.F[[1, 4]].any()
    assert not wide.F[:, [1, 4]].any()


def test_the_digest_follows_the_mask(geometry):
    digests = [
        keys_of(geometry).digest,
        keys_of(geometry, threshold=0.5).digest,
        keys_of(geometry, on_failure="unconstrained").digest,
        all_keys(3, GRID).digest,
    ]
    assert len(set(digests)) == 4
    assert keys_of(geometry).digest == digests[0]


def test_without_geometry_every_patch_of_every_other_view_is_a_key():
    keys = all_keys(3, GRID)
    for a, b in np.ndindex(3, 3):
        assert keys.mask[a, b].all() == keys.mask[a, b].any() == (a != b)
    assert not keys.F.any()
