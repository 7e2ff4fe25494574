"""Checkpoints beside published numbers: the check fails on weights that are not those, and passes on those that are."""

from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from mvead_jax.backbones.dinov2 import published
from mvead_jax.backbones.dinov2.config import DINOV2_SIZES
from mvead_jax.backbones.dinov2.modeling import random_dinov2
from mvead_jax.commands import check_weights
from mvead_jax.data.loading import IMAGENET_MEAN, IMAGENET_STD, preprocess
from mvead_jax.runtime.errors import UserError

SMALL = "dinov2-small-registers"


@pytest.fixture
def photograph(tmp_path):
    """An image of the size of the published one, which is not at hand."""
    path = tmp_path / published.IMAGE
    pixels = np.random.default_rng(0).integers(0, 256, (48, 64, 3)).astype(np.uint8)
    Image.fromarray(pixels).resize(published.IMAGE_SIZE, Image.Resampling.BICUBIC).save(path)
    return path


@pytest.fixture
def small(monkeypatch):
    """The table with one more entry, and the network of random weights that it is about."""
    monkeypatch.setitem(published.PUBLISHED, SMALL, published.PUBLISHED["dinov2-base-registers"])
    return random_dinov2(DINOV2_SIZES[SMALL], 0)


def ended(capsys, *arguments):
    with pytest.raises(SystemExit) as end:
        check_weights.main([str(argument) for argument in arguments])
    return end.value.code, capsys.readouterr().out


def test_weights_that_are_not_the_trained_ones_fail_with_the_figure(photograph, small, capsys):
    code, words = ended(capsys, SMALL, "--image", photograph, "--weights", "random")
    assert code == 1
    ours = published.first_tokens(small, Image.open(photograph))
    far = np.abs(ours - np.float32(published.PUBLISHED[SMALL].tokens)).max()
    assert (
        f"largest difference {far:.2g}, tolerance 0.0001 + 0.0001 of the number: NOT the published" in words
    )
    assert "weights random, seed 0" in words
    assert "dinov2_with_registers of transformers" not in words
    assert "test_modeling_dinov2_with_registers.py of transformers" in words
    assert f"token 0: ours {ours[0, 0]:8.4f}" in words


@pytest.mark.parametrize(("moved", "code"), [(0.0, 0), (9e-5, 0), (1e-3, 1)])
def test_numbers_within_the_tolerance_of_the_published_ones_pass(
    photograph, small, capsys, monkeypatch, moved, code
):
    tokens = published.first_tokens(small, Image.open(photograph)).astype(float)
    tokens[1, 2] += moved
    table = replace(published.PUBLISHED[SMALL], tokens=tuple(map(tuple, tokens)))
    monkeypatch.setitem(published.PUBLISHED, SMALL, table)
    found, words = ended(capsys, SMALL, "--image", photograph, "--weights", "random")
    assert found == code
    assert ("the weights give the published numbers" in words) == (code == 0)


def test_nan_is_no_agreement():
    table = published.PUBLISHED["dinov2-base"]
    assert published.Compared("", np.float32(table.tokens), table).agree
    assert not published.Compared("", np.full((3, 3), np.nan, np.float32), table).agree


@pytest.mark.parametrize(
    ("size", "resized", "corner"), [((640, 480), (341, 256), (58, 16)), ((300, 500), (256, 426), (16, 101))]
)
def test_the_middle_is_cut_as_the_image_processor_does(size, resized, corner):
    """Shorter side 256, the longer one rounded down; the crop begins at half of what is too much, rounded down."""
    image = Image.fromarray(np.random.default_rng(1).integers(0, 256, (size[1], size[0], 3)).astype(np.uint8))
    whole = np.asarray(image.resize(resized, Image.Resampling.BICUBIC))
    left, top = corner
    expected = whole[top : top + 224, left : left + 224]
    np.testing.assert_array_equal(np.asarray(published.cropped(image)), expected)
    values = (expected / 255 - IMAGENET_MEAN) / IMAGENET_STD
    np.testing.assert_allclose(preprocess(published.cropped(image), 224), values, atol=1e-5)


def test_mistakes_are_one_line(photograph, tmp_path):
    other = tmp_path / "other.png"
    Image.new("RGB", (480, 640)).save(other)
    for name, image, weights, message in [
        ("dinov2-base", tmp_path / "none.png", "random", "none.png"),
        ("dinov2-base", other, "random", "other.png: 480 x 640 pixels, but 000000039769.png of COCO"),
        ("dinov2-bas", photograph, "random", "unknown backbone 'dinov2-bas'; did you mean 'dinov2-base'"),
        ("dinov2-large", photograph, "random", "dinov2-large: nobody publishes numbers of it"),
        ("dinov2-base", photograph, str(tmp_path / "nothing"), "nothing"),
    ]:
        with pytest.raises(UserError, match=message) as caught:
            published.compare(name, image, weights, tmp_path)
        assert "\n" not in str(caught.value)
