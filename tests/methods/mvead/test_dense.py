import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads

from mvead_jax.methods.mvead.dense import masked_attention

V, N, H, D = 3, 5, 2, 4


def random_case(seed):
    """query, key, value, and a mask without keys in the own view; patch 1 of view 0 has no key at all."""
    random = np.random.default_rng(seed)
    qkv = tuple(random.normal(size=(V, N, H, D)).astype("f4") for _ in range(3))
    mask = random.random((V, V, N, N)) < 0.4
    mask[np.arange(V), np.arange(V)] = False
    mask[0, :, 1] = False
    return (*qkv, mask)


def oracle(query, key, value, mask, present=(True,) * V):
    """eq. 5-6, patch by patch and head by head."""
    output = np.zeros_like(query, dtype=np.float64)
    for a, j, h in np.ndindex(V, N, H):
        keys = [(b, k) for b, k in np.ndindex(V, N) if mask[a, b, j, k] and present[b]]
        if keys:
            logits = np.array([query[a, j, h] @ key[b, k, h] / np.sqrt(D) for b, k in keys], np.float64)
            weights = np.exp(logits - logits.max())
            weights /= weights.sum()
            output[a, j, h] = sum(w * value[b, k, h] for w, (b, k) in zip(weights, keys, strict=True))
    return output


@pytest.mark.parametrize("seed", range(3))
def test_it_is_one_softmax_over_the_keys_of_all_supporting_views(seed):
    case = random_case(seed)
    found = masked_attention(*case)
    np.testing.assert_allclose(found, oracle(*case), atol=2e-6)
    np.testing.assert_allclose(jax.jit(masked_attention)(*case), found, atol=1e-6)


def test_a_patch_without_keys_gives_zero():
    output = np.asarray(masked_attention(*random_case(0)))
    assert (output[0, 1] == 0).all()
    assert np.abs(output[0, 0]).min() > 0
    nobody = masked_attention(*random_case(0)[:3], np.zeros((V, V, N, N), bool))
    np.testing.assert_array_equal(nobody, 0)


def test_the_gradient_is_right_and_finite_for_patches_without_keys():
    query, key, value, mask = random_case(1)

    @jax.jit
    def loss(q, k, v):
        return (masked_attention(q, k, v, mask) ** 2).sum()

    # Central differences in float32.
    check_grads(loss, (query, key, value), order=1, modes=["rev"], atol=2e-2, rtol=2e-2, eps=1e-2)
    gradients = jax.grad(loss, argnums=(0, 1, 2))(query, key, value)
    assert all(np.isfinite(g).all() for g in gradients)
    assert (np.asarray(gradients[0])[0, 1] == 0).all()


def test_large_logits_do_not_overflow():
    query, key, value, mask = random_case(2)
    case = (query * 1e3, key * 1e3, value, mask)
    # Logits of 1e6 leave 0.1 of float32: compare where one key is far above the others.
    found, expected = np.asarray(masked_attention(*case)), oracle(*case)
    assert np.isfinite(found).all()
    assert np.median(np.abs(found - expected)) < 1e-6


def test_absent_views_are_seen_by_nobody():
    query, key, value, mask = random_case(3)
    present = np.array([True, False, True])
    found = masked_attention(query, key, value, mask, present)
    np.testing.assert_allclose(found, oracle(query, key, value, mask, present), atol=2e-6)
    key[1], value[1] = 7.0, 9.0
    np.testing.assert_array_equal(masked_attention(query, key, value, mask, present), found)


def test_permuting_the_views_permutes_the_outputs():
    query, key, value, mask = random_case(4)
    order = np.array([2, 0, 1])
    found = masked_attention(query[order], key[order], value[order], mask[order][:, order])
    np.testing.assert_allclose(found, masked_attention(query, key, value, mask)[order], atol=1e-6)


def test_samples_are_vmapped():
    mask = random_case(0)[3]
    samples = [random_case(seed)[:3] for seed in range(2)]
    batch = [jnp.stack(parts) for parts in zip(*samples, strict=True)]
    found = jax.vmap(masked_attention, in_axes=(0, 0, 0, None))(*batch, mask)
    for one, sample in zip(found, samples, strict=True):
        np.testing.assert_allclose(one, masked_attention(*sample, mask), atol=1e-6)
