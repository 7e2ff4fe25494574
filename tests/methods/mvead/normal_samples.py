"""Normal samples made by hand for tests of pre-training, and what they are trained with."""

from dataclasses import dataclass
from pathlib import Path

import jax.numpy as jnp
import numpy as np
from flax import nnx

from mvead_jax.data.records import DatasetIndex, Sample, View
from mvead_jax.geometry.masks import EpipolarKeys
from mvead_jax.methods.base import PATCHES, TrainData
from mvead_jax.methods.mvead.attention import AttentionConfig, EpipolarAttention
from mvead_jax.methods.mvead.pretraining import NormalSamples

S, V, N, D = 5, 3, 4, 8
GRID, VIEWS = (2, 2), ("C1", "C2", "C3")


@dataclass
class Case:
    """Normal samples as a test changes them. features: [S,V,N,D]. masks: of each category. category: [S]."""

    features: np.ndarray
    present: np.ndarray
    masks: np.ndarray
    category: np.ndarray

    def normal(self):
        """The same as pre-training takes them."""

        def views_of(i):
            return tuple(View(VIEWS[v], f"{i}{VIEWS[v]}") for v in np.flatnonzero(self.present[i]))

        samples = [
            Sample(f"sample{i}", f"kind{number}", "train", views_of(i))
            for i, number in enumerate(self.category)
        ]
        index = DatasetIndex(Path("root"), tuple(samples), VIEWS)
        geometry = {
            f"kind{number}": EpipolarKeys(mask, np.zeros((V, V, 3, 3)), 1.0, GRID)
            for number, mask in enumerate(self.masks)
        }
        features = {PATCHES: self.features.reshape(len(self.features), V, *GRID, D)}
        keys = tuple(jnp.asarray(geometry[name].mask) for name in index.categories)
        return NormalSamples(TrainData(index, features, geometry, None), keys)


def samples_of(seed=0, count=S, missing=(), categories=1):
    """Normal samples: four kinds of patches, in the same places, with noise."""
    rng = np.random.default_rng(seed)
    kinds = rng.normal(size=(V, N, D)) * 2
    features = (kinds + 0.3 * rng.normal(size=(count, V, N, D))).astype("f4")
    present = np.ones((count, V), bool)
    for sample, view in missing:
        present[sample, view] = False
        features[sample, view] = 0
    masks = rng.random((categories, V, V, N, N)) < 0.6
    masks[:, np.arange(V), np.arange(V)] = False
    return Case(features, present, masks, np.arange(count, dtype="i4") % categories)


def start(seed=0):
    return EpipolarAttention(AttentionConfig(width=D, heads=2, init="random"), nnx.Rngs(seed))
