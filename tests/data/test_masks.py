"""data/masks.py: what a mask marks, and what is refused; judged both ways, too strict and too lax."""

import csv
import logging

import cv2
import numpy as np
import pytest
from fake_realiad import write_realiad
from mask_inputs import SIDE, coloured, grey, in_alpha, resized, scratch, square, with_second
from own_data import write_folders
from PIL import Image, ImageDraw

from mvead_jax.config.schema import EvalConfig
from mvead_jax.data.file_check import check_files
from mvead_jax.data.masks import _area_between, _squares, mask_facts, mask_label, open_mask
from mvead_jax.data.readers import open_data
from mvead_jax.data.realiad import load_index
from mvead_jax.data.tfds_realiad.prepare import prepare
from mvead_jax.evaluation.protocols import resolve
from mvead_jax.evaluation.truth import read_mask
from mvead_jax.report.thumbnails import read_outline
from mvead_jax.runtime.errors import DataProblems, UserError


@pytest.fixture
def saved(tmp_path):
    def save(image, name="mask.png", **options):
        image.save(tmp_path / name, **options)
        return tmp_path / name

    return save


def squares_slowly(levels, where, side):
    """Return the pixels of `where` in a square of one level whose centre is in it, by the definition."""
    found = np.zeros(levels.shape, bool)
    for y in range(levels.shape[0] - side + 1):
        for x in range(levels.shape[1] - side + 1):
            block = levels[y : y + side, x : x + side]
            if block.min() == block.max() and where[y + side // 2, x + side // 2]:
                found[y : y + side, x : x + side] = True
    return found & where


@pytest.mark.parametrize("side", [3, 5])
def test_squares_are_those_of_their_definition(side):
    rng = np.random.default_rng(side)
    for number in range(40):
        coarse = rng.choice([0, 60, 100, 255], rng.integers(1, 9, 2)).astype(np.uint8)
        levels = coarse.repeat(rng.integers(1, 5), 0).repeat(rng.integers(1, 5), 1)
        where = (levels > 0) & (levels < 255)
        np.testing.assert_array_equal(
            _squares(levels, where, side, lossy=False), squares_slowly(levels, where, side), str(number)
        )


SHAPES = {
    "disc": lambda draw, n: draw.ellipse([n // 5, n // 5, n // 2, 2 * n // 3], fill=255),
    "triangle": lambda draw, n: draw.polygon([(n // 8, n // 2), (n // 2, n // 8), (n - 9, n - 40)], fill=255),
    "scratch": lambda draw, n: draw.line([(9, 20), (n // 2, n // 3), (n - 9, n // 2)], fill=255, width=3),
    "flat scratch": lambda draw, n: draw.line([(9, n // 2), (n - 9, n // 2)], fill=255, width=9),
    "square": lambda draw, n: draw.rectangle([n // 4, n // 4, n // 2, n // 2], fill=255),
}


@pytest.mark.parametrize("method", ["BOX", "BILINEAR", "BICUBIC", "LANCZOS"])
@pytest.mark.parametrize("sizes", [(1000, 128), (700, 256), (128, 256), (100, 384), (64, 512)], ids=str)
@pytest.mark.parametrize("shape", SHAPES)
def test_edges_that_resizing_made_soft_are_no_areas(shape, sizes, method):
    image = Image.new("L", (sizes[0],) * 2)
    SHAPES[shape](ImageDraw.Draw(image), sizes[0])
    soft = image.resize((sizes[1],) * 2, getattr(Image.Resampling, method))
    assert _area_between(np.asarray(soft), lossy=False) is None
    part = soft.crop((0, 0, 128, 128))
    stairs = part.resize((1024, 1024), Image.Resampling.NEAREST)
    if len(np.unique(np.asarray(part))) > 8:  # few levels could as well be drawn
        assert _area_between(np.asarray(stairs), lossy=False) is None


@pytest.mark.parametrize("sigma", [1, 3, 9])
@pytest.mark.parametrize("shape", SHAPES)
def test_edges_that_blurring_made_soft_are_no_areas(shape, sigma):
    image = Image.new("L", (256, 256))
    SHAPES[shape](ImageDraw.Draw(image), 256)
    blurred = cv2.GaussianBlur(np.asarray(image), (0, 0), sigma)
    assert _area_between(blurred, lossy=False) is None


@pytest.mark.parametrize("quality", [60, 75, 85])
@pytest.mark.parametrize("level", [80, 100])
def test_an_area_is_found_in_a_mask_that_a_lossy_format_changed(saved, level, quality):
    levels = np.zeros((96, 96), np.uint8)
    levels[10:40, 12:50] = 255
    levels[59:70, 53:64] = level  # off the blocks of JPEG, so that no pixel keeps its level
    with pytest.raises(UserError, match="lies between black and white"):
        open_mask(saved(grey(levels), "mask.jpg", quality=quality))


@pytest.mark.parametrize("quality", [40, 75, 92])
@pytest.mark.parametrize("form", ["JPEG", "WEBP"])
@pytest.mark.parametrize("shape", SHAPES)
def test_what_a_lossy_format_leaves_around_edges_is_no_area(saved, shape, form, quality):
    image = Image.new("L", (200, 200))
    SHAPES[shape](ImageDraw.Draw(image), 200)
    path = saved(image.convert("RGB" if form == "WEBP" else "L"), f"mask.{form.lower()}", quality=quality)
    assert mask_label(path) == 1
    assert mask_facts(path).marked == pytest.approx((np.asarray(image) > 0).mean(), rel=0.1)


@pytest.mark.parametrize("level", [1, 40, 100, 127, 128, 200, 254])
@pytest.mark.parametrize("where", ["apart", "at its side", "at the border"])
def test_an_area_at_any_level_between_is_found_where_it_is(saved, level, where):
    levels = square()
    y, x = {"apart": (50, 50), "at its side": (20, 21), "at the border": (0, 60)}[where]
    levels[y : y + 4, x : x + 4] = level
    with pytest.raises(UserError, match=rf"0.4% of it lies between.*level {level} of 255 at x {x}, y {y}\)"):
        open_mask(saved(grey(levels)))


def test_an_area_is_found_in_a_mask_that_was_resized_too(saved):
    levels = np.asarray(grey(with_second(100, side=16)).resize((200, 200), Image.Resampling.BILINEAR))
    with pytest.raises(UserError, match="level 100 of 255"):
        open_mask(saved(grey(levels)))


def test_two_levels_are_black_and_white_whatever_they_are(saved):
    for low, high in ((0, 255), (0, 128), (30, 200), (127, 128)):
        assert mask_facts(saved(grey(square(high, low)))).marked == (square() > 0).mean()
    assert mask_label(saved(Image.new("L", (9, 9)))) == 0


@pytest.mark.parametrize("size", [(1, 1), (2, 2), (1, 40), (40, 2)], ids=str)
def test_masks_of_a_few_pixels_are_judged_too(saved, size):
    rng = np.random.default_rng(0)
    path = saved(grey(rng.integers(0, 255, size, np.uint8)))
    assert mask_facts(path).size == size[::-1]


@pytest.mark.parametrize("mode", ["1", "L", "P", "RGB", "RGBA", "LA"])
def test_a_mask_that_is_taken_has_the_brightness_of_its_image(saved, mode):
    path = saved(grey(square()).convert(mode))
    mask = open_mask(path)
    assert mask.mode == "L"
    np.testing.assert_array_equal(np.asarray(mask), square())


def test_a_mask_is_turned_upright_before_it_is_judged(saved):
    exif = Image.Exif()
    exif[0x0112] = 6
    path = saved(grey(np.rot90(square(size=40)[:30])), exif=exif)
    np.testing.assert_array_equal(np.asarray(open_mask(path)), square(size=40)[:30])


def test_shares_and_faint_regions_are_counted(saved):
    facts = mask_facts(saved(grey(255 - square())))
    assert (facts.brightest, facts.faint, facts.flat) == (255, 0, False)
    assert facts.marked == pytest.approx(1 - (square() > 0).mean())
    two = np.asarray(scratch(2)) // 2
    faint = np.maximum(square(), np.maximum(two, two[::-1, ::-1]) * (square() == 0))
    assert mask_facts(saved(grey(faint))).faint >= 2
    assert mask_facts(saved(resized(square(size=500), SIDE))).faint == 0
    assert mask_facts(saved(grey(square(100)))).flat
    assert not mask_facts(saved(grey(np.asarray(scratch(3)) // 3))).flat


# Wherever masks come from.

WRONG = {
    "alpha": (lambda size: in_alpha("RGBA").resize((size, size)), "its transparency varies"),
    "colours": (lambda size: coloured((255, 0, 0)).resize((size, size), 0), "holds colours"),
    "levels": (lambda size: grey(with_second(100)).resize((size, size), 0), "lies between black and white"),
}


def as_manifest(root):
    """Write a manifest of a data set in folders, which opens no mask by itself."""
    index = open_data(root)
    lines = [("sample", "view", "path", "label", "mask", "split")]
    for sample in index.samples:
        lines += [(sample.id, v.name, v.image, v.label, v.mask or "", sample.split) for v in sample.views]
    with (root / "manifest.csv").open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows(lines)
    return root


@pytest.fixture(params=["manifest", "real_iad"])
def listed(request, tmp_path):
    """A data set whose reader does not open masks, and its masks."""
    if request.param == "manifest":
        root = write_folders(tmp_path / "own", {"top": (".png", (SIDE, SIDE))}, train=2, good=1, defective=1)
        return as_manifest(root), sorted(root.glob("ground_truth/*/*/*.png"))
    root = write_realiad(tmp_path / "data", categories=("cap",), train=2, normal=1, defective=1, views=2)
    return root, sorted(root.rglob("*.png"))


@pytest.mark.parametrize("kind", WRONG)
def test_a_wrong_mask_is_refused_before_anything_is_computed_or_prepared(listed, kind, tmp_path):
    root, masks = listed
    make, words = WRONG[kind]
    make(SIDE).save(masks[0])
    index = open_data(root)
    with pytest.raises(DataProblems, match=words) as error:
        check_files(index)
    assert str(masks[0]) in str(error.value)
    with pytest.raises(DataProblems, match=words):
        prepare(root, tmp_path / "prepared")


@pytest.mark.parametrize("kind", WRONG)
def test_a_wrong_mask_is_refused_where_metrics_and_the_report_read_it(saved, kind):
    make, words = WRONG[kind]
    path = saved(make(SIDE))
    protocol = resolve("mvad", EvalConfig(), 32)
    with pytest.raises(UserError, match=words):
        read_mask(path.parent, path.name, protocol)
    with pytest.raises(UserError, match=words):
        read_outline(path)


def test_a_wrong_mask_in_prepared_data_is_refused_where_it_is_read(tmp_path, monkeypatch):
    root = write_realiad(tmp_path / "data", categories=("cap",), train=2, normal=1, defective=1, views=2)
    mask = next(root.rglob("*.png"))
    in_alpha("RGBA").save(mask)
    monkeypatch.setattr("mvead_jax.data.tfds_realiad.prepare.check_files", lambda index: None)
    prepare(root, tmp_path / "prepared")  # as an earlier version did, which did not look at masks
    index = open_data(tmp_path / "prepared")
    paths = [view.mask for sample in index.samples for view in sample.views if view.mask]
    with pytest.raises(UserError, match=r"cap_.*png: its transparency varies"):
        read_mask(index.root, paths[0], resolve("mvad", EvalConfig(), 32))


def test_masks_of_zeros_and_ones_are_refused_and_thin_ones_that_vanish_are_not(listed):
    root, masks = listed
    grey(np.asarray(scratch(3)) // 3).save(masks[0])  # as resizing leaves a scratch of one pixel
    check_files(open_data(root))
    grey(square(1)).save(masks[0])
    with pytest.raises(DataProblems, match="its brightest pixel is 1 of 255"):
        check_files(open_data(root))


def test_inverted_masks_are_said_once_with_their_number(tmp_path, caplog):
    caplog.set_level(logging.WARNING, "mvead_jax")
    root = write_realiad(tmp_path, categories=("cap",), train=2, normal=1, defective=3, views=2)
    for path in root.rglob("*.png"):
        Image.fromarray(255 - np.asarray(Image.open(path))).save(path)
    check_files(load_index(root))
    (line,) = [one.getMessage() for one in caplog.records]
    assert "3 masks mark more than half of the image (realiad_64/cap/NG/HS/S0004/" in line
    assert line.endswith(" marks 94%): white is what is defective; are they inverted?")
