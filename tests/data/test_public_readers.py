"""Readers of public data sets: what they find, and one clear line for each damaged copy."""

import shutil

import numpy as np
import pytest
from PIL import Image
from public_layouts import LAYOUTS

from mvead_jax.data.check import check_data
from mvead_jax.data.published_counts import _PUBLISHED, other_counts
from mvead_jax.data.readers import detected, open_data
from mvead_jax.data.records import Sample, View
from mvead_jax.runtime.errors import by_kind


def one_line(root, **options):
    """The problems of a copy in which one thing is wrong: one line of check_data.py."""
    (line,) = by_kind(check_data(root, **options).problems)
    return line


# ---- MVTec AD and its relatives


@pytest.mark.parametrize("name", ["mvtec_ad", "mvtec_ad_2", "btad", "mpdd"])
def test_every_image_is_a_sample_of_one_view_with_its_label_and_mask(name, tmp_path):
    root = LAYOUTS[name](tmp_path)
    assert detected(root) == ["single_view"]
    index = open_data(root)
    assert index.views == ("view",)
    assert {path.name for path in root.iterdir() if path.is_dir()} == set(index.categories)
    for sample in index.samples:
        (view,) = sample.views
        good = sample.id.startswith("good/")
        assert (root / view.image).is_file()
        assert sample.label == view.label == int(not good)
        assert (view.mask is None) == good
        if view.mask:
            assert (np.asarray(Image.open(root / view.mask)) > 127).any()


def test_one_category_of_mvtec_ad_is_a_data_set_too(tmp_path):
    root = LAYOUTS["mvtec_ad"](tmp_path)
    assert open_data(root / "tile").categories == ("tile",)
    assert len(open_data(root / "tile")) == len(open_data(root, ["tile"]))


def test_test_sets_without_labels_are_noted_and_passed_over(tmp_path):
    notes = open_data(LAYOUTS["mvtec_ad_2"](tmp_path)).notes
    assert sorted(note.split(":")[0] for note in notes) == [
        "can/test_private/",
        "can/test_private_mixed/",
        "can/validation/",
    ]


def remove_masks(place):
    shutil.rmtree(place / "ground_truth/contamination")


def add_folder(place):
    (place / "test/good/more").mkdir()


def move_defect(place):
    shutil.move(place / "test/contamination", place / "train/contamination")
    shutil.rmtree(place / "ground_truth/contamination")


def enlarge_mask(place):
    Image.new("L", (40, 32), 255).save(place / "ground_truth/contamination/000_mask.png")


def lose_image(place):
    (place / "test/contamination/001.png").unlink()


def second_good(place):
    shutil.copytree(place / "test/contamination", place / "test/OK")


def cut(place):
    path = place / "train/good/003.png"
    path.write_bytes(path.read_bytes()[:200])


@pytest.mark.parametrize(
    ("damage", "line"),
    [
        (
            lambda place: (place / "ground_truth/contamination/000_mask.png").unlink(),
            "tile/ground_truth/contamination/000_mask.png: no such mask, and others of this category are there; unpack",
        ),
        (
            lambda place: shutil.rmtree(place / "train/good"),
            "tile/train/good/: no sample to learn from; put good",
        ),
        (add_folder, "tile/test/good/more/: a folder among images; here an image is a sample"),
        (
            lose_image,
            "tile/ground_truth/contamination/001_mask.png: a mask without its image test/contamination/001",
        ),
        (
            enlarge_mask,
            "tile/ground_truth/contamination/000_mask.png: mask of 40 x 32 pixels, its image has 32 x 32",
        ),
        (second_good, "tile/test/good/: a second folder of good samples; keep one"),
        (
            move_defect,
            "tile/train/contamination/: training has good samples only; move these to test/contamination/",
        ),
        (cut, "tile/train/good/003.png: "),
    ],
)
def test_a_damaged_copy_of_mvtec_ad_gets_one_line(damage, line, tmp_path):
    root = LAYOUTS["mvtec_ad"](tmp_path)
    damage(root / "tile")
    assert one_line(root).startswith(line)


def test_masks_that_were_not_unpacked_are_one_line_with_their_count(tmp_path):
    root = LAYOUTS["mvtec_ad"](tmp_path)
    for number in range(2, 9):
        shutil.copy(
            root / "tile/train/good/000.png", path := root / f"tile/test/contamination/{number:03d}.png"
        )
        path.write_bytes(path.read_bytes() + bytes([number]))
    remove_masks(root / "tile")
    where = "tile/ground_truth/contamination/"
    assert one_line(root).startswith(
        f"9 times ({where}000_mask.png, {where}001_mask.png, {where}002_mask.png, ...): no such"
    )


def test_without_any_masks_the_images_of_defects_are_defective(tmp_path):
    root = LAYOUTS["mpdd"](tmp_path)
    shutil.rmtree(root / "tubes/ground_truth")
    checked = check_data(root)
    assert not checked.problems
    assert any("2 defective samples have no mask" in note for note in checked.notes)
    assert {sample.label for sample in checked.samples if sample.id.startswith("anomalous")} == {1}


def sample(category, split, number, label):
    name = f"{category}/{split}/{number}"
    return Sample(name, category, split, (View("view", name, label, f"{name}_mask" if label else None),))


@pytest.mark.parametrize("name", _PUBLISHED)
def test_counts_that_are_not_the_published_ones_are_told_for_all_categories_only(name):
    known, expected = _PUBLISHED[name]
    categories = known.split()
    good = expected.get("test samples OK", 0)
    samples = [
        sample(categories[at % len(categories)], "train", at, 0) for at in range(expected["train images"])
    ]
    samples += [
        sample(categories[at % len(categories)], "test", at, int(at >= good))
        for at in range(expected["test images"])
    ]
    assert other_counts(samples) == []
    (line,) = other_counts(samples[1:])
    assert line == f"train images {expected['train images'] - 1:,}, {name} has {expected['train images']:,}"
    assert other_counts([one for one in samples if one.category != categories[0]]) == []
