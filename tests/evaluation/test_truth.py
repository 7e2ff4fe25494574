import numpy as np
import pytest
from PIL import Image

from mvead_jax.config.schema import EvalConfig
from mvead_jax.data.records import View
from mvead_jax.evaluation.protocols import resolve
from mvead_jax.evaluation.truth import Truth, read_mask


def write(path, pixels):
    Image.fromarray(np.asarray(pixels, np.uint8)).save(path)
    return path.name


def custom(**fields):
    return resolve("custom", EvalConfig(protocol="custom", **fields), 16)


@pytest.fixture
def folder(tmp_path):
    square = np.zeros((32, 32), np.uint8)
    square[8:16, 8:24] = 255
    write(tmp_path / "square.png", square)
    speck = np.zeros((32, 32), np.uint8)
    speck[5, 5] = 255
    write(tmp_path / "speck.png", speck)
    write(tmp_path / "grey.png", np.full((32, 32), 100))
    write(tmp_path / "picture.png", np.zeros((20, 30, 3)))
    return tmp_path


def test_a_mask_is_resized_then_thresholded(folder):
    mask = read_mask(folder, "square.png", custom(size="16"))
    expected = np.zeros((16, 16), bool)
    expected[4:8, 4:12] = True
    np.testing.assert_array_equal(mask, expected)
    assert read_mask(folder, "square.png", custom(size="mask")).sum() == 8 * 16


def test_values_between_are_decided_by_the_threshold(folder):
    assert not read_mask(folder, "grey.png", custom(size="mask")).any()
    assert read_mask(folder, "grey.png", custom(size="8", mask_threshold=0)).all()
    assert read_mask(folder, "grey.png", custom(size="8", mask_threshold=99, mask_resize="nearest")).all()


def test_a_crop_takes_the_middle(folder):
    mask = read_mask(folder, "square.png", custom(size="16", crop=0.5, mask_resize="nearest"))
    expected = np.zeros((16, 16), bool)
    expected[:8] = True
    np.testing.assert_array_equal(mask, expected)


def test_views_are_known_by_mask_or_by_a_normal_label(folder):
    views = [
        View("C1", "picture.png", 1, "square.png"),
        View("C2", "picture.png", 0),
        View("C3", "picture.png", 1),
        View("C4", "picture.png", None),
        View("C5", "picture.png", 1, "speck.png"),
    ]
    truth = Truth(folder, views, custom(size="16"))
    assert truth.known.tolist() == [True, True, False, False, True]
    assert truth.defective.tolist() == [True, False, False, False, False]
    assert (truth.without_mask, truth.vanished) == (1, 1)
    assert [int(one.sum()) for one in truth.masks([0, 1, 4])] == [32, 0, 0]


def test_at_the_masks_own_size_a_view_without_one_has_its_pictures(folder):
    views = [View("C1", "picture.png", 1, "square.png"), View("C2", "picture.png", 0)]
    truth = Truth(folder, views, resolve("official", EvalConfig(), 16))
    assert truth.sizes == [(32, 32), (20, 30)]
    assert truth.masks([1]).shape == (1, 20, 30)
    assert truth.masks([0]).sum() == 8 * 16


def test_under_the_official_protocol_a_defective_view_without_a_mask_is_normal(folder):
    """adeval and the data set's own loader take labels from masks; what nobody labelled stays unknown."""
    views = [
        View("C1", "picture.png", 1, "square.png"),
        View("C2", "picture.png", 1),
        View("C3", "picture.png", 0),
        View("C4", "picture.png", None),
        View("C5", "picture.png", 1, "grey.png"),  # nowhere above 127
    ]
    truth = Truth(folder, views, resolve("official", EvalConfig(), 16))
    assert truth.known.tolist() == [True, True, True, False, True]
    assert truth.defective.tolist() == [True, False, False, False, False]
    assert truth.without_mask == 1
    assert not truth.masks([1]).any()


def test_black_masks_of_normal_views_have_not_vanished(folder):
    write(folder / "black.png", np.zeros((32, 32)))
    views = [
        View("C1", "picture.png", 0, "black.png"),
        View("C2", "picture.png", None, "black.png"),
        View("C3", "picture.png", None, "speck.png"),
        View("C4", "picture.png", 1, "square.png"),
    ]
    truth = Truth(folder, views, custom(size="16"))
    assert (truth.marked, truth.vanished) == (2, 1)
    assert Truth(folder, views, custom(size="mask")).vanished == 0
