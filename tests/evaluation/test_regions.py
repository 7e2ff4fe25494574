"""AUPRO against its definition written out, and the records of regions."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as some
from metric_cases import cases, slow_aupro

from mvead_jax.evaluation.batches import read
from mvead_jax.evaluation.defects import defect_pixels
from mvead_jax.evaluation.regions import aupro


@pytest.mark.parametrize("name", cases())
def test_agrees_with_the_definition_written_out(name):
    maps, masks = cases(shape=(6, 24, 24))[name]
    assert aupro(maps, masks) == pytest.approx(slow_aupro(maps, masks), abs=1e-9)


@given(
    some.arrays(np.float32, (2, 5, 6), elements=st.integers(0, 5).map(float)),
    some.arrays(bool, (2, 5, 6)),
    st.sampled_from([0.01, 0.1, 0.3, 1.0]),
)
@settings(deadline=None)
def test_agrees_with_the_definition_on_small_maps_full_of_ties(maps, masks, limit):
    if 0 < masks.sum() < masks.size:
        assert aupro(maps, masks, limit) == pytest.approx(slow_aupro(maps, masks, limit), abs=1e-9)
    else:
        assert math.isnan(aupro(maps, masks, limit))


def test_every_region_weighs_the_same():
    masks = np.zeros((1, 20, 20), bool)
    masks[0, :10, :10] = masks[0, 15, 15] = True  # 100 pixels and one
    maps = np.where(masks, 1.0, 0.5)
    maps[0, 15, 15] = 0
    found_large = aupro(maps, masks)
    maps = np.where(masks, 0.0, 0.5)
    maps[0, 15, 15] = 1
    assert found_large == pytest.approx(aupro(maps, masks), abs=1e-12)
    assert found_large == pytest.approx(0.5)


def test_pixels_that_touch_at_a_corner_are_one_region():
    mask = np.eye(4, dtype=bool)[None]
    regions = []
    defect_pixels(next(read(lambda: [(np.zeros(mask.shape), mask)])), regions)
    assert [region.area for region in regions] == [4]


def test_regions_of_two_images_are_two():
    masks = np.ones((2, 3, 3), bool)
    regions = []
    pixels = defect_pixels(next(read(lambda: [(np.zeros(masks.shape), masks)])), regions)
    assert [(region.image, region.area) for region in regions] == [(0, 9), (1, 9)]
    np.testing.assert_array_equal(pixels.region, np.repeat([0, 1], 9))


def test_normal_pixels_of_defective_images_count():
    masks = np.zeros((2, 10, 10), bool)
    masks[0, 0, 0] = True
    maps = np.zeros(masks.shape)
    maps[0] = 1  # the halo around a defect is as high as the defect: 99 of 199 normal pixels
    assert aupro(maps, masks) == pytest.approx(0.3 / (99 / 199) / 2, abs=1e-12)


def test_the_limit_is_interpolated():
    masks, maps = np.zeros((1, 1, 11), bool), np.zeros((1, 1, 11))
    masks[0, 0, 0] = True  # one threshold from (0, 0) to (1, 1)
    for limit in (0.1, 0.3, 1.0):
        assert aupro(maps, masks, limit) == pytest.approx(limit / 2)


def test_a_record_says_where_a_region_is_and_how_it_scored():
    masks = np.zeros((3, 8, 9), np.uint8)
    masks[1, 2:4, 3:8] = 1
    maps = np.zeros(masks.shape, np.float32)
    maps[1, 2, 3] = 5
    regions = []
    defect_pixels(next(read(lambda: [(maps, masks)])), regions)
    (region,) = regions
    assert (region.image, region.area, region.box) == (1, 10, (3, 2, 5, 2))
    assert (region.largest, region.mean) == (5, 0.5)
    assert math.isnan(region.found)


def test_without_a_region_or_a_normal_pixel_there_is_no_value():
    maps = np.zeros((2, 3, 3))
    assert math.isnan(aupro(maps, np.zeros(maps.shape, bool)))
    assert math.isnan(aupro(maps, np.ones(maps.shape, bool)))
    assert math.isnan(aupro(maps[:0], np.zeros((0, 3, 3), bool)))


@pytest.mark.parametrize("limit", [0, -1, 1.5, math.nan])
def test_a_limit_outside_its_range_is_refused(limit):
    with pytest.raises(ValueError, match="fpr_limit"):
        aupro(np.zeros((1, 2, 2)), np.eye(2)[None], limit)


@pytest.mark.parametrize(
    ("maps", "masks", "message"),
    [
        (np.zeros((2, 3, 3)), np.zeros((2, 3, 4), bool), r"\[n,H,W\]"),
        (np.zeros((3, 3)), np.zeros((3, 3), bool), r"\[n,H,W\]"),
        (np.zeros((1, 3, 3)), np.full((1, 3, 3), 255), "image 0: its mask holds 255"),
        (np.zeros((1, 3, 3)), np.full((1, 3, 3), 0.5), "image 0: its mask holds 0.5"),
        (np.full((1, 3, 3), np.nan), np.zeros((1, 3, 3)), "image 0: its map holds NaN"),
        (np.full((1, 3, 3), np.inf), np.zeros((1, 3, 3)), "infinity"),
    ],
)
def test_what_has_no_place_in_a_metric_is_refused(maps, masks, message):
    with pytest.raises(ValueError, match=message):
        aupro(maps, masks)
