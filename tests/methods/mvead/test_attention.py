"""Attention over views against loops, and what it must leave alone."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from mvead_jax.backbones.dinov2.config import DinoV2Config
from mvead_jax.backbones.dinov2.modeling import random_dinov2
from mvead_jax.backbones.info import Info
from mvead_jax.methods.mvead.attention import (
    AttentionConfig,
    EpipolarAttention,
    MVASAttention,
    copy_block,
)
from mvead_jax.methods.mvead.banded import plan_bands
from mvead_jax.methods.mvead.config import FusionConfig
from mvead_jax.runtime.errors import UserError

V, N, D = 3, 6, 8


def features(seed=0, shape=(V, N, D)):
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape), jnp.float32)


def random_mask(seed=0, share=0.4, views=V, patches=N):
    """A mask as geometry makes it: no view sees itself. Patch 1 of view 0 has no key at all."""
    mask = np.random.default_rng(seed).random((views, views, patches, patches)) < share
    mask[np.arange(views), np.arange(views)] = False
    mask[0, :, 1] = False
    return mask


def attention(seed=0, kind=EpipolarAttention, options=None, **changes):
    """One whose every parameter is random, so that none can be forgotten."""
    config = AttentionConfig(width=D, **({"heads": 2} | changes))
    module = kind(config, nnx.Rngs(0), **(options or {}))
    rng = np.random.default_rng(seed)
    state = jax.tree.map(
        lambda leaf: jnp.asarray(rng.normal(size=leaf.shape) * 0.4, jnp.float32), nnx.state(module)
    )
    nnx.update(module, state)
    return module


def call(module, z, mask, present=None):
    """The compiled call."""
    graph, state = nnx.split(module)
    return np.asarray(jax.jit(lambda s, *rest: nnx.merge(graph, s)(*rest))(state, z, mask, present))


def oracle(module, z, mask, present=None):
    """Eq. 5-6 patch by patch, head by head, in float64."""
    cfg = module.cfg
    z = np.asarray(z, "f8")
    p = {
        name: {k: np.asarray(v, "f8") for k, v in leaves.items()}
        for name, leaves in nnx.to_pure_dict(nnx.state(module)).items()
    }
    mean, variance = z.mean(-1, keepdims=True), z.var(-1, keepdims=True)
    normed = (z - mean) / np.sqrt(variance + cfg.epsilon) * p["norm"]["scale"] + p["norm"]["bias"]
    query, key, value = (normed @ p[n]["kernel"] + p[n]["bias"] for n in ("query", "key", "value"))
    size = cfg.width // cfg.heads
    out = z.copy()

    def softmax_sum(a, j, keys):
        mixed = np.zeros(cfg.width)
        for h in range(cfg.heads):
            part = slice(h * size, (h + 1) * size)
            logits = np.array([query[a, j, part] @ key[b, k, part] / np.sqrt(size) for b, k in keys])
            weights = np.exp(logits - logits.max())
            weights /= weights.sum()
            mixed[part] = sum(w * value[b, k, part] for w, (b, k) in zip(weights, keys, strict=True))
        return mixed

    for a, j in np.ndindex(*z.shape[:2]):
        there = range(len(z)) if present is None else np.flatnonzero(present)
        keys = [[(b, k) for k in range(z.shape[1]) if mask[a, b, j, k]] for b in there]
        keys = [own for own in keys if own]
        if not keys:
            continue
        groups = keys if cfg.combine == "mean" else [[pair for own in keys for pair in own]]
        mixed = np.mean([softmax_sum(a, j, own) for own in groups], axis=0)
        out[a, j] += mixed @ p["output"]["kernel"] + p["output"]["bias"]
    return out


@pytest.mark.parametrize("changes", [{}, {"heads": 1}, {"heads": 8}, {"combine": "mean"}], ids=str)
def test_attention_is_a_softmax_over_the_keys_that_the_mask_allows(changes):
    module, z, mask = attention(**changes), features(), random_mask()
    np.testing.assert_allclose(call(module, z, mask), oracle(module, z, mask), atol=1e-5)


def test_the_mean_over_views_counts_only_views_with_a_key():
    module, z, mask = attention(combine="mean"), features(), random_mask()
    mask[2, 0] = False  # view 2 sees view 1 only: then the mean is the joint softmax
    joint = attention(combine="joint")
    np.testing.assert_allclose(call(module, z, mask)[2], call(joint, z, mask)[2], atol=1e-6)
    assert np.abs(call(module, z, mask)[1] - call(joint, z, mask)[1]).max() > 1e-3


def test_jit_equals_the_eager_call():
    module, z, mask = attention(), features(), random_mask()
    np.testing.assert_allclose(call(module, z, mask), module(z, jnp.asarray(mask)), atol=2e-6)


@pytest.mark.parametrize("combine", ["joint", "mean"])
def test_a_patch_without_any_key_passes_unchanged_and_every_gradient_is_finite(combine):
    module, z, mask = attention(combine=combine), features(), random_mask()
    mask[2] = False
    out = call(module, z, mask)
    np.testing.assert_array_equal(out[0, 1], z[0, 1])
    np.testing.assert_array_equal(out[2], z[2])
    assert (out[0, 0] != z[0, 0]).all()
    graph, state = nnx.split(module)
    gradient = jax.jit(jax.grad(lambda s, x: jnp.sum(jnp.sin(nnx.merge(graph, s)(x, mask))), argnums=(0, 1)))(
        state, z
    )
    for leaf in jax.tree.leaves(gradient):
        assert np.isfinite(leaf).all()
    np.testing.assert_array_equal(call(module, z, np.zeros_like(mask)), z)  # not one key anywhere


def test_a_missing_view_is_as_if_its_pairs_were_not_in_the_mask():
    module, z, mask = attention(), features(), random_mask()
    present, without = np.array([True, False, True]), mask.copy()
    without[:, 1] = False
    np.testing.assert_array_equal(call(module, z, mask, present), call(module, z, without))
    changed = call(module, z.at[1].add(100.0), mask, present)
    np.testing.assert_array_equal(changed[[0, 2]], call(module, z, mask, present)[[0, 2]])
    np.testing.assert_array_equal(call(module, z, mask, np.ones(V, bool)), call(module, z, mask))


@pytest.mark.parametrize("combine", ["joint", "mean"])
def test_the_order_of_views_and_of_patches_only_reorders_the_result(combine):
    module, z, mask = attention(combine=combine), features(), random_mask()
    out, views, patches = call(module, z, mask), [2, 0, 1], [3, 1, 5, 0, 4, 2]
    turned = call(module, z[jnp.array(views)], mask[views][:, views])
    np.testing.assert_allclose(turned, out[views], atol=2e-6)
    turned = call(module, z[:, jnp.array(patches)], mask[:, :, patches][..., patches])
    np.testing.assert_allclose(turned, out[:, patches], atol=2e-6)


def test_a_similarity_start_attends_to_the_patch_that_looks_most_alike():
    module = EpipolarAttention(AttentionConfig(width=D, heads=1), nnx.Rngs(0))
    z = jnp.tile(jnp.concatenate([jnp.eye(D)[:2], -jnp.eye(D)[:1]]), (2, 1, 1))
    mask = jnp.broadcast_to(~jnp.eye(2, dtype=bool)[..., None, None], (2, 2, 3, 3))
    out = call(module, z, mask) - np.asarray(z)
    normed = np.asarray(module.norm(z))
    np.testing.assert_array_equal((out[0] @ normed[1].T).argmax(1), [0, 1, 2])


def test_a_random_start_is_a_function_of_the_seed():
    config = AttentionConfig(width=D, heads=2, init="random")
    first, again, other = (
        jax.tree.leaves(nnx.state(EpipolarAttention(config, nnx.Rngs(seed)))) for seed in (0, 0, 1)
    )
    assert all(np.array_equal(a, b) for a, b in zip(first, again, strict=True))
    assert not all(np.array_equal(a, b) for a, b in zip(first, other, strict=True))


def test_heads_that_do_not_divide_the_width_are_refused():
    with pytest.raises(ValueError, match="heads=3 must divide width=8"):
        AttentionConfig(width=8, heads=3)


@pytest.mark.parametrize(
    ("fusion", "has_next", "expected"),
    [
        ({}, True, (4, "similarity")),  # what is copied over that start is the block
        ({"init": "random"}, False, (4, "random")),
        ({"heads": 2, "init": "similarity"}, True, (2, "similarity")),
        ({"heads": 2}, False, (2, "similarity")),
        ({"heads": 3}, False, "config fusion.heads=3: must divide the features' width 8"),
        ({"heads": 2}, True, "config fusion.heads=2: the block to copy has 4"),
    ],
)
def test_heads_are_the_configs_or_the_backbones_and_fit_the_block_to_copy(fusion, has_next, expected):
    backbone = Info("none", "none", True, "", "", 8, {}, (), heads=4, has_next=has_next)
    if isinstance(expected, str):
        with pytest.raises(UserError, match=expected):
            AttentionConfig.of(FusionConfig(**fusion), D, backbone)
        return
    found = AttentionConfig.of(FusionConfig(combine="mean", **fusion), D, backbone)
    assert found == AttentionConfig(D, *expected, "mean")


# ---- the backbone's block as a start (decision D4)

TINY = DinoV2Config(hidden_size=D, num_hidden_layers=1, num_attention_heads=2, image_size=20, patch_size=4)


@pytest.fixture(scope="module")
def block():
    """A block with random numbers where a fresh one has zeros and ones."""
    block = random_dinov2(TINY, seed=3).blocks[0]
    rng = np.random.default_rng(0)
    state = nnx.state(block)
    nnx.update(
        block,
        jax.tree.map(lambda p: p + jnp.asarray(0.4 * rng.normal(size=p.shape), jnp.float32), state),
    )
    return block


def test_a_copied_block_is_its_attention_branch_where_the_mask_allows_the_own_view_only(block):
    module, z = EpipolarAttention(AttentionConfig(width=D, heads=2), nnx.Rngs(0)), features()
    copy_block(module, block)
    own = jnp.broadcast_to(jnp.eye(V, dtype=bool)[..., None, None], (V, V, N, N))
    branch = block.layer_scale1[...][None, None] * block.attention(block.norm1(z))
    assert np.abs(branch).max() > 0.1
    np.testing.assert_allclose(module(z, own) - z, branch, atol=1e-5)


def test_a_block_of_another_shape_is_not_copied(block):
    for changes in ({"heads": 4}, {"width": 16}):
        module = EpipolarAttention(AttentionConfig(**({"width": D, "heads": 2} | changes)), nnx.Rngs(0))
        with pytest.raises(ValueError, match="a block of 2 heads and width 8 does not fit"):
            copy_block(module, block)


# ---- windows by similarity (MVAS)


def windows_oracle(z, pairs, grid, windows, top):
    """The mask window by window."""
    z = np.asarray(z, "f8")
    height, width = (-(-side // windows) for side in grid)
    place = [(j // grid[1] // height, j % grid[1] // width) for j in range(grid[0] * grid[1])]
    names = sorted(set(place))
    means = {
        (v, w): np.mean([z[v, j] for j in range(len(place)) if place[j] == w], axis=0)
        for v in range(len(z))
        for w in names
    }
    mask = np.zeros((len(z), len(z), len(place), len(place)), bool)
    for a in range(len(z)):
        for window in names:
            others = [(b, w) for b in range(len(z)) if pairs[a, b] for w in names]
            others.sort(key=lambda other: -means[a, window] @ means[other])
            for b, w in others[:top]:
                for j, k in np.ndindex(len(place), len(place)):
                    mask[a, b, j, k] |= place[j] == window and place[k] == w
    return mask


@pytest.mark.parametrize(("grid", "windows", "top"), [((4, 4), 2, 3), ((6, 3), 3, 2), ((4, 4), 4, 40)])
@pytest.mark.parametrize("missing", [None, 2])
def test_a_window_sees_the_windows_of_other_views_that_look_most_alike(grid, windows, top, missing):
    z, pairs, present = features(1, (V, grid[0] * grid[1], D)), ~np.eye(V, dtype=bool), None
    if missing is not None:
        pairs[:, missing] = False
        present = jnp.arange(V) != missing
    options = {"grid": grid, "windows": windows, "top_windows": top}
    module = attention(kind=MVASAttention, options=options)
    mask = np.asarray(module.similar(z, present))
    there = [view for view in range(V) if view != missing]  # what a missing view attends to has no meaning
    np.testing.assert_array_equal(mask[there], windows_oracle(z, pairs, grid, windows, top)[there])
    assert mask[there].any((1, 3)).all()
    for view in range(V):
        assert not mask[view, view].any()


def test_mvas_attends_to_its_windows_whatever_the_geometry_says():
    options = {"grid": (2, 3), "windows": 1, "top_windows": 1}
    module, z = attention(kind=MVASAttention, options=options), features()
    present = np.array([True, True, False])
    for there in (None, present):
        pairs = ~np.eye(V, dtype=bool) & (True if there is None else there[None])
        expected = oracle(module, z, windows_oracle(z, pairs, (2, 3), 1, 1))
        for mask in (random_mask(), np.zeros((V, V, N, N), bool)):
            views = slice(None) if there is None else there
            np.testing.assert_allclose(call(module, z, mask, there)[views], expected[views], atol=1e-5)


def bands(mask):
    random = np.random.default_rng(3)  # any geometry: it only orders the queries
    return plan_bands(mask, random.normal(size=(V, V, 3, 3)), (2, 3), 1.0, block=4)


@pytest.mark.parametrize("present", [None, np.array([True, False, True])], ids=["all", "one missing"])
@pytest.mark.parametrize(
    ("kind", "options", "changes", "keys"),
    [
        (EpipolarAttention, {}, {}, np.asarray),
        (EpipolarAttention, {}, {}, bands),
        (EpipolarAttention, {}, {"combine": "mean"}, np.asarray),
        (MVASAttention, {"grid": (2, 3), "windows": 2, "top_windows": 2}, {}, np.asarray),
    ],
    ids=["joint", "banded", "mean", "mvas"],
)
def test_some_views_asked_for_get_what_they_get_beside_all(kind, options, changes, keys, present):
    module, keys, of = attention(kind=kind, options=options, **changes), keys(random_mask()), np.array([2, 0])
    weights = features(9)[of]

    def some(z):
        return module.attend(z, module.project(z), keys, present, of)

    def same_of_all(z):
        return module(z, keys, present)[of]

    for z in (features(), features(1)):
        np.testing.assert_allclose(some(z), same_of_all(z), atol=1e-6)
        found, expected = (jax.grad(lambda z, f=f: jnp.sum(f(z) * weights))(z) for f in (some, same_of_all))
        np.testing.assert_allclose(found, expected, atol=1e-5)


def test_a_sample_of_one_view_passes_unchanged():
    module = attention(kind=MVASAttention, options={"grid": (2, 3), "windows": 2, "top_windows": 2})
    z, alone = features(), np.arange(V) == 1
    np.testing.assert_array_equal(call(module, z, random_mask(), alone)[1], z[1])
