"""What one rendered sample shows, against the geometry that it was rendered from."""

import numpy as np
import pytest
from scipy.ndimage import distance_transform_edt

from mvead_jax.rig import cameras, sample
from mvead_jax.rig.camera_file import cameras_json
from mvead_jax.rig.defects import Dice
from mvead_jax.rig.layout import FAMILIES, KINDS, MIRRORED, SampleName, mask_threshold
from mvead_jax.rig.materials import material_index, surface
from mvead_jax.rig.render import expose, pixel_centers

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
    return met, scene.interpolate(hits.at(met), scene.vertices)


@pytest.mark.parametrize("family", FAMILIES)
def test_hits_project_to_the_centres_of_their_pixels(family):
    station, seen = before_the_cameras(normal(family))
    rig = station.rig
    for view, (hits, _) in enumerate(seen.traced):
        met, points = world_points(seen.scene, hits)
        assert met.mean() > 0.9  # the tray fills the image
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


def before_and_after(name, monkeypatch, size=2 * SIZE):
    """The sample without and with its defect, from the same random numbers."""
    after = sample.render_sample(name, 0, size)
    look, good = sample.look, normal(name.category)
    monkeypatch.setattr(sample, "look", lambda _, *rest: look(good, *rest))
    return sample.render_sample(name, 0, size), after


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("kind", KINDS)
def test_a_defect_shows_in_some_views_only_and_changes_the_picture_there(family, kind, monkeypatch):
    before, after = before_and_after(defective(family, kind), monkeypatch)
    shown = after.masks.sum((1, 2)) >= mask_threshold(2 * SIZE)
    assert 0 < shown.sum() < 5
    change = np.abs(after.images.astype(int) - before.images).max(-1)
    assert change[after.masks].mean() > 6
    far = np.stack([distance_transform_edt(~mask) > 8 for mask in after.masks])
    assert (change[far] > 20).sum() <= 25  # shadows and mirrored light, of 80,000 pixels
    assert change[far].mean() < 0.1


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "stain"])
def test_masks_hold_every_pixel_whose_ray_ends_elsewhere(family, kind):
    name = defective(family, kind)
    station, seen = before_the_cameras(name)
    whole = station.scene(station.part.components)
    for view, (hits, _) in enumerate(station.trace(whole)):
        met, points = world_points(whole, hits)
        _, now = world_points(seen.scene, seen.traced[view][0])
        moved = np.zeros(SIZE * SIZE)  # mm
        moved[met] = np.linalg.norm(points - now, axis=1)
        mask = seen.masks[view]
        assert not ((moved > 0.05) & ~mask).any()
        # What else is masked are the defect's own faces: the shallow ends of a cut.
        own = seen.scene.marked[seen.traced[view][0].face]
        assert not (mask & (moved < 0.015) & ~own).any()


@pytest.mark.parametrize("family", FAMILIES)
def test_masks_of_a_missing_part_are_where_the_part_was(family):
    name = defective(family, "missing")
    station, seen = before_the_cameras(name)
    whole = station.scene(station.part.components)
    gone = 1 + [len(c.mesh.faces) for c in station.part.components.values()].index(
        len(whole.faces) - len(seen.scene.faces)
    )
    kind = list(station.part.components)[gone - 1].split()[0]
    same_kind = [1 + i for i, name in enumerate(station.part.components) if name.split()[0] == kind]
    for view, (hits, _) in enumerate(station.trace(whole)):
        component = np.where(hits.face >= 0, whole.component[hits.face], -1)
        assert set(component[seen.masks[view]]) <= set(same_kind)
    assert seen.masks.any()


@pytest.mark.parametrize("family", FAMILIES)
def test_masks_of_a_stain_are_the_part_points_that_it_colours(family):
    _, seen = before_the_cameras(defective(family, "stain"))
    for view, (hits, _) in enumerate(seen.traced):
        met = hits.face >= 0
        points = seen.scene.interpolate(hits.at(met), seen.scene.part)
        albedo, metallic, roughness = (np.ones((len(points), *shape)) for shape in ((3,), (), ()))
        seen.stain.apply(points, seen.scene.component[hits.face[met]] > 0, albedo, metallic, roughness)
        coloured = np.zeros(SIZE * SIZE, bool)
        coloured[met] = (albedo != 1).any(1)
        np.testing.assert_array_equal(seen.masks[view], coloured)
        away = np.linalg.norm(points[coloured[met]] - seen.stain.center, axis=1)
        assert (away < 1.5 * seen.stain.radius).all()
    assert seen.masks.any()


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


def test_test_normals_are_no_training_samples():
    train, test = (
        sample.render_sample(SampleName("flange", s, 0), 0, SIZE) for s in ("train", "test_normal")
    )
    assert np.abs(train.images.astype(int) - test.images).mean() > 2


def test_pose_light_and_finish_vary_from_sample_to_sample():
    stations, lights, finishes = zip(
        *(sample.set_up(normal("flange", i), 0, SIZE) for i in range(12)), strict=True
    )
    yaw = [np.rad2deg(np.arctan2(s.rotation[1, 0], s.rotation[0, 0])) for s in stations]
    assert 1 < np.ptp(yaw) < 9
    assert 0.5 < np.ptp([s.translation[0] for s in stations]) < 4
    for station in stations:  # it rests on the tray
        parts = station.part.components.values()
        lowest = min((component.mesh.vertices @ station.rotation[2]).min() for component in parts)
        assert lowest + station.translation[2] == pytest.approx(0, abs=1e-3)
    assert np.ptp([light.strength[0] for light in lights]) > 1
    assert np.ptp([finish.table[material_index("cast")].color[0] for finish in finishes]) > 0.05


def test_surfaces_have_texture_recesses_are_darker_and_the_sensor_is_noisy():
    name = normal("flange")
    _, _, finish = sample.set_up(name, 0, SIZE)
    _, seen = before_the_cameras(name)
    hits = seen.traced[1][0].at(seen.traced[1][0].face >= 0)
    points = seen.scene.interpolate(hits, seen.scene.part)
    material = seen.scene.material[hits.face]
    normals = seen.scene.interpolate(hits, seen.scene.normals)
    albedo, _, _, bumped = surface(points, normals, material, finish)
    cast = material == material_index("cast")
    assert 0.03 < albedo[cast].std() / albedo[cast].mean() < 0.3
    assert np.abs(bumped - normals)[cast].mean() > 0.02
    _, openness = seen.baked.at(hits)
    mat = material == material_index("mat")
    near = np.linalg.norm(points[:, :2], axis=1) < 22
    assert openness[mat & near].mean() < openness[mat & ~near].mean() - 0.05
    grey = np.full((SIZE, SIZE, 3), 0.2, np.float32)
    first, second = (expose(grey, np.random.default_rng(i)).astype(float) for i in range(2))
    assert 0.5 < (first - second).std() < 8


def test_severities_of_a_kind_cover_the_range():
    for kind in KINDS:
        values = sorted(sample.severity(3, defective("flange", kind, i)) for i in range(5))
        assert values[0] < 0.4
        assert values[-1] > 0.6
        assert np.diff(values).max() < 0.45


def test_severity_makes_defects_larger():
    small, large = (Dice(np.random.default_rng(0), level, 1.0).size(8.0, 20.0) for level in (0.0, 1.0))
    assert large == pytest.approx(2.5 * small)


def test_every_family_has_parts_that_can_go_missing():
    for family in FAMILIES:
        part = sample.BUILDERS[family](np.random.default_rng(0))
        assert len(part.removable) >= 2
        assert set(part.removable) < set(part.components)
