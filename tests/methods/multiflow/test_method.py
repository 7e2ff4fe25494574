"""Multi-Flow behind the door: graph from the rig, foreground, noise, missing views, the range of latents."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from multiflow_flows import features

from mvead_jax.backbones.info import Info, Tap
from mvead_jax.config.io import load_config, override
from mvead_jax.methods.base import Batch, Spec, TellsRange, parameter_count
from mvead_jax.methods.multiflow.config import MultiFlowConfig
from mvead_jax.methods.multiflow.graph import chain, complete, top_ring
from mvead_jax.methods.multiflow.method import FeatureFlow, channel_statistics
from mvead_jax.methods.network import merged
from mvead_jax.runtime.errors import UserError

B, V, H, W, C = 2, 3, 4, 4, 6
SETTINGS = {"multiflow.kernels": "3", "multiflow.hidden": "4", "multiflow.gain": "0.5"}


def spec_of(views=V, width=C):
    info = Info("any", "random", False, "", "", 16, {"stride16": Tap(16, width)}, ())
    names = tuple(f"C{number + 1}" for number in range(views))
    return Spec(names, ("part",), 64, info, {"stride16": (H, W, width)}, "part")


def method_of(**settings):
    views = settings.pop("views", V)
    config = override(MultiFlowConfig.debug(), {**SETTINGS, "geometry.nominal": "", **settings})
    return config.build(spec_of(views))


@pytest.fixture(scope="module")
def method():
    return method_of(**{"multiflow.graph": "complete"})


@pytest.fixture(scope="module")
def state(method):
    return method.init(jax.random.key(0))


def batch_of(x, present=None, foreground=None):
    present = jnp.ones((len(x), V), bool) if present is None else jnp.asarray(present)
    return Batch({"stride16": x}, present, jnp.zeros(len(x), jnp.int32), foreground=foreground)


def test_the_graph_is_the_papers_where_the_nominal_cameras_are_its_rig():
    config = MultiFlowConfig()
    five = dataclasses.replace(config, multiflow=dataclasses.replace(config.multiflow, tap="stride16"))
    assert five.build(spec_of(5)).graph == top_ring(5)
    turned = override(five, {"geometry.nominal": "45:0,90:0,45:180,45:90,45:270"})
    assert turned.build(spec_of(5)).graph == top_ring(5, 1, [0, 3, 2, 4])
    assert five.build(spec_of(3)).graph == complete(3)  # the rig of five cameras is not this one
    assert override(five, {"multiflow.graph": "chain"}).build(spec_of(5)).graph == chain(5)


def test_the_published_network_has_the_published_number_of_parameters():
    config = override(MultiFlowConfig(), {"multiflow.tap": "stride16"})
    method = config.build(spec_of(5, 304))
    kept = 2 * 304 + 2  # mean, deviation and range are no parameters of the flow
    assert parameter_count(method) - kept == 64_135_548


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"multiflow.kernels": "3,4"}, "multiflow.kernels=3,4: give the side"),
        ({"multiflow.kernels": ""}, "multiflow.kernels=: give the side"),
        ({"multiflow.graph": "C1>C9"}, "there is no view 'C9'"),
        ({"multiflow.clamp": "0"}, "multiflow.clamp=0.0: must be above 0"),
        ({"multiflow.noise": "pink"}, "expected one of gaussian"),
    ],
)
def test_a_wrong_setting_is_one_line_that_names_it(settings, message):
    with pytest.raises(UserError, match=message) as error:
        method_of(**settings)
    assert "\n" not in str(error.value)


def test_only_messages_make_the_views_joint():
    assert MultiFlowConfig().requires().joint_views
    assert not override(MultiFlowConfig(), {"multiflow.graph": "none"}).requires().joint_views


def test_the_background_scores_zero_and_changes_no_other_patch(method, state):
    x = features(0, B, V, H, W, C)
    foreground = np.random.default_rng(1).random((B, V, H, W)) < 0.5
    plain, masked = method.score(state, batch_of(x)), method.score(state, batch_of(x, foreground=foreground))
    assert not np.asarray(masked)[~foreground].any()
    np.testing.assert_allclose(np.asarray(masked)[foreground], np.asarray(plain)[foreground], rtol=1e-5)


def test_a_missing_view_sends_no_messages_and_has_no_part_in_the_loss(method, state):
    x = features(2, B, V, H, W, C)
    present = np.array([[True, False, True]] * B)
    other = x.at[:, 1].set(7.0)
    a, b = (np.asarray(method.score(state, batch_of(own, present))) for own in (x, other))
    np.testing.assert_array_equal(a[:, [0, 2]], b[:, [0, 2]])
    assert not np.array_equal(a[:, 0], np.asarray(method.score(state, batch_of(x)))[:, 0])

    def loss(x):
        batch = {"features": {"stride16": x}, "present": present, "weight": np.ones(B, np.float32)}
        return method._loss(merged(method._graph, state), batch, jax.random.key(0))[0]

    losses = jax.jit(jax.vmap(loss))(jnp.stack([x, other]))
    assert losses[0] == losses[1]


def test_samples_of_weight_zero_count_neither_in_the_loss_nor_in_the_range(method, state):
    x = features(3, 3, V, H, W, C)
    key, present = jax.random.key(1), np.ones((3, V), bool)

    @jax.jit
    def run(x):
        network = merged(method._graph, state)
        weight = np.array([1, 1, 0], np.float32)
        batch = {"features": {"stride16": x}, "present": present, "weight": weight}
        return method._loss(network, batch, key)[0], network.latents[...]

    (loss, latents), (again, same) = run(x), run(x.at[2].set(100.0))
    assert loss == again
    np.testing.assert_array_equal(latents, same)
    assert latents[0] < 0 < latents[1] < 50


def test_noise_follows_from_the_key_and_is_for_training_only(method, state):
    x = features(4, B, V, H, W, C)
    batch = {
        "features": {"stride16": x},
        "present": np.ones((B, V), bool),
        "weight": np.ones(B, np.float32),
    }
    run = jax.jit(lambda key: method._loss(merged(method._graph, state), batch, key)[0])
    a, again, other = (run(jax.random.key(number)) for number in (0, 0, 1))
    assert a == again != other
    quiet = method_of(**{"multiflow.noise": "none", "multiflow.graph": "complete"})
    own = quiet.init(jax.random.key(0))
    loss = jax.jit(lambda key: quiet._loss(merged(quiet._graph, own), batch, key)[0])(jax.random.key(0))
    np.testing.assert_allclose(loss, quiet.score(own, batch_of(x)).mean(), rtol=1e-5)


def test_channels_are_normalised_by_the_present_images():
    random = np.random.default_rng(5)
    x = random.normal(3, 2, (6, V, H, W, C)).astype(np.float32)
    x[..., 2] = 1.5  # does not vary
    present = np.ones((6, V), bool)
    present[0, 1] = False
    x[0, 1] = 1e6
    mean, deviation = channel_statistics(x, present)
    expected = x[present].astype(np.float64)
    np.testing.assert_allclose(mean, expected.mean((0, 1, 2)), rtol=1e-5)
    np.testing.assert_allclose(deviation[[0, 1, 3]], expected.std((0, 1, 2))[[0, 1, 3]], rtol=1e-5)
    assert deviation[2] == 1

    method = method_of(**{"multiflow.gain": "0"})
    network = merged(method._graph, method.init(jax.random.key(0)))
    network.mean[...], network.deviation[...] = jnp.asarray(mean), jnp.asarray(deviation)
    z, _ = (
        network(jnp.asarray(x[1:3]), present[1:3], None, None)
        if not method.network.condition
        else network(jnp.asarray(x[1:3]), present[1:3], jnp.zeros((2, H, W, 1), jnp.float32), None)
    )
    normal = (x[1:3] - mean) / deviation
    np.testing.assert_allclose(np.sort(z, -1), np.sort(normal, -1), atol=1e-5)  # gains of zero only permute


def test_the_range_is_told_and_is_empty_before_training(method, state):
    assert isinstance(method, TellsRange)
    assert method.map_range(state) == (0.0, 0.0)
    assert isinstance(merged(method._graph, state), FeatureFlow)


@pytest.mark.parametrize("variant", ["paper", "lite0"])
def test_the_config_file_builds(variant):
    config = load_config(f"configs/multiflow.py:{variant}")
    assert config.method == "multiflow"
    with pytest.raises(UserError, match=r"configs/multiflow.py:big: give one of paper, lite0"):
        load_config("configs/multiflow.py:big")
