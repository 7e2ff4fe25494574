"""data/folders.py: what lies in a user's folders, and every way in which it can be wrong."""

import dataclasses
import errno
import shutil
from pathlib import Path

import numpy as np
import pytest
from own_data import CAMERAS, write_folders
from PIL import Image

from mvead_jax.data.folders import read_folder
from mvead_jax.data.new_images import read_samples
from mvead_jax.data.readers import detected, open_data, open_pictures
from mvead_jax.data.records import Sample, View, defect_code, natural_key
from mvead_jax.runtime.errors import DataProblems, UserError

LEFT, TOP, RIGHT = CAMERAS


@pytest.fixture
def root(tmp_path):
    return write_folders(tmp_path / "Mein Teil №1")


def problems(root, **options):
    return list(read_folder(root, **options).problems)


def paint(path, value, size=(48, 40)):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full(size[::-1], value, np.uint8)).save(path)


def test_every_sample_has_its_views_whatever_they_are_called_and_stored_as(root):
    index = open_data(root)
    assert detected(root) == ["folder"]
    assert index.categories == ("Mein Teil №1",)
    assert index.views == (LEFT, TOP, RIGHT)
    assert (len(index.select(split="train")), len(index.select(split="test"))) == (6, 6)
    assert index.present().all()
    assert all((root / view.image).is_file() for sample in index.samples for view in sample.views)
    assert {sample.id for sample in index.select(split="train").samples} == {
        f"good/teil 0{number}" for number in range(6)
    }
    assert {defect_code(sample.id) for sample in index.samples} == {None, "Kratzer ß"}


def test_labels_are_those_of_the_masks_and_a_view_without_its_own_is_normal(root):
    for sample in open_data(root).samples:
        assert sample.label == int(sample.id.startswith("Kratzer"))
        for view in sample.views:
            mask = root / f"ground_truth/{sample.id}/{view.name}.png"
            marked = mask.exists() and sample.split == "test"
            assert view.label == int(marked)
            assert view.mask == (mask.relative_to(root).as_posix() if marked else None)


def test_an_empty_mask_says_that_the_defect_is_not_seen_there(root):
    paint(root / f"ground_truth/Kratzer ß/teil 00/{LEFT}.png", 0)
    sample = next(one for one in open_data(root).samples if one.id == "Kratzer ß/teil 00")
    assert [view.label for view in sample.views] == [0, 1, 0]


def test_without_masks_the_part_is_known_to_be_defective_and_its_views_are_not(tmp_path):
    index = open_data(write_folders(tmp_path / "x", masks=False))
    for sample in index.select(split="test").samples:
        good = sample.id.startswith("good/")
        assert sample.label == int(not good)
        assert {view.label for view in sample.views} == ({0} if good else {None})


def test_the_only_view_of_a_category_is_what_its_part_is(tmp_path):
    index = open_data(write_folders(tmp_path / "x", {"top": CAMERAS[LEFT]}, masks=False))
    assert {(one.label, one.views[0].label) for one in index.select(split="test").samples} == {
        (0, 0),
        (1, 1),
    }


def test_several_categories_lie_below_one_root_and_one_can_be_called_anew(tmp_path, root):
    both = tmp_path / "both"
    shutil.copytree(root, both / "a[1]")
    write_folders(both / "b", {"only": CAMERAS[LEFT]}, train=1, good=1, defective=1)
    index = open_data(both)
    assert index.categories == ("a[1]", "b")
    assert index.select(category="b").views == ("only",)
    assert open_data(both, ["b"]).categories == ("b",)
    with pytest.raises(UserError, match="unknown category 'c'"):
        open_data(both, ["c"])
    named, own = open_data(root, ["part"]), open_data(root)
    assert named.categories == ("part",)
    assert [one.id for one in named.samples] == [one.id for one in own.samples]


def test_what_systems_leave_is_no_picture_and_other_files_are_said(root):
    folder = root / "train/good/teil 00"
    for name in (".DS_Store", "Thumbs.db", "._Kamera links.png"):
        (folder / name).write_bytes(b"x")
    (folder / "notes.txt").write_text("x")
    (root / "train/good/.git").mkdir()
    index = open_data(root)
    assert len(index) == 12
    assert index.notes == ("Mein Teil №1: 1 files .txt are passed over",)


def test_a_name_that_systems_spell_in_two_ways_is_one_view(root):
    path = root / "train/good/teil 00/обзор-ü.JPG"
    path.rename(path.with_name("обзор-u\u0308.JPG"))
    index = open_data(root)
    assert index.views == (LEFT, TOP, RIGHT)
    assert index.present().all()


def test_two_spellings_of_one_kind_or_category_are_a_problem_and_not_one_of_them(root, tmp_path):
    for split in ("train", "test"):
        shutil.copytree(root / f"{split}/good", tmp_path / f"both/\u00fc/{split}/good")
        shutil.copytree(root / f"{split}/good", tmp_path / f"both/u\u0308/{split}/good")
    (second,) = problems(tmp_path / "both")
    assert second.startswith(
        ("\u00fc/: a second folder of this name", "u\u0308/: a second folder of this name")
    )
    for kind in ("f\u00fcr", "fu\u0308r"):
        shutil.copytree(root / "test/good", root / "test" / kind)
    (second,) = problems(root)
    assert "a second folder of this name" in second
    assert second.startswith("test/f")
    views = {"\u00fc": CAMERAS, "b": CAMERAS}
    shutil.copytree(root / "test/good", tmp_path / "new/u\u0308")
    assert read_samples(tmp_path / "new", views).categories == ("\u00fc",)
    shutil.copytree(root / "test/good", tmp_path / "new/\u00fc")
    with pytest.raises(DataProblems, match="a second folder of this name"):
        read_samples(tmp_path / "new", views)


def test_folders_of_a_wrong_name_are_said(root, tmp_path):
    (root / "test").rename(root / "Test")
    (root / "ground_truth").rename(root / "ground-truth")
    own = "passed over; a category holds the folders train, test, ground_truth"
    assert open_data(root).notes == (
        f"{root.name}: no test samples: nothing to score",
        f"Test/: {own}",
        f"ground-truth/: {own}",
    )
    shutil.copytree(root, tmp_path / "both/a")
    shutil.copytree(root / "train", tmp_path / "both/b/Train")
    assert open_data(tmp_path / "both").notes == (
        "b/: passed over; it has no folder train, so it is no category",
        "a: no test samples: nothing to score",
        f"a/Test/: {own}",
        f"a/ground-truth/: {own}",
    )


def test_views_of_digits_that_are_no_decimals_have_an_order():
    names = ["cam10", "cam2", "cam1²", "①"]
    assert sorted(names, key=natural_key) == ["cam1²", "cam2", "cam10", "①"]


def test_a_root_that_the_system_refuses_is_one_line(tmp_path, monkeypatch):
    with pytest.raises(UserError, match="xx: File name too long; name a folder that can be read") as error:
        open_data(str(tmp_path / ("x" * 300)))
    assert "\n" not in str(error.value)

    def refuse(path):
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(Path, "iterdir", refuse)
    with pytest.raises(UserError, match=f"{tmp_path}: Permission denied"):
        detected(tmp_path)


def test_all_problems_come_at_once(root, tmp_path):
    train, truth = root / "train/good", root / "ground_truth/Kratzer ß"
    shutil.copy(train / "teil 00" / f"{LEFT}.png", train / "teil 00" / f"{LEFT}.webp")
    shutil.copy(train / "teil 00" / f"{LEFT}.png", train / "stray.png")
    (train / "empty").mkdir()
    (train / "teil 01/deeper").mkdir()
    shutil.copytree(train / "teil 02", root / "train/scratch/teil 02")
    shutil.copytree(train / "teil 02", root / "test/OK/teil 02")
    paint(truth / "teil 77" / f"{LEFT}.png", 255)
    paint(truth / "teil 00" / "C9.png", 255)
    paint(truth / "teil 01" / f"{LEFT}.png", 1)
    paint(root / f"ground_truth/good/teil 00/{LEFT}.png", 255)
    (truth / "teil 02" / f"{LEFT}.png").write_bytes(b"no image")
    (tmp_path / "elsewhere.png").write_bytes((train / "teil 03" / f"{LEFT}.png").read_bytes())
    (train / "teil 03" / f"{LEFT}.png").unlink()
    (train / "teil 03" / f"{LEFT}.png").symlink_to(tmp_path / "elsewhere.png")
    with pytest.raises(DataProblems) as caught:
        open_data(root)
    found = caught.value.problems
    expected = [
        "train/good/teil 00/: view Kamera links twice, keep one: Kamera links.png, Kamera links.webp",
        "train/good/stray.png: an image in the wrong place; a sample is a folder that holds its views",
        "train/good/empty/: no image (",
        "train/good/teil 01/deeper/: a folder inside a sample",
        "train/scratch/: training has good samples only; move these to test/scratch/",
        "test/OK/: if these samples are good, call the folder good",
        "ground_truth/Kratzer ß/teil 77/Kamera links.png: a mask without its image",
        "ground_truth/Kratzer ß/teil 00/C9.png: a mask without its image",
        "ground_truth/Kratzer ß/teil 01/Kamera links.png: its brightest pixel is 1 of 255",
        "ground_truth/good/teil 00/Kamera links.png: marks a defect of a sample in test/good",
        "ground_truth/Kratzer ß/teil 02/Kamera links.png: not an image in",
        "train/good/teil 03/Kamera links.png: is a link out of",
    ]
    for start in expected:
        assert sum(one.startswith(start) for one in found) == 1, start
    assert len(found) == len(expected)


def test_a_missing_view_is_named_and_can_be_kept_or_dropped(root):
    (root / f"train/good/teil 00/{RIGHT}.bmp").unlink()
    assert problems(root) == [
        f"Mein Teil №1: train sample good/teil 00 has no {RIGHT}; "
        "leave such samples out by data.incomplete=drop or use them by data.incomplete=keep"
    ]
    assert len(read_folder(root, incomplete="drop").index()) == 11
    assert not read_folder(root, incomplete="keep").index().present().all()


def test_views_named_by_the_time_are_one_problem(root):
    for number, path in enumerate(sorted(root.glob("*/good/*/*"))):
        path.rename(path.with_stem(f"{path.stem} {number}"))
    (problem,) = problems(root)
    assert "at most 16: a view has one name in all samples" in problem


def test_nothing_to_learn_from_and_names_that_can_be_no_files_are_problems(root):
    shutil.rmtree(root / "train/good")
    shutil.copytree(root / "test/good/teil 00", root / "test/good/a\nb")
    assert problems(root) == [
        "test/good/a\nb/: its name begins with a dot, or holds a slash or a control character; rename it",
        "train/good/: no sample to learn from; put good samples there",
    ]


def test_a_folder_of_nothing_known_is_told_the_layouts(tmp_path):
    (tmp_path / "x/pictures").mkdir(parents=True)
    with pytest.raises(UserError, match=r"no reader knows.*own_data.md.*manifest.csv.*/<sample>/<view>.png"):
        open_data(tmp_path / "x")
    with pytest.raises(UserError, match="no such folder"):
        open_data(tmp_path / "none")


def test_new_parts_are_samples_by_folder_and_may_lack_views(root, tmp_path):
    views = {"part": CAMERAS}
    new = tmp_path / "new"
    shutil.copytree(root / "test/good", new)
    (new / f"teil 00/{LEFT}.png").unlink()
    index = open_pictures(new, views)
    assert index.categories == ("part",)
    assert [one.id for one in index.samples] == ["teil 00", "teil 01", "teil 02"]
    assert {one.label for one in index.samples} == {None}
    assert [view.name for view in index.samples[0].views] == [TOP, RIGHT]
    shutil.copytree(new, tmp_path / "both/part")
    shutil.copytree(new, tmp_path / "both/other")
    assert open_pictures(tmp_path / "both", views | {"other": CAMERAS}).categories == ("other", "part")


def test_new_parts_of_an_unknown_view_or_category_are_refused_all_at_once(root, tmp_path):
    new = tmp_path / "new"
    shutil.copytree(root / "test/good", new)
    for name in ("teil 00", "teil 01"):
        (new / name / f"{LEFT}.png").rename(new / name / "C7.png")
    with pytest.raises(DataProblems, match="view 'C7' is unknown; Kamera links, обзор-ü, 上 2 are") as caught:
        read_samples(new, {"part": tuple(CAMERAS)})
    assert len(caught.value.problems) == 2
    with pytest.raises(UserError, match="teil 00: no category of this run; a, b are"):
        read_samples(new, {"a": (), "b": ()})
    with pytest.raises(UserError, match="nothing is trained"):
        read_samples(new, {})
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="no <sample>/<view>"):
        read_samples(tmp_path / "empty", {"part": ("a",)})


def test_a_sample_is_defective_if_stated_or_seen_and_unknown_if_nothing_is():
    sample = Sample("1", "a", "test", (View("x", "x.png"), View("y", "y.png")))
    for known, labels, expected in (
        (1, (0, 0), 1),
        (0, (0, None), 0),
        (None, (None, None), None),
        (None, (None, 1), 1),
        (1, (None, None), 1),
    ):
        views = tuple(
            dataclasses.replace(view, label=label) for view, label in zip(sample.views, labels, strict=True)
        )
        assert dataclasses.replace(sample, views=views, sample_label=known).label == expected
