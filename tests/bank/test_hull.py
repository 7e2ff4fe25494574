"""The distance to the hull against its formula in float64, one query after the other."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType

from mvead_jax.bank import hull
from mvead_jax.bank.hull import hull_distance, sharded_hull_distance
from mvead_jax.bank.nearest import shard_rows

OF_LARGEST = 2e-6  # error in units of the largest difference: what hull.py states


def oracle(queries, bank, k=20, ridge=0.1, where=None):
    """h, and the distance of the farthest of the k rows."""
    h, far = np.full(len(queries), np.inf), np.ones(len(queries))
    for at, query in enumerate(queries.astype("f8")):
        own = slice(None) if where is None else where if where.ndim == 1 else where[at]
        differences = bank[own].astype("f8") - query
        differences = differences[np.argsort((differences**2).sum(1), kind="stable")[:k]]
        if len(differences):
            h[at], far[at] = formula(differences, ridge), np.sqrt((differences**2).sum(1).max())
    return h, far


def formula(differences, ridge):
    gram = differences @ differences.T
    mean = np.diag(gram).mean()
    if mean == 0:
        return 0
    u = np.linalg.solve(gram + ridge * mean * np.eye(len(gram)), np.ones(len(gram)))
    return np.linalg.norm((u / u.sum()) @ differences)


def gaussian(seed, queries=30, rows=400, width=48):
    rng = np.random.default_rng(seed)
    return rng.normal(size=(queries, width)).astype("f4"), rng.normal(size=(rows, width)).astype("f4")


def hard_cases():
    queries, bank = gaussian(0)
    rng = np.random.default_rng(1)
    basis = rng.normal(size=(6, 48))
    flat = [(rng.normal(size=(n, 6)) @ basis).astype("f4") for n in (30, 400)]
    close = np.tile(bank[:80], (5, 1)) + 1e-4 * bank
    return {
        "gaussian": (queries, bank),
        "copies": (queries, np.repeat(bank[:20], 20, axis=0)),
        "nearly copies": (bank[:30] + np.float32(1e-4) * queries, close.astype("f4")),
        "rank of 6": flat,
        "queries are rows": (bank[::14][:30], bank),
        "far off the origin": (queries + np.float32(1e4), bank + np.float32(1e4)),
        "small": (queries * np.float32(1e-4), bank * np.float32(1e-4)),
        "large": (queries * np.float32(1e4), bank * np.float32(1e4)),
        "very small": (queries * np.float32(1e-12), bank * np.float32(1e-12)),
        "very large": (queries * np.float32(1e12), bank * np.float32(1e12)),
        "two numbers": (queries[:, :2], bank[:, :2]),
        "one row": (queries, bank[:1]),
        "fewer rows than k": (queries, bank[:7]),
        "constant": (np.ones_like(queries), 3 * np.ones_like(bank)),
    }


@pytest.mark.parametrize("case", hard_cases())
def test_the_error_is_below_what_is_stated(case):
    queries, bank = hard_cases()[case]
    h, (expected, far) = hull_distance(queries, bank), oracle(queries, bank)
    assert h.dtype == jnp.float32
    assert (np.abs(h - expected) <= OF_LARGEST * far).all()


@pytest.mark.parametrize(("k", "ridge"), [(1, 0.1), (5, 1.0), (64, 0.1), (64, 0.01)])
def test_other_numbers_of_neighbours_and_ridges(k, ridge):
    queries, bank = gaussian(3)
    h, (expected, far) = hull_distance(queries, bank, k=k, ridge=ridge), oracle(queries, bank, k, ridge)
    np.testing.assert_allclose(h, expected, atol=OF_LARGEST * far.max())


def test_it_is_zero_where_all_rows_equal_the_query():
    rows = np.repeat(gaussian(4, queries=3)[0], 25, axis=0)
    np.testing.assert_array_equal(hull_distance(rows[::25], rows), 0)


def test_with_one_neighbour_it_is_the_distance_to_the_nearest_row():
    queries, bank = gaussian(5)
    expected = np.sqrt(((queries[:, None].astype("f8") - bank[None]) ** 2).sum(-1)).min(1)
    np.testing.assert_allclose(hull_distance(queries, bank, k=1), expected, rtol=1e-6)


def test_inside_the_hull_it_is_shorter_than_to_the_nearest_row_and_a_ridge_makes_it_longer():
    bank = gaussian(6, rows=20, width=8)[1]
    inside = bank.mean(0, keepdims=True)
    h = [float(hull_distance(inside + 0.01, bank, ridge=ridge)[0]) for ridge in (1e-3, 0.1, 10.0)]
    nearest = np.sqrt(((bank - inside) ** 2).sum(1)).min()
    assert h[0] < h[1] < h[2] + 1e-6
    assert h[2] < 0.1 * nearest


@pytest.mark.parametrize("per_query", [False, True])
def test_where_hides_rows(per_query):
    queries, bank = gaussian(7)
    where = np.random.default_rng(0).random((30, 400) if per_query else 400) < 0.3
    if per_query:
        where[3], where[4] = False, np.arange(400) < 6  # none, and fewer than k
    h, (expected, far) = hull_distance(queries, bank, where=where), oracle(queries, bank, where=where)
    finite = np.isfinite(expected)
    np.testing.assert_array_equal(np.isfinite(h), finite)
    assert (np.abs(h - expected)[finite] <= OF_LARGEST * far[finite]).all()


def test_neither_chunks_nor_blocks_nor_precision_nor_jit_change_it():
    queries, bank = gaussian(8)
    expected = hull_distance(queries, bank)
    for options in (
        {"memory": 1},
        {"memory": 7 * 4 * 20 * 48},
        {"block_size": 50},
        {"precision": "bfloat16"},
    ):
        np.testing.assert_allclose(hull_distance(queries, bank, **options), expected, rtol=3e-6)
    np.testing.assert_array_equal(jax.jit(hull_distance)(queries, bank), expected)


def test_the_order_of_rows_and_of_queries_changes_nothing():
    queries, bank = gaussian(9)
    expected = np.asarray(hull_distance(queries, bank))
    order = np.random.default_rng(0).permutation(400)
    np.testing.assert_allclose(hull_distance(queries, bank[order]), expected, rtol=3e-6)
    np.testing.assert_allclose(hull_distance(queries[::-1], bank), expected[::-1], rtol=3e-6)


@pytest.mark.parametrize(("devices", "rows"), [(1, 400), (4, 400), (4, 30)])
def test_sharded_it_is_the_same_to_rounding(devices, rows):
    queries, bank = gaussian(10, queries=33, rows=rows)
    where = np.random.default_rng(0).random(rows) < 0.9
    mesh = jax.make_mesh((devices,), ("data",), (AxisType.Auto,), devices=jax.devices()[:devices])
    for own in (None, where):
        expected, far = hull_distance(queries, bank, where=own), oracle(queries, bank, where=own)[1]
        for given in (bank, shard_rows(bank, mesh)):
            h = sharded_hull_distance(queries, given, mesh=mesh, where=own)
            assert (np.abs(h - expected) <= OF_LARGEST * far).all()


def test_a_query_that_is_no_number_is_nan_and_changes_no_other():
    queries, bank = gaussian(11)
    expected = np.asarray(hull_distance(queries, bank))
    queries[5, 3] = np.nan
    h = np.asarray(hull_distance(queries, bank))
    assert np.isnan(h[5])
    np.testing.assert_array_equal(np.delete(h, 5), np.delete(expected, 5))


def test_differences_are_held_within_the_memory():
    queries, bank = (jnp.asarray(x) for x in gaussian(12, queries=2000, width=128))
    index = jnp.zeros((2000, 20), jnp.int32)
    used = []
    for memory in (2**20, 2**23):
        chunk = hull._chunk(2000, 20, 128, memory)
        assert 4 * 20 * 128 * chunk <= memory
        compiled = hull._in_chunks.lower(queries, bank, index, 0.1, chunk).compile()
        used.append(compiled.memory_analysis().temp_size_in_bytes)
    assert used[0] < 4 * 2**20
    assert used[1] < 4 * 2**23
    assert hull._chunk(2000, 20, 128, 1) == 1


@pytest.mark.parametrize(
    "options", [{"ridge": 0.0}, {"ridge": -1.0}, {"ridge": np.nan}, {"k": 0}, {"k": 65}, {"memory": 0}]
)
def test_settings_without_meaning_are_refused(options):
    with pytest.raises(ValueError, match="must be"):
        hull_distance(*gaussian(13), **options)


def test_no_queries_give_no_distances():
    assert hull_distance(np.zeros((0, 3), "f4"), np.zeros((4, 3), "f4")).shape == (0,)
