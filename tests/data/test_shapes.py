"""data/shapes.py: images of another shape than their view had in training."""

import json
import logging
import shutil

import pytest
from own_data import write_folders
from PIL import Image

from mvead_jax.data.readers import open_data, open_pictures
from mvead_jax.data.shapes import (
    check_shape,
    other_shape,
    report_shapes,
    seen_images,
    shape_problems,
    training_sizes,
)
from mvead_jax.runtime.errors import DataProblems, UserError

CAMERAS = {"left": (".png", (128, 64)), "top": (".png", (50, 50))}


@pytest.fixture
def root(tmp_path):
    return write_folders(tmp_path / "own", CAMERAS, train=3, good=2, defective=1)


def turn(path):
    Image.open(path).transpose(Image.Transpose.ROTATE_90).save(path)


def test_sizes_are_kept_by_category_and_view_as_json_keeps_them(root):
    (path,) = root.glob("train/good/teil 00/top.png")
    Image.new("RGB", (40, 40)).save(path)
    sizes = training_sizes(open_data(root))
    assert sizes == {"own": {"left": [[128, 64]], "top": [[50, 50], [40, 40]]}}
    assert json.loads(json.dumps(sizes)) == sizes


@pytest.mark.parametrize(
    ("size", "words"),
    [
        ((128, 64), None),
        ((127, 64), "another size than in training (127 x 64 pixels, in training 128 x 64)"),
        ((256, 128), "another size than in training"),
        (
            (64, 128),
            "another shape than in training (64 x 128 pixels, in training 128 x 64): it is stretched",
        ),
        ((128, 60), "another shape than in training"),
        ((1, 1), "another shape than in training"),
        ((30_000, 1), "another shape than in training"),
    ],
)
def test_a_shape_is_another_beyond_two_per_cent_of_the_aspect(size, words):
    found = other_shape("left", size, {"left": [[128, 64]]})
    assert (found is None) == (words is None)
    assert words is None or found.startswith(words)


def test_a_view_that_had_several_sizes_has_no_other_size_but_has_other_shapes():
    trained = {"top": [[50, 50], [128, 64]]}
    assert other_shape("top", (70, 70), trained) is None
    assert other_shape("top", (64, 32), trained) is None
    assert "50 x 50 or 128 x 64" in other_shape("top", (64, 128), trained)
    assert other_shape("side", (64, 128), trained) is None  # of which training had none


def test_there_is_one_line_for_each_view_with_the_number_of_its_images(root):
    trained = training_sizes(open_data(root))
    for path in root.glob("test/*/*/left.png"):
        turn(path)
    (line,) = shape_problems(seen_images(open_data(root).select(split="test")), trained)
    assert line == (
        "own: 3 images of view left of another shape than in training (64 x 128 pixels, in training "
        "128 x 64): it is stretched; crop or turn it as there; the first is test/Kratzer ß/teil 00/left.png"
    )


def test_new_images_are_compared_by_the_view_and_category_of_training(root, tmp_path):
    trained = training_sizes(open_data(root))
    shutil.copytree(root / "test/good", tmp_path / "new")
    turn(tmp_path / "new/teil 01/left.png")
    new = open_pictures(tmp_path / "new", {"own": list(CAMERAS)})
    (line,) = shape_problems(seen_images(new), trained)
    assert line.startswith("own: an image of view left of another shape")
    assert line.endswith("the first is teil 01/left.png")
    assert shape_problems(seen_images(new), {"other": {"left": [[1, 2]]}}) == []


def test_problems_are_warnings_and_under_strict_an_error(caplog):
    report_shapes("DIR", ["one", "two"], strict=False)
    assert [record.getMessage() for record in caplog.records] == ["one", "two"]
    assert {record.levelno for record in caplog.records} == {logging.WARNING}
    with pytest.raises(DataProblems) as error:
        report_shapes("DIR", ["one", "two"], strict=True)
    assert error.value.problems == ["one", "two"]
    assert "DIR (data.strict): 2 problems" in str(error.value)
    report_shapes("DIR", [], strict=True)


def test_one_image_at_a_time_is_a_warning_or_an_error():
    trained = {"left": [[128, 64]]}
    assert check_shape("left", (128, 64), trained, strict=True) is None
    assert check_shape("left", (64, 128), trained, strict=False).startswith("view left: another shape")
    with pytest.raises(UserError, match=r"view left: another shape .*\(data.strict\)"):
        check_shape("left", (64, 128), trained, strict=True)
