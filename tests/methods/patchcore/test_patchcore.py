from pathlib import Path

import jax
import numpy as np
import pytest

from mvead_jax.bank.fill import Keep
from mvead_jax.data.records import DatasetIndex, Sample, View
from mvead_jax.methods.patchcore.method import PatchCore
from mvead_jax.runtime.errors import UserError

VIEWS = ("C1", "C2", "C3")


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
    return np.random.default_rng(seed).normal(size=(samples, 3, 6, 8)).astype("f4")


def oracle(train, present, test, per_view):
    """eq. 1 patch by patch."""
    maps = np.zeros(test.shape[:3])
    for s, v, n in np.ndindex(*maps.shape):
        views = [v] if per_view else range(train.shape[1])
        rows = np.concatenate([train[present[:, u], u].reshape(-1, train.shape[-1]) for u in views])
        maps[s, v, n] = np.sqrt(((rows - test[s, v, n]) ** 2).sum(1)).min()
    return maps


@pytest.mark.parametrize("per_view", [True, False])
def test_a_patch_scores_its_distance_to_the_bank(per_view):
    index, train, test = index_of(4, missing={(1, "C2")}), random_features(0, 4), random_features(1, 2)
    method = PatchCore(VIEWS, (2, 3), per_view)
    state = method.fit(index, train, None, None)
    maps = method.anomaly_maps(state, test, None)
    assert maps.shape == (2, 3, 2, 3)
    expected = oracle(train, index.present(), test, per_view)
    np.testing.assert_allclose(maps.reshape(2, 3, 6), expected, rtol=1e-5)
    jitted = jax.jit(lambda state, features: method.anomaly_maps(state, features, None))(state, test)
    np.testing.assert_array_equal(maps, jitted)


def test_training_samples_score_zero():
    train = random_features(2, 3)
    method = PatchCore(VIEWS, (2, 3))
    maps = method.anomaly_maps(method.fit(index_of(3), train, None, None), train, None)
    np.testing.assert_array_equal(maps, 0)


def test_a_view_without_training_pictures_is_an_error():
    index = index_of(2, missing={(0, "C3"), (1, "C3")})
    with pytest.raises(UserError, match="view C3: no training picture of cap"):
        PatchCore(VIEWS, (2, 3)).fit(index, random_features(0, 2), None, None)


# ---- leave one out


def left_out_oracle(train, present, chosen, per_view):
    """Patch by patch, to the rows of the other samples."""
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
    method = PatchCore(VIEWS, (2, 3), per_view)
    state = method.fit(index, train, None, None)
    chosen = np.array([3, 0, 1])
    maps = method.leave_one_out(state, index, train, None, chosen)
    assert maps.shape == (3, 3, 2, 3)
    assert maps.dtype == np.float32
    expected = left_out_oracle(train, index.present(), chosen, per_view)
    np.testing.assert_allclose(maps.reshape(3, 3, 6), expected, rtol=1e-5)
    assert np.isnan(maps[1, 2]).all()
    assert np.isnan(maps[2, 1]).all()


@pytest.mark.parametrize("per_view", [True, False])
def test_left_out_a_sample_that_nobody_stands_beside_has_no_score(per_view):
    index, train = index_of(1), random_features(0, 1)
    method = PatchCore(VIEWS, (2, 3), per_view)
    state = method.fit(index, train, None, None)
    maps = method.leave_one_out(state, index, train, None, np.array([0]))
    assert np.isnan(maps).all()
    index = index_of(2, missing={(1, "C2")})  # C2 exists once
    train = random_features(0, 2)
    maps = method.leave_one_out(method.fit(index, train, None, None), index, train, None, np.array([0]))
    assert np.isnan(maps[0, 1]).all() == per_view
    assert np.isfinite(maps[0, 0]).all()


# ---- what a bank keeps (decision D10)


@pytest.mark.parametrize("per_view", [True, False])
def test_a_coreset_leaves_a_samples_own_rows_out(per_view):
    index, train = index_of(4, missing={(1, "C2")}), random_features(0, 4)
    method = PatchCore(VIEWS, (2, 3), per_view, Keep("coreset", 0.5, 0))
    state = method.fit(index, train, None, jax.random.key(1))
    chosen = np.arange(4)
    maps = method.leave_one_out(state, index, train, None, chosen).reshape(4, 3, 6)
    for s, v, n in np.ndindex(*maps.shape):
        if not index.present()[s, v]:
            assert np.isnan(maps[s, v, n])
            continue
        bank = state[VIEWS[v] if per_view else "shared"]
        others = bank.rows[bank.sample != s]
        expected = np.linalg.norm(others - train[s, v, n], axis=1).min() if len(others) else np.nan
        np.testing.assert_allclose(maps[s, v, n], expected, rtol=1e-5)


@pytest.mark.parametrize("kind", ["coreset", "kmeans"])
def test_smaller_banks_follow_from_the_key_and_differ_between_views(kind):
    index, train = index_of(6), np.repeat(random_features(0, 6)[:, :1], 3, axis=1)  # three views alike
    method = PatchCore(VIEWS, (2, 3), keep=Keep(kind, 0.25, 4))
    one, two, other = (method.fit(index, train, None, jax.random.key(seed)) for seed in (1, 1, 2))
    assert [len(bank.rows) for bank in one.values()] == [9, 9, 9]
    for view in VIEWS:
        np.testing.assert_array_equal(one[view].rows, two[view].rows)
    assert not np.array_equal(one["C1"].rows, other["C1"].rows)
    assert not np.array_equal(one["C1"].rows, one["C2"].rows)
    maps = method.leave_one_out(one, index, train, None, np.array([0, 5]))
    assert np.isfinite(maps).all()
