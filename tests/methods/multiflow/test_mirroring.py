"""The published table of mirrored cameras, tables of users, and the flip."""

import numpy as np
import pytest

from mvead_jax.methods.multiflow.mirroring import flipped, read_mirrored
from mvead_jax.runtime.errors import UserError


def test_the_published_table_has_the_thirty_categories():
    table = read_mirrored()
    assert len(table) == 30
    assert table["audiojack"] == {"C2"}
    assert table["bottle_cap"] == frozenset()
    assert table["porcelain_doll"] == {"C1", "C5"}
    assert sum(map(len, table.values())) == 64


def test_only_the_named_views_are_flipped_and_twice_is_not_at_all():
    table, image = read_mirrored(), np.random.default_rng(0).integers(0, 256, (4, 5, 3), np.uint8)
    once = flipped(image, "tape", "C1", table)
    np.testing.assert_array_equal(once, image[:, ::-1])
    np.testing.assert_array_equal(flipped(once, "tape", "C1", table), image)
    np.testing.assert_array_equal(flipped(image[..., 0], "tape", "C1", table), image[:, ::-1, 0])
    for category, view in (("tape", "C2"), ("unknown", "C1")):
        assert flipped(image, category, view, table) is image


def test_a_users_table_is_read(tmp_path):
    path = tmp_path / "mirrored.csv"
    path.write_text("category,left,right\nbolt,0,1\n\nnut,1,1\n", encoding="utf-8-sig")
    assert read_mirrored(path) == {"bolt": {"right"}, "nut": {"left", "right"}}


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "line 1"),
        ("name,C1\nbolt,1\n", "line 1 is 'name,C1'"),
        ("category,C1,C1\nbolt,1,1\n", "line 1"),
        ("category,C1\nbolt,yes\n", "line 2 is 'bolt,yes'"),
        ("category,C1\nbolt,1,0\n", "line 2"),
        ("category,C1\nbolt,1\nbolt,0\n", "line 3: category 'bolt' stands there twice"),
    ],
)
def test_another_table_is_refused_with_its_line(tmp_path, text, words):
    path = tmp_path / "mirrored.csv"
    path.write_text(text)
    with pytest.raises(UserError, match=words):
        read_mirrored(path)


def test_files_that_are_no_table_are_refused(tmp_path):
    with pytest.raises(UserError, match="No such file"):
        read_mirrored(tmp_path / "none.csv")
    (tmp_path / "binary.csv").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(UserError, match="not text"):
        read_mirrored(tmp_path / "binary.csv")
    (tmp_path / "large.csv").write_bytes(b"a" * 1_000_001)
    with pytest.raises(UserError, match="larger"):
        read_mirrored(tmp_path / "large.csv")
