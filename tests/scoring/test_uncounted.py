"""Whatever stands in patches that never count, no score and no other patch depends on it."""

from dataclasses import dataclass, field

import jax.numpy as jnp
import numpy as np
import pytest

from mvead_jax.bank.config import BankScoreConfig
from mvead_jax.bank.fill import CountedRows, PatchRows
from mvead_jax.geometry.masks import all_keys
from mvead_jax.methods.base import PATCHES, Requires
from mvead_jax.postprocess.statistics import ScoreStatistics
from mvead_jax.scoring.scorer import Inputs, Model, Scorer

GRID, VIEWS = (4, 6), ("C1", "C2", "C3")
IGNORED = np.zeros((8, 12), bool)
IGNORED[:, :6] = True  # the left half of the middle view


@dataclass(frozen=True)
class Spec:
    views: tuple = VIEWS
    categories: tuple = ("cap",)
    image_size: int = 24
    maps: dict = field(default_factory=lambda: {PATCHES: (*GRID, 1)})


@dataclass(frozen=True)
class Given:
    """A method whose maps are the features; by_features: with a rule of its own for images."""

    spec: Spec = field(default_factory=Spec)
    requires: Requires = field(default_factory=Requires)

    def init(self, key):
        return {}

    def score(self, state, batch):
        return jnp.asarray(batch.features[PATCHES])[..., 0]


class ByFeatures(Given):
    def score_images(self, state, batch, maps):
        return maps.max((2, 3)) + maps.mean((2, 3))


def scored(maps, method, **config):
    statistics = ScoreStatistics(np.zeros(3), np.ones(3))
    model = Model(method, {}, statistics, {"cap": {"C2": IGNORED}})
    scorer = Scorer(model, "cap", all_keys(3, GRID), BankScoreConfig(**config))
    present = np.array([[True, True, True], [True, True, False]])
    return next(scorer.score(Inputs({PATCHES: maps[..., None]}, present), np.arange(2)))


@pytest.mark.parametrize("method", [Given(), ByFeatures()])
@pytest.mark.parametrize(
    "config",
    [
        {},
        {"evidence": "all"},
        {"evidence": "all", "pooling": "max", "weight": 3.0},
        {"image_evidence": "all", "image_weight": 2.0},
    ],
)
def test_nothing_depends_on_patches_that_never_count(method, config):
    rng = np.random.default_rng(0)
    maps = rng.normal(-5, 1, (2, 3, *GRID)).astype(np.float32)  # below 0, as likelihoods may be
    other = maps.copy()
    other[:, 1, :, :3] = rng.normal(40, 9, (2, 4, 3))
    one, two = scored(maps, method, **config), scored(other, method, **config)
    for name in ("maps", "views", "images"):
        np.testing.assert_array_equal(getattr(one, name), getattr(two, name))
    assert np.isfinite(one.maps[0]).all()
    assert np.isfinite(one.images[0]).all()
    lowest = one.maps[:, 1, :, 3:].min((1, 2))
    np.testing.assert_array_equal(one.maps[:, 1, :, :3], np.broadcast_to(lowest[:, None, None], (2, 4, 3)))
    assert np.isnan(one.maps[1, 2]).all()


def test_counted_rows_are_the_others_in_their_order_however_they_are_read():
    features = np.arange(3 * 2 * 4 * 6 * 2, dtype=np.float32).reshape(3, 2, 4, 6, 2)
    images = np.array([[0, 0], [2, 0], [0, 1], [1, 1]])
    counted = np.random.default_rng(0).random((3, 2, 4, 6)) < 0.4
    every, own = PatchRows(features, images), CountedRows(counted, features, images)
    kept = np.flatnonzero(np.concatenate([counted[s, v].ravel() for s, v in images]))
    assert own.shape == (len(kept), 2)
    np.testing.assert_array_equal(own[0 : len(kept)], every[0:96][kept])
    for start in range(0, len(kept), 7):
        np.testing.assert_array_equal(own[start : start + 7], every[0:96][kept[start : start + 7]])
    np.testing.assert_array_equal(own.sample, every.sample[kept])
    chosen = np.array([5, 0, len(kept) - 1])
    np.testing.assert_array_equal(own.take(chosen), every.take(kept[chosen]))
    assert own.place(3) == every.place(int(kept[3]))
    assert len(CountedRows(np.zeros_like(counted), features, images)[0:10]) == 0
