"""Dinomaly's loss, optimiser and maps."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from mvead_jax.methods.dinomaly import maps
from mvead_jax.methods.dinomaly.objective import hard_positions, hard_table, loose_loss
from mvead_jax.methods.dinomaly.optimizer import schedule, stable_adamw


def features(seed, images=3, positions=4, width=5):
    rng = np.random.default_rng(seed)
    return rng.standard_normal((images, positions, width)).astype(np.float32)


def plain_loss(encoded, decoded):
    """The mean over images of 1 - cos of whole maps, one after the other."""
    each = []
    for e, d in zip(encoded.astype(np.float64), decoded.astype(np.float64), strict=True):
        each.append(1 - (e * d).sum() / (np.linalg.norm(e) * np.linalg.norm(d)))
    return np.mean(each)


@pytest.fixture(scope="module")
def value_and_gradient():
    def of(encoded, decoded, counted, hard, easy_gradient):
        return jax.value_and_grad(lambda d: loose_loss([encoded], [d], counted, hard, easy_gradient))(decoded)

    return jax.jit(of)


def test_the_loss_is_the_plain_cosine_whatever_is_easy(value_and_gradient):
    encoded, decoded, all_count = features(0), features(1), np.ones(3, bool)
    for hard, factor in ((12, 1.0), (2, 0.1), (1, 0.0)):
        value, _ = value_and_gradient(encoded, decoded, all_count, jnp.int32(hard), factor)
        np.testing.assert_allclose(value, plain_loss(encoded, decoded), rtol=1e-6)


def test_easy_positions_have_the_factor_of_the_plain_gradient(value_and_gradient):
    encoded, decoded, all_count = features(0), features(1), np.ones(3, bool)
    _, plain = value_and_gradient(encoded, decoded, all_count, jnp.int32(12), 0.1)
    _, mined = value_and_gradient(encoded, decoded, all_count, jnp.int32(5), 0.1)
    cosine = (encoded * decoded).sum(-1)
    cosine /= np.linalg.norm(encoded, axis=-1) * np.linalg.norm(decoded, axis=-1)
    hardest = np.argsort(cosine.reshape(-1))[:5]
    factor = np.full(12, 0.1, np.float32)
    factor[hardest] = 1
    np.testing.assert_allclose(mined, plain * factor.reshape(3, 4, 1), rtol=1e-5, atol=1e-9)


def test_an_image_that_does_not_count_changes_nothing_whatever_it_holds(value_and_gradient):
    encoded, decoded = features(0), features(1)
    counted = np.array([True, False, True])
    expected, slope = value_and_gradient(encoded, decoded, counted, jnp.int32(3), 0.1)
    np.testing.assert_allclose(expected, plain_loss(encoded[counted], decoded[counted]), rtol=1e-6)
    for odd in (0.0, np.nan, 1e30):
        encoded[1] = decoded[1] = odd
        value, gradient = value_and_gradient(encoded, decoded, counted, jnp.int32(3), 0.1)
        assert value == expected
        np.testing.assert_array_equal(gradient, slope)
        assert not np.asarray(gradient)[1].any()


def test_hard_positions_are_counted_as_the_released_code_rounds():
    assert hard_positions(0, 1000, 0.9, 1000) == 1000
    assert hard_positions(1000, 1000, 0.9, 1000) == 99  # 1 - 0.9 is a little below 0.1
    assert hard_positions(5000, 1000, 0.9, 1000) == 99
    table = hard_table(2, 16, 0.9, 4)
    assert table.shape == (5, 3)
    assert table[4].tolist() == [0, 1, 3]
    assert table[0].tolist() == [0, 16, 32]


def test_a_first_step_of_rate_zero_moves_moments_and_no_parameter():
    rule = stable_adamw(schedule(2e-3, 2e-4, 10, 100), 1e-4)
    own = {"a": jnp.ones(3, jnp.float32)}
    state = rule.init(own)
    changes, state = rule.update({"a": jnp.full(3, 0.5, jnp.float32)}, state, own)
    np.testing.assert_array_equal(optax.apply_updates(own, changes)["a"], own["a"])
    assert (np.asarray(state.first["a"]) != 0).all()


def test_an_update_never_exceeds_the_rate_by_much_after_a_gradient_that_grew():
    """g / D of a gradient that is suddenly a thousand times larger is about 30; its array's step is divided by it."""
    rule = stable_adamw(1.0, 0.0)
    own = {"a": jnp.zeros(4, jnp.float32)}
    state = rule.init(own)
    for size in (*[1e-3] * 20, 1.0):
        gradient = {"a": jnp.full(4, size, jnp.float32)}
        changes, state = rule.update(gradient, state, own)
    assert np.abs(changes["a"]).max() < 1.0


def test_resizing_keeps_constants_and_smoothing_falls_at_the_border():
    flat = jnp.full((4, 4), 2.0, jnp.float32)
    np.testing.assert_allclose(maps.resized(flat, 9), 2, rtol=1e-6)
    smooth = np.asarray(maps.smoothed(jnp.full((9, 9), 1.0, jnp.float32)))
    np.testing.assert_allclose(smooth[2:-2, 2:-2], 1, rtol=1e-6)
    assert smooth[0, 4] < smooth[1, 4] < 1
    assert smooth[0, 0] < smooth[0, 4]


def test_enlarging_keeps_the_values_of_the_corners():
    encoded, decoded = (features(seed, 1, 9, 4)[0].reshape(3, 3, 4) for seed in (0, 1))
    small = maps.anomaly_map([encoded], [decoded], 3)
    large = maps.anomaly_map([encoded], [decoded], 11)
    np.testing.assert_allclose(np.asarray(large)[::5, ::5], small, rtol=1e-5, atol=1e-6)


def test_an_image_scores_by_its_highest_values():
    values = jnp.arange(200, dtype=jnp.float32).reshape(10, 20)
    assert maps.image_score(values, 0.01) == 198.5
    assert maps.image_score(values, 1e-6) == 199
