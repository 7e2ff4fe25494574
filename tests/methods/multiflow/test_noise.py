"""The noise of training: its distribution, its one map for all channels and views, its key."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from multiflow_flows import features

from mvead_jax.methods.multiflow.noise import draw_noise, no_noise, with_noise

GRID = (40, 30)
KEYS = jax.random.split(jax.random.key(0), 64)


def maps(kind):
    return np.asarray(jax.vmap(lambda key: draw_noise(kind, key, GRID))(KEYS), "f8")


def test_gaussian_noise_has_its_deviation_and_uniform_noise_its_range():
    gaussian, uniform = maps("gaussian"), maps("uniform")
    np.testing.assert_allclose([gaussian.mean(), gaussian.std()], [0, 0.15], atol=2e-3)
    np.testing.assert_allclose([uniform.mean(), uniform.std()], [0.5, 12**-0.5], atol=4e-3)
    assert uniform.min() >= 0
    assert uniform.max() < 1


def test_softflow_noise_has_a_deviation_for_each_sample():
    deviations = np.sqrt(maps("softflow").std((1, 2, 3)))  # c of each sample, uniform
    assert deviations.max() > 0.9
    np.testing.assert_allclose([deviations.mean(), deviations.std()], [0.5, 12**-0.5], atol=0.1)


def test_every_channel_of_every_view_gets_the_same_map_and_the_condition_is_twenty_times_it():
    x, noise = features(0, 2, 3, 4, 5), features(1, 3, 4, 1)
    noisy, condition = with_noise(x, noise)
    np.testing.assert_allclose(noisy - x, np.broadcast_to(noise, x.shape), atol=1e-6)
    np.testing.assert_array_equal(condition, 20 * noise)


@pytest.mark.parametrize("kind", ["none", "gaussian", "softflow", "uniform"])
def test_at_evaluation_nothing_is_added(kind):
    x = features(2, 2, 3, 4, 5)
    noisy, condition = with_noise(x, no_noise(kind, (3, 4)))
    np.testing.assert_array_equal(noisy, x)
    assert (condition is None) == (kind == "none") == (draw_noise(kind, KEYS[0], (3, 4)) is None)
    assert condition is None or not condition.any()


def test_the_key_alone_decides_the_noise():
    one, same, other = (draw_noise("gaussian", key, (2, 2)) for key in (KEYS[0], KEYS[0], KEYS[1]))
    assert (one == same).all()
    assert not (one == other).any()
    assert one.dtype == jnp.float32


def test_an_unknown_kind_is_a_programmers_error():
    with pytest.raises(ValueError, match="noise 'pink'"):
        draw_noise("pink", KEYS[0], GRID)
