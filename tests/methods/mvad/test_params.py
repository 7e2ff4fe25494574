"""The strict table between the released checkpoint and our network."""

import re

import numpy as np
import pytest
import safetensors.numpy
from flax import nnx

from mvead_jax.methods.mvad.modeling import MVADNetwork, NetworkConfig
from mvead_jax.methods.mvad.params import from_released, key_table, load_released
from mvead_jax.runtime.errors import UserError

TINY = NetworkConfig(widths=(8, 16, 16), windows=(3, 2, 2), top=(2, 2, 2), heads=2, blocks=(1, 2, 1))


@pytest.fixture(scope="module")
def released():
    """A state dictionary in the released names and PyTorch's layouts, every number another."""
    network = nnx.eval_shape(lambda: MVADNetwork(TINY, nnx.Rngs(0)))
    leaves = dict(nnx.to_flat_state(nnx.state(network)))
    arrays, rng = {}, np.random.default_rng(0)
    for key, source in key_table(network).items():
        shape = leaves[source.path].shape
        if len(shape) == 4:
            height, width, inputs, outputs = shape
            shape = (inputs, outputs, height, width) if height == 2 else (outputs, inputs, height, width)
        arrays[key] = rng.normal(size=shape[::-1] if len(shape) == 2 else shape).astype(np.float32)
    return arrays


def test_every_leaf_of_the_network_has_one_key_and_its_layout(released):
    network = from_released(released, TINY, "here")
    leaves = dict(nnx.to_flat_state(nnx.state(network)))
    paths = [source.path for source in key_table(network).values()]
    assert sorted(map(str, paths)) == sorted(map(str, leaves))

    def same(found, key, *order):
        np.testing.assert_array_equal(found[...], released[key].transpose(order) if order else released[key])

    same(network.fusion[1][1].norm2.scale, "mff_oce.norm121.weight")
    same(network.fusion[0][0].mlp.hidden.kernel, "mff_oce.mlp0.0.weight", 1, 0)
    same(network.neck.conv21.bias, "mff_oce.conv21.bias")
    same(network.neck.bn_layer[0].downsample[1].variance, "mff_oce.bn_layer.0.downsample.1.running_var")
    same(network.decoder.layer2[0].conv1.kernel, "net_s.layer2.0.conv1.weight", 2, 3, 0, 1)
    same(network.decoder.layer2[1].conv1.kernel, "net_s.layer2.1.conv1.weight", 2, 3, 1, 0)


def test_parts_that_nothing_computes_with_are_left_out(released, tmp_path):
    unused = ("net_t.conv1.weight", "mff_oce.bn1.num_batches_tracked", "mff_oce.mvas12.cv_linear.weight")
    unused = dict.fromkeys((*unused, "mff_oce.mvas0.mv_linear.bias"), np.zeros((1, 1), np.float32))
    safetensors.numpy.save_file(released | unused, tmp_path / "mvad.safetensors")
    network = load_released(tmp_path / "mvad.safetensors", TINY)
    np.testing.assert_array_equal(network.neck.bn1.mean[...], released["mff_oce.bn1.running_mean"])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"mff_oce.conv9.weight": np.zeros(1)}, "here: unknown key mff_oce.conv9.weight"),
        ({"mff_oce.mvas0.other_linear.weight": np.zeros(1)}, "unknown key mff_oce.mvas0.other_linear.weight"),
        ({"mff_oce.bn1.weight": None}, "here: missing key mff_oce.bn1.weight"),
        ({"mff_oce.bn1.weight": np.zeros(3)}, r"here: key mff_oce.bn1.weight of shape \(3,\) does not fit"),
        ({"mff_oce.conv1.weight": np.zeros(3)}, r"here: key mff_oce.conv1.weight of shape \(3,\) does not"),
        ({"net_s.layer1.0.bn1.bias": np.full(16, np.nan)}, "here: key net_s.layer1.0.bn1.bias has numbers"),
    ],
    ids=str,
)
def test_a_checkpoint_that_does_not_fit_is_refused_by_the_key(released, change, message):
    arrays = {key: array for key, array in (released | change).items() if array is not None}
    with pytest.raises(UserError, match=message):
        from_released(arrays, TINY, "here")


def test_a_file_that_is_none_is_refused_by_its_name(tmp_path):
    path = tmp_path / "mvad.pth"
    with pytest.raises(UserError, match=re.escape(f"{path}: No such file")):
        load_released(path, TINY)
    path.write_bytes(b"PK\x03\x04 a pickle in a zip file")
    with pytest.raises(UserError, match=re.escape(f"{path}: cannot be read as safetensors")):
        load_released(path, TINY)


def test_projections_have_no_released_weights(released):
    config = NetworkConfig(widths=TINY.widths, heads=2, projections="linear")
    with pytest.raises(UserError, match="projections=none"):
        from_released(released, config, "here")
