import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from mvead_jax.methods.mvead.attention import AttentionConfig, EpipolarAttention, MVASAttention
from mvead_jax.methods.mvead.attention_weights import attended_batch, attended_patches

V, N, H, D, TOP = 3, 6, 2, 4, 4


def random_case(seed):
    """query, key, and a mask without keys in the own view; patch 1 of view 0 has no key at all."""
    random = np.random.default_rng(seed)
    query, key = (random.normal(size=(V, N, H, D)).astype("f4") for _ in range(2))
    mask = random.random((V, V, N, N)) < 0.4
    mask[np.arange(V), np.arange(V)] = False
    mask[0, :, 1] = False
    return query, key, mask


def dense_weights(query, key, mask, present=(True,) * V, combine="joint"):
    """[V,N,V N], patch by patch and head by head."""
    weights = np.zeros((V, N, V, N))
    for a, j, h in np.ndindex(V, N, H):
        keys = [(b, k) for b, k in np.ndindex(V, N) if mask[a, b, j, k] and present[b]]
        groups = [keys] if combine == "joint" else [[(b, k) for b, k in keys if b == c] for c in range(V)]
        groups = [group for group in groups if group]
        for group in groups:
            logits = np.array([query[a, j, h] @ key[b, k, h] / np.sqrt(D) for b, k in group], np.float64)
            own = np.exp(logits - logits.max())
            for (b, k), weight in zip(group, own / own.sum(), strict=True):
                weights[a, j, b, k] += weight / H / len(groups)
    return weights.reshape(V, N, V * N)


def agrees(found, weights):
    """The same shares in the same order, and each of the patch that it is said to be of."""
    number, share = map(np.asarray, found)
    assert number.shape == share.shape == (V, N, TOP)
    np.testing.assert_allclose(share, -np.sort(-weights, axis=-1)[..., :TOP], atol=1e-6)
    np.testing.assert_allclose(np.take_along_axis(weights, number, -1), share, atol=1e-6)


@pytest.mark.parametrize("combine", ["joint", "mean"])
@pytest.mark.parametrize("present", [(True, True, True), (True, False, True)])
def test_they_are_the_largest_of_all_softmax_weights(combine, present):
    query, key, mask = random_case(0)
    found = attended_patches(query, key, mask, np.array(present), top=TOP, combine=combine)
    agrees(found, dense_weights(query, key, mask, present, combine))
    number, share = map(np.asarray, found)
    assert present[1] or not (number // N == 1)[share > 0].any()


def test_all_shares_of_a_patch_add_up_to_one_or_to_nothing_where_it_has_no_key():
    query, key, mask = random_case(1)
    _, share = attended_patches(query, key, mask, top=V * N)
    total = np.asarray(share).sum(-1)
    assert total[0, 1] == 0
    assert np.isfinite(total).all()
    np.testing.assert_allclose(np.delete(total.ravel(), 1), 1, atol=1e-6)


@pytest.mark.parametrize("combine", ["joint", "mean"])
def test_the_attention_itself_mixes_by_these_weights(combine):
    """With identity projections its output is the weighted sum of the normed features of the same keys."""
    random = np.random.default_rng(2)
    cfg = AttentionConfig(width=8, heads=1, combine=combine)
    attention = EpipolarAttention(cfg, nnx.Rngs(0))
    z = random.normal(size=(V, N, 8)).astype("f4")
    mask = random_case(2)[2]
    graph, parameters = nnx.split(attention)
    present = np.ones((1, V), bool)
    number, share = attended_batch(graph, parameters, z[None], present, mask, top=V * N)
    normed = np.asarray(attention.norm(jnp.asarray(z))).reshape(V * N, 8)
    mixed = np.einsum("vnk,vnkd->vnd", np.asarray(share[0]), normed[np.asarray(number[0])])
    np.testing.assert_allclose(attention(jnp.asarray(z), jnp.asarray(mask)) - z, mixed, atol=1e-5)


def test_similar_windows_need_no_mask():
    random = np.random.default_rng(3)
    z = random.normal(size=(V, N, 8)).astype("f4")
    attention = MVASAttention(
        AttentionConfig(width=8, heads=1), nnx.Rngs(0), grid=(2, 3), windows=1, top_windows=1
    )
    graph, parameters = nnx.split(attention)
    nothing = np.zeros((V, V, N, N), bool)
    number, share = attended_batch(graph, parameters, z[None], np.ones((1, V), bool), nothing, top=V * N)
    normed = np.asarray(attention.norm(jnp.asarray(z))).reshape(V * N, 8)
    mixed = np.einsum("vnk,vnkd->vnd", np.asarray(share[0]), normed[np.asarray(number[0])])
    np.testing.assert_allclose(attention(jnp.asarray(z), jnp.asarray(nothing)) - z, mixed, atol=1e-5)


def test_jit_changes_nothing():
    query, key, mask = random_case(4)
    plain = attended_patches(query, key, mask, top=TOP)
    jitted = jax.jit(lambda q, k, m: attended_patches(q, k, m, top=TOP))(query, key, mask)
    np.testing.assert_array_equal(plain[0], jitted[0])
    np.testing.assert_allclose(plain[1], jitted[1], atol=1e-6)
