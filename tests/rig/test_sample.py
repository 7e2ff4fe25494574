"""What one rendered sample shows, against the geometry that it was rendered from."""

import numpy as np
import pytest

from mvead_jax.rig import cameras, sample
from mvead_jax.rig.calibration import cameras_json
from mvead_jax.rig.layout import FAMILIES, KINDS, MIRRORED, SampleName, mask_threshold
from mvead_jax.rig.mesh import Hits
from mvead_jax.rig.render import pixel_centers

SIZE = 64


def normal(family, index=0):
    return SampleName(family, "train", index)


def defective(family, kind, index=0):
    return SampleName(family, "test_defective", KINDS.index(kind) + index * len(KINDS))


def before_the_cameras(name):
    station, light, finish = sample.set_up(name, 0, SIZE)
    return station, sample.look(name, 0, station, light, finish)


def world_points(scene, hits):
    met = hits.face >= 0
    inside = Hits(hits.face[met], hits.u[met], hits.v[met])
    return met, scene.interpolate(inside, scene.vertices)


@pytest.mark.parametrize("family", FAMILIES)
def test_hits_project_to_the_centres_of_their_pixels(family):
    station, seen = before_the_cameras(normal(family))
    rig = station.rig
    for view, (hits, _) in enumerate(seen.traced):
        met, points = world_points(seen.scene, hits)
        assert met.mean() > 0.9  # the tray fills the picture
        found = cameras.project(points.astype(np.float64), rig.K[view], rig.R[view], rig.t[view])
        off = np.abs(found - pixel_centers(SIZE)[met]).max(1)
        assert off.max() < 0.05  # grazing hits: Embree answers in float32
        assert np.quantile(off, 0.99) < 1e-3


@pytest.mark.parametrize("family", FAMILIES)
def test_matching_points_of_stored_pictures_lie_on_each_others_lines(family):
    _, seen = before_the_cameras(normal(family))
    _, points = world_points(seen.scene, seen.traced[0][0])
    content = cameras_json([family], SIZE)["categories"][family]
    stored = {}
    for name, view in content["views"].items():
        x = cameras.project(points, *(np.array(view[k]) for k in ("K", "R", "t")))
        assert view["mirrored"] == (name == MIRRORED[family])
        stored[name] = cameras.mirror(x, view["image_size"][0]) if view["mirrored"] else x
    assert len(content["pairs"]) == 20
    for pair in content["pairs"]:
        a, b = (np.column_stack([stored[pair[side]], np.ones(len(points))]) for side in "ab")
        line = b @ np.array(pair["F"]).T
        distance = np.abs((a * line).sum(1)) / np.hypot(line[:, 0], line[:, 1])
        assert distance.max() < 1e-2, pair["a"] + pair["b"]
        assert np.linalg.norm(pair["F"]) == pytest.approx(1)


def test_the_side_cameras_look_down_at_about_45_degrees_on_the_part():
    rig = cameras.five_cameras(SIZE)
    toward = rig.centers - np.array([0.0, 0.0, 8.0])
    elevation = np.rad2deg(np.arcsin(toward[:, 2] / np.linalg.norm(toward, axis=1)))
    np.testing.assert_allclose(elevation, [90, 45, 45, 45, 45], atol=3)
    np.testing.assert_allclose(np.linalg.det(rig.R), 1)


def test_one_view_is_stored_flipped_and_its_mask_with_it(monkeypatch):
    name = defective("flange", "stain", 1)
    stored = sample.render_sample(name, 0, SIZE)
    monkeypatch.setattr(sample, "MIRRORED", {"flange": "C2"})
    other = sample.render_sample(name, 0, SIZE)
    for v, view in enumerate(cameras.VIEWS):
        flipped = view in ("C2", MIRRORED["flange"])
        for a, b in ((stored.images, other.images), (stored.masks, other.masks)):
            np.testing.assert_array_equal(a[v], b[v, :, ::-1] if flipped else b[v])
    assert (stored.images[2] != stored.images[2, :, ::-1]).any()


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("kind", KINDS)
def test_a_defect_shows_in_some_views_only_and_changes_the_picture_there(family, kind, monkeypatch):
    name = defective(family, kind)
    after = sample.render_sample(name, 0, 2 * SIZE)
    shown = after.masks.sum((1, 2)) >= mask_threshold(2 * SIZE)
    assert 0 < shown.sum() < 5
    # The same part without its defect, from the same random numbers.
    look = sample.look
    good = SampleName(family, "train", 0)
    monkeypatch.setattr(sample, "look", lambda _, *rest: look(good, *rest))
    before = sample.render_sample(name, 0, 2 * SIZE)
    change = np.abs(after.images.astype(int) - before.images).max(-1)
    assert change[after.masks].mean() > 6
    assert change[after.masks].mean() > 10 * change[~after.masks].mean()


@pytest.mark.parametrize("family", FAMILIES)
def test_masks_of_a_missing_part_are_where_the_part_was(family):
    name = defective(family, "missing")
    station, seen = before_the_cameras(name)
    whole = station.scene(station.part.components)
    for view, (hits, _) in enumerate(station.trace(whole)):
        # Depth differs exactly where something that was met first is gone.
        met, points = world_points(whole, hits)
        _, now = world_points(seen.scene, seen.traced[view][0])
        moved = np.zeros(SIZE * SIZE, bool)
        moved[met] = np.linalg.norm(points - now, axis=1) > 1e-3
        assert (moved != seen.masks[view]).sum() <= 1


def test_normal_samples_differ_from_each_other_and_between_seeds():
    first = sample.render_sample(normal("terminal", 0), 0, SIZE)
    assert not first.masks.any()
    assert first.images.dtype == np.uint8
    assert first.images.shape == (5, SIZE, SIZE, 3)
    for name, seed in ((normal("terminal", 1), 0), (normal("terminal", 0), 1)):
        other = sample.render_sample(name, seed, SIZE)
        assert np.abs(first.images.astype(int) - other.images).mean() > 2
    again = sample.render_sample(normal("terminal", 0), 0, SIZE)
    np.testing.assert_array_equal(first.images, again.images)


def test_severities_of_a_kind_cover_the_range():
    for kind in KINDS:
        values = sorted(sample.severity(3, defective("flange", kind, i)) for i in range(5))
        assert values[0] < 0.4
        assert values[-1] > 0.6
        assert np.diff(values).max() < 0.45


def test_every_family_has_parts_that_can_go_missing():
    for family in FAMILIES:
        part = sample.BUILDERS[family](np.random.default_rng(0))
        assert len(part.removable) >= 2
        assert set(part.removable) < set(part.components)
