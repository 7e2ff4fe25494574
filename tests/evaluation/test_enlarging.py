import jax
import numpy as np
import pytest
from scipy.ndimage import convolve, gaussian_filter

from mvead_jax.evaluation.enlarging import enlarge


@pytest.fixture
def maps():
    return np.random.default_rng(0).gamma(3, 1, (3, 5, 7)).astype(np.float32)


def test_it_is_jaxs_bilinear_resize(maps):
    expected = jax.image.resize(maps, (3, 40, 33), "bilinear")
    np.testing.assert_allclose(enlarge(maps, 40, 33), expected, rtol=1e-5)


def test_gaussian_smoothing_is_scipys(maps):
    plain = enlarge(maps, 40, 33)
    for sigma in (1, 4):
        expected = np.stack([gaussian_filter(one.astype(float), sigma) for one in plain])
        np.testing.assert_allclose(enlarge(maps, 40, 33, smoothing=f"gaussian:{sigma}"), expected, rtol=1e-5)


def test_the_five_taps_are_a_convolution_with_zeros_outside(maps):
    y, x = np.mgrid[-2:3, -2:3]
    kernel = np.exp(-(y**2 + x**2) / 32)
    expected = [
        convolve(one.astype(float), kernel / kernel.sum(), mode="constant") for one in enlarge(maps, 40, 33)
    ]
    np.testing.assert_allclose(enlarge(maps, 40, 33, smoothing="gaussian5"), expected, rtol=1e-5)


def test_a_crop_is_the_middle_of_the_whole(maps):
    whole = enlarge(maps, 64, 64)
    np.testing.assert_allclose(enlarge(maps, 48, 48, crop=0.75), whole[:, 8:56, 8:56], rtol=1e-5)


def test_batches_change_nothing_and_one_patch_is_a_constant(maps):
    whole = enlarge(maps, 40, 33, smoothing="gaussian:4")
    for at in range(3):
        np.testing.assert_array_equal(
            enlarge(maps[at : at + 1], 40, 33, smoothing="gaussian:4"), whole[at : at + 1]
        )
    np.testing.assert_array_equal(
        enlarge(np.full((1, 1, 1), 2, np.float16), 8, 9), np.full((1, 8, 9), 2, "f4")
    )
