"""Optimisers by the section `train` of a config, against formulas written out."""

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from mvead_jax.config.schema import TrainConfig
from mvead_jax.training.optimisers import adamw, learning_rate

RATE = 0.3


def rate_oracle(config, steps, step):
    warmup = round(config.warmup * steps)
    if step < warmup:
        return RATE * step / warmup
    if config.schedule == "cosine":
        return RATE * 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, steps - warmup)))
    if config.schedule == "step" and step >= round(config.step_at * steps):
        return RATE / 10
    return RATE


@pytest.mark.parametrize("steps", [1, 7, 20])
@pytest.mark.parametrize("warmup", [0.0, 0.25, 1.0])
@pytest.mark.parametrize(
    ("schedule", "step_at"),
    [("constant", 0.8), ("cosine", 0.8), ("step", 0.8), ("step", 0.0), ("step", 0.1), ("step", 1.0)],
)
def test_the_learning_rate_of_every_step_is_that_of_its_schedule(schedule, step_at, warmup, steps):
    config = TrainConfig(learning_rate=RATE, schedule=schedule, step_at=step_at, warmup=warmup)
    found = learning_rate(config, steps)
    assert callable(found) == (schedule != "constant" or round(warmup * steps) > 0)
    for step in range(steps):
        with jax.numpy_dtype_promotion("standard"):  # as the loop calls it
            own = float(found(step)) if callable(found) else found
        assert own == pytest.approx(rate_oracle(config, steps, step), abs=1e-7), step


def test_a_cosine_ends_near_zero_and_a_constant_rate_is_a_number():
    config = TrainConfig(learning_rate=RATE, schedule="cosine")
    with jax.numpy_dtype_promotion("standard"):
        assert float(learning_rate(config, 100)(99)) == pytest.approx(RATE * 2.5e-4, rel=0.02)
    assert learning_rate(TrainConfig(learning_rate=RATE), 100) == RATE


def adamw_oracle(config, start, gradients):
    """Loshchilov and Hutter's AdamW in float64, on all parameters as one vector."""
    w = start.copy()
    m, v = np.zeros_like(w), np.zeros_like(w)
    for step, gradient in enumerate(gradients):
        norm = np.sqrt((gradient**2).sum())
        g = gradient * min(1, config.clip / norm) if config.clip else gradient
        m, v = 0.9 * m + 0.1 * g, 0.999 * v + 0.001 * g**2
        direction = (m / (1 - 0.9 ** (step + 1))) / (np.sqrt(v / (1 - 0.999 ** (step + 1))) + 1e-8)
        w -= rate_oracle(config, len(gradients), step) * (direction + config.weight_decay * w)
    return w


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"weight_decay": 0.5},
        {"clip": 0.7},
        {"clip": 1e6},
        {"schedule": "cosine", "warmup": 0.3, "clip": 0.7},
    ],
    ids=str,
)
def test_adamw_is_its_formula_with_the_norm_of_all_gradients_clipped_before(changes):
    config = dataclasses.replace(TrainConfig(learning_rate=RATE, weight_decay=0.0), **changes)
    rng = np.random.default_rng(0)
    start, gradients = rng.normal(size=5), rng.normal(size=(6, 5))

    def tree(flat):
        return {"a": jnp.asarray(flat[:2]), "b": {"c": jnp.asarray(flat[2:])}}

    # In float64: 1 - 0.999 of AdamW's first steps is known to 1e-4 in float32.
    with jax.enable_x64(True), jax.numpy_dtype_promotion("standard"):
        optimiser, parameters = adamw(config, len(gradients)), tree(start)
        state = optimiser.init(parameters)
        for gradient in gradients:
            updates, state = optimiser.update(tree(gradient), state, parameters)
            parameters = optax.apply_updates(parameters, updates)
        found = np.concatenate([parameters["a"], parameters["b"]["c"]])
    exact = config.schedule == "constant"  # a schedule is computed in float32
    np.testing.assert_allclose(found, adamw_oracle(config, start, gradients), rtol=1e-10 if exact else 1e-6)
