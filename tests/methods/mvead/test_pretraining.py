"""Pre-training: what it changes, what it costs to stop it (nothing), and what it says when it goes wrong."""

import dataclasses
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from methods.mvead.normal_samples import GRID, D, N, S, V, samples_of, start
from training.keeper import Keeper

from mvead_jax.methods.mvead.attention import AttentionConfig, EpipolarAttention
from mvead_jax.methods.mvead.config import PretrainConfig
from mvead_jax.methods.mvead.objective import multi_center_loss
from mvead_jax.methods.mvead.pretraining import (
    attend_all,
    k_means_centers,
    pretrain,
    sample_loss,
)
from mvead_jax.runtime.errors import Stopped
from mvead_jax.training.checkpoints import Checkpoints
from mvead_jax.training.loop import NotFinite, order_of_epoch

SMALL = PretrainConfig(epochs=3, batch_size=2, learning_rate=1e-2, centers=3, negatives=2, mask_ratio=0.3)


def attended(samples, chosen=None, **options):
    """By the attention as it starts, [n,V,N,D]."""
    chosen = np.arange(len(samples.features)) if chosen is None else chosen
    found = attend_all(start(), samples.normal(), chosen, **options)
    assert found.shape == (len(chosen), V, *GRID, D)
    return found.reshape(len(chosen), V, N, D)


def run(samples, config=SMALL, seed=0, keeper=None):
    """Parameters, centres and keeper after a pre-training."""
    attention, keeper = start(), keeper or Keeper()
    centers = pretrain(attention, samples.normal(), config, seed, keeper, "cap")
    return jax.tree.map(np.asarray, nnx.to_pure_dict(nnx.state(attention))), centers, keeper


def same(a, b):
    return all(np.array_equal(x, y) for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True))


@pytest.fixture(scope="module")
def finished():
    return run(samples_of())


RENEWED = dataclasses.replace(SMALL, objective="mcp", center_update="epoch")


@pytest.fixture(scope="module")
def renewed():
    """The same with centres that are made again before each epoch."""
    return run(samples_of(), RENEWED)


# ---- what it learns


def test_the_loss_falls_and_every_step_is_recorded():
    config = dataclasses.replace(SMALL, epochs=30, objective="mcp")
    events = run(samples_of(), config)[2].events
    losses = np.array([event["loss"] for event in events]).reshape(30, -1).mean(1)
    assert losses[-3:].mean() < 0.8 * losses[:3].mean()
    assert [event["step"] for event in events] == list(range(90))
    assert [event["epoch"] for event in events] == [step // 3 for step in range(90)]
    assert all(event["gradient_norm"] > 0 and 0 < event["centers_used"] <= 1 for event in events)


def test_the_attentions_parameters_change_and_the_features_do_not(finished):
    parameters, _, _ = finished
    before = nnx.to_pure_dict(nnx.state(start()))
    for name in ("norm", "query", "key", "value", "output"):
        assert not same(parameters[name], before[name]), name
    samples, untouched = samples_of(), samples_of()
    samples.features.flags.writeable = False
    assert same(run(samples)[:2], finished[:2])  # the same seed gives the same bytes
    np.testing.assert_array_equal(samples.features, untouched.features)


def test_another_seed_gives_other_bytes(finished):
    assert not same(run(samples_of(), seed=1)[0], finished[0])


def test_the_negative_term_and_its_weight_are_in_the_loss(finished):
    first = finished[2].events[0]
    assert first["loss"] == pytest.approx(first["positive"] + 0.1 * first["negative"], rel=1e-5)
    without = run(samples_of(), dataclasses.replace(SMALL, objective="mcp"))
    assert "negative" not in without[2].events[0]
    assert without[2].events[0]["loss"] == without[2].events[0]["positive"]
    zero = run(samples_of(), dataclasses.replace(SMALL, negative_weight=0.0))
    np.testing.assert_allclose(
        *([event["positive"] for event in one[2].events] for one in (zero, without)), rtol=1e-4
    )


def test_masked_patches_of_the_mean_are_others_than_those_of_zeros(finished):
    other = run(samples_of(), dataclasses.replace(SMALL, mask_fill="mean"))
    assert other[2].events[0]["positive"] == finished[2].events[0]["positive"]
    assert other[2].events[0]["negative"] != finished[2].events[0]["negative"]


def test_a_last_batch_that_is_not_full_weighs_only_its_samples():
    samples = samples_of()
    config = dataclasses.replace(
        SMALL, objective="mcp", epochs=1, batch_size=3, learning_rate=0.0, weight_decay=0.0
    )
    _, centers, keeper = run(samples, config)  # parameters stay, so every step can be done again by hand
    attention = start()
    for event, size in zip(keeper.events, (3, 2), strict=True):
        chosen = order_of_epoch(S, 0, 0)[event["step"] * 3 :][:3]
        assert len(chosen) == size
        own = [multi_center_loss(attention(samples.features[i], samples.masks[0]), centers) for i in chosen]
        assert event["loss"] == pytest.approx(float(np.mean(own)), rel=1e-5)


def test_every_sample_is_attended_with_the_mask_of_its_category_and_without_its_missing_views():
    samples = samples_of(categories=2, missing=((1, 2),))
    attention = start()
    found = attended(samples, np.array([4, 1, 0, 3]), batch_size=3)
    for own, i in zip(found, (4, 1, 0, 3), strict=True):
        expected = attention(samples.features[i], samples.masks[i % 2], samples.present[i])
        np.testing.assert_allclose(own, expected, atol=1e-5)


def test_the_step_uses_the_mask_of_each_samples_category():
    samples = samples_of(categories=2)
    swapped = dataclasses.replace(samples, masks=samples.masks[::-1].copy(), category=1 - samples.category)
    confused = dataclasses.replace(samples, category=np.zeros(S, "i4"))
    assert same(run(samples)[0], run(swapped)[0])
    assert not same(run(samples)[0], run(confused)[0])


def test_what_stands_in_a_missing_view_does_not_matter():
    samples = samples_of(missing=((1, 2), (3, 0)))
    other = dataclasses.replace(samples, features=samples.features.copy())
    other.features[1, 2] = other.features[3, 0] = 7.0
    parameters, centers, _ = run(samples)
    changed, other_centers, _ = run(other)
    np.testing.assert_array_equal(centers, other_centers)
    assert same(parameters, changed)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(parameters))


def test_one_view_alone_trains_on_its_own_masked_patches():
    samples = samples_of(missing=[(s, v) for s in range(4) for v in (1, 2)])
    events = run(samples)[2].events
    assert all(np.isfinite(event["loss"]) for event in events)


# ---- centres


def test_deep_svdd_has_one_centre_the_mean_of_the_views_attended_patches():
    samples = samples_of(missing=((1, 2),))
    centers = run(samples, dataclasses.replace(SMALL, objective="deepsvdd"))[1]
    fused = attended(samples)
    assert centers.shape == (V, 1, D)
    for view in range(V):
        own = fused[samples.present[:, view], view].reshape(-1, D)
        np.testing.assert_allclose(centers[view, 0], own.mean(0), atol=1e-6)


def test_k_means_finds_the_four_kinds_of_patches_of_each_view():
    samples = samples_of(count=12)
    centers = k_means_centers(start(), samples.normal(), N, 1000, 0)
    fused = attended(samples)
    for view in range(V):
        kinds = fused[:, view].mean(0)  # one kind in each place
        distances = np.linalg.norm(kinds[:, None] - centers[view][None], axis=-1)
        assert sorted(distances.argmin(1).tolist()) == list(range(N))
        assert distances.min(1).max() < 0.2 * np.linalg.norm(kinds[0] - kinds[1])


def test_centres_stay_or_are_made_again_before_each_epoch(finished, renewed):
    _, centers, keeper = finished
    assert all(np.array_equal(state["extras"], centers) for state in keeper.states)
    _, last, keeper = renewed
    made = [state["extras"] for state in keeper.states]
    assert [int(state["step"]) for state in keeper.states] == [0, 3, 6, 9]
    np.testing.assert_array_equal(made[0], made[1])  # the first epoch has just begun with them
    assert not np.array_equal(made[1], made[2])
    assert not np.array_equal(made[2], made[3])
    np.testing.assert_array_equal(last, made[3])


@pytest.mark.filterwarnings("ignore:Number of distinct clusters")  # scikit-learn says so too
def test_fewer_different_patches_than_centres_repeat_centres():
    samples = samples_of(count=1)
    samples.features[:, :, 1:] = samples.features[:, :, :1]  # each view: one patch, four times
    blind = dataclasses.replace(samples, masks=np.zeros_like(samples.masks))
    for count in (3, 6):
        centers = k_means_centers(start(), blind.normal(), count, 1000, 0)
        expected = np.broadcast_to(samples.features[0, :, :1], (V, count, D))
        np.testing.assert_allclose(centers, expected, atol=1e-5)


def test_k_means_looks_at_no_more_patches_than_it_may():
    samples = samples_of(count=12)
    centers = k_means_centers(start(), samples.normal(), 1, 2 * N, 0)  # the first and the last sample
    fused = attended(samples, np.array([0, 11]))
    np.testing.assert_allclose(centers[:, 0], fused.mean((0, 2)), atol=1e-6)


# ---- stopping and going on


@pytest.mark.parametrize("stop", [0, 4, 8])
def test_a_run_that_was_stopped_goes_on_to_the_same_bytes(finished, stop):
    keeper = Keeper(stop)
    with pytest.raises(Stopped, match=f"training cap: stopped after step {stop}"):
        run(samples_of(), keeper=keeper)
    assert int(keeper.states[-1]["step"]) == stop + 1
    keeper.stop = None
    parameters, centers, _ = run(samples_of(), keeper=keeper)
    assert same((parameters, centers), finished[:2])
    assert keeper.events == finished[2].events


def test_with_centres_made_again_it_goes_on_to_the_same_bytes_too(renewed):
    keeper = Keeper(3)  # within the second epoch
    with pytest.raises(Stopped):
        run(samples_of(), RENEWED, keeper=keeper)
    keeper.stop = None
    assert same(run(samples_of(), RENEWED, keeper=keeper)[:2], renewed[:2])


def test_states_on_disk_are_whole_whichever_step_they_are_of(finished, tmp_path):
    class Stopping(Checkpoints):
        left = 4  # steps

        def stopping(self):
            self.left -= 1
            return self.left == 0

    stopped = 0
    for _ in range(5):
        keeper = Stopping(tmp_path / "states", tmp_path / "metrics.jsonl", "cap", {"seed": 0})
        try:
            parameters, centers, _ = run(samples_of(), keeper=keeper)
            break
        except Stopped:
            stopped += 1
        finally:
            keeper.close()
    assert stopped == 2  # after steps 3 and 7: an epoch has three
    assert same((parameters, centers), finished[:2])


# ---- what goes wrong


@pytest.mark.parametrize("objective", ["mcp+reg", "deepsvdd"])
def test_features_that_are_no_numbers_stop_the_run_and_are_named(objective):
    samples = samples_of()
    samples.features[3, 1, 2] = np.nan
    with pytest.raises(NotFinite, match="^sample3: attended features that are no numbers") as error:
        run(samples, dataclasses.replace(SMALL, objective=objective))
    assert "\n" not in str(error.value)


def test_a_loss_that_is_no_number_stops_at_its_step_with_its_samples_and_keeps_the_last_good_state():
    samples, keeper = samples_of(), Keeper(2)
    with pytest.raises(Stopped):
        run(samples, keeper=keeper)  # one good epoch
    keeper.stop = None
    samples.features[3, 1, 2] = np.inf
    with pytest.raises(NotFinite, match=r"step [345] has loss nan and .*, on .*sample3") as error:
        run(samples, keeper=keeper)
    step = len(keeper.events)
    assert f"step {step} " in str(error.value)
    names = [f"sample{i}" for i in order_of_epoch(S, 0, 1)[(step - 3) * 2 :][:2]]
    assert f"on {', '.join(names)};" in str(error.value)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(keeper.states[-1]))
    assert int(keeper.states[-1]["step"]) == 3


# ---- the negatives of one sample (eq. 8, 9)


def negatives_oracle(attend, z, mask, centers, config, support, reference, hidden):
    masked = z.copy()
    masked[support, hidden] = z[support].mean(0) if config.mask_fill == "mean" else 0
    clean, changed = np.asarray(attend(z), "f8"), np.asarray(attend(masked), "f8")
    terms = []

    def add(view, patch):
        distances = np.linalg.norm(centers[view] - changed[view, patch], axis=1)
        terms.append(-np.log(distances.mean()))

    for k in hidden:
        add(support, k)
        linked = np.flatnonzero(mask[reference, support][:, k])
        change = np.linalg.norm(changed[reference, linked] - clean[reference, linked], axis=1)
        for j in linked[np.argsort(-change)][: config.negatives]:
            add(reference, j)
    return np.mean(terms)


@pytest.mark.parametrize("changes", [{}, {"negatives": 1, "mask_fill": "mean"}, {"mask_ratio": 0.0}], ids=str)
def test_negatives_are_the_masked_patches_and_those_that_they_change_most_in_another_view(changes):
    config = dataclasses.replace(SMALL, **changes)  # of 4 patches one is masked, whatever the ratio
    samples = samples_of(missing=((0, 1),))  # so the two views are 0 and 2, either way round
    z, mask, present = samples.features[0], samples.masks[0], samples.present[0]
    centers = np.random.default_rng(5).normal(size=(V, 3, D)).astype("f4")
    attention = start(2)
    graph, state = nnx.split(attention)
    attend = jax.jit(lambda z: nnx.merge(graph, state)(z, mask, present))
    possible = [
        negatives_oracle(attend, z, mask, centers, config, support, 2 - support, [k])
        for support in (0, 2)
        for k in range(N)
    ]
    keys = jax.random.split(jax.random.key(0), 60)
    given = [jnp.asarray(array) for array in (z, mask, mask, present, centers)]
    found = jax.jit(
        jax.vmap(lambda key: sample_loss(nnx.merge(graph, state), *given, config, key)["negative"])
    )(keys)
    distances = np.abs(np.asarray(found)[:, None] - np.array(possible)[None])
    assert distances.min(1).max() < 1e-5
    assert set(distances.argmin(1).tolist()) == set(range(len(possible)))  # every patch has its turn


@pytest.mark.parametrize("combine", ["joint", "mean"])
def test_a_data_set_of_one_view_has_the_negatives_of_its_own_masked_patches(combine):
    z, mask, present = samples_of().features[0][:1], np.zeros((1, 1, N, N), bool), np.ones(1, bool)
    centers = np.random.default_rng(5).normal(size=(1, 3, D)).astype("f4")
    module = EpipolarAttention(AttentionConfig(width=D, heads=2, init="random", combine=combine), nnx.Rngs(2))
    possible = [
        negatives_oracle(lambda z: module(z, mask), z, mask, centers, SMALL, 0, 0, [k]) for k in range(N)
    ]
    found = sample_loss(module, z, mask, mask, present, centers, SMALL, jax.random.key(0))["negative"]
    assert np.abs(found - np.array(possible)).min() < 1e-5


def gradient_of(samples, gather):
    """The gradient of one sample's loss, with several negatives that may be the same patch; a jitted function."""
    config = dataclasses.replace(SMALL, negatives=2, mask_ratio=1.0)
    given = [jnp.asarray(own[0]) for own in (samples.features, samples.masks, samples.masks, samples.present)]
    centers = jnp.asarray(np.random.default_rng(5).normal(size=(V, 3, D)).astype("f4"))
    graph, state = nnx.split(start(2))

    def loss(state, key):
        return sample_loss(nnx.merge(graph, state), *given, centers, config, key, gather)["loss"]

    return jax.jit(jax.grad(loss)), state, jax.random.key(3)


def test_a_gathered_gradient_of_the_loss_is_the_scattered_one_and_repeats_no_patch_in_a_scatter():
    functions = [gradient_of(samples_of(), gather) for gather in (False, True)]
    scattered, gathered = (jax.tree.leaves(function(*given)) for function, *given in functions)
    for one, other in zip(gathered, scattered, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-6)
    added = [
        len(re.findall(r"stablehlo\.scatter(?:(?!stablehlo\.return).)*stablehlo\.add", text, re.DOTALL))
        for text in (function.lower(*given).as_text() for function, *given in functions)
    ]
    assert added[0] > added[1]
    assert added[1] == 0
