"""The published table of mirrored cameras, tables of users, and the flip."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from own_data import write_folders

from mvead_jax.config.schema import DataConfig, EvalConfig, FeaturesConfig
from mvead_jax.data.loading import load_sample
from mvead_jax.data.mirroring import mirrored_table, open_view, read_mirrored, with_mirrored
from mvead_jax.data.readers import open_configured
from mvead_jax.evaluation.protocols import resolve
from mvead_jax.evaluation.truth import Truth
from mvead_jax.features.cache import Extraction
from mvead_jax.runtime.errors import UserError


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    cameras = {"left": (".png", (48, 40)), "right": (".png", (40, 40))}
    return write_folders(tmp_path_factory.mktemp("data") / "part", cameras, train=2, good=1, defective=2)


def test_the_published_table_has_the_thirty_categories():
    table = read_mirrored()
    assert len(table) == 30
    assert table["audiojack"] == {"C2"}
    assert table["bottle_cap"] == frozenset()
    assert table["porcelain_doll"] == {"C1", "C5"}
    assert sum(map(len, table.values())) == 64


def test_only_the_named_views_are_flipped(root):
    index = open_configured(DataConfig(root=str(root), image_size=32))
    table = {"part": frozenset({"right"}), "other": frozenset({"left"})}
    marked = with_mirrored(index, table)
    for before, after in zip(index.samples, marked.samples, strict=True):
        for view, own in zip(before.views, after.views, strict=True):
            assert own.mirrored == (view.name == "right")
            plain, found = np.asarray(open_view(index, view)), np.asarray(open_view(marked, own))
            np.testing.assert_array_equal(found, plain[:, ::-1] if own.mirrored else plain)
    assert with_mirrored(index, {}) is index


def test_loading_features_and_masks_see_the_flipped_image(root, tmp_path):
    table = tmp_path / "table.csv"
    table.write_text("category,left,right\npart,0,1\n")
    config = DataConfig(root=str(root), image_size=32)
    plain = open_configured(config).select(split="test")
    marked = open_configured(replace(config, mirrored=str(table))).select(split="test")
    protocol = resolve("custom", EvalConfig(protocol="custom", size="mask", smoothing="none"), 32)
    for before, after in zip(plain.samples, marked.samples, strict=True):
        a, b = (load_sample(own, one, 32)[0] for own, one in ((plain, before), (marked, after)))
        np.testing.assert_array_equal(a[0], b[0])
        np.testing.assert_allclose(b[1], a[1, :, ::-1], atol=0.05)  # a level, by the order of Pillow's sums
        truths = [Truth(own.root, one.views, protocol) for own, one in ((plain, before), (marked, after))]
        for at, view in enumerate(after.views):
            known, found = (truth.masks([at])[0] for truth in truths)
            np.testing.assert_array_equal(found, known[:, ::-1] if view.mirrored else known)
    digests = dict.fromkeys((view.image for own in plain.samples for view in own.views), "0")
    backbone = SimpleNamespace(digest="", taps=(), shapes={})
    jobs = [Extraction(own, backbone, FeaturesConfig(), tmp_path, 8) for own in (plain, marked)]
    assert jobs[0].digest(plain.samples, digests) != jobs[1].digest(marked.samples, digests)


def test_the_config_names_the_published_table_a_file_or_none():
    assert mirrored_table("") == {}
    assert mirrored_table("real-iad") == read_mirrored()
    with pytest.raises(UserError, match="nowhere.csv: No such file"):
        mirrored_table("nowhere.csv")


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
