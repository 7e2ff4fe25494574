import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mvead_jax.bank import nearest as module
from mvead_jax.bank.nearest import nearest


def oracle(queries, bank, where=None):
    """Row by row in float64; the lowest index wins ties."""
    distance, index = np.full(len(queries), np.inf), np.full(len(queries), -1)
    for at, query in enumerate(queries.astype(np.float64)):
        own = np.sqrt(((query - bank.astype(np.float64)) ** 2).sum(1))
        if where is not None:
            own[~(where if where.ndim == 1 else where[at])] = np.inf
        if np.isfinite(own).any():
            index[at] = own.argmin()
            distance[at] = own[index[at]]
    return distance, index


def gaussian(seed, queries=70, rows=1000, width=24):
    rng = np.random.default_rng(seed)
    return rng.normal(size=(queries, width)).astype("f4"), rng.normal(size=(rows, width)).astype("f4")


@pytest.mark.parametrize(
    ("rows", "block_size"),
    [(1, None), (2, 1), (15, 16), (16, 16), (17, 16), (100, 5000), (256, 256), (1000, 100), (1000, None)],
)
def test_agrees_with_brute_force_for_every_bank_and_block_size(rows, block_size):
    queries, bank = gaussian(rows, rows=rows)
    distance, index = nearest(queries, bank, block_size=block_size)
    expected = oracle(queries, bank)
    np.testing.assert_array_equal(index, expected[1])
    np.testing.assert_allclose(distance, expected[0], rtol=1e-6)
    assert distance.dtype == jnp.float32
    assert index.dtype == jnp.int32


def test_clusters_far_from_the_origin_and_from_each_other_keep_their_nearest_row():
    rng = np.random.default_rng(0)
    clusters = 1000 + 300 * rng.normal(size=(20, 64))
    bank = (clusters[rng.integers(20, size=4000)] + 0.05 * rng.normal(size=(4000, 64))).astype("f4")
    queries = (clusters[rng.integers(20, size=200)] + 0.05 * rng.normal(size=(200, 64))).astype("f4")
    distance, index = nearest(queries, bank)
    expected = oracle(queries, bank)
    np.testing.assert_allclose(distance, expected[0], rtol=1e-5)
    # Two rows at the same float32 distance are the only excuse for another index.
    differ = np.asarray(index) != expected[1]
    assert differ.mean() < 0.01
    # The product's formula alone is wrong here, so this test can fail.
    squared = (queries**2).sum(1)[:, None] + (bank**2).sum(1) - 2 * queries @ bank.T
    assert (squared.argmin(1) != expected[1]).mean() > 0.1


def test_one_outlier_row_spoils_nothing():
    queries, bank = gaussian(3, rows=3000)
    bank[1234] *= 1e6
    np.testing.assert_array_equal(nearest(queries, bank)[1], oracle(queries, bank)[1])


@pytest.mark.parametrize("block_size", [16, 48, 4096])
def test_ties_go_to_the_lowest_index_wherever_the_copies_lie(block_size):
    rng = np.random.default_rng(1)
    few = rng.normal(size=(7, 32)).astype("f4")
    kind = rng.integers(7, size=999)
    bank = few[kind]
    distance, index = nearest(few + np.float32(0.01), bank, block_size=block_size)
    np.testing.assert_array_equal(index, [np.flatnonzero(kind == k)[0] for k in range(7)])
    distance, index = nearest(bank, bank, block_size=block_size)
    np.testing.assert_array_equal(distance, 0)
    np.testing.assert_array_equal(index, [np.flatnonzero(kind == k)[0] for k in kind])


@pytest.mark.parametrize("first", [3, 20])
def test_of_two_copies_in_two_groups_the_first_is_found(first):
    """Two groups are compared directly: a tie between them must not depend on which bound was lower."""
    _, bank = gaussian(13, rows=64)
    bank[[first, 40]] = 100
    for query in (bank[first : first + 1], bank[first : first + 1] + 1):
        assert nearest(query, bank)[1][0] == first


def test_a_query_that_is_a_row_has_distance_zero():
    _, bank = gaussian(5)
    bank += 1e4
    distance, index = nearest(bank[::7], bank)
    np.testing.assert_array_equal(distance, 0)
    np.testing.assert_array_equal(index, np.arange(0, len(bank), 7))


@pytest.mark.parametrize("per_query", [False, True])
@pytest.mark.parametrize("block_size", [32, None])
def test_where_hides_rows(per_query, block_size):
    queries, bank = gaussian(7, rows=500)
    where = np.random.default_rng(0).random((len(queries), 500) if per_query else 500) < 0.1
    if per_query:
        where[3] = False
    distance, index = nearest(queries, bank, where=where, block_size=block_size)
    expected = oracle(queries, bank, where)
    np.testing.assert_array_equal(index, expected[1])
    np.testing.assert_allclose(distance, expected[0], rtol=1e-6)


def test_hidden_ties_do_not_count():
    bank = np.zeros((100, 4), "f4")
    where = np.arange(100) >= 61
    assert nearest(np.ones((1, 4), "f4"), bank, where=where, block_size=16)[1][0] == 61


def test_no_row_to_find_is_infinitely_far():
    distance, index = nearest(np.ones((2, 3), "f4"), np.ones((5, 3), "f4"), where=np.zeros(5, bool))
    assert np.isinf(distance).all()
    assert (np.asarray(index) == -1).all()


def test_under_jit_it_gives_the_same_bits():
    queries, bank = gaussian(9)
    eager, jitted = nearest(queries, bank), jax.jit(nearest)(queries, bank)
    np.testing.assert_array_equal(eager[0], jitted[0])
    np.testing.assert_array_equal(eager[1], jitted[1])


def searched_again(queries, bank):
    """The share of queries for which the best groups do not settle the matter."""
    queries, bank = jnp.asarray(queries), jnp.asarray(bank)
    centre, slack = bank.mean(0), module._slack(bank.shape[1])
    centred = queries - centre[None]
    bounds, groups = module._best_groups(centred, bank, centre, None, 512, slack)
    squared, _ = module._compare_groups(queries, bank, None, groups[:2])
    limit = 0.5 * squared * (1 + 2 * slack) - (0.5 - slack) * (centred**2).sum(-1)
    return float((bounds[2] <= limit).mean())


@pytest.mark.parametrize("offset", [0, 30])
def test_well_separated_queries_are_not_searched_twice_wherever_the_origin_is(offset):
    queries, bank = gaussian(11, queries=256, rows=8192, width=256)
    assert searched_again(queries + np.float32(offset), bank + np.float32(offset)) < 0.02


def test_banks_of_copies_are_searched_twice():
    bank = np.repeat(gaussian(12, rows=64)[1], 16, axis=0)
    assert searched_again(bank[:50] + np.float32(0.001), np.tile(bank, (4, 1))) == 1


def test_bounds_are_below_the_true_values():
    rng = np.random.default_rng(2)
    queries, bank = (100 * rng.normal(size=(n, 512)).astype("f4") for n in (50, 400))
    centre = jnp.asarray(bank).mean(0)
    centred = jnp.asarray(queries) - centre[None]
    slack = module._slack(512)
    bounds = np.asarray(module._bounds(centred, jnp.asarray(bank), centre, slack), np.float64)
    wide_q, wide_b = (
        queries.astype("f8") - np.asarray(centre, "f8"),
        bank.astype("f8") - np.asarray(centre, "f8"),
    )
    true = 0.5 * ((wide_b[:, None] - wide_q[None]) ** 2).sum(-1) - (0.5 - slack) * (wide_q**2).sum(-1)
    assert (bounds <= true).all()


@pytest.mark.parametrize(
    ("queries", "bank", "where", "message"),
    [
        (np.zeros((2, 3)), np.zeros((4, 5)), None, "must be"),
        (np.zeros((2, 3)), np.zeros((0, 3)), None, "empty"),
        (np.zeros((2, 3)), np.zeros((4, 3)), np.ones(3, bool), "where"),
    ],
)
def test_shapes_that_do_not_fit_are_refused(queries, bank, where, message):
    with pytest.raises(ValueError, match=message):
        nearest(queries, bank, where=where)


def test_no_queries_give_no_answers():
    distance, index = nearest(np.zeros((0, 3), "f4"), np.zeros((4, 3), "f4"))
    assert distance.shape == index.shape == (0,)
