"""The released code's names: a strict table, both ways, and what it refuses."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from multiflow_flows import features, forward, random_flow
from safetensors.numpy import save_file

from mvead_jax.methods.multiflow.flow import FlowConfig
from mvead_jax.methods.multiflow.graph import complete, top_ring, unconnected
from mvead_jax.methods.multiflow.params import (
    key_table,
    load_released,
    read_released,
    released_graph,
    released_tensors,
)
from mvead_jax.runtime.errors import UserError

CONFIG = FlowConfig(5, top_ring(4), 3, (3, 5))
FLOW = random_flow(CONFIG.graph, CONFIG.width, CONFIG.kernels, CONFIG.hidden)
TENSORS = released_tensors(CONFIG, nnx.state(FLOW))
GAIN, KERNEL = "net.module_list.6.s1.gamma0", "net.module_list.8.s2.cross_conv32.weight"


def test_weights_go_to_the_released_names_and_back_unchanged():
    back = load_released(CONFIG, TENSORS, "weights")
    jax.tree.map(np.testing.assert_array_equal, nnx.state(back), nnx.state(FLOW))
    x = features(0, 4, 2, 2, 5)
    np.testing.assert_array_equal(forward(back, x)[0], forward(FLOW, x)[0])


def test_every_parameter_has_exactly_one_name():
    table = key_table(CONFIG)
    assert len({(own.target, own.row) for own in table.values()}) == len(table)
    size = sum(leaf.size for leaf in jax.tree.leaves(nnx.state(FLOW)))
    assert sum(np.prod(own.shape) for own in table.values()) == size


def test_names_and_layouts_are_the_released_ones():
    assert TENSORS[GAIN].shape == (1,)
    assert TENSORS[KERNEL].shape == (4, 3, 5, 5)  # [out,in,k,k]
    edge = CONFIG.graph.edges.index((3, 2))
    own = FLOW.couplings[1].s2.message.kernel[...][edge]
    assert TENSORS[KERNEL][1, 2, 3, 4] == own[3, 4, 2, 1]
    up, down = (CONFIG.graph.edges.index(edge) for edge in ((0, 3), (2, 0)))
    bias = FLOW.couplings[0].s1.message.bias[...]
    np.testing.assert_array_equal(TENSORS["net.module_list.6.s1.topview_up2.bias"], bias[up])
    np.testing.assert_array_equal(TENSORS["net.module_list.6.s1.topview_down1.bias"], bias[down])


@pytest.mark.parametrize("graph", [top_ring(1), top_ring(4), complete(5), unconnected(3)])
def test_the_names_tell_the_graph(graph):
    assert released_graph(key_table(FlowConfig(4, graph))) == graph


def test_a_flow_without_condition_starts_one_node_earlier_and_has_one_channel_less():
    table = key_table(FlowConfig(5, top_ring(4), 3, (3, 5), condition=False))
    assert table["net.module_list.5.s1.conv_scale0_0.weight"].shape == (3, 2, 3, 3)
    assert "net.module_list.6.s1.gamma0" not in table


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({GAIN: None}, f"missing key {GAIN}"),
        ({"net.extra": np.zeros(1, "f4")}, "unknown key net.extra"),
        ({KERNEL: np.zeros((4, 3, 3, 3), "f4")}, r"has shape \(4, 3, 3, 3\); this flow needs \(4, 3, 5, 5\)"),
        ({GAIN: np.full(1, np.nan, "f4")}, "1 numbers that are not finite"),
    ],
)
def test_another_state_dictionary_is_refused_and_the_key_named(change, words):
    tensors = {key: own for key, own in (TENSORS | change).items() if own is not None}
    with pytest.raises(UserError, match=words) as caught:
        load_released(CONFIG, tensors, "flow.safetensors")
    assert str(caught.value).startswith("flow.safetensors: ")


def test_a_converted_checkpoint_is_read_in_single_and_half_precision(tmp_path):
    path = tmp_path / "flow.safetensors"
    save_file(TENSORS, path)
    jax.tree.map(np.testing.assert_array_equal, nnx.state(read_released(CONFIG, path)), nnx.state(FLOW))
    save_file({key: own.astype(np.float16) for key, own in TENSORS.items()}, path)
    half = nnx.state(read_released(CONFIG, path))
    assert {leaf.dtype for leaf in jax.tree.leaves(half)} == {jnp.dtype(jnp.float32)}
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-3), half, nnx.state(FLOW))


def test_files_that_are_no_checkpoint_are_refused(tmp_path):
    path = tmp_path / "flow.safetensors"
    with pytest.raises(UserError, match="flow.safetensors: cannot be read"):
        read_released(CONFIG, path)
    path.write_bytes(b"\x80\x02 a pickle")
    with pytest.raises(UserError, match="flow.safetensors: cannot be read as safetensors"):
        read_released(CONFIG, path)
    save_file({key: own.astype(np.int64) if key == GAIN else own for key, own in TENSORS.items()}, path)
    with pytest.raises(UserError, match=f"key {GAIN} is I64"):
        read_released(CONFIG, path)
