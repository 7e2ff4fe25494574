"""Evidence along epipolar lines against loops, and the scale on which scores are added."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mvead_jax.config.schema import ScoreConfig
from mvead_jax.postprocess.evidence import evidence_grid, evidence_of_others, with_evidence
from mvead_jax.postprocess.statistics import ScoreStatistics, standardise
from mvead_jax.runtime.errors import UserError

V, GRID = 4, (2, 3)
N = 6
AS_THEY_ARE = ScoreStatistics(np.zeros(V), np.ones(V))


def random_case(seed=0):
    """Maps, and a mask in which patch 2 of view 0 has no line anywhere and view 3 none for view 1."""
    rng = np.random.default_rng(seed)
    mask = rng.random((V, V, N, N)) < 0.4
    mask[np.arange(V), np.arange(V)] = False
    mask[0, :, 2] = False
    mask[1, 3] = False
    return rng.normal(size=(V, *GRID)).astype("f4"), mask


def fuse(maps, mask, present, weight, pooling="mean", kind="epipolar", grid=GRID):
    """Maps of a sample that are standardised already, with what the other views add."""
    config = ScoreConfig(kind, weight=weight, pooling=pooling)
    return with_evidence(jnp.asarray(maps), present, jnp.asarray(mask), grid, AS_THEY_ARE, config)


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
    found = fuse(maps, mask, present, 0.7, pooling)
    np.testing.assert_allclose(found, oracle(maps, mask, present, 0.7, pooling), atol=1e-6)
    jitted = jax.jit(lambda *of_sample: fuse(*of_sample, 0.7, pooling))(maps, mask, present)
    np.testing.assert_allclose(found, jitted, atol=1e-6)
    np.testing.assert_allclose(
        evidence_of_others(jnp.asarray(maps), jnp.asarray(mask), present, pooling),
        oracle(maps, mask, present, 1.0, pooling) - maps,
        atol=1e-6,
    )


@pytest.mark.parametrize("pooling", ["mean", "max"])
def test_an_absent_view_says_nothing_even_where_its_scores_are_no_numbers(pooling):
    maps, mask = random_case()
    present, other = np.array([True, True, False, True]), maps.copy()
    other[2] = np.nan
    found, same = (np.asarray(fuse(m, mask, present, 1.0, pooling)) for m in (other, maps))
    np.testing.assert_array_equal(found[[0, 1, 3]], same[[0, 1, 3]])


@pytest.mark.parametrize("pooling", ["mean", "max"])
def test_a_patch_without_a_line_keeps_its_score_and_weight_zero_keeps_all(pooling):
    maps, mask = random_case()
    present = np.ones(V, bool)
    found = np.asarray(fuse(maps, mask, present, 1.0, pooling))
    assert found[0, 0, 2] == maps[0, 0, 2]
    assert found[0, 0, 1] != maps[0, 0, 1]
    np.testing.assert_array_equal(fuse(maps, mask, present, 0.0, pooling), maps)
    np.testing.assert_array_equal(fuse(maps, np.zeros_like(mask), present, 1.0, pooling), maps)


@pytest.mark.parametrize("pooling", ["mean", "max"])
def test_evidence_of_all_is_that_of_a_mask_with_every_patch_of_the_other_views(pooling):
    maps, mask = random_case()
    present = np.array([True, False, True, True])
    everything = np.broadcast_to(~np.eye(V, dtype=bool)[..., None, None], mask.shape)
    found = fuse(maps, mask, present, 0.5, pooling, kind="all")
    np.testing.assert_array_equal(found, fuse(maps, everything, present, 0.5, pooling))


def test_scores_are_standardised_before_they_are_added():
    maps, mask = random_case()
    statistics = ScoreStatistics(np.array([1.0, -2, 0, 5]), np.array([2.0, 0.5, 1, 3]))
    standard = np.asarray(standardise(jnp.asarray(maps), statistics))
    present = np.ones(V, bool)
    found = with_evidence(
        jnp.asarray(maps), present, jnp.asarray(mask), GRID, statistics, ScoreConfig("epipolar", weight=0.7)
    )
    np.testing.assert_allclose(found, oracle(standard, mask, present, 0.7, "mean"), atol=1e-6)


def test_in_a_map_finer_than_the_keys_every_cell_gains_what_its_patch_gains():
    """A patch says its highest cell, and gives all its cells the same."""
    _, mask = random_case()
    fine = np.random.default_rng(1).normal(size=(V, 4, 9)).astype("f4")  # cells of 2 x 3 in a patch
    present = np.array([True, True, False, True])
    highest = np.zeros((V, *GRID))
    for v, r, c in np.ndindex(highest.shape):
        highest[v, r, c] = fine[v, 2 * r : 2 * r + 2, 3 * c : 3 * c + 3].max()
    gained = oracle(highest, mask, present, 0.7, "mean") - highest
    expected = fine + gained.repeat(2, axis=1).repeat(3, axis=2)
    np.testing.assert_allclose(fuse(fine, mask, present, 0.7), expected, atol=1e-6)


@pytest.mark.parametrize(
    ("shape", "grid"),
    [
        ((16, 16), (16, 16)),
        ((32, 5), (32, 5)),
        ((64, 48), (32, 24)),
        ((256, 256), (32, 32)),
        ((37, 99), (1, 11)),
    ],
)
def test_the_grid_of_evidence_divides_the_map_and_has_at_most_32_patches_a_side(shape, grid):
    assert evidence_grid(shape) == grid


def test_standardised_normal_scores_have_mean_zero_and_deviation_one_in_every_view():
    scale = np.array([1, 5, 0.2, 30.0])[:, None, None]
    normal = (np.random.default_rng(0).normal(size=(20, V, *GRID)) + 3) * scale
    standard = np.asarray(standardise(jnp.asarray(normal, jnp.float32), ScoreStatistics.of(normal)))
    np.testing.assert_allclose(standard.mean((0, 2, 3)), 0, atol=1e-5)
    np.testing.assert_allclose(standard.std((0, 2, 3)), 1, atol=1e-5)
    one = standardise(jnp.asarray(normal[3], jnp.float32), ScoreStatistics.of(normal))
    np.testing.assert_array_equal(one, standard[3])


def test_missing_scores_do_not_count_in_the_statistics():
    normal = np.random.default_rng(0).normal(size=(5, 2, *GRID))
    normal[1, 0] = np.nan
    found = ScoreStatistics.of(normal)
    rows = normal[[0, 2, 3, 4], 0], normal[:, 1]
    np.testing.assert_allclose(found.mean, [row.mean() for row in rows], rtol=1e-12)
    np.testing.assert_allclose(found.deviation, [row.std() for row in rows], rtol=1e-12)


def test_a_view_with_fewer_than_two_scores_takes_those_of_all_views():
    normal = np.random.default_rng(0).normal(size=(3, 3, *GRID))
    normal[:, 0] = np.nan
    normal[:, 1] = np.nan
    normal[0, 1, 0, 0] = 7.0
    found = ScoreStatistics.of(normal)
    everything = normal[np.isfinite(normal)]
    np.testing.assert_allclose(found.mean[:2], everything.mean(), rtol=1e-12)
    np.testing.assert_allclose(found.deviation[:2], everything.std(), rtol=1e-12)
    np.testing.assert_allclose(found.mean[2], normal[:, 2].mean(), rtol=1e-12)


@pytest.mark.parametrize("value", [0.0, 5.0, np.nan])
def test_constant_or_no_scores_never_divide_by_zero(value):
    found = ScoreStatistics.of(np.full((3, 2, *GRID), value))
    assert (found.deviation > 0).all()
    maps = jnp.full((2, *GRID), 0.0 if np.isnan(value) else value, jnp.float32)
    np.testing.assert_array_equal(standardise(maps, found), 0)
    assert np.isfinite(standardise(maps + 1, found)).all()


def test_the_statistics_are_by_view_not_by_sample():
    statistics = ScoreStatistics(np.array([1.0, 2.0]), np.array([1.0, 4.0]))
    maps = jnp.stack([jnp.full((2, *GRID), 2.0), jnp.full((2, *GRID), 6.0)])
    found = np.asarray(standardise(maps, statistics))
    np.testing.assert_array_equal(found[..., 0, 0], [[1, 0], [5, 1]])


def test_statistics_survive_their_file_and_are_refused_for_other_views(tmp_path):
    path = tmp_path / "score_statistics.json"
    statistics = ScoreStatistics(np.array([0.1, 1 / 3]), np.array([1e-12, 7.0]))
    statistics.write(path, ("C1", "C2"))
    found = ScoreStatistics.read(path, ("C1", "C2"))
    np.testing.assert_array_equal(found.mean, statistics.mean)
    np.testing.assert_array_equal(found.deviation, statistics.deviation)
    for views in (("C2", "C1"), ("C1",)):
        with pytest.raises(UserError, match="score_statistics.json: not the statistics .* of other views"):
            ScoreStatistics.read(path, views)
    for text in ("{}", '{"views": ["C1", "C2"], "mean": [1], "deviation": [1, 2]}', '{"mean": ["x"]}'):
        path.write_text(text)
        with pytest.raises(UserError, match="score_statistics.json: not the statistics .*; train again"):
            ScoreStatistics.read(path, ("C1", "C2"))
    path.unlink()
    with pytest.raises(UserError, match="score_statistics.json: no such file"):
        ScoreStatistics.read(path, ("C1", "C2"))
