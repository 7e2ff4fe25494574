"""ProCon's soft projection against slow loops, and its config."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mvead_jax.backbones.info import Info, Tap
from mvead_jax.bank.config import BankConfig
from mvead_jax.bank.fill import Bank
from mvead_jax.methods.base import Batch, Spec
from mvead_jax.methods.procon.config import ProconConfig, ProconSection
from mvead_jax.methods.procon.projection import prepared, random_projection, residuals, top_mean, unit
from mvead_jax.runtime.errors import UserError

SECTION = ProconSection(taps=("a", "b"), width=4, coresets=3, neighbours=2)
INFO = Info("net", "", False, "", "", 1, {"a": Tap(1, 6), "b": Tap(1, 3)}, ())
SPEC = Spec(("x", "y"), ("c",), 2, INFO, {"a": (2, 3, 6), "b": (2, 3, 3)})


def numbers(seed, *shape):
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def slow_scores(patches, bank, neighbours):
    """What is left of each patch of one image, one after the other, in float64."""
    patches, bank = patches.astype(np.float64), bank.astype(np.float64)
    squared = ((patches[:, None] - bank[None]) ** 2).sum(-1)
    near = np.argsort(squared, 1, kind="stable")[:, :neighbours]
    own = np.take_along_axis(squared, near, 1)
    scale, found = np.median(own), []
    for patch, rows, d2 in zip(patches, near, own, strict=True):
        weights = np.exp(-d2 / scale)
        mean = sum(w * bank[row] for w, row in zip(weights, rows, strict=True)) / weights.sum()
        found.append(np.linalg.norm(patch - mean))
    return np.array(found)


def config():
    bank = BankConfig(kind="coreset", share=0.01, projection=0, per_view=False)
    return dataclasses.replace(ProconConfig(), procon=SECTION, bank=bank)


def test_a_sample_scores_as_the_slow_loops_say():
    method = config().build(SPEC)
    assert (method.width("a"), method.width("b")) == (4, 3)
    projection = np.asarray(random_projection(jax.random.key(1), 6, 4))
    banks = {
        tap: {
            str(n): {"shared": Bank(jnp.asarray(numbers(10 * at + n, 7, method.width(tap))))}
            for n in (1, 2, 3)
        }
        for at, tap in enumerate("ab")
    }
    features = {tap: numbers(at, 2, 2, *SPEC.maps[tap]) for at, tap in enumerate("ab")}
    batch = Batch(features, jnp.ones((2, 2), bool), jnp.zeros(2, jnp.int32))
    maps = method.score({"projections": {"a": projection}, "banks": banks}, batch)
    for sample, view in np.ndindex(2, 2):
        expected = []
        for tap in "ab":
            x = features[tap][sample, view].reshape(6, -1).astype(np.float64)
            x = x / np.linalg.norm(x, axis=1, keepdims=True)
            x = x @ projection if tap == "a" else x
            each = [slow_scores(x, np.asarray(own["shared"].rows), 2) for own in banks[tap].values()]
            expected.append(np.median(each, 0))
        np.testing.assert_allclose(maps[sample, view].reshape(6), np.mean(expected, 0), rtol=1e-4, atol=1e-5)


def test_a_patch_that_is_a_row_of_a_bank_of_copies_leaves_nothing():
    patches = jnp.asarray(numbers(0, 4, 5))
    rows = jnp.repeat(patches[:, None], 3, 1)
    np.testing.assert_allclose(residuals(patches, rows, jnp.zeros((4, 3), jnp.float32)), 0, atol=1e-6)


def test_rows_that_a_small_bank_lacks_weigh_nothing():
    patches, rows = jnp.asarray(numbers(0, 4, 5)), jnp.asarray(numbers(1, 4, 2, 5))
    squared = jnp.square(patches[:, None] - rows).sum(-1)
    expected = residuals(patches, rows, squared)
    filled = jnp.concatenate([rows, jnp.full((4, 1, 5), 1e9, jnp.float32)], 1)
    squared = jnp.concatenate([squared, jnp.full((4, 1), jnp.inf, jnp.float32)], 1)
    np.testing.assert_allclose(residuals(patches, filled, squared), expected, rtol=1e-5)


def test_unit_vectors_and_their_projection():
    x = jnp.asarray(numbers(0, 50, 40)).at[3].set(0)
    np.testing.assert_allclose(jnp.linalg.norm(unit(x), axis=-1)[:3], 1, rtol=1e-6)
    assert not np.asarray(unit(x))[3].any()
    projected = prepared(x, random_projection(jax.random.key(0), 40, 200))
    lengths = np.linalg.norm(np.delete(projected, 3, 0), axis=-1)
    assert abs(lengths.mean() - 1) < 0.05


def test_an_image_scores_by_a_share_of_its_patches_and_by_one_at_least():
    maps = np.arange(800, dtype=np.float32).reshape(1, 1, 20, 40)
    assert top_mean(maps, 0.005).tolist() == [[797.5]]
    assert top_mean(maps, 1e-6).tolist() == [[799]]


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"procon": ProconSection(taps=())}, r"procon.taps"),
        ({"bank": BankConfig(kind="full")}, r"bank.kind='full'"),
    ],
)
def test_settings_that_do_not_fit_are_refused(changes, words):
    with pytest.raises(UserError, match=words):
        dataclasses.replace(ProconConfig(), **changes)


def test_taps_of_several_sizes_are_refused():
    spec = dataclasses.replace(SPEC, maps={"a": (2, 3, 6), "b": (1, 1, 3)})
    with pytest.raises(UserError, match="a 2x3, b 1x1"):
        config().build(spec)
