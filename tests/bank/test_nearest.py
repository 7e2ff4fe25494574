import os
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
from jax.sharding import AxisType

from mvead_jax.bank.nearest import (
    k_nearest,
    k_nearest_on_disk,
    nearest,
    nearest_on_disk,
    shard_rows,
    sharded_k_nearest,
    sharded_nearest,
)
from mvead_jax.bank.search import exact
from mvead_jax.bank.search.bounds import pair_bounds, rounded
from mvead_jax.bank.search.differences import sum_of_squares
from mvead_jax.bank.search.rows import NotFinite
from mvead_jax.bank.search.sharded import search_shares


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
    [(1, None), (2, 1), (16, 16), (17, 16), (100, 5000), (1000, 100)],
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


PRECISIONS = ("float32", "bfloat16")


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("offset", [0, 30])
def test_well_separated_queries_are_compared_with_few_rows_wherever_the_origin_is(offset, precision):
    queries, bank = (x + np.float32(offset) for x in gaussian(11, queries=256, rows=8192, width=256))
    _, index, compared = k_nearest(queries, bank, 1, precision=precision)
    np.testing.assert_array_equal(index[:, 0], oracle(queries, bank)[1])
    assert compared.mean() < 30


def test_among_copies_a_query_is_compared_with_all_rows():
    bank = np.repeat(gaussian(12, rows=64)[1], 16, axis=0)
    queries, bank = bank[:50] + np.float32(0.001), np.tile(bank, (4, 1))
    _, index, compared = k_nearest(queries, bank, 1)
    np.testing.assert_array_equal(index[:, 0], oracle(queries, bank)[1])
    assert (compared >= 64).all()


@pytest.mark.parametrize("precision", PRECISIONS)
def test_bounds_are_below_the_true_values_and_not_far(precision):
    rng = np.random.default_rng(2)
    queries, bank = (100 * rng.normal(size=(n, 512)).astype("f4") for n in (50, 400))
    bounds = pair_bounds(*(rounded(jnp.asarray(x), precision) for x in (queries, bank)))
    bounds = np.asarray(bounds, np.float64)
    true = 0.5 * ((bank.astype("f8")[:, None] - queries.astype("f8")[None]) ** 2).sum(-1)
    assert (bounds <= true).all()
    assert (bounds >= true * (1 - {"float32": 2e-4, "bfloat16": 6e-3}[precision])).all()


def adversarial():
    rng = np.random.default_rng(4)
    queries, bank = gaussian(4, queries=33, rows=777, width=48)
    outlier = bank.copy()
    outlier[500] = 1e6
    tight = rng.normal(size=(9, 48)) * 300
    tight = [
        (tight[rng.integers(9, size=n)] + 0.05 * rng.normal(size=(n, 48))).astype("f4") for n in (33, 777)
    ]
    return {
        "duplicates": (queries, np.repeat(bank[:111], 7, axis=0)),
        "zero distance": (bank[::23][:33], bank),
        "offset": (queries + np.float32(1e4), bank + np.float32(1e4)),
        "outlier row": (queries, outlier),
        "outlier query": (np.where(np.arange(33)[:, None] == 5, np.float32(1e6), queries), bank),
        "tight clusters": tight,
        "denormal": (queries * np.float32(1e-40), bank * np.float32(1e-40)),
        "tiny": (queries * np.float32(1e-15), bank * np.float32(1e-15)),
        "huge": (queries * np.float32(1e15), bank * np.float32(1e15)),
        "constant": (np.ones((33, 48), "f4"), np.ones((777, 48), "f4")),
        "one row": (queries, bank[:1]),
        "one query": (queries[:1], bank),
        "one number": (queries[:, :1], bank[:, :1]),
    }


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("case", adversarial())
def test_adversarial_numbers(case, precision):
    queries, bank = adversarial()[case]
    distance, index = (np.asarray(x) for x in nearest(queries, bank, precision=precision, block_size=100))
    assert np.isfinite(distance).all()
    assert (distance >= 0).all()
    assert ((index >= 0) & (index < len(bank))).all()
    if case == "denormal":  # their squares are zero
        assert (distance < 1e-37).all()
        return
    expected = oracle(queries, bank)
    np.testing.assert_allclose(distance, expected[0], rtol=1e-5)
    same = np.asarray(index) == expected[1]
    at = bank[index].astype("f8")
    again = np.sqrt(((queries.astype("f8") - at) ** 2).sum(1))
    np.testing.assert_allclose(again[~same], expected[0][~same], rtol=3e-6)  # a tie in float32
    if case in ("duplicates", "zero distance", "constant", "one row"):
        assert same.all()


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("k", [1, 3])
def test_rows_whose_squared_differences_underflow_are_found_at_distance_zero(k, precision):
    bank = np.zeros((2000, 64), "f4")
    bank[np.arange(2000) % 5 >= 3] = 2.0**-63 * (1 - 2.0**-20)
    distance, index, _ = k_nearest(np.full((1, 64), 2.0**-63, "f4"), bank, k, precision=precision)
    np.testing.assert_array_equal(distance, np.zeros((1, k)))
    np.testing.assert_array_equal(index, [[3, 4, 8][:k]])


@pytest.mark.parametrize("k", [1, 5])
@pytest.mark.parametrize(("kept", "again"), [(0, 256), (1, 0), (9, 3)])
def test_queries_that_keep_too_few_candidates_are_left_and_answered_the_same(monkeypatch, kept, again, k):
    queries, bank = clustered(30, 3, queries=60, rows=500 + 10 * kept + again)
    bank[300:400] = bank[100:200]  # ties
    precise = k_nearest(queries, bank, k, block_size=40)
    monkeypatch.setattr(exact, "_kept", lambda k, precision: k + kept)
    monkeypatch.setattr(exact, "_AGAIN_KEPT", again)
    found = k_nearest(queries, bank, k, block_size=48, precision="bfloat16")
    np.testing.assert_array_equal(found[0], precise[0])
    np.testing.assert_array_equal(found[1], precise[1])
    if k == 1:
        np.testing.assert_array_equal(found[1][:, 0], oracle(queries, bank)[1])


def in_order(query, bank, where, k):
    """The k nearest rows of one query in float64, the lowest row on ties, and their distances."""
    true = np.sqrt(((query.astype("f8") - bank.astype("f8")) ** 2).sum(1))
    order = np.lexsort((np.arange(len(bank)), true))
    order = order[where[order]][:k]
    lacking = (0, k - len(order))
    true = np.pad(true[order], lacking, constant_values=np.inf)
    return np.pad(order, lacking, constant_values=-1), true


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize(("k", "per_query"), [(2, False), (20, True), (64, False)])
def test_the_k_nearest_come_in_order_each_row_once(k, per_query, precision):
    queries, bank = gaussian(k, queries=40, rows=600)
    bank[100:200] = bank[300:400]  # ties
    where = np.random.default_rng(k).random((40, 600) if per_query else 600) < 0.7
    if per_query:
        where[7] = np.arange(600) < 5  # fewer than k
    distance, index, _ = k_nearest(queries, bank, k, where=where, precision=precision, block_size=160)
    for at, query in enumerate(queries):
        order, true = in_order(query, bank, where[at] if per_query else where, k)
        np.testing.assert_array_equal(index[at], order)
        np.testing.assert_allclose(distance[at], true, rtol=1e-6)


def smooth(rng, rows, width):
    """Patches beside each other are alike, as in an image."""
    steps = rng.normal(size=(rows, width)).cumsum(0)
    return (steps + 0.01 * rng.normal(size=(rows, width))).astype("f4")


@pytest.mark.parametrize("seed", range(12))
def test_the_k_nearest_are_those_of_brute_force_in_any_bank(seed):
    rng = np.random.default_rng(seed)
    queries, bank = smooth(rng, 30, 32), smooth(rng, 700, 32)
    if seed % 3 == 1:
        bank[rng.integers(700, size=300)] = bank[rng.integers(700, size=300)]
    if seed % 3 == 2:
        queries, bank = (rng.integers(-1, 2, size=(n, 32)).astype("f4") for n in (30, 700))
    scale, offset = np.float32([1, 1e-4, 1e4, 1][seed % 4]), np.float32([0, 0, 0, 300][seed % 4])
    queries, bank = queries * scale + offset, bank * scale + offset
    distance, index, _ = k_nearest(queries, bank, 20)
    # Brute force in float32 differences, in the order of sums of the program.
    squared = np.asarray(sum_of_squares(jnp.asarray(queries)[:, None] - jnp.asarray(bank)[None]))
    order = np.argsort(squared, axis=1, kind="stable")[:, :20]
    np.testing.assert_array_equal(index, order)
    np.testing.assert_array_equal(distance, np.sqrt(np.take_along_axis(squared, order, 1)))


def test_a_row_at_the_very_centre_is_found():
    # All is zero then: the centre, the row, its bound and the distance. Few rows, so the centre is of all.
    half = gaussian(31, rows=31)[1]
    bank = np.insert(np.concatenate([half, -half]), 5, 0, axis=0)
    assert (np.median(bank, axis=0) == 0).all()
    distance, index = nearest(np.zeros((1, 24), "f4"), bank)
    assert index[0] == 5
    assert distance[0] == 0


def test_near_ties_come_in_one_order_however_many_queries_there_are():
    # Rows that are permutations of one vector: their distances differ in the last bits of a sum only.
    rng = np.random.default_rng(0)
    vector = rng.normal(size=24).astype("f4")
    bank = np.stack([rng.permutation(vector) for _ in range(600)])
    distance, index, _ = k_nearest(np.zeros((40, 24), "f4"), bank, 16)
    alone = k_nearest(np.zeros((1, 24), "f4"), bank, 16)
    np.testing.assert_array_equal(distance, np.repeat(alone[0], 40, axis=0))
    np.testing.assert_array_equal(index, np.repeat(alone[1], 40, axis=0))
    order = np.lexsort((alone[1][0], alone[0][0]))
    np.testing.assert_array_equal(order, np.arange(16))


def test_what_rounding_takes_away_is_known_under_jit():
    # A compiler may leave out the way from float32 to bfloat16 and back, and the bound would be void.
    x = gaussian(3)[1]
    lost = x - x.astype(ml_dtypes.bfloat16).astype("f4")
    found = jax.jit(rounded, static_argnums=1)(x, "bfloat16")
    np.testing.assert_array_equal(found.values, x.astype(ml_dtypes.bfloat16))
    np.testing.assert_allclose(found.lost, np.sqrt((lost.astype("f8") ** 2).sum(1)), rtol=1e-6)


def summed_in_order(squares):
    """float32 sums in the stated order: 64 partial sums (fewer of short rows), then halves onto halves."""
    lanes = min(64, max(1, (1 << (squares.shape[-1] - 1).bit_length()) // 2))
    squares = np.pad(squares, ((0, 0), (0, -squares.shape[-1] % lanes))).reshape(len(squares), -1, lanes)
    total = np.zeros((len(squares), lanes), "f4")
    for number in range(squares.shape[1]):
        total += squares[:, number]
    while lanes > 1:
        lanes //= 2
        total = total[:, :lanes] + total[:, lanes:]
    return total[:, 0]


@pytest.mark.parametrize("width", [1, 2, 3, 64, 65, 100, 152, 768])
def test_sums_of_squares_do_not_depend_on_the_shape(width):
    x = gaussian(5, rows=300, width=width)[1]
    expected = np.asarray(sum_of_squares(jnp.asarray(x)))
    np.testing.assert_array_equal(expected, summed_in_order(x * x))
    compiled = jax.jit(lambda x, y: sum_of_squares(x[:, None] - y[None]))
    np.testing.assert_array_equal(compiled(x, np.zeros((1, width), "f4"))[:, 0], expected)
    np.testing.assert_array_equal(compiled(np.zeros((1, width), "f4"), x[:7])[0], expected[:7])


@pytest.mark.parametrize("width", [24, 152])
def test_distances_are_direct_differences_in_the_stated_order_of_sums(width):
    queries, bank = gaussian(6, width=width)
    distance, index = nearest(queries, bank)
    np.testing.assert_array_equal(distance, np.sqrt(summed_in_order((queries - bank[index]) ** 2)))


def test_a_query_that_is_no_number_has_distance_nan_and_changes_no_other():
    queries, bank = gaussian(70, queries=50, rows=1003)
    expected = k_nearest(queries, bank, 20)
    bad, good = np.array([4, 9]), np.delete(np.arange(50), [4, 9])
    damaged = queries.copy()
    damaged[bad, [3, 0]] = np.nan, np.inf
    mesh = jax.make_mesh((2,), ("data",), (AxisType.Auto,), devices=jax.devices()[:2])
    for distance, index in (
        k_nearest(damaged, bank, 20)[:2],
        sharded_k_nearest(damaged, bank, 20, mesh=mesh),
    ):
        assert np.isnan(distance[bad]).all()
        assert (index[bad] == -1).all()
        np.testing.assert_array_equal(distance[good], expected[0][good])
        np.testing.assert_array_equal(index[good], expected[1][good])


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_a_bank_with_a_row_that_is_no_number_is_refused(tmp_path, value):
    queries, bank = gaussian(71)
    bank[613, 5] = value
    mesh = jax.make_mesh((4,), ("data",), (AxisType.Auto,), devices=jax.devices()[:4])
    np.save(tmp_path / "bank.npy", bank)
    stored = np.load(tmp_path / "bank.npy", mmap_mode="r")
    for search in (
        lambda: nearest(queries, bank),
        lambda: shard_rows(bank, mesh),
        lambda: k_nearest_on_disk(queries, stored, 3, piece_rows=300),
    ):
        with pytest.raises(NotFinite, match="features of row 613 are not finite") as error:
            search()
        assert error.value.row == 613


def test_fewer_rows_than_k_leave_places_empty():
    distance, index, _ = k_nearest(np.zeros((1, 3), "f4"), np.ones((40, 3), "f4"), 4, where=np.arange(40) < 2)
    np.testing.assert_array_equal(index, [[0, 1, -1, -1]])
    np.testing.assert_array_equal(np.isinf(distance), [[False, False, True, True]])


def clustered(spread, clusters, queries=600, rows=9001, width=24):
    rng = np.random.default_rng(5)
    middle = (50 + spread * rng.normal(size=(clusters, width))).astype("f4")
    return [
        (middle[rng.integers(clusters, size=n)] + rng.normal(size=(n, width))).astype("f4")
        for n in (queries, rows)
    ]


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize(("spread", "clusters"), [(30, 20), (1000, 20), (1000, 2000), (10000, 3)])
def test_tight_clusters_are_searched_exactly_with_few_comparisons(spread, clusters, precision):
    queries, bank = clustered(spread, clusters)
    where = np.arange(len(bank)) % 7 > 0
    _, index, compared = k_nearest(queries, bank, 1, where=where, precision=precision)
    np.testing.assert_array_equal(index[:, 0], blocked_oracle(queries, bank, where))
    if clusters < 256:  # more than are told apart
        assert compared.mean() < 1000


def blocked_oracle(queries, bank, where):
    bank = np.where(where[:, None], bank.astype("f8"), np.inf)
    return np.array([((query - bank) ** 2).sum(1).argmin() for query in queries.astype("f8")])


def test_a_search_over_cpu_devices_is_done_when_it_returns():
    """Dozens of them that are not would wait for each other for ever: runtime/sharding.py."""
    queries, bank = gaussian(21, queries=2000, rows=20000)
    mesh = jax.make_mesh((4,), ("data",), (AxisType.Auto,), devices=jax.devices()[:4])
    rows = shard_rows(bank, mesh)
    for _ in range(2):  # the first one compiles
        found = search_shares(jnp.asarray(queries), rows, rows.real, 1, None, "float32")
    assert all(own.is_ready() for own in found)


@pytest.mark.parametrize(("devices", "k"), [(1, 1), (2, 20), (4, 1), (4, 20)])
def test_sharded_it_gives_the_same_bits(devices, k):
    queries, bank = gaussian(21, queries=50, rows=1003)
    bank[700:] = bank[100:403]  # ties between devices
    where = np.random.default_rng(0).random(1003) < 0.9
    mesh = jax.make_mesh((devices,), ("data",), (AxisType.Auto,), devices=jax.devices()[:devices])
    for own in (None, where):
        expected = k_nearest(queries, bank, k, where=own)
        found = sharded_k_nearest(queries, bank, k, mesh=mesh, where=own)
        np.testing.assert_array_equal(found[0], expected[0])
        np.testing.assert_array_equal(found[1], expected[1])
    if k == 1:
        found = sharded_nearest(queries, bank, mesh=mesh)
        np.testing.assert_array_equal(found[0], nearest(queries, bank)[0])


_EIGHT = """
import jax, numpy as np
from jax.sharding import AxisType
from mvead_jax.bank.nearest import nearest, sharded_nearest
random = np.random.default_rng(0)
queries, bank = (random.normal(size=(n, 24)).astype("f4") for n in (50, 1003))
bank[700:] = bank[100:403]
mesh = jax.make_mesh((8,), ("data",), (AxisType.Auto,))
for own, expected in zip(sharded_nearest(queries, bank, mesh=mesh), nearest(queries, bank)):
    np.testing.assert_array_equal(own, expected)
"""


def test_on_eight_devices_it_gives_the_same_bits():
    done = subprocess.run(
        [sys.executable, "-c", _EIGHT],
        env=os.environ | {"JAX_NUM_CPU_DEVICES": "8"},
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("rows", [1, 3, 9])
def test_padded_rows_of_shares_are_never_found(rows):
    mesh = jax.make_mesh((4,), ("data",), (AxisType.Auto,), devices=jax.devices()[:4])
    bank = np.full((rows, 5), 3, "f4")
    distance, index = sharded_nearest(np.zeros((2, 5), "f4"), bank, mesh=mesh)
    np.testing.assert_array_equal(index, 0)
    np.testing.assert_allclose(distance, np.sqrt(45), rtol=1e-6)


def test_a_device_reads_only_its_rows(tmp_path):
    np.save(tmp_path / "bank.npy", gaussian(1, rows=1000)[1])
    read = []

    class Watched:
        values = np.load(tmp_path / "bank.npy", mmap_mode="r")
        shape, ndim = values.shape, 2

        def __getitem__(self, rows):
            read.append((rows.start, rows.stop))
            return self.values[rows]

    mesh = jax.make_mesh((4,), ("data",), (AxisType.Auto,), devices=jax.devices()[:4])
    shard_rows(Watched(), mesh)
    assert sorted(read) == [(0, 250), (250, 500), (500, 750), (750, 1000)]


def test_shares_smaller_than_k_give_what_they_have():
    queries, bank = gaussian(24, queries=5, rows=30)
    mesh = jax.make_mesh((4,), ("data",), (AxisType.Auto,), devices=jax.devices()[:4])
    distance, index = sharded_k_nearest(queries, bank, 40, mesh=mesh)
    for at, query in enumerate(queries):
        order, true = in_order(query, bank, np.ones(30, bool), 40)
        np.testing.assert_array_equal(index[at], order)
        np.testing.assert_allclose(distance[at], true, rtol=1e-6)


@pytest.mark.parametrize(("piece_rows", "k"), [(1, 1), (300, 1), (300, 20), (5000, 20)])
def test_from_disk_it_gives_the_same_answer(tmp_path, piece_rows, k):
    # Orders of two vectors: their squared distances from 0 differ in last bits, and many have one root.
    rng = np.random.default_rng(22)
    bank = rng.permuted(np.tile(rng.normal(size=(2, 24)), (500, 1)), axis=1).astype("f4")
    bank[600:] = bank[:400]
    queries = np.concatenate([np.zeros((3, 24)), rng.normal(size=(67, 24))]).astype("f4")
    np.save(tmp_path / "bank.npy", bank[: 1000 if piece_rows > 1 else 40])
    stored = np.load(tmp_path / "bank.npy", mmap_mode="r")
    rows = []
    distance, index = k_nearest_on_disk(queries, stored, k, piece_rows=piece_rows, on_piece=rows.append)
    expected = k_nearest(queries, np.asarray(stored), k)
    np.testing.assert_array_equal(distance, expected[0])
    np.testing.assert_array_equal(index, expected[1])
    assert sum(rows) == len(stored)
    if k == 1:
        np.testing.assert_array_equal(nearest_on_disk(queries, stored, piece_rows=piece_rows)[1], index[:, 0])


def test_more_queries_than_are_searched_at_once(monkeypatch):
    monkeypatch.setattr(exact, "_QUERIES", 33)
    monkeypatch.setattr(exact, "_AT_ONCE", {"cpu": 15})
    queries, bank = gaussian(23, queries=50, rows=300)
    np.testing.assert_array_equal(nearest(queries, bank)[1], oracle(queries, bank)[1])
    mesh = jax.make_mesh((2,), ("data",), (AxisType.Auto,), devices=jax.devices()[:2])
    np.testing.assert_array_equal(sharded_nearest(queries, bank, mesh=mesh)[1], oracle(queries, bank)[1])


@pytest.mark.parametrize(("k", "precision"), [(0, "float32"), (65, "float32"), (1, "float16")])
def test_what_is_not_offered_is_refused(k, precision):
    with pytest.raises(ValueError, match="must be"):
        k_nearest(np.ones((1, 2), "f4"), np.ones((3, 2), "f4"), k, precision=precision)


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
