"""EfficientNet-Lite0 and the file reader against PyTorch itself, on a randomly initialised checkpoint."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mvead_jax.backbones.efficientnet.layers import relu6, stem_convolution
from mvead_jax.backbones.efficientnet.modeling import INPUT_OFFSET, INPUT_SCALE
from mvead_jax.backbones.efficientnet.params import from_state_dict
from mvead_jax.backbones.torch_pickle import parse_state_dict
from mvead_jax.runtime.errors import UserError

torch = pytest.importorskip("torch", reason="needs PyTorch: pip install .[parity]")
pytestmark = pytest.mark.parity

# (input channels, output channels, depthwise kernel, expansion) of the 16 blocks, written out.
BLOCKS = [
    (32, 16, 3, 1), (16, 24, 3, 6), (24, 24, 3, 6), (24, 40, 5, 6), (40, 40, 5, 6), (40, 80, 3, 6),
    (80, 80, 3, 6), (80, 80, 3, 6), (80, 112, 5, 6), (112, 112, 5, 6), (112, 112, 5, 6), (112, 192, 5, 6),
    (192, 192, 5, 6), (192, 192, 5, 6), (192, 192, 5, 6), (192, 320, 3, 6),
]  # fmt: skip


def oracle():
    path = Path(__file__).parents[2] / "golden" / "make_efficientnet.py"
    spec = importlib.util.spec_from_file_location("make_efficientnet", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def random_checkpoint() -> dict:
    """Every key of the real file, with batch norms that are far from the identity."""
    generator = torch.Generator().manual_seed(0)
    weights = {}

    def normal(*shape):
        return torch.randn(shape, generator=generator)

    def layer(convolution, norm, *shape):
        weights[f"{convolution}.weight"] = normal(*shape) * (2 / np.prod(shape[1:])) ** 0.5
        weights[f"{norm}.weight"] = 1 + 0.2 * normal(shape[0])
        weights[f"{norm}.bias"] = 0.3 * normal(shape[0])
        weights[f"{norm}.running_mean"] = 0.3 * normal(shape[0])
        weights[f"{norm}.running_var"] = 0.5 + torch.rand(shape[0], generator=generator)
        weights[f"{norm}.num_batches_tracked"] = torch.tensor(1000)

    layer("_conv_stem", "_bn0", 32, 3, 3, 3)
    for i, (inputs, outputs, size, expansion) in enumerate(BLOCKS):
        block, inner = f"_blocks.{i}.", inputs * expansion
        if expansion > 1:
            layer(block + "_expand_conv", block + "_bn0", inner, inputs, 1, 1)
        layer(block + "_depthwise_conv", block + "_bn1", inner, 1, size, size)
        layer(block + "_project_conv", block + "_bn2", outputs, inner, 1, 1)
    layer("_conv_head", "_bn1", 1280, 320, 1, 1)
    weights["_fc.weight"], weights["_fc.bias"] = normal(1000, 1280) * 0.03, normal(1000)
    return weights


def saved(state, path: Path) -> bytes:
    torch.save(state, path, _use_new_zipfile_serialization=False)
    return path.read_bytes()


@pytest.fixture(scope="module")
def weights():
    return random_checkpoint()


@pytest.fixture(scope="module")
def model(weights, tmp_path_factory):
    data = saved(weights, tmp_path_factory.mktemp("weights") / "random.pth")
    return from_state_dict(parse_state_dict(data, "random.pth"), "random.pth")


@pytest.mark.parametrize(("height", "width"), [(96, 64), (144, 176)])
def test_stem_first_block_maps_and_logits_equal_pytorch(model, weights, height, width):
    pixels = np.random.default_rng(height).integers(0, 256, (2, height, width, 3))
    with torch.inference_mode():
        double = {key: value.double() for key, value in weights.items()}
        expected = oracle().forward(
            double, (torch.from_numpy(pixels).permute(0, 3, 1, 2).double() - 127) / 128
        )

    images = jnp.asarray((pixels / 255 - [0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225], jnp.float32)
    lite_images = images * INPUT_SCALE + INPUT_OFFSET
    stem = relu6(stem_convolution(lite_images, model.stem))
    maps = jax.jit(lambda images: model(images, ("stride8", "stride16")))(images)
    found = {
        "stem": stem,
        "block0": model.blocks[0](stem),
        "block4": maps["stride8"],
        "block10": maps["stride16"],
    }
    for name, values in found.items():
        values, reference = np.asarray(values), expected[name].permute(0, 2, 3, 1).numpy()
        assert values.shape == reference.shape
        assert np.abs(values - reference).max() < 1e-5 * np.abs(reference).max(), name
    logits = jax.jit(model.classify)(images)
    np.testing.assert_allclose(logits, expected["logits"].numpy(), rtol=0, atol=1e-4)


def test_the_reader_gives_what_torch_load_gives_whatever_the_strides(tmp_path):
    base = torch.arange(60, dtype=torch.float32).reshape(3, 4, 5)
    state = {
        "contiguous": base.clone(),
        "permuted": base.clone().permute(2, 0, 1),
        "channels last": base.clone().reshape(1, 3, 4, 5).contiguous(memory_format=torch.channels_last),
        "window": base.clone()[1:, 2, ::2],
        "one row": base.clone()[:1].transpose(0, 2),
        "steps": torch.tensor(7),
        "indices": torch.arange(5),
    }
    arrays = parse_state_dict(saved(state, tmp_path / "odd.pth"), "odd.pth")
    loaded = torch.load(tmp_path / "odd.pth", weights_only=True)
    assert list(arrays) == list(loaded)
    for key, tensor in loaded.items():
        np.testing.assert_array_equal(arrays[key], tensor.numpy(), strict=True)


@pytest.mark.parametrize(
    ("state", "named"),
    [
        ({"w": torch.zeros(2, dtype=torch.float16)}, r"torch\.HalfStorage"),
        ({"w": torch.nn.Parameter(torch.zeros(2))}, r"torch\._utils\._rebuild_parameter"),
        (torch.nn.ReLU6(), r"torch\.nn\.modules\.activation\.ReLU6"),
    ],
    ids=["half", "parameter", "module"],
)
def test_what_torch_saves_besides_plain_tensors_is_refused_by_name(tmp_path, state, named):
    with pytest.raises(UserError, match=f"odd.pth: it asks for {named}"):
        parse_state_dict(saved(state, tmp_path / "odd.pth"), "odd.pth")


def test_the_newer_zip_format_is_refused(tmp_path):
    torch.save({"w": torch.zeros(2)}, tmp_path / "new.pth")
    with pytest.raises(UserError, match=r"new\.pth: no undamaged PyTorch state dict"):
        parse_state_dict((tmp_path / "new.pth").read_bytes(), "new.pth")
