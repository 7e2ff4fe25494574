"""From images to the geometry of a category, on a rendered rig whose cameras nobody tells."""

import json
import runpy
import sys
import tracemalloc
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from fake_realiad import write_realiad
from PIL import Image

from mvead_jax.config.schema import BackboneConfig, DataConfig, GeometryConfig
from mvead_jax.data.realiad import load_index
from mvead_jax.geometry.category import CategoryGeometry, PairGeometry, read_geometry
from mvead_jax.geometry.epipolar import epipolar_mask
from mvead_jax.geometry.estimate import estimate_category, estimate_from_matches
from mvead_jax.geometry.fundamental import fundamental_from_cameras, line_errors
from mvead_jax.geometry.known_cameras import read_cameras
from mvead_jax.geometry.matching import (
    CategoryMatches,
    Matches,
    match_category,
    pool_matches,
    with_mirror_images,
)
from mvead_jax.geometry.nominal import parse_nominal
from mvead_jax.geometry.rig_fit import Nominal
from mvead_jax.jobs import estimate_geometry as job
from mvead_jax.jobs.estimate_geometry import estimate_geometries
from mvead_jax.methods.mvead.config import MveadConfig
from mvead_jax.rig.cameras import five_cameras, mirror, project
from mvead_jax.rig.dataset import render_rig
from mvead_jax.runtime.errors import UserError

ROOT = Path(__file__).parents[2]
VIEWS = ("C1", "C2", "C3", "C4", "C5")
SIZES = ((256, 256),) * 5


@pytest.fixture(scope="module")
def rig(tmp_path_factory):
    """Six normal samples of the family whose second view is stored mirrored."""
    root = tmp_path_factory.mktemp("rig")
    render_rig(root, families=["cogwheel"], train=6, test_normal=0, test_defective=0, workers=1)
    return root


@pytest.fixture(scope="module")
def points():
    """Points of the part in the stored images [V,n,2]."""
    cameras = five_cameras(256)
    world = np.random.default_rng(0).uniform([-20, -20, 0], [20, 20, 18], (500, 3))
    x = np.stack([project(world, cameras.K[v], cameras.R[v], cameras.t[v]) for v in range(5)])
    x[1] = mirror(x[1], 256)
    return x


def training(root, category):
    return load_index(root, [category]).select(category=category, split="train")


@pytest.fixture(scope="module")
def found(rig):
    return estimate_category(training(rig, "cogwheel"))


def test_pictures_alone_give_every_pair_and_the_mirrored_view(found, points):
    geometry = found.geometry
    assert geometry.mirrored == (False, True, False, False, False)
    assert geometry.valid().sum() >= 16
    mask = np.asarray(epipolar_mask(geometry.fundamental(256), (16, 16), 16.0))
    patch = (points[:, :, 1] // 16 * 16 + points[:, :, 0] // 16).astype(int)
    for (a, b), pair in geometry.pairs.items():
        assert pair.source == "rig_fit"
        assert np.median(line_errors(pair.F, points[a], points[b])) < 3
        assert mask[a, b, patch[a], patch[b]].mean() > 0.95
        assert set(pair.quality) >= {"matches", "inliers", "sampson_median_px", "spread", "planar", "reason"}
        assert pair.quality["outline_px"] < 6
    assert set(found.pairwise) == set(geometry.pairs)


def test_patch_features_find_the_rig_too(rig, points, tmp_path, monkeypatch):
    monkeypatch.setattr(job, "category_outlines", lambda index: [])  # they take long and decide nothing
    config = MveadConfig(
        data=DataConfig(root=str(rig), image_size=256),
        backbone=BackboneConfig(name="efficientnet-lite0"),
        geometry=GeometryConfig(matches="features"),
    )
    geometry = estimate_geometries(config, load_index(rig), tmp_path)["cogwheel"]
    assert geometry.mirrored == (False, True, False, False, False)
    for (a, b), pair in geometry.pairs.items():
        assert (pair.source, pair.quality["evidence"]) == ("rig_fit", "features")
        if pair.ok:
            assert np.median(line_errors(pair.F, points[a], points[b])) < 6
    assert geometry.valid().sum() >= 14


def test_a_single_pair_is_not_trusted_with_patch_features(found):
    """They are fooled by parts that look alike from several sides, with many matches that agree."""
    of_no_rig = Nominal((90.0, 45.0), (0.0, 0.0))
    by_sift = estimate_from_matches(found.matches, [], of_no_rig).geometry
    by_features = estimate_from_matches(replace(found.matches, evidence="features"), [], of_no_rig).geometry
    assert by_sift.valid().any()
    assert not by_features.valid().any()
    reasons = {pair.quality["reason"] for pair in by_features.pairs.values()}
    assert "patch features are trusted only where one rig explains all pairs" in reasons
    assert all(np.isnan(pair.quality["outline_px"]) for pair in by_sift.pairs.values())


def test_pictures_without_structure_are_flagged_not_failed(tmp_path):
    root = write_realiad(tmp_path, categories=("cap",), train=3)
    index = training(root, "cap")
    geometry = estimate_category(index).geometry
    assert not geometry.valid().any()
    assert all(pair.quality["reason"] for pair in geometry.pairs.values())
    for sample in index.samples:
        for view in sample.views:
            Image.new("RGB", (64, 64), (90, 90, 90)).save(root / view.image)
    assert not estimate_category(index).geometry.valid().any()


def test_other_numbers_of_views_are_judged_pair_by_pair(tmp_path):
    root = write_realiad(tmp_path, categories=("cap",), views=3, train=3)
    geometry = estimate_category(training(root, "cap")).geometry
    assert len(geometry.pairs) == 3
    assert geometry.mirrored is None


def test_pictures_of_two_sizes_in_one_view_are_named(tmp_path):
    root = write_realiad(tmp_path, categories=("cap",), views=3, train=2)
    index = training(root, "cap")
    odd = root / index.samples[1].views[2].image
    with Image.open(odd) as image:
        smaller = image.resize((32, 32))
    smaller.save(odd)
    with pytest.raises(UserError, match="image of C3 is 32 x 32, others are 64 x 64"):
        match_category(index)
    with pytest.raises(UserError, match="no normal samples"):
        match_category(index.select(category="none"))


def test_what_stands_still_is_capped(rig):
    """The same sample five times over: every match is at the same place in each."""
    index = training(rig, "cogwheel")
    once = match_category(index, 1)
    capped = match_category(type(index)(index.root, index.samples[:1] * 5, index.views), 5)
    for key, own in capped.pairs.items():
        assert 0 < len(own) <= 3 * len(once.pairs[key])
        assert own.static == 5 * len(once.pairs[key]) - len(own)


def test_memory_does_not_grow_with_the_number_of_samples(tmp_path):
    """Each sample needs 4 MB while it is looked at; what stays of it is a match."""
    index = load_index(write_realiad(tmp_path, categories=("cap",), train=3), ["cap"])
    index = type(index)(index.root, index.select(split="train").samples * 40, index.views)

    def look(sample, position):
        pictures = np.ones((4, 1 << 20), np.uint8)
        points = np.array([[pictures[0, 0], position]], float)
        return {}, {(0, 1, False): Matches(points, points, np.array([position]))}

    peaks = []
    for samples in (12, 120):
        tracemalloc.start()
        assert pool_matches(index, samples, look, "test").samples == samples
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < 4 * 4 * 2**20 + 2**20
    assert peaks[0] > 4 * 2**20


def test_matches_of_mirror_images_lie_on_the_true_lines():
    """A part symmetric about the plane halfway between two cameras; matches of points with mirror images."""
    station = five_cameras(256)
    F = fundamental_from_cameras(station.K, station.R, station.t)[1, 3]
    normal = station.centers[3] - station.centers[1]
    normal /= np.linalg.norm(normal)
    middle = (station.centers[1] + station.centers[3]) / 2
    world = np.random.default_rng(0).uniform([-20, -20, 0], [20, 20, 18], (200, 3))
    image = world - 2 * ((world - middle) @ normal)[:, None] * normal
    a = project(world, station.K[1], station.R[1], station.t[1])
    b = project(image, station.K[3], station.R[3], station.t[3])
    assert line_errors(F, a, b).max() < 1e-6
    half = np.arange(100)
    pairs = {(0, 1, False): Matches(a[:100], b[:100], half), (0, 1, True): Matches(a[100:], b[100:], half)}
    matches = with_mirror_images(CategoryMatches(("C2", "C4"), SIZES[:2], pairs, 100))
    for flipped in (False, True):
        np.testing.assert_array_equal(matches.pairs[0, 1, flipped].points_b, b)


def test_given_cameras_are_exact_in_both_forms_and_conventions(rig, points, tmp_path):
    content = json.loads((rig / "cameras.json").read_text())["categories"]["cogwheel"]
    half = np.array([[1.0, 0, 0.5], [0, 1, 0.5], [0, 0, 1]])
    opencv = [
        {"a": pair["a"], "b": pair["b"], "F": (half.T @ np.array(pair["F"]) @ half).T.tolist()}
        for pair in content["pairs"]
    ]
    forms = {
        "cameras": content,
        "ours": {"convention": "ours", "pairs": content["pairs"]},
        "opencv": {"convention": "opencv", "pairs": opencv},
        "resized": content,
    }
    for name, form in forms.items():
        path = tmp_path / f"{name}.json"
        path.write_text(json.dumps(form))
        scale = 2 if name == "resized" else 1
        geometry = read_cameras(path, "cogwheel", VIEWS, tuple((scale * w, scale * h) for w, h in SIZES))
        assert geometry.valid().sum() == 20
        for (a, b), pair in geometry.pairs.items():
            assert line_errors(pair.F, scale * points[a], scale * points[b]).max() < 0.01, name


def without_cameras(content, F):
    content.pop("views")
    content["convention"] = "ours"
    content["pairs"][0]["F"] = F


@pytest.mark.parametrize(
    ("change", "match"),
    [
        (lambda c: c["views"].pop("C4"), "no view 'C4'; it has C1, C2, C3, C5"),
        (lambda c: c["views"]["C1"].update(R=[[1, 0, 0], [0, 1, 0], [0, 0, 2]]), "C1: R is no rotation"),
        (lambda c: c["views"]["C1"].update(K=[[0, 0, 0]] * 3), "C1: K cannot be inverted"),
        (lambda c: c["views"]["C1"].pop("t"), "C1: lacks t"),
        (lambda c: c["views"]["C1"].update(t=[1, 2]), r"C1: t has shape .2.; give 3"),
        (lambda c: c["views"]["C1"].update(t=[float("nan")] * 3), "not finite"),
        (
            lambda c: c["views"]["C1"].update(image_size=[0, 0]),
            r"C1: image_size is .0, 0.; give .width, height. in pixels, as .256",
        ),
        (lambda c: c.pop("views"), 'say "ours" or "opencv"'),
        (lambda c: without_cameras(c, np.eye(3).tolist()), "rank 2"),
        (lambda c: without_cameras(c, [[float("nan")] * 3] * 3), "not finite"),
    ],
)
def test_bad_cameras_are_named(rig, tmp_path, change, match):
    content = json.loads((rig / "cameras.json").read_text())
    change(content["categories"]["cogwheel"])
    path = tmp_path / "cameras.json"
    path.write_text(json.dumps(content))
    with pytest.raises(UserError, match=match):
        read_cameras(path, "cogwheel", VIEWS, SIZES)
    with pytest.raises(UserError, match="no category 'usb'; it has cogwheel"):
        read_cameras(path, "usb", VIEWS, SIZES)


def test_geometry_survives_its_file_and_a_resize(tmp_path):
    F = np.random.default_rng(0).normal(size=(3, 3))
    pairs = {
        (0, 1): PairGeometry(F, True, "given", {"reason": ""}),
        (0, 2): PairGeometry(np.zeros((3, 3)), False, "pairwise", {"sampson_median_px": np.inf}),
        (1, 2): PairGeometry(2 * F, False, "rig_fit"),
    }
    sizes = ((640, 480), (640, 480), (320, 240))
    geometry = CategoryGeometry(("C1", "C2", "C9"), sizes, pairs, (False, True, False))
    path = tmp_path / "x.json"
    geometry.write(path)
    again = read_geometry(path)
    np.testing.assert_array_equal(again.fundamental(), geometry.fundamental())
    np.testing.assert_array_equal(again.valid(), [[0, 1, 0], [1, 0, 0], [0, 0, 0]])
    assert (again.views, again.sizes, again.mirrored) == (geometry.views, sizes, geometry.mirrored)
    scale = np.array([224 / 640, 224 / 480, 1])
    expected = F / np.outer(scale, scale)
    np.testing.assert_allclose(geometry.fundamental(224)[0, 1], expected / np.linalg.norm(expected))
    for text in ("{}", "[]", '{"views": ["a", "b"], "image_size": {"a": [1, 1], "b": [1, 1]}, "pairs": []}'):
        path.write_text(text)
        with pytest.raises(UserError, match="not the geometry of a category"):
            read_geometry(path)


def test_the_script_writes_files_and_pictures_and_keeps_what_is_there(
    rig, found, tmp_path, monkeypatch, capsys
):
    """The matches are those of `found`, and outlines, which decide nothing, are left out: both take long."""
    monkeypatch.setattr(job, "match_category", lambda index, most: found.matches)
    monkeypatch.setattr(job, "category_outlines", lambda index: [])
    command = ["estimate_geometry.py", "--config", str(ROOT / "configs/patchcore.py")]
    command += ["--workdir", str(tmp_path), f"--config.data.root={rig}"]
    monkeypatch.setattr(sys, "argv", command)
    runpy.run_path(str(ROOT / "scripts/estimate_geometry.py"))["main"]()
    said = capsys.readouterr().out
    assert "stored mirrored: C2" in said
    assert said.count("rig_fit") == 10
    with Image.open(tmp_path / "geometry/pictures/cogwheel.png") as sheet:
        assert min(sheet.size) > 500
    before = (tmp_path / "geometry/cogwheel.json").read_bytes()
    config = MveadConfig(
        data=DataConfig(root=str(rig)), geometry=GeometryConfig(cameras=str(rig / "cameras.json"))
    )
    estimate_geometries(MveadConfig(data=DataConfig(root=str(rig))), load_index(rig), tmp_path)
    path = tmp_path / "geometry/cogwheel.json"
    assert path.read_bytes() == before
    won = estimate_geometries(config, load_index(rig), tmp_path)[
        "cogwheel"
    ]  # given cameras win over an old estimate
    assert {pair.source for pair in won.pairs.values()} == {"given"}
    assert path.read_bytes() != before
    four = json.loads(before)
    four["views"][4] = "C6"
    path.write_text(json.dumps(four).replace('"C5"', '"C6"'))
    with pytest.raises(UserError, match=r"cogwheel.json: of views C1.*C6, the data has C1.*C5; delete it"):
        estimate_geometries(MveadConfig(data=DataConfig(root=str(rig))), load_index(rig), tmp_path)
    path.write_bytes(before)
    given = estimate_geometries(config, load_index(rig), tmp_path / "other")["cogwheel"]
    assert {pair.source for pair in given.pairs.values()} == {"given"}
    with pytest.raises(UserError, match="is a file; name a folder"):
        estimate_geometries(config, load_index(rig), rig / "cameras.json")


def test_a_nominal_rig_is_elevation_and_azimuth():
    assert parse_nominal(("90:0", "40:-15.5")).azimuth == (0.0, -15.5)
    for bad in (("90",), ("a:b",), ("1:2:3",), ("90:nan",), ("45:0", "45:0")):
        with pytest.raises(UserError, match="elevation:azimuth"):
            parse_nominal(bad)
