"""PatchCore as published against an independent slow implementation in NumPy, on a network of recipe weights."""

import dataclasses
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from oracles import recipes

from mvead_jax.backbones.checkpoint import Arrays
from mvead_jax.backbones.info import Info, Tap
from mvead_jax.backbones.resnet.params import from_tensors
from mvead_jax.bank.config import BankConfig
from mvead_jax.bank.fill import Bank
from mvead_jax.data.records import DatasetIndex, Sample, View
from mvead_jax.methods.base import Batch, RunContext, Spec, TrainData
from mvead_jax.methods.patchcore.config import PatchCoreConfig, PatchCoreSection
from mvead_jax.methods.patchcore.embedding import pooled
from mvead_jax.methods.patchcore.method import PatchCore, ReweightedPatchCore
from mvead_jax.runtime.errors import UserError

GOLDEN = Path(__file__).parents[2] / "golden/oracles"
WIDTH, TRAIN, NEIGHBOURS = 100, 4, 5
TAPS = ("layer2", "layer3")


# ---- the slow implementation: one value after the other, in float64


def slow_embedding(maps, width):
    """[h,w,K] of one image's maps: neighbourhoods, enlarged plane by plane, averaged by map and together."""
    size, parts = maps[0].shape[0], []
    for x in maps:
        patches = np.zeros((*x.shape[:2], x.shape[2], 3, 3))
        for row, column, i, j in np.ndindex(*x.shape[:2], 3, 3):
            r, c = row + i - 1, column + j - 1
            if 0 <= r < x.shape[0] and 0 <= c < x.shape[1]:
                patches[row, column, :, i, j] = x[r, c]
        patches = patches.reshape(*x.shape[:2], -1)
        place = np.clip((np.arange(size) + 0.5) * len(patches) / size - 0.5, 0, len(patches) - 1)
        low = np.floor(place).astype(int)
        high, share = np.minimum(low + 1, len(patches) - 1), place - low
        tall = patches[low] * (1 - share)[:, None, None] + patches[high] * share[:, None, None]
        large = tall[:, low] * (1 - share)[:, None] + tall[:, high] * share[:, None]
        parts.append(slow_pooling(large, width))
    return slow_pooling(np.concatenate(parts, -1), width)


def slow_pooling(x, width):
    length = x.shape[-1]
    means = [
        x[..., k * length // width : -(-(k + 1) * length // width)].mean(-1, keepdims=True)
        for k in range(width)
    ]
    return np.concatenate(means, -1)


def slow_scores(patches, bank, neighbours):
    """Distances [N] of an image's patches, and the image's weighted score."""
    apart = np.sqrt(((patches[:, None] - bank[None]) ** 2).sum(-1))
    scores = apart.min(1)
    worst = scores.argmax()
    nearest = apart[worst].argmin()
    around = np.argsort(((bank - bank[nearest]) ** 2).sum(-1), kind="stable")[:neighbours]
    weight = 1 - np.exp(scores[worst]) / np.exp(apart[worst, around]).sum()
    return scores, weight * scores[worst]


# ---- ours


@pytest.fixture(scope="module")
def features():
    """Maps of layers 2 and 3 of six images in two views: [6,2,h,w,C] by tap."""
    recipe = GOLDEN / "recipe_bb_resnet18.json"
    network = from_tensors("resnet18", Arrays(recipe.name, recipes.weights(recipe, "bb-A")), 3, held=3)
    images = recipes.normalised(recipes.smooth_images("published", 12, 32))
    graph, state = nnx.split(network)
    maps = jax.jit(lambda state, x: nnx.merge(graph, state)(x, TAPS))(state, images)
    return {tap: np.asarray(x).reshape(6, 2, *x.shape[1:]) for tap, x in maps.items()}


def method_of(features, **changes):
    section = PatchCoreSection(TAPS, neighbourhood=3, width=WIDTH, reweight=NEIGHBOURS)
    config = dataclasses.replace(
        PatchCoreConfig(),
        patchcore=dataclasses.replace(section, **changes),
        bank=BankConfig(kind="coreset", share=0.25, projection=16, per_view=False),
    )
    taps = {tap: Tap(0, 0) for tap in TAPS}
    info = Info("resnet18", "", False, "", "", 16, taps, ())
    return config.build(Spec(("a", "b"), ("c",), 32, info, {tap: x.shape[2:] for tap, x in features.items()}))


def training_data(features):
    samples = [
        Sample(f"s{at}", "c", "train", tuple(View(name, f"{at}{name}.png", 0) for name in ("a", "b")))
        for at in range(TRAIN)
    ]
    index = DatasetIndex(Path(), tuple(samples), ("a", "b"))
    return TrainData(index, {tap: x[:TRAIN] for tap, x in features.items()}, {}, None)


def test_maps_and_image_scores_are_those_of_the_slow_implementation(features):
    method = method_of(features)
    assert isinstance(method, ReweightedPatchCore)
    state = method.fit(training_data(features), RunContext(0))
    slow = np.stack(
        [
            np.stack(
                [slow_embedding([features[t][s, v].astype(np.float64) for t in TAPS], WIDTH) for v in (0, 1)]
            )
            for s in range(6)
        ]
    )
    every = slow[:TRAIN].reshape(-1, WIDTH)
    bank = state["banks"]["shared"].rows
    assert len(bank) == len(every) // 4
    apart = np.sqrt(((bank[:, None] - every[None]) ** 2).sum(-1))
    assert apart.min(1).max() < 1e-4  # all its rows are patches of training images,
    assert len(set(apart.argmin(1))) == len(bank)  # each another one
    batch = Batch(
        {tap: x[TRAIN:] for tap, x in features.items()}, jnp.ones((2, 2), bool), jnp.zeros(2, jnp.int32)
    )
    maps = method.score(state, batch)
    scores = method.score_images(state, batch, maps)
    for sample, view in np.ndindex(2, 2):
        expected, image = slow_scores(slow[TRAIN + sample, view].reshape(-1, WIDTH), bank, NEIGHBOURS)
        found = np.asarray(maps)[sample, view]
        np.testing.assert_allclose(found.reshape(-1), expected, rtol=1e-4, atol=1e-4)
        np.testing.assert_allclose(scores[sample, view], image, rtol=1e-3)
        assert image < found.max()


def test_leave_one_out_compares_with_the_rows_of_other_samples(features):
    method, data = method_of(features, reweight=0), training_data(features)
    assert type(method) is PatchCore
    method = dataclasses.replace(method, bank=BankConfig(per_view=True))
    state = method.fit(data, RunContext(0))
    found = method.leave_one_out(state, data, np.array([1]))
    own = {view: Bank(bank.rows[bank.sample != 1]) for view, bank in state["banks"].items()}
    batch = Batch(
        {tap: x[1:2] for tap, x in features.items()}, jnp.ones((1, 2), bool), jnp.zeros(1, jnp.int32)
    )
    np.testing.assert_allclose(found, method.score({"banks": own}, batch), rtol=1e-4, atol=1e-5)


def test_pooling_to_any_width_is_the_slow_mean():
    x = np.random.default_rng(0).standard_normal((2, 18)).astype(np.float32)
    for width in (1, 4, 5, 7, 9, 17, 18, 25):
        np.testing.assert_allclose(
            pooled(jnp.asarray(x), width), slow_pooling(x, width), rtol=1e-5, atol=1e-6
        )


def test_a_bank_of_fewer_rows_than_neighbours_still_weighs(features):
    method = method_of(features, reweight=9)
    rows = np.random.default_rng(1).standard_normal((3, WIDTH)).astype(np.float32)
    batch = Batch(
        {tap: x[:1] for tap, x in features.items()}, jnp.ones((1, 2), bool), jnp.zeros(1, jnp.int32)
    )
    state = {"banks": {"shared": Bank(jnp.asarray(rows))}}
    maps = method.score(state, batch)
    scores = np.asarray(method.score_images(state, batch, maps))
    assert np.isfinite(scores).all()
    assert (scores < np.asarray(maps).max((2, 3))).all()


@pytest.mark.parametrize(
    ("section", "words"),
    [
        (PatchCoreSection(taps=()), r"patchcore.taps"),
        (PatchCoreSection(neighbourhood=2), r"patchcore.neighbourhood=2: must be odd"),
        (PatchCoreSection(reweight=1), r"patchcore.reweight=1: .* give 0 or at least 2"),
    ],
)
def test_settings_that_make_no_sense_are_refused(section, words):
    with pytest.raises(UserError, match=words):
        dataclasses.replace(PatchCoreConfig(), patchcore=section)
