"""Evidence along epipolar lines against loops, and the scale on which scores are added."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mvead_jax.postprocess.evidence import Calibration, calibrate_scores, fuse_evidence, standardise

V, GRID = 4, (2, 3)
N = 6


def random_case(seed=0):
    """Maps, and a mask in which patch 2 of view 0 has no line anywhere and view 3 none for view 1."""
    rng = np.random.default_rng(seed)
    mask = rng.random((V, V, N, N)) < 0.4
    mask[np.arange(V), np.arange(V)] = False
    mask[0, :, 2] = False
    mask[1, 3] = False
    return rng.normal(size=(V, *GRID)).astype("f4"), mask


def oracle(maps, mask, present, weight, pooling):
    flat = maps.reshape(V, N)
    out = flat.astype("f8")
    for a, j in np.ndindex(V, N):
        best = [flat[b][mask[a, b, j]].max() for b in range(V) if present[b] and mask[a, b, j].any()]
        if best:
            out[a, j] += weight * {"mean": np.mean, "max": np.max}[pooling](best)
    return out.reshape(maps.shape)


@pytest.mark.parametrize("pooling", ["mean", "max"])
@pytest.mark.parametrize("present", [(1, 1, 1, 1), (1, 0, 1, 1), (0, 0, 1, 0)])
def test_to_a_patch_comes_the_highest_score_on_its_line_in_the_other_views(pooling, present):
    maps, mask = random_case()
    present = np.array(present, bool)
    found = fuse_evidence(jnp.asarray(maps), jnp.asarray(mask), present, 0.7, pooling)
    np.testing.assert_allclose(found, oracle(maps, mask, present, 0.7, pooling), atol=1e-6)
    jitted = jax.jit(fuse_evidence, static_argnames="pooling")(maps, mask, present, 0.7, pooling=pooling)
    np.testing.assert_allclose(found, jitted, atol=1e-6)


@pytest.mark.parametrize("pooling", ["mean", "max"])
def test_an_absent_view_says_nothing_even_where_its_scores_are_no_numbers(pooling):
    maps, mask = random_case()
    present, other = np.array([True, True, False, True]), maps.copy()
    other[2] = np.nan
    found, same = (np.asarray(fuse_evidence(m, mask, present, 1.0, pooling)) for m in (other, maps))
    np.testing.assert_array_equal(found[[0, 1, 3]], same[[0, 1, 3]])


@pytest.mark.parametrize("pooling", ["mean", "max"])
def test_a_patch_without_a_line_keeps_its_score_and_weight_zero_keeps_all(pooling):
    maps, mask = random_case()
    present = np.ones(V, bool)
    found = np.asarray(fuse_evidence(maps, mask, present, 1.0, pooling))
    assert found[0, 0, 2] == maps[0, 0, 2]
    assert found[0, 0, 1] != maps[0, 0, 1]
    np.testing.assert_array_equal(fuse_evidence(maps, mask, present, 0.0, pooling), maps)
    np.testing.assert_array_equal(fuse_evidence(maps, np.zeros_like(mask), present, 1.0, pooling), maps)


def test_standardised_normal_scores_have_mean_zero_and_deviation_one_in_every_view():
    scale = np.array([1, 5, 0.2, 30.0])[:, None, None]
    normal = (np.random.default_rng(0).normal(size=(20, V, *GRID)) + 3) * scale
    standard = np.asarray(standardise(jnp.asarray(normal, jnp.float32), calibrate_scores(normal)))
    np.testing.assert_allclose(standard.mean((0, 2, 3)), 0, atol=1e-5)
    np.testing.assert_allclose(standard.std((0, 2, 3)), 1, atol=1e-5)
    one = standardise(jnp.asarray(normal[3], jnp.float32), calibrate_scores(normal))
    np.testing.assert_array_equal(one, standard[3])


def test_missing_scores_do_not_count_in_the_calibration():
    normal = np.random.default_rng(0).normal(size=(5, 2, *GRID))
    normal[1, 0] = np.nan
    found = calibrate_scores(normal)
    rows = normal[[0, 2, 3, 4], 0], normal[:, 1]
    np.testing.assert_allclose(found.mean, [row.mean() for row in rows], rtol=1e-12)
    np.testing.assert_allclose(found.deviation, [row.std() for row in rows], rtol=1e-12)


def test_a_view_with_fewer_than_two_scores_takes_those_of_all_views():
    normal = np.random.default_rng(0).normal(size=(3, 3, *GRID))
    normal[:, 0] = np.nan
    normal[:, 1] = np.nan
    normal[0, 1, 0, 0] = 7.0
    found = calibrate_scores(normal)
    everything = normal[np.isfinite(normal)]
    np.testing.assert_allclose(found.mean[:2], everything.mean(), rtol=1e-12)
    np.testing.assert_allclose(found.deviation[:2], everything.std(), rtol=1e-12)
    np.testing.assert_allclose(found.mean[2], normal[:, 2].mean(), rtol=1e-12)


@pytest.mark.parametrize("value", [0.0, 5.0, np.nan])
def test_constant_or_no_scores_never_divide_by_zero(value):
    found = calibrate_scores(np.full((3, 2, *GRID), value))
    assert (found.deviation > 0).all()
    maps = jnp.full((2, *GRID), 0.0 if np.isnan(value) else value, jnp.float32)
    np.testing.assert_array_equal(standardise(maps, found), 0)
    assert np.isfinite(standardise(maps + 1, found)).all()


def test_the_calibration_is_by_view_not_by_sample():
    calibration = Calibration(np.array([1.0, 2.0]), np.array([1.0, 4.0]))
    maps = jnp.stack([jnp.full((2, *GRID), 2.0), jnp.full((2, *GRID), 6.0)])
    found = np.asarray(standardise(maps, calibration))
    np.testing.assert_array_equal(found[..., 0, 0], [[1, 0], [5, 1]])
