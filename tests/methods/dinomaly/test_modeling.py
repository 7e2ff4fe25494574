"""Dinomaly's network and its config."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from mvead_jax.backbones.info import Info, Tap
from mvead_jax.methods.base import Spec
from mvead_jax.methods.dinomaly.config import DinomalyConfig, DinomalySection, DinomalyTrainConfig
from mvead_jax.methods.dinomaly.modeling import MLP, DinomalyNetwork, LinearAttention, NetworkConfig, grouped
from mvead_jax.runtime.errors import UserError


def tokens(seed, *shape):
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def test_linear_attention_is_the_slow_sum_over_tokens():
    attention = LinearAttention(6, 2, nnx.Rngs(0))
    attention.qkv.kernel[...] = jnp.asarray(tokens(1, 6, 18))
    attention.proj.kernel[...] = jnp.eye(6, dtype=jnp.float32)
    x = tokens(2, 1, 5, 6)
    query, key, value = np.split(x[0].astype(np.float64) @ np.asarray(attention.qkv.kernel[...]), 3, axis=1)
    query, key = (np.where(part > 0, part + 1, np.exp(part)) for part in (query, key))
    expected = np.zeros((5, 6))
    for head in (slice(0, 3), slice(3, 6)):
        for at in range(5):
            weights = np.array([query[at, head] @ key[other, head] for other in range(5)])
            expected[at, head] = (weights[:, None] * value[:, head]).sum(0) / weights.sum()
    np.testing.assert_allclose(attention(jnp.asarray(x))[0], expected, rtol=1e-5, atol=1e-6)


def test_the_last_block_comes_first():
    network = DinomalyNetwork(NetworkConfig(8, 2, 3), nnx.Rngs(0))
    encoded = [jnp.asarray(tokens(seed, 2, 4, 8)) for seed in range(3)]
    x = network.bottleneck(sum(encoded) / 3)
    by_hand = []
    for block in network.decoder:
        x = block(x)
        by_hand.append(x)
    found = network(encoded)
    for number in range(3):
        np.testing.assert_array_equal(found[number], by_hand[2 - number])


def test_groups_are_means_of_consecutive_parts():
    parts = [jnp.full((1, 1, 1), value, jnp.float32) for value in (1.0, 3.0, 5.0, 9.0)]
    assert [float(mean[0, 0, 0]) for mean in grouped(parts, 2)] == [2, 7]
    assert [float(mean[0, 0, 0]) for mean in grouped(parts, 1)] == [4.5]


def test_dropout_follows_from_the_keys_of_each_image_and_is_off_without():
    mlp, x = MLP(8, nnx.Rngs(0), dropout=0.5), jnp.asarray(tokens(0, 2, 3, 8))
    keys = jax.random.split(jax.random.key(0), 2)
    noisy = mlp(x, keys)
    np.testing.assert_array_equal(mlp(x, keys), noisy)
    np.testing.assert_array_equal(mlp(x[::-1], keys[::-1])[::-1], noisy)
    assert (np.asarray(mlp(x)) != np.asarray(noisy)).any()


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"dinomaly": DinomalySection(groups=3)}, r"dinomaly.groups=3: must divide"),
        ({"dinomaly": DinomalySection(taps=())}, r"dinomaly.groups=2: must divide"),
        ({"train": DinomalyTrainConfig(schedule="step")}, r"train.schedule='step'.*train.warmup_steps"),
        ({"train": DinomalyTrainConfig(warmup=0.1)}, r"train.warmup=0.1"),
    ],
)
def test_settings_that_do_not_fit_are_refused(changes, words):
    with pytest.raises(UserError, match=words):
        dataclasses.replace(DinomalyConfig(), **changes)


def test_taps_of_several_shapes_and_heads_that_do_not_divide_are_refused():
    info = Info("net", "", True, "", "", 14, {"a": Tap(8, 6), "b": Tap(16, 6)}, (), heads=4)
    section = DinomalySection(taps=("a", "b"))
    config = dataclasses.replace(DinomalyConfig(), dinomaly=section)
    spec = Spec(("x",), ("c",), 64, info, {"a": (8, 8, 6), "b": (4, 4, 6)})
    with pytest.raises(UserError, match="a 8x8x6, b 4x4x6"):
        config.build(spec)
    spec = dataclasses.replace(spec, maps={"a": (8, 8, 6), "b": (8, 8, 6)})
    with pytest.raises(UserError, match="heads=4: does not divide the width 6"):
        config.build(spec)
