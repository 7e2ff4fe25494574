from pathlib import Path

import jax
import numpy as np
import pytest

from mvead_jax.backbones.info import Info, Tap
from mvead_jax.bank.config import BankConfig, BankScoreConfig
from mvead_jax.data.records import DatasetIndex, Sample, View
from mvead_jax.methods.base import PATCHES, Batch, RunContext, Spec, TrainData
from mvead_jax.methods.patchcore.method import PatchCore
from mvead_jax.runtime.errors import UserError

VIEWS = ("C1", "C2", "C3")
SHAPE = (2, 3, 8)
SPEC = Spec(
    VIEWS, ("cap",), 24, Info("none", "none", True, "", "", 8, {PATCHES: Tap(8, 8)}, ()), {PATCHES: SHAPE}
)


def method_of(per_view=True, **bank):
    return PatchCore(SPEC, BankConfig(per_view=per_view, **bank), BankScoreConfig())


def data_of(index, features):
    return TrainData(index, {PATCHES: features}, {}, None)


def fit(method, index, features, seed=0):
    return method.fit(data_of(index, features), RunContext(seed))


def batch_of(features):
    return Batch({PATCHES: features}, np.ones(features.shape[:2], bool), np.zeros(len(features), np.int32))


def left_out(method, state, index, features, chosen):
    return method.leave_one_out(state, data_of(index, features), chosen)


def by_patch(features):
    """[S,V,h,w,...] -> [S,V,N,...]."""
    return features.reshape(*features.shape[:2], -1, *features.shape[4:])


def index_of(samples, missing=()):
    """`samples` normal samples with three views; `missing` = (sample, view) pairs that do not exist."""
    return DatasetIndex(
        Path("root"),
        tuple(
            Sample(str(s), "cap", "train", tuple(View(v, f"{s}{v}") for v in VIEWS if (s, v) not in missing))
            for s in range(samples)
        ),
        VIEWS,
    )


def random_features(seed, samples):
    return np.random.default_rng(seed).normal(size=(samples, 3, *SHAPE)).astype("f4")


def oracle(train, present, test, per_view):
    """eq. 1 patch by patch."""
    train, test = by_patch(train), by_patch(test)
    maps = np.zeros(test.shape[:3])
    for s, v, n in np.ndindex(*maps.shape):
        views = [v] if per_view else range(train.shape[1])
        rows = np.concatenate([train[present[:, u], u].reshape(-1, train.shape[-1]) for u in views])
        maps[s, v, n] = np.sqrt(((rows - test[s, v, n]) ** 2).sum(1)).min()
    return maps


@pytest.mark.parametrize("per_view", [True, False])
def test_a_patch_scores_its_distance_to_the_bank(per_view):
    index, train, test = index_of(4, missing={(1, "C2")}), random_features(0, 4), random_features(1, 2)
    method = method_of(per_view)
    state = fit(method, index, train)
    maps = method.score(state, batch_of(test))
    assert maps.shape == (2, 3, 2, 3)
    expected = oracle(train, index.present(), test, per_view)
    np.testing.assert_allclose(maps.reshape(2, 3, 6), expected, rtol=1e-5)
    jitted = jax.jit(method.score)(state, batch_of(test))
    np.testing.assert_array_equal(maps, jitted)


def test_training_samples_score_zero():
    train = random_features(2, 3)
    method = method_of()
    maps = method.score(fit(method, index_of(3), train), batch_of(train))
    np.testing.assert_array_equal(maps, 0)


def test_a_view_without_training_pictures_is_an_error():
    index = index_of(2, missing={(0, "C3"), (1, "C3")})
    with pytest.raises(UserError, match="view C3: no training image of cap"):
        fit(method_of(), index, random_features(0, 2))


# ---- leave one out


def left_out_oracle(train, present, chosen, per_view):
    """Patch by patch, to the rows of the other samples."""
    train = by_patch(train)
    maps = np.full((len(chosen), *train.shape[1:3]), np.nan)
    for at, s in enumerate(chosen):
        for v, n in np.ndindex(*train.shape[1:3]):
            rows = [
                train[other, u]
                for other in range(len(train))
                for u in ([v] if per_view else range(train.shape[1]))
                if other != s and present[other, u]
            ]
            if present[s, v] and rows:
                maps[at, v, n] = np.linalg.norm(np.concatenate(rows) - train[s, v, n], axis=1).min()
    return maps


@pytest.mark.parametrize("per_view", [True, False])
def test_left_out_a_sample_scores_its_distance_to_the_other_samples(per_view):
    index, train = index_of(4, missing={(1, "C2"), (0, "C3")}), random_features(0, 4)
    method = method_of(per_view)
    state = fit(method, index, train)
    chosen = np.array([3, 0, 1])
    maps = left_out(method, state, index, train, chosen)
    assert maps.shape == (3, 3, 2, 3)
    assert maps.dtype == np.float32
    expected = left_out_oracle(train, index.present(), chosen, per_view)
    np.testing.assert_allclose(maps.reshape(3, 3, 6), expected, rtol=1e-5)
    assert np.isnan(maps[1, 2]).all()
    assert np.isnan(maps[2, 1]).all()


@pytest.mark.parametrize("per_view", [True, False])
def test_left_out_a_sample_that_nobody_stands_beside_has_no_score(per_view):
    index, train = index_of(1), random_features(0, 1)
    method = method_of(per_view)
    state = fit(method, index, train)
    maps = left_out(method, state, index, train, np.array([0]))
    assert np.isnan(maps).all()
    index = index_of(2, missing={(1, "C2")})  # C2 exists once
    train = random_features(0, 2)
    maps = left_out(method, fit(method, index, train), index, train, np.array([0]))
    assert np.isnan(maps[0, 1]).all() == per_view
    assert np.isfinite(maps[0, 0]).all()


# ---- what a bank keeps (decision D10)


@pytest.mark.parametrize("per_view", [True, False])
def test_a_coreset_leaves_a_samples_own_rows_out(per_view):
    index, train = index_of(4, missing={(1, "C2")}), random_features(0, 4)
    method = method_of(per_view, kind="coreset", share=0.5, projection=0)
    state = fit(method, index, train, seed=1)
    chosen = np.arange(4)
    maps = left_out(method, state, index, train, chosen).reshape(4, 3, 6)
    for s, v, n in np.ndindex(*maps.shape):
        if not index.present()[s, v]:
            assert np.isnan(maps[s, v, n])
            continue
        bank = state["banks"][VIEWS[v] if per_view else "shared"]
        others = bank.rows[bank.sample != s]
        expected = np.linalg.norm(others - by_patch(train)[s, v, n], axis=1).min() if len(others) else np.nan
        np.testing.assert_allclose(maps[s, v, n], expected, rtol=1e-5)


@pytest.mark.parametrize("kind", ["coreset", "kmeans"])
def test_smaller_banks_follow_from_the_key_and_differ_between_views(kind):
    index, train = index_of(6), np.repeat(random_features(0, 6)[:, :1], 3, axis=1)  # three views alike
    method = method_of(kind=kind, share=0.25, projection=4)
    states = [fit(method, index, train, seed) for seed in (1, 1, 2)]
    one, two, other = (state["banks"] for state in states)
    assert [len(bank.rows) for bank in one.values()] == [9, 9, 9]
    for view in VIEWS:
        np.testing.assert_array_equal(one[view].rows, two[view].rows)
    assert not np.array_equal(one["C1"].rows, other["C1"].rows)
    assert not np.array_equal(one["C1"].rows, one["C2"].rows)
    maps = left_out(method, states[0], index, train, np.array([0, 5]))
    assert np.isfinite(maps).all()


# ---- what is told of it


@pytest.mark.parametrize(("kind", "per_view"), [("full", True), ("coreset", False), ("kmeans", True)])
def test_the_bytes_of_a_state_are_those_of_its_banks(kind, per_view):
    method = method_of(per_view, kind=kind, share=0.25, projection=4)
    state = fit(method, index_of(4), random_features(0, 4))
    held = sum(bank.rows.nbytes + bank.sample.nbytes for bank in state["banks"].values())
    assert method.state_bytes(4 * 3) == held
    shapes = method.init(jax.random.key(0))["banks"]
    assert {name: bank.rows.shape[1] for name, bank in shapes.items()} == {
        name: bank.rows.shape[1] for name, bank in state["banks"].items()
    }


def test_the_protocol_tells_what_a_bank_holds():
    told = method_of(False, kind="coreset", share=0.25).describe()
    assert told["bank"] == (
        "greedy coreset of 0.25 of the patches, distances in 128 random dimensions, one for all views"
    )
    assert told["patch_score"] == "distance to the nearest patch of its bank"
    assert (told["fusion"], told["trained"]) == ("none", "nothing")
    assert method_of(kind="kmeans").describe()["patch_score"].endswith("centre of its bank")
