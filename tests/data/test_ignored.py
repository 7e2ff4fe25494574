"""Masks of what never counts: which file is whose, and what is refused."""

import numpy as np
import pytest
from PIL import Image

from mvead_jax.data.ignored import (
    digests,
    ignored_patches,
    ignored_words,
    read_ignored,
    read_stored,
    write_ignored,
)
from mvead_jax.runtime.errors import UserError

VIEWS = {"bolt": ("C1", "C2"), "cap": ("C2", "C3")}
SIZES = {name: {view: [[8, 4]] for view in views} for name, views in VIEWS.items()}


def paint(path, columns=slice(0, 2), size=(8, 4), white=255):
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.zeros(size[::-1], np.uint8)
    pixels[:, columns] = white
    Image.fromarray(pixels).save(path)


def test_a_mask_of_a_category_goes_before_that_of_all(tmp_path):
    paint(tmp_path / "C1.png")
    paint(tmp_path / "C2.png")
    paint(tmp_path / "cap/C2.png", slice(4, 8))
    (tmp_path / ".hidden").write_text("")
    found = read_ignored(tmp_path, VIEWS, {"cap": frozenset({"C2"})}, SIZES)
    assert {name: sorted(own) for name, own in found.items()} == {"bolt": ["C1", "C2"], "cap": ["C2"]}
    assert found["bolt"]["C2"].sum(0).tolist() == [4, 4, 0, 0, 0, 0, 0, 0]
    assert found["cap"]["C2"].sum(0).tolist() == [4, 4, 4, 4, 0, 0, 0, 0]  # flipped as its images are


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("C4.png", {}, "C4.png: C4 is no view: bolt has C1, C2; cap has C2, C3"),
        ("bolt/C3.png", {}, "C3 is no view: bolt has C1, C2$"),
        ("screw/C1.png", {}, "screw is no category of this run, which has bolt, cap"),
        ("C1.png", {"size": (4, 8)}, "has 4 x 8 pixels, the images of this view have 8 x 4"),
        ("C1.png", {"columns": slice(0, 8)}, "ignores the whole view; leave the view out"),
        ("C1.png", {"columns": slice(0)}, "ignores nothing, for it is black"),
        ("C1.png", {"white": 1}, "brightest pixel is 1 of 255, what is ignored is above 127"),
        ("C1.jpg", {}, "C1.jpg: is no PNG"),
    ],
)
def test_what_is_no_mask_of_a_view_is_said_in_one_line(tmp_path, name, options, message):
    paint(tmp_path / name, **options)
    with pytest.raises(UserError, match=message) as error:
        read_ignored(tmp_path, VIEWS, {}, SIZES)
    assert "\n" not in str(error.value)


def test_an_empty_folder_or_none_is_said_and_a_damaged_file(tmp_path):
    with pytest.raises(UserError, match="holds no mask; put <view>.png"):
        read_ignored(tmp_path, VIEWS, {}, SIZES)
    with pytest.raises(UserError, match="no such folder"):
        read_ignored(tmp_path / "none", VIEWS, {}, SIZES)
    (tmp_path / "C1.png").write_bytes(b"no image")
    with pytest.raises(UserError, match="C1.png"):
        read_ignored(tmp_path, VIEWS, {}, SIZES)


def test_folders_of_other_categories_may_lie_there_where_not_all_are_used(tmp_path):
    paint(tmp_path / "screw/C9.png")
    paint(tmp_path / "bolt/C1.png")
    assert list(read_ignored(tmp_path, VIEWS, {}, SIZES, others=True)) == ["bolt"]


def test_a_patch_never_counts_if_half_of_it_is_ignored():
    mask = np.zeros((4, 8), bool)
    mask[:, :3] = True  # of the second of four patches in a row a half
    found = ignored_patches({"C2": mask}, ("C1", "C2"), (2, 4))
    assert found[0].sum() == 0
    assert found[1].tolist() == [[True, True, False, False]] * 2
    assert ignored_patches({"C2": mask & False}, ("C1", "C2"), (2, 4)) is None
    mask[:, :7] = True
    with pytest.raises(UserError, match="no patch of C2 of cap would count, of 1 x 1"):
        ignored_patches({"C2": mask}, ("C1", "C2"), (1, 1), "cap")


def test_what_is_kept_beside_a_model_is_what_was_read(tmp_path):
    paint(tmp_path / "masks/C2.png")
    found = read_ignored(tmp_path / "masks", VIEWS, {}, SIZES)
    path = tmp_path / "ignored.npz"
    write_ignored(path, found)
    first = path.read_bytes()
    write_ignored(path, found)
    assert path.read_bytes() == first
    stored = read_stored(path)
    assert digests(stored) == digests(found)
    assert "cap C2 25 % (sha256 " in ignored_words(stored)
    assert ignored_words({}) == "nothing"
    paint(tmp_path / "masks/C2.png", slice(0, 3))
    assert digests(read_ignored(tmp_path / "masks", VIEWS, {}, SIZES)) != digests(found)
    for content in (b"no archive", b""):
        path.write_bytes(content)
        with pytest.raises(UserError, match="not the ignored regions of a model"):
            read_stored(path)
