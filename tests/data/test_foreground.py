"""Foreground masks: their resize against OpenCV and loops, masks from features, and files."""

import cv2
import numpy as np
import pytest
from PIL import Image

from mvead_jax.data.foreground import (
    above_otsu,
    automatic_foreground,
    border_distance,
    filled_and_grown,
    foreground_path,
    largest_pieces,
    read_foreground,
    resize_by_area,
    resize_fixed_point,
    resize_foreground,
    resize_nearest,
)
from mvead_jax.runtime.errors import UserError

SIZES = [
    ((256, 256), (24, 24)),
    ((256, 256), (16, 16)),
    ((100, 77), (24, 9)),
    ((24, 24), (24, 24)),
    ((5, 7), (8, 8)),
]


def random_mask(seed, shape, share=0.5):
    """Patches of part and background with ragged borders."""
    random = np.random.default_rng(seed)
    smooth = cv2.GaussianBlur(random.normal(size=shape), (0, 0), 0.05 * min(shape) + 0.1)
    return smooth + 0.3 * smooth.std() * random.normal(size=shape) > np.quantile(smooth, 1 - share)


# ---- resizing


@pytest.mark.parametrize(("shape", "grid"), SIZES)
@pytest.mark.parametrize("seed", range(4))
def test_the_released_rule_is_opencvs_bilinear_resize_of_zeros_and_ones(shape, grid, seed):
    for part in (random_mask(seed, shape), np.random.default_rng(seed).random(shape) < 0.5):
        expected = cv2.resize(part.astype(np.uint8), grid[::-1])
        np.testing.assert_array_equal(resize_fixed_point(part, grid), expected)


def test_the_released_rule_is_no_exact_rounding():
    part = np.random.default_rng(0).random((256, 256)) < 0.5
    exact = cv2.resize(part.astype(np.float64), (24, 24)) >= 0.5
    assert 0 < (resize_fixed_point(part, (24, 24)) != exact).mean() < 0.3


@pytest.mark.parametrize(("shape", "grid"), SIZES)
def test_nearest_is_opencvs(shape, grid):
    part = random_mask(5, shape)
    expected = cv2.resize(part.astype(np.uint8), grid[::-1], interpolation=cv2.INTER_NEAREST)
    np.testing.assert_array_equal(resize_nearest(part, grid), expected)


@pytest.mark.parametrize(("shape", "grid"), SIZES)
def test_by_area_a_patch_belongs_to_the_part_when_half_of_it_does(shape, grid):
    part = random_mask(6, shape)
    # Every pixel as grid[0] x grid[1] equal bits, so that a cell is a whole number of them.
    bits = np.repeat(np.repeat(part, grid[0], 0), grid[1], 1)
    cells = bits.reshape(grid[0], shape[0], grid[1], shape[1]).sum((1, 3))
    np.testing.assert_array_equal(resize_by_area(part, grid), 2 * cells >= part.size)


def test_half_a_patch_is_enough_and_less_is_not():
    part = np.zeros((4, 4), bool)
    part[:2, :1] = True
    assert resize_by_area(part, (2, 2)).tolist() == [[True, False], [False, False]]
    part[1, 0] = False
    assert not resize_by_area(part, (2, 2)).any()


@pytest.mark.parametrize("rule", ["area", "nearest", "released"])
def test_all_rules_keep_full_and_empty_masks(rule):
    for value in (False, True):
        found = resize_foreground(np.full((32, 48), value), (6, 8), rule)
        assert found.shape == (6, 8)
        assert (found == value).all()


def test_holes_are_filled_and_the_part_grows_by_a_block():
    part = np.zeros((20, 20), bool)
    part[5:12, 5:12] = True
    part[8, 8] = False
    grown = filled_and_grown(part)
    assert grown[8, 8]
    rows, columns = np.nonzero(grown)
    assert (rows.min(), rows.max(), columns.min(), columns.max()) == (1, 14, 1, 14)
    assert grown.sum() == 14 * 14


# ---- from features


def test_a_part_on_a_plain_background_is_found_without_its_holes_and_without_specks():
    random = np.random.default_rng(0)
    truth = np.zeros((16, 16), bool)
    truth[4:12, 3:11] = True
    features = 0.1 * random.normal(size=(16, 16, 8)) + truth[..., None] * random.normal(size=8)
    features[7, 6] = features[0, 0]  # a hole
    features[13, 14] += 3  # a speck
    np.testing.assert_array_equal(automatic_foreground(features), truth)
    raw = above_otsu(border_distance(features))
    assert not raw[7, 6]
    assert raw[13, 14]


@pytest.mark.parametrize("width", [1, 8, 100])
def test_where_nothing_stands_out_everything_is_foreground(width):
    random = np.random.default_rng(1)
    for features in (
        np.ones((5, 6, width)),
        random.normal(size=(24, 24, width)),
        random.random((16, 9, width)),
    ):
        assert automatic_foreground(features).all()


def test_otsus_threshold_parts_two_groups():
    random = np.random.default_rng(2)
    values = np.concatenate([random.normal(1, 0.1, (10, 10)), random.normal(3, 0.3, (10, 6))], 1)
    np.testing.assert_array_equal(above_otsu(values), values > 2)
    assert not above_otsu(np.zeros((3, 3))).any()


def test_pieces_that_are_small_beside_the_largest_are_left_out():
    part = np.zeros((30, 30), bool)
    part[2:22, 2:22] = True  # 400
    part[24:27, 23:30] = True  # 21
    part[27, 2] = True
    part[22, 22] = True  # joined by its corner
    found = largest_pieces(part)
    assert found[26, 26]  # more than 5 % of 401
    assert found[22, 22]
    assert not found[27, 2]


# ---- files


def test_a_mask_lies_beside_its_image_or_in_a_folder_of_the_same_tree():
    assert foreground_path("good/0001/C1.jpg") == "good/0001/C1.foreground.png"
    assert foreground_path("good/0001/C1.v2.jpg") == "good/0001/C1.v2.foreground.png"
    assert foreground_path("C1.jpg") == "C1.foreground.png"
    assert foreground_path("good/0001/C1.jpg", "masks") == "masks/good/0001/C1.png"


def save(path, levels):
    Image.fromarray(np.asarray(levels, np.uint8)).save(path)
    return path


@pytest.fixture
def image(tmp_path):
    return save(tmp_path / "image.png", np.zeros((40, 60, 3)))


@pytest.mark.parametrize("shape", [(40, 60), (20, 30), (41, 61), (16, 16)])
def test_a_mask_of_the_images_shape_or_a_square_is_taken(tmp_path, image, shape):
    levels = np.zeros(shape)
    levels[: shape[0] // 2] = 255
    found = read_foreground(save(tmp_path / "mask.png", levels), image)
    np.testing.assert_array_equal(found, levels > 0)


def test_soft_edges_are_cut_in_the_middle(tmp_path, image):
    levels = np.zeros((40, 60))
    levels[0, :3] = 127, 128, 255
    assert read_foreground(save(tmp_path / "mask.png", levels), image)[0, :3].tolist() == [False, True, True]


@pytest.mark.parametrize(
    ("levels", "words"),
    [
        (np.ones((40, 60)), "brightest pixel is 1 of 255"),
        (np.zeros((40, 60)), "marks no part"),
        (np.full((60, 40), 255), "40 x 60 pixels for an image of 60 x 40"),
    ],
)
def test_a_mask_that_can_not_be_meant_is_refused(tmp_path, image, levels, words):
    mask = save(tmp_path / "mask.png", levels)
    with pytest.raises(UserError, match=words) as caught:
        read_foreground(mask, image)
    assert str(mask) in str(caught.value)


def test_a_missing_or_damaged_mask_is_refused(tmp_path, image):
    with pytest.raises(UserError, match="mask.png"):
        read_foreground(tmp_path / "mask.png", image)
    (tmp_path / "mask.png").write_bytes(b"no image")
    with pytest.raises(UserError, match="not an image"):
        read_foreground(tmp_path / "mask.png", image)
