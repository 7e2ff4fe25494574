import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mvead_jax.bank.search.lowest import lowest


@pytest.mark.parametrize(("n", "count"), [(1, 1), (5, 5), (16, 9), (100, 33), (500, 40), (257, 257)])
@pytest.mark.parametrize("levels", [3, 10_000])
def test_the_lowest_come_in_order_each_once_and_the_next_is_known(n, count, levels):
    values = np.random.default_rng(n).integers(-levels, levels, size=(n, 37)).astype("f4")
    found, places, following = jax.jit(lowest, static_argnums=1)(values, count)
    in_order = np.sort(values, axis=0)
    np.testing.assert_array_equal(found, in_order[:count])
    np.testing.assert_array_equal(np.take_along_axis(values, np.asarray(places), 0), found)
    assert all(len(set(own)) == count for own in np.asarray(places).T)
    np.testing.assert_array_equal(following, in_order[count] if count < n else np.full(37, np.inf))


def test_more_than_there_are_is_infinite():
    found, places, following = lowest(np.ones((3, 4), "f4"), 20)
    np.testing.assert_array_equal(found, np.where(np.arange(20) < 3, 1, np.inf)[:, None].repeat(4, 1))
    assert ((np.asarray(places) >= 0) & (np.asarray(places) < 3)).all()
    assert np.isinf(following).all()


def test_numbers_that_are_computed_on_the_way_are_taken_once():
    """A compiler may compute x y + z with one rounding in one place and two in another, which would be two
    different numbers: of many that are nearly equal some would be taken twice, and some never."""
    random = np.random.default_rng(0)
    x, y, z = (1e3 * random.normal(size=(1024, 64)).astype("f4") for _ in range(3))

    @jax.jit
    def found(x, y, z):
        return lowest(x * y - jnp.round(x * y) + z / 1e6, 700)[:2]

    values, places = map(np.asarray, found(x, y, z))
    assert all(len(set(own)) == 700 for own in places.T)
    assert (np.diff(values, axis=0) >= 0).all()
