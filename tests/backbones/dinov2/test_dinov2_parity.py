"""The DINOv2 port against transformers' PyTorch models, at real width and on a grid of small variants."""

from __future__ import annotations

import dataclasses
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from mvead_jax.backbones.dinov2.config import DINOV2_SIZES, DinoV2Config
from mvead_jax.backbones.dinov2.modeling import DinoV2
from mvead_jax.backbones.dinov2.params import load_dinov2, read_config

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # theirs, while they are imported
    torch = pytest.importorskip("torch", reason="the oracle is torch: pip install -e .[parity]")
    import transformers

pytestmark = pytest.mark.parity

TINY = DinoV2Config(hidden_size=48, num_hidden_layers=3, num_attention_heads=3, image_size=98)
TINY_SWIGLU = dataclasses.replace(TINY, use_swiglu_ffn=True)
# Two blocks of giant: its real width, heads and SwiGLU.
GIANT_BLOCKS = dataclasses.replace(DINOV2_SIZES["dinov2-giant"], num_hidden_layers=2)


def _with_registers(config: DinoV2Config) -> DinoV2Config:
    return dataclasses.replace(config, with_registers=True, num_register_tokens=4)


def _their_model(config: DinoV2Config, device: str = "cpu"):
    fields = dataclasses.asdict(config)
    registers = fields.pop("with_registers")
    fields["mlp_ratio"] = int(fields["mlp_ratio"])
    if not registers:
        del fields["num_register_tokens"]
        make_config, make_model = transformers.Dinov2Config, transformers.Dinov2Model
    else:
        make_config = transformers.Dinov2WithRegistersConfig
        make_model = transformers.Dinov2WithRegistersModel
    with torch.device(device):
        return make_model(make_config(**fields)).eval()


def _both(config: DinoV2Config, directory):
    """Their model with random weights, and ours loaded from what theirs saved under the hub's names.

    Scales, biases and tokens are moved off their initial ones and zeros, under which a swap goes unseen, and
    matrices are scaled to keep the variance of what they multiply, so that every block has its say.
    """
    torch.manual_seed(0)
    theirs = _their_model(config)
    with torch.no_grad():
        for name, parameter in theirs.named_parameters():
            if parameter.ndim == 1 or name.endswith(("tokens", "token", "position_embeddings")):
                parameter.add_(torch.randn_like(parameter), alpha=0.2)
            elif name.endswith("weight"):
                parameter.div_(parameter.std() * parameter[0].numel() ** 0.5)
    theirs.save_pretrained(directory)
    return theirs, load_dinov2(directory)


def _differences(theirs, ours: DinoV2, height: int, width: int) -> dict[str, float]:
    """Largest absolute difference of every intermediate for two images."""
    images = np.random.default_rng(height + width).standard_normal((2, height, width, 3), dtype=np.float32)
    pixels = torch.from_numpy(images).permute(0, 3, 1, 2).contiguous()
    with torch.inference_mode():
        embeddings = theirs.embeddings(pixels)
        output = theirs(pixels, output_hidden_states=True)
    reference = {"embeddings": embeddings, "norm": output.last_hidden_state}
    reference |= {f"block{k}": value for k, value in enumerate(output.hidden_states[1:], start=1)}
    graph, state = nnx.split(ours)
    named = jax.jit(lambda state, x: nnx.merge(graph, state).tokens(x))(state, jnp.asarray(images))
    assert set(named) == set(reference)
    return {name: float(np.abs(np.asarray(named[name]) - reference[name].numpy()).max()) for name in named}


def _too_far(differences: dict[str, float]) -> dict[str, float]:
    """The differences beyond their tolerance."""
    print({name: f"{value:.1e}" for name, value in differences.items()})
    tolerance = {name: 1e-5 if name in ("embeddings", "block1") else 1e-4 for name in differences}
    return {name: value for name, value in differences.items() if not value < tolerance[name]}


@pytest.fixture(scope="module", params=["dinov2-small", "dinov2-small-registers"])
def small(request, tmp_path_factory):
    return _both(DINOV2_SIZES[request.param], tmp_path_factory.mktemp(request.param))


@pytest.mark.parametrize(("height", "width"), [(224, 224), (518, 518), (224, 308)])
def test_small_agrees_at_every_block(small, height, width):
    assert not _too_far(_differences(*small, height, width))


@pytest.mark.parametrize("config", [TINY, TINY_SWIGLU], ids=["mlp", "swiglu"])
@pytest.mark.parametrize("registers", [False, True])
def test_variants_agree_on_every_kind_of_grid(config, registers, tmp_path):
    models = _both(_with_registers(config) if registers else config, tmp_path)
    # Trained grid, shrunk, grown, one row, and as many patches as trained in one row (1 x 49, not 7 x 7).
    for height, width in ((98, 98), (56, 42), (154, 196), (14, 70), (14, 686)):
        assert not _too_far(_differences(*models, height, width))


def test_swiglu_agrees_at_the_width_of_giant(tmp_path):
    assert not _too_far(_differences(*_both(GIANT_BLOCKS, tmp_path), 224, 224))


@pytest.mark.parametrize("name", list(DINOV2_SIZES))
def test_sizes_have_the_parameters_of_transformers_less_the_mask_token(name):
    config = DINOV2_SIZES[name]
    theirs = sum(parameter.numel() for parameter in _their_model(config, "meta").parameters())
    ours = nnx.eval_shape(lambda: DinoV2(config, rngs=nnx.Rngs(0)))
    assert sum(leaf.size for leaf in jax.tree.leaves(nnx.state(ours))) == theirs - config.hidden_size


@pytest.mark.parametrize("config", [TINY, _with_registers(TINY_SWIGLU)], ids=["plain", "registers"])
def test_the_config_that_transformers_writes_is_read_back(config, tmp_path):
    _their_model(config, "meta").config.save_pretrained(tmp_path)
    assert read_config(tmp_path) == config


@pytest.mark.parametrize("registers", [False, True])
def test_config_defaults_are_those_of_transformers(registers, tmp_path):
    make = transformers.Dinov2WithRegistersConfig if registers else transformers.Dinov2Config
    make().save_pretrained(tmp_path / "written")
    (tmp_path / "config.json").write_text(f'{{"model_type": "{make.model_type}"}}')
    assert read_config(tmp_path) == read_config(tmp_path / "written")


def test_random_weights_start_like_those_of_transformers(tmp_path):
    config = dataclasses.replace(TINY, hidden_size=192, layerscale_value=0.3)
    theirs = _their_model(config)
    theirs.save_pretrained(tmp_path)
    loaded, ours = load_dinov2(tmp_path), DinoV2(config, rngs=nnx.Rngs(0))
    pairs = zip(nnx.to_flat_state(nnx.state(loaded)), nnx.to_flat_state(nnx.state(ours)), strict=True)
    for (path, theirs_leaf), (_, our_leaf) in pairs:
        their_values, our_values = np.asarray(theirs_leaf[...]), np.asarray(our_leaf[...])
        if np.ptp(their_values) == 0:
            np.testing.assert_array_equal(our_values, their_values, err_msg=str(path))
        else:
            samples = our_values.size
            assert abs(our_values.std() / their_values.std() - 1) < 6 / np.sqrt(samples), path
            assert abs(our_values.mean()) < 6 * 0.02 / np.sqrt(samples), path
