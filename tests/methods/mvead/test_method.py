"""MVEAD at the door of a method: how its attention starts, what it is planned on, and what it scores."""

import logging
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from methods.mvead.normal_samples import GRID, VIEWS, D, N, V, samples_of

from mvead_jax.backbones.dinov2.config import DinoV2Config
from mvead_jax.backbones.dinov2.modeling import random_dinov2
from mvead_jax.backbones.info import Info, Tap
from mvead_jax.bank.config import BankConfig
from mvead_jax.config.schema import TrainConfig
from mvead_jax.geometry.masks import EpipolarKeys
from mvead_jax.methods.base import PATCHES, Batch, RunContext, Spec, parameter_count
from mvead_jax.methods.mvead.attention import EpipolarAttention, MVASAttention, copy_block
from mvead_jax.methods.mvead.banded import BandPlan
from mvead_jax.methods.mvead.config import FusionConfig, MveadConfig, PretrainConfig
from mvead_jax.methods.patchcore.method import PatchCore
from mvead_jax.runtime.errors import UserError

UNTRAINED = PretrainConfig(objective="none")


def spec_of(has_next=False, heads=2, grid=GRID):
    info = Info("none", "none", True, "", "", 8, {PATCHES: Tap(8, D)}, (), heads, has_next)
    return Spec(VIEWS, ("kind0",), 8 * grid[0], info, {PATCHES: (*grid, D)}, "cap")


def method_of(spec=None, fusion=None, train=UNTRAINED, **sections):
    return MveadConfig(fusion=FusionConfig(**fusion or {}), train=train, **sections).build(spec or spec_of())


def parameters_of(attention):
    return nnx.to_pure_dict(nnx.state(attention))


def same(a, b):
    return all(np.array_equal(x, y) for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True))


# ---- how it starts (decision D5)


def test_a_copied_start_is_the_backbones_next_block_where_it_has_one():
    config = DinoV2Config(
        hidden_size=D, num_hidden_layers=1, num_attention_heads=2, image_size=8, patch_size=4
    )
    block = random_dinov2(config, seed=3).blocks[0]
    backbone = SimpleNamespace(next_block=lambda: block)
    method = method_of(spec_of(has_next=True))
    similar = EpipolarAttention(method.attention, nnx.Rngs(0))
    copied = EpipolarAttention(method.attention, nnx.Rngs(0))
    copy_block(copied, block)
    assert same(parameters_of(method.start(0, backbone)), parameters_of(copied))
    assert not same(parameters_of(copied), parameters_of(similar))
    for other in (None, SimpleNamespace(next_block=None)):
        assert same(parameters_of(method.start(0, other)), parameters_of(similar))
    chosen = method_of(spec_of(has_next=True), {"init": "similarity"})
    assert same(parameters_of(chosen.start(0, backbone)), parameters_of(similar))
    drawn = method_of(spec_of(has_next=True), {"init": "random"})
    assert same(parameters_of(drawn.start(1, backbone)), parameters_of(drawn.start(1)))
    assert not same(parameters_of(drawn.start(1)), parameters_of(drawn.start(2)))


def test_its_shape_is_checked_when_it_is_built_and_without_fusion_it_is_patchcore():
    with pytest.raises(UserError, match="fusion.heads=3: must divide the features' width 8"):
        method_of(fusion={"heads": 3})
    assert isinstance(method_of(fusion={"kind": "none"}), PatchCore)
    assert isinstance(method_of(fusion={"kind": "mvas"}).start(0), MVASAttention)


@pytest.mark.parametrize(
    ("kind", "geometry", "joint"),
    [("eam", "required", True), ("mvas", "none", True), ("none", "none", False)],
)
def test_what_it_requires_follows_from_its_fusion(kind, geometry, joint):
    config = MveadConfig(fusion=FusionConfig(kind=kind))
    assert (config.requires().geometry, config.requires().joint_views) == (geometry, joint)
    assert config.build(spec_of()).requires == config.requires()


@pytest.mark.parametrize(
    ("train", "trains"),
    [(PretrainConfig(), True), (UNTRAINED, False), (PretrainConfig(epochs=0), False)],
)
def test_it_trains_unless_its_settings_say_nothing_is_trained(train, trains):
    method = method_of(train=train)
    assert method.training == (train if trains else None)
    assert isinstance(method.train, TrainConfig)
    assert (method.describe()["trained"] == "nothing") != trains


# ---- what it is planned on


def narrow_keys(grid):
    """Views side by side: a patch sees its own row."""
    patches = grid[0] * grid[1]
    row = np.arange(patches) // grid[1]
    mask = np.broadcast_to(row[:, None] == row[None, :], (V, V, patches, patches)).copy()
    mask[np.arange(V), np.arange(V)] = False
    F = np.zeros((V, V, 3, 3))
    F[..., 1, 2], F[..., 2, 1] = -1, 1
    return EpipolarKeys(mask, F, 8.0, grid)


def test_narrow_keys_are_planned_in_bands_and_wide_ones_stay_a_mask():
    grid = (16, 16)
    keys = narrow_keys(grid)
    assert isinstance(method_of(spec_of(grid=grid)).plan(keys), BandPlan)
    wide = EpipolarKeys(
        np.broadcast_to(~np.eye(V, dtype=bool)[..., None, None], keys.mask.shape), keys.F, 8.0, grid
    )
    for method, own in (
        (method_of(spec_of(grid=grid)), wide),
        (method_of(spec_of(grid=grid), {"combine": "mean"}), keys),
        (method_of(spec_of(grid=grid), {"kind": "mvas"}), keys),
    ):
        np.testing.assert_array_equal(method.plan(own), own.mask)


# ---- what it learns and scores


@pytest.fixture(scope="module")
def fitted():
    """A method with random projections, what it learned of two samples with a view missing, and these."""
    data = samples_of(count=3, missing=((1, 2),)).normal().data
    method = method_of(fusion={"init": "random"})
    return method, method.fit(data, RunContext(0)), data


def attended(method, state, data, chosen):
    """Sample by sample, by the module itself."""
    attention = method.start(0)
    nnx.update(attention, state["fusion"])
    present, mask = data.index.present(), jnp.asarray(data.geometry["kind0"].mask)
    z = data.features[PATCHES].reshape(-1, V, N, D)
    return np.stack([attention(jnp.asarray(z[i]), mask, present[i]) for i in chosen])


def distances(queries, rows):
    return np.linalg.norm(queries[:, None].astype("f8") - rows[None], axis=-1).min(1)


def test_banks_hold_the_attended_patches_and_scores_are_distances_to_them(fitted):
    method, state, data = fitted
    present = data.index.present()
    fused = attended(method, state, data, range(3))
    for view, name in enumerate(VIEWS):
        expected = fused[present[:, view], view].reshape(-1, D)
        np.testing.assert_allclose(state["banks"][name].rows, expected, atol=1e-5)
    test = samples_of(seed=1, count=2, missing=((0, 1),)).normal().data
    present = test.index.present()
    keys = method.plan(data.geometry["kind0"])
    other = type(data)(test.index, test.features, data.geometry, None)
    batch = Batch(test.features, present, np.zeros(2, np.int32), keys)
    maps = np.asarray(method.score(state, batch)).reshape(2, V, N)
    fused = attended(method, state, other, range(2))
    for sample, view in np.argwhere(present):
        expected = distances(fused[sample, view], np.asarray(state["banks"][VIEWS[view]].rows))
        np.testing.assert_allclose(maps[sample, view], expected, rtol=1e-4, atol=1e-4)


def test_left_out_a_sample_is_compared_with_the_others(fitted):
    method, state, data = fitted
    chosen = np.array([2, 1])
    maps = method.leave_one_out(state, data, chosen).reshape(2, V, N)
    fused = attended(method, state, data, chosen)
    for at, sample in enumerate(chosen):
        for view, name in enumerate(VIEWS):
            if not data.index.present()[sample, view]:
                assert np.isnan(maps[at, view]).all()
                continue
            bank = state["banks"][name]
            rows = np.asarray(bank.rows)[bank.sample != sample]
            np.testing.assert_allclose(maps[at, view], distances(fused[at, view], rows), rtol=1e-4, atol=1e-4)


def test_bytes_and_words_are_those_of_what_is_learned(fitted):
    method, state, data = fitted
    held = sum(bank.rows.nbytes + bank.sample.nbytes for bank in state["banks"].values())
    held += sum(np.asarray(leaf).nbytes for leaf in jax.tree.leaves(state["fusion"]))
    assert method.state_bytes(int(data.index.present().sum())) == held
    trained = method_of(train=PretrainConfig(centers=5), bank=BankConfig(kind="coreset"))
    assert trained.checkpoint_bytes() == 4 * (3 * parameter_count(trained) + V * 5 * D)
    assert same(
        jax.tree.map(np.shape, state["fusion"]),
        jax.tree.map(np.shape, method.init(jax.random.key(0))["fusion"]),
    )
    words = trained.describe()
    assert (
        words["fusion"]
        == "eam, starts as similarity (no block to copy), heads: 2, joint over views, residual"
    )
    assert words["trained"].startswith(
        "mcp+reg, 50 epochs of batches of 8, the last of them taken; AdamW 0.0001"
    )
    assert "5 centres a view" in words["trained"]
    assert words["bank"].startswith("greedy coreset")


def test_pairs_of_which_none_is_trusted_are_told(caplog):
    case = samples_of(count=2)
    case.masks[:] = False
    with caplog.at_level(logging.WARNING, "mvead_jax"):
        state = method_of().fit(case.normal().data, RunContext(0))
    assert "kind0: no pair of views is trusted, so nothing is fused: this is PatchCore" in caplog.text
    rows = case.features[:, 0].reshape(-1, D)
    np.testing.assert_array_equal(state["banks"]["C1"].rows, rows)
