"""MVAD's loss, maps, scores and optimiser against formulas in NumPy."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from mvead_jax.methods.mvad.objective import (
    anomaly_map,
    batch_loss,
    image_loss,
)
from mvead_jax.methods.mvad.optimizer import LEARNING_RATE, optimizer, schedule
from mvead_jax.methods.resizing import enlarge, interpolation
from mvead_jax.training.optimisers import clip_norm

SIZES = ((8, 4), (4, 6), (2, 8))  # side and width of the maps


def maps(seed, *batch):
    rng = np.random.default_rng(seed)
    return [jnp.asarray(rng.normal(size=(*batch, side, side, width)), jnp.float32) for side, width in SIZES]


def test_the_loss_is_five_times_the_summed_mean_squared_difference():
    teacher, student = maps(0), maps(1)
    expected = 5 * sum(
        np.mean((np.asarray(t) - np.asarray(s)) ** 2) for t, s in zip(teacher, student, strict=True)
    )
    np.testing.assert_allclose(image_loss(teacher, student), expected, rtol=1e-6)


def test_the_loss_of_a_batch_is_the_mean_over_the_images_that_count_whatever_the_others_hold():
    teacher, student = maps(0, 2, 3), maps(1, 2, 3)
    each = jax.vmap(jax.vmap(image_loss))(teacher, student)
    np.testing.assert_allclose(batch_loss(teacher, student, jnp.ones((2, 3), bool)), each.mean(), rtol=1e-6)
    counted = jnp.array([[True, False, True], [True, True, False]])
    teacher[1] = teacher[1].at[0, 1].set(np.nan)
    loss, gradient = jax.value_and_grad(lambda s: batch_loss(teacher, s, counted))(student)
    np.testing.assert_allclose(loss, each[counted].mean(), rtol=1e-6)
    for own in gradient:
        assert not own[~counted].any()
        assert np.isfinite(own).all()
    assert batch_loss(teacher, student, jnp.zeros((2, 3), bool)) == 0


@pytest.mark.parametrize("size", [(8, 8), (19, 12), (3, 3), (1, 2)])
def test_enlarging_keeps_the_corner_pixels_and_is_linear_between(size):
    x = np.random.default_rng(0).normal(size=(5, 4)).astype(np.float32)
    rows, columns = (np.linspace(0, old - 1, new) for old, new in zip(x.shape, size, strict=True))
    tall = np.stack([np.interp(rows, np.arange(5), x[:, j]) for j in range(4)], axis=1)
    expected = np.stack([np.interp(columns, np.arange(4), own) for own in tall])
    np.testing.assert_allclose(enlarge(jnp.asarray(x), size), expected, atol=1e-6)
    np.testing.assert_array_equal(interpolation(1, 7), np.ones((7, 1)))  # a map of one pixel


def test_the_map_is_a_third_of_the_mean_of_the_enlarged_cosine_distances():
    teacher, student = maps(0), maps(1)
    teacher[0] = teacher[0].at[0, 0].set(0)  # no direction: the smallest norm, so a distance of 1
    expected = np.zeros((16, 16))
    for t, s in zip(teacher, student, strict=True):
        t, s = np.asarray(t, "f8"), np.asarray(s, "f8")
        norms = [np.maximum(np.linalg.norm(x, axis=-1), 1e-8) for x in (t, s)]
        distance = 1 - (t * s).sum(-1) / (norms[0] * norms[1])
        matrix = interpolation(len(t), 16)
        expected += matrix @ distance @ matrix.T / 9
    found = jax.jit(lambda t, s: anomaly_map(t, s, (16, 16)))(teacher, student)
    np.testing.assert_allclose(found, expected, atol=1e-6)


# ---- optimiser


def test_the_learning_rate_falls_once_after_four_fifths_of_the_epochs():
    rate = schedule(LEARNING_RATE, epochs=15, steps_per_epoch=7)
    assert LEARNING_RATE == 0.0125
    np.testing.assert_allclose([rate(step) for step in (0, 83, 84, 104)], [0.0125, 0.0125, 0.00125, 0.00125])


@pytest.mark.parametrize("scale", [0.1, 40.0])
def test_gradients_are_clipped_by_the_norm_of_all_and_a_millionth(scale):
    gradient = {"a": jnp.full(3, scale), "b": jnp.full((2, 2), -scale)}
    found, _ = clip_norm(5.0).update(gradient, optax.EmptyState())
    factor = min(1, 5 / (scale * np.sqrt(7) + 1e-6))
    np.testing.assert_allclose(found["a"], scale * factor, rtol=1e-6)
    np.testing.assert_allclose(found["b"], -scale * factor, rtol=1e-6)


def test_steps_are_those_of_adamw_with_decay_of_matrices_alone():
    parameters = {"gain": jnp.full(2, 2.0), "matrix": jnp.full((2, 2), 3.0)}
    gradient = {"gain": jnp.array([1.0, -20.0]), "matrix": jnp.array([[0.5, 0.0], [-4.0, 9.0]])}
    rule = optimizer(epochs=5, steps_per_epoch=1)
    state = rule.init(parameters)
    expected = {name: np.asarray(x, "f8") for name, x in parameters.items()}
    moments = {name: (np.zeros(x.shape), np.zeros(x.shape)) for name, x in parameters.items()}
    norm = np.sqrt(sum(np.sum(np.square(g)) for g in gradient.values()))
    for step in range(1, 6):
        with jax.numpy_dtype_promotion("standard"):  # optax's own arithmetic relies on it
            updates, state = rule.update(gradient, state, parameters)
        parameters = optax.apply_updates(parameters, updates)
        rate = 0.0125 if step <= 4 else 0.00125
        for name, g in gradient.items():
            g = np.asarray(g, "f8") * min(1, 5 / (norm + 1e-6))
            first, second = moments[name]
            first, second = 0.9 * first + 0.1 * g, 0.999 * second + 0.001 * g * g
            moments[name] = first, second
            expected[name] *= 1 - rate * 1e-4 * (name == "matrix")
            expected[name] -= rate * first / (1 - 0.9**step) / (np.sqrt(second / (1 - 0.999**step)) + 1e-8)
    for name, x in expected.items():
        np.testing.assert_allclose(parameters[name], x, rtol=1e-5)
