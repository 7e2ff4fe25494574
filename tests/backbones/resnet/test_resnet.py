"""ResNets: blocks against slow formulas in both modes, joined maps, strict loading, what may change nothing.

The numbers of whole networks are held by golden cases of timm (tests/oracles).
"""

from __future__ import annotations

import logging

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from safetensors.numpy import save_file

from mvead_jax.backbones.checkpoint import Arrays
from mvead_jax.backbones.random_weights import from_seed, no_numbers
from mvead_jax.backbones.resnet.blocks import BasicBlock, Bottleneck, Convolution, Enlargement
from mvead_jax.backbones.resnet.modeling import ARCHITECTURES, Architecture, ResNet, _pooled, joined
from mvead_jax.backbones.resnet.params import (
    from_tensors,
    key_table,
    left_out,
    load_resnet,
    parameters,
    random_resnet,
)
from mvead_jax.runtime.errors import UserError

TINY = Architecture((1, 2, 1, 1), (64, 8, 8, 8), (64, 8, 8, 8))
BOTTLENECKS = Architecture((1, 2, 1, 1), (4, 4, 4, 4), (8, 8, 8, 8))


def features(seed=0, shape=(3, 6, 4, 5)):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def disturbed(module):
    """The module with gains, biases and running statistics that are far from where they start."""
    rng = np.random.default_rng(7)
    for _, one in nnx.iter_graph(module):
        if isinstance(one, nnx.Variable) and one.ndim == 1:
            values = (
                rng.uniform(0.5, 2, one.shape) if float(one[...].min()) > 0 else rng.normal(size=one.shape)
            )
            one[...] = jnp.asarray(values, jnp.float32)
    return module


# ---- slow formulas, float64


def slow_convolution(x, kernel, stride):
    size = kernel.shape[0]
    pad = size // 2
    x = np.pad(x.astype(np.float64), ((0, 0), (pad, pad), (pad, pad), (0, 0)))
    rows, columns = ((side - size) // stride + 1 for side in x.shape[1:3])
    out = np.zeros((len(x), rows, columns, kernel.shape[3]))
    for i in range(rows):
        for j in range(columns):
            window = x[:, i * stride : i * stride + size, j * stride : j * stride + size]
            out[:, i, j] = np.einsum("bhwc,hwcd->bd", window, kernel.astype(np.float64))
    return out


def slow_enlargement(x, kernel):
    out = np.zeros((len(x), 2 * x.shape[1], 2 * x.shape[2], kernel.shape[3]))
    for i in range(x.shape[1]):
        for j in range(x.shape[2]):
            for di in range(2):
                for dj in range(2):
                    out[:, 2 * i + di, 2 * j + dj] += x[:, i, j].astype(np.float64) @ kernel[di, dj]
    return out


def slow_layer(convolution, norm, x, train, weights):
    kernel = np.asarray(convolution.kernel[...])
    if isinstance(convolution, Enlargement):
        x = slow_enlargement(x, kernel)
    else:
        x = slow_convolution(x, kernel, convolution.stride)
    mean, variance = np.asarray(norm.mean[...]), np.asarray(norm.variance[...])
    if train:
        counted = x[weights > 0].reshape(-1, x.shape[-1])
        mean, variance = counted.mean(0), counted.var(0)
    return (x - mean) / np.sqrt(variance + 1e-5) * np.asarray(norm.scale[...]) + np.asarray(norm.bias[...])


def slow_block(block, x, train, weights):
    names = ("1", "2", "3") if isinstance(block, Bottleneck) else ("1", "2")
    y = x
    for name in names:
        y = slow_layer(getattr(block, f"conv{name}"), getattr(block, f"bn{name}"), y, train, weights)
        y = np.maximum(y, 0) if name != names[-1] else y
    shortcut = block.downsample or block.upsample
    return np.maximum(y + (slow_layer(*shortcut, x, train, weights) if shortcut else x), 0)


# ---- blocks


@pytest.mark.parametrize(("size", "stride"), [(1, 1), (1, 2), (3, 1), (3, 2), (7, 2)])
def test_a_convolution_pads_half_a_kernel_on_all_sides(size, stride):
    module = Convolution(5, 4, size, stride=stride, normal=from_seed(0))
    x = features(shape=(2, 7, 8, 5))
    expected = slow_convolution(x, np.asarray(module.kernel[...]), stride)
    np.testing.assert_allclose(module(jnp.asarray(x)), expected, rtol=0, atol=1e-5)


def test_an_enlargement_turns_each_cell_into_four_and_starts_as_pytorch_does():
    module = Enlargement(5, 4, normal=from_seed(0))
    x = features(shape=(2, 3, 2, 5))
    expected = slow_enlargement(x, np.asarray(module.kernel[...]))
    np.testing.assert_allclose(module(jnp.asarray(x)), expected, rtol=0, atol=1e-5)
    start = np.asarray(Enlargement(50, 40, normal=from_seed(0)).kernel[...]) * np.sqrt(4 * 40)
    assert np.abs(start).max() <= 1
    np.testing.assert_allclose(np.quantile(start, [0.1, 0.5, 0.9]), [-0.8, 0, 0.8], atol=0.03)


def test_a_convolution_starts_with_the_variance_of_its_fan_out():
    kernel = np.asarray(Convolution(64, 32, 3, normal=from_seed(0)).kernel[...])
    np.testing.assert_allclose(kernel.std(), np.sqrt(2 / (32 * 9)), rtol=0.02)


@pytest.mark.parametrize("train", [False, True])
@pytest.mark.parametrize(
    "make",
    [
        lambda normal: BasicBlock(5, 5, normal=normal),
        lambda normal: BasicBlock(5, 6, stride=2, normal=normal),
        lambda normal: BasicBlock(5, 4, enlarge=True, normal=normal),
        lambda normal: Bottleneck(5, 3, 5, normal=normal),
        lambda normal: Bottleneck(5, 3, 8, stride=2, normal=normal),
        lambda normal: Bottleneck(5, 4, 6, enlarge=True, normal=normal),
    ],
    ids=[
        "basic",
        "basic halving",
        "basic enlarging",
        "bottleneck",
        "bottleneck halving",
        "bottleneck enlarging",
    ],
)
def test_a_block_is_that_of_the_definition_in_evaluation_and_in_training(make, train):
    block, x = disturbed(make(from_seed(1))), features()
    weights = np.array([1, 0, 1], np.float32)
    graph, state = nnx.split(block)

    @jax.jit
    def forward(state, x, weights):
        return nnx.merge(graph, state)(x, train=train, weights=weights)

    found = forward(state, jnp.asarray(x), jnp.asarray(weights))
    np.testing.assert_allclose(found, slow_block(block, x, train, weights), rtol=0, atol=2e-5)


def test_training_moves_the_statistics_of_every_norm_and_evaluation_of_none():
    block, x = BasicBlock(5, 6, stride=2, normal=from_seed(1)), jnp.asarray(features())
    before = [np.array(leaf) for leaf in jax.tree.leaves(nnx.state(block, nnx.BatchStat))]
    block(x)
    assert all(map(np.array_equal, before, jax.tree.leaves(nnx.state(block, nnx.BatchStat))))
    block(x, train=True)
    after = jax.tree.leaves(nnx.state(block, nnx.BatchStat))
    assert len(after) == 6
    assert not any(map(np.array_equal, before, after))


def test_parameters_of_double_precision_compute_in_double_precision():
    with jax.enable_x64(True):
        graph, state = nnx.split(Bottleneck(5, 3, 8, stride=2, normal=from_seed(1)))
        state = jax.tree.map(lambda leaf: leaf.astype(jnp.float64), state)
        block, x = nnx.merge(graph, state), features().astype(np.float64)
        found = block(jnp.asarray(x), train=True)
        assert found.dtype == jnp.float64
        expected = slow_block(nnx.merge(graph, state), x, True, np.ones(3))
        np.testing.assert_allclose(found, expected, rtol=0, atol=1e-12)


# ---- the network


def test_the_border_never_wins_the_pooling():
    x = -1 - np.random.default_rng(0).random((1, 6, 4, 2)).astype(np.float32)
    found = np.asarray(_pooled(jnp.asarray(x)))
    assert found.shape == (1, 3, 2, 2)
    padded = np.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)), constant_values=-np.inf)
    for i in range(3):
        for j in range(2):
            window = padded[:, 2 * i : 2 * i + 3, 2 * j : 2 * j + 3]
            np.testing.assert_array_equal(found[:, i, j], window.max((1, 2)))


def test_patch_features_are_layer2_and_layer3_enlarged_with_half_pixel_centres():
    fine, coarse = features(0, (2, 6, 4, 3)), features(1, (2, 3, 2, 5))
    found = np.asarray(joined({"layer2": jnp.asarray(fine), "layer3": jnp.asarray(coarse)}))
    assert found.shape == (2, 6, 4, 8)
    np.testing.assert_array_equal(found[..., :3], fine)
    for i in range(6):
        for j in range(4):
            expected = 0
            for row, in_row in _two(i, 3):
                for column, in_column in _two(j, 2):
                    expected = expected + in_row * in_column * coarse[:, row, column]
            np.testing.assert_allclose(found[:, i, j, 3:], expected, rtol=0, atol=1e-6)


def _two(place, size):
    """The two cells that a place lies between, and their shares; the border is repeated."""
    centre = (place + 0.5) / 2 - 0.5
    low = int(np.floor(centre))
    return [(min(max(at, 0), size - 1), 1 - abs(centre - at)) for at in (low, low + 1)]


@pytest.fixture(scope="module")
def tiny():
    return disturbed(ResNet(BOTTLENECKS, 3, normal=from_seed(0)))


TAPS = ("layer1", "layer3", "patches")


def run(network, images, taps=TAPS):
    graph, state = nnx.split(network)
    return jax.jit(lambda state, images: nnx.merge(graph, state)(images, taps))(state, images)


def test_jit_equals_eager_and_an_image_has_the_same_maps_in_every_batch(tiny):
    images = jnp.asarray(features(0, (3, 32, 48, 3)))
    together, eager, alone = run(tiny, images), tiny(images[:1], TAPS), run(tiny, images[1:2])
    for tap in TAPS:
        largest = float(jnp.abs(together[tap]).max())
        np.testing.assert_allclose(together[tap][:1], eager[tap], rtol=0, atol=1e-6 * largest)
        np.testing.assert_allclose(together[tap][1:2], alone[tap], rtol=0, atol=1e-6 * largest)


def test_bfloat16_stays_close_to_float32_and_returns_float32():
    images = jnp.asarray(features(0, (1, 32, 32, 3)))
    full, low = (
        run(ResNet(TINY, 3, normal=from_seed(0), dtype=dtype), images, ("patches",))["patches"]
        for dtype in (jnp.float32, jnp.bfloat16)
    )
    assert low.dtype == jnp.float32
    assert 0 < float(jnp.abs(low - full).mean()) < 0.05 * float(full.std())


def test_random_weights_are_a_function_of_the_seed_and_keep_the_scale_of_the_signal():
    networks = [random_resnet("resnet18", seed, 3) for seed in (0, 0, 1)]
    first, again, other = (jax.tree.leaves(nnx.state(network)) for network in networks)
    assert all(map(np.array_equal, first, again))
    assert not all(map(np.array_equal, first, other))
    found = run(networks[0], jnp.asarray(features(0, (1, 32, 32, 3))), ("layer3",))["layer3"]
    assert 0.1 < float(found.std()) < 30


@pytest.mark.parametrize("shape", [(1, 32, 32, 1), (32, 32, 3)])
def test_images_of_another_layout_are_a_mistake_in_the_program(tiny, shape):
    with pytest.raises(ValueError, match=r"expected \[batch, height, width, 3\]"):
        tiny(jnp.zeros(shape), TAPS)


# ---- loading


@pytest.mark.parametrize(
    ("name", "used", "whole"),
    [
        # timm 1.0.31; torchvision for resnet50.
        ("resnet18", 2_782_784, 11_689_512),
        ("resnet34", 8_170_304, 21_797_672),
        ("resnet50", None, 25_557_032),
        ("wide_resnet50_2", 24_862_528, 68_883_240),
    ],
)
def test_the_table_has_the_published_number_of_parameters_and_sets_each_once(name, used, whole):
    empty = nnx.eval_shape(lambda: ResNet(ARCHITECTURES[name], normal=no_numbers))
    places = sorted(".".join(map(str, path)) for path, _ in nnx.to_flat_state(nnx.state(empty)))
    table = key_table(name)
    assert sorted(source.target for source in table.values()) == places
    assert parameters(table) + 1000 * (ARCHITECTURES[name].widths[-1] + 1) == whole
    assert used is None or parameters(key_table(name, 3)) == used


@pytest.fixture(scope="module")
def checkpoint():
    """All that a resnet18 of torchvision has in its first layer, with a classifier of seven classes."""
    rng = np.random.default_rng(0)
    table = key_table("resnet18", 1)
    arrays = {key: rng.random(source.shape, np.float32) for key, source in table.items()}
    arrays |= {"fc.weight": np.zeros((7, 512), np.float32), "bn1.num_batches_tracked": np.array(5)}
    return arrays


def load(arrays):
    return from_tensors("resnet18", Arrays("r.safetensors", arrays), 1, held=1)


def test_parameters_hold_the_files_numbers_and_the_classifier_is_left_out(checkpoint):
    network = load(checkpoint)
    kernel = checkpoint["layer1.1.conv2.weight"]
    np.testing.assert_array_equal(network.layer1[1].conv2.kernel[2, 0], kernel[:, :, 2, 0].T)
    np.testing.assert_array_equal(network.bn1.variance[...], checkpoint["bn1.running_var"])
    assert {"fc.weight", "fc.bias", "layer1.0.bn2.num_batches_tracked"} <= left_out(key_table("resnet18", 1))


@pytest.mark.parametrize("prefix", ["backbone.", "module.model."])
def test_a_fine_tuned_checkpoint_loads_and_says_what_it_leaves_out(checkpoint, prefix, caplog):
    wrapped = {prefix + key: array for key, array in checkpoint.items() if not key.startswith("fc.")}
    wrapped["classifier.weight"] = np.zeros((2, 64), np.float32)
    with caplog.at_level(logging.WARNING):
        network = load(wrapped)
    np.testing.assert_array_equal(network.bn1.bias[...], checkpoint["bn1.bias"])
    assert f"the prefix '{prefix}' is taken off all names; left out: classifier.weight" in caplog.text


@pytest.mark.parametrize(
    ("key", "array", "message"),
    [
        (
            "layer1.0.bn2.running_mean",
            None,
            r"missing key layer1\.0\.bn2\.running_mean; a resnet18 has such a key",
        ),
        (
            "layer1.0.conv3.weight",
            np.zeros(1),
            r"extra key layer1\.0\.conv3\.weight; a resnet18 has no such key",
        ),
        ("layer1.2.conv1.weight", np.zeros(1), r"extra key layer1\.2\.conv1\.weight"),
        (
            "conv1.weight",
            np.zeros((64, 3, 3, 3), np.float32),
            r"key conv1\.weight has shape \(64, 3, 3, 3\); in a",
        ),
        ("conv1.weight", np.zeros((64, 3, 7, 7)), r"key conv1\.weight is F64"),
        ("bn1.bias", np.full(64, np.inf, np.float32), r"key bn1\.bias has 64 numbers that are not finite"),
        ("head.weight", np.zeros(1), r"extra key head\.weight"),
    ],
)
def test_a_checkpoint_that_is_not_exactly_this_network_is_refused(checkpoint, key, array, message):
    changed = {**checkpoint, key: array}
    if array is None:
        del changed[key]
    with pytest.raises(UserError, match=rf"^r\.safetensors: {message}") as caught:
        load(changed)
    assert "\n" not in str(caught.value)


def test_a_file_of_another_size_is_refused_even_where_the_cut_network_would_fit(checkpoint, tmp_path):
    save_file(dict(checkpoint), tmp_path / "model.safetensors")
    with pytest.raises(UserError, match=r"model\.safetensors: missing key layer2\.0\.bn1\.bias and \d+ more"):
        load_resnet("resnet18", tmp_path, 1)
