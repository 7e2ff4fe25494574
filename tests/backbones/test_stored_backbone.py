"""A backbone in an artefact: the same numbers for every family, and nothing else under its name."""

import dataclasses
import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from mvead_jax.backbones.base import load_backbone, load_network
from mvead_jax.backbones.dinov2.config import DINOV2_SIZES
from mvead_jax.backbones.stored import STORED, write_stored
from mvead_jax.config.schema import BackboneConfig
from mvead_jax.runtime.errors import UserError

TAPS = {
    "dinov2-small": ("block1", "patches"),
    "resnet18": ("layer1", "layer2"),
    "efficientnet-b4": ("stride2", "block2"),
    "efficientnet-lite0": ("stride4",),
}


def configs(folder, name):
    """The config that draws a network, and the one that takes it from a folder."""
    own = BackboneConfig(name=name, weights="random", block=2)
    return own, dataclasses.replace(own, weights=str(folder))


@pytest.fixture(autouse=True)
def small(monkeypatch):
    shape = dataclasses.replace(
        DINOV2_SIZES["dinov2-small"], hidden_size=64, num_hidden_layers=3, num_attention_heads=1
    )
    monkeypatch.setitem(DINOV2_SIZES, "dinov2-small", shape)


@pytest.mark.parametrize("name", list(TAPS))
def test_a_stored_backbone_gives_the_same_bytes_and_tells_the_same(tmp_path, name):
    own, stored = configs(tmp_path, name)
    write_stored(tmp_path / STORED, load_network(own, TAPS[name], seed=3), TAPS[name])
    size = 28 if "dinov2" in name else 32
    one, two = (load_backbone(config, size, TAPS[name], seed=3) for config in (own, stored))
    images = jax.random.normal(jax.random.key(0), (1, size, size, 3))
    for tap in TAPS[name]:
        np.testing.assert_array_equal(one(images)[tap], two(images)[tap])
    assert (one.digest, one.shapes) == (two.digest, two.shapes)
    kept = {"taps": {tap: one.info.taps[tap] for tap in TAPS[name]}, "pyramid": ()}
    assert two.info == dataclasses.replace(one.info, **kept)
    assert two.next_block is None


def test_a_pyramid_that_is_whole_stays_one(tmp_path):
    own, stored = configs(tmp_path, "resnet18")
    taps = ("layer3", "layer2", "layer1")
    write_stored(tmp_path / STORED, load_network(own, taps), taps)
    assert load_network(stored, ("layer2",)).info.pyramid == ("layer1", "layer2", "layer3")


def test_the_facts_need_no_code_to_be_read(tmp_path):
    own, _ = configs(tmp_path, "dinov2-small")
    write_stored(tmp_path / STORED, load_network(own, ("patches",)), ("patches",))
    raw = (tmp_path / STORED).read_bytes()
    header = json.loads(raw[8 : 8 + int.from_bytes(raw[:8], "little")])
    facts = json.loads(header["__metadata__"]["facts"])
    assert {key: facts[key] for key in ("name", "weights", "trained", "taps")} == {
        "name": "dinov2-small",
        "weights": "random, seed 0",
        "trained": False,
        "taps": {"patches": [14, 64]},
    }
    assert facts["recipe"]["blocks"] == facts["recipe"]["block"] == 2


@pytest.mark.parametrize(
    ("changes", "taps", "message"),
    [
        (
            {"name": "dinov2-base"},
            ("patches",),
            "holds dinov2-small to block 2, .*wanted is dinov2-base to block 2",
        ),
        ({"block": 1}, ("patches",), "holds dinov2-small to block 2, .*wanted is dinov2-small to block 1"),
        (
            {},
            ("block1", "block3"),
            "holds .* taps block1, patches; wanted is dinov2-small to block 2, taps block1, block3",
        ),
    ],
)
def test_another_backbone_block_or_tap_is_refused(tmp_path, changes, taps, message):
    own, stored = configs(tmp_path, "dinov2-small")
    write_stored(tmp_path / STORED, load_network(own, ("patches", "block1")), ("patches", "block1"))
    with pytest.raises(UserError, match=f"{STORED}: {message}"):
        load_network(dataclasses.replace(stored, **changes), taps)


def damage_missing(tensors, facts):
    del tensors["conv1.kernel"]


def damage_extra(tensors, facts):
    tensors["layer2.0.conv1.kernel"] = np.zeros((3, 3, 64, 128), np.float32)


def damage_shape(tensors, facts):
    tensors["bn1.mean"] = np.zeros(63, np.float32)


def damage_type(tensors, facts):
    tensors["bn1.mean"] = np.zeros(64, np.float64)


def damage_recipe(tensors, facts):
    facts["recipe"] = {"architecture": "resnet19", "layers": 1}


def damage_facts(tensors, facts):
    del facts["licence"]


def damage_taps(tensors, facts):
    facts["taps"] = {"layer1": [4]}


@pytest.mark.parametrize(
    "damage",
    [
        *(damage_missing, damage_extra, damage_shape, damage_type),
        *(damage_recipe, damage_facts, damage_taps),
    ],
)
def test_a_file_that_is_not_what_was_written_is_one_line(tmp_path, damage):
    own, stored = configs(tmp_path, "resnet18")
    path: Path = tmp_path / STORED
    write_stored(path, load_network(own, ("layer1",)), ("layer1",))
    raw = path.read_bytes()
    facts = json.loads(json.loads(raw[8 : 8 + int.from_bytes(raw[:8], "little")])["__metadata__"]["facts"])
    tensors = load_file(path)
    damage(tensors, facts)
    save_file(tensors, path, {"facts": json.dumps(facts)})
    with pytest.raises(UserError, match=f"{STORED}: not a backbone of mvead export .*export again"):
        load_network(stored, ("layer1",))


def test_bfloat16_is_a_matter_of_computing_not_of_what_is_stored(tmp_path):
    own, stored = configs(tmp_path, "resnet18")
    write_stored(tmp_path / STORED, load_network(own, ("layer1",)), ("layer1",))
    rough = load_network(dataclasses.replace(stored, precision="bfloat16"), ("layer1",)).network
    assert rough.conv1.dtype == jnp.bfloat16
    assert rough.conv1.kernel.dtype == jnp.float32
