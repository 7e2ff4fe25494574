"""Where weights are found: directories, checkpoints in several files, and hubs that lack a file.

The hub cache, pins and the network are in dinov2/test_weights.py.
"""

from __future__ import annotations

import json
import re

import huggingface_hub
import numpy as np
import pytest
from huggingface_hub.errors import LocalEntryNotFoundError, RemoteEntryNotFoundError
from safetensors.numpy import save_file

from mvead_jax.backbones.efficientnet.params import KINDS
from mvead_jax.backbones.resnet.params import HUB as RESNETS
from mvead_jax.backbones.weights import INDEX, TENSORS, locate, opened
from mvead_jax.runtime.errors import UserError

ARRAYS = {f"layer{k}.weight": np.full((2, k + 1), k, np.float32) for k in range(4)}
PARTS = ("model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors")
PLACES = {key: PARTS[k % 2] for k, key in enumerate(ARRAYS)}
HUB = {"net": ("somebody/net", "b" * 40)}


def write_sharded(folder, arrays=ARRAYS, places=PLACES, index=None):
    """A checkpoint in two files and its index."""
    folder.mkdir(parents=True, exist_ok=True)
    for part in PARTS:
        save_file({key: arrays[key] for key in arrays if places[key] == part}, folder / part)
    (folder / INDEX).write_text(json.dumps(index or {"metadata": {}, "weight_map": places}))
    return folder


def test_a_checkpoint_in_several_files_is_one(tmp_path):
    with opened(write_sharded(tmp_path)) as tensors:
        assert tensors.keys() == set(ARRAYS)
        assert tensors.name.endswith(INDEX)
        for key, array in ARRAYS.items():
            assert (tensors.shape(key), tensors.kind(key)) == (array.shape, "F32")
            np.testing.assert_array_equal(tensors.read(key), array)


def test_the_single_file_comes_before_an_index(tmp_path):
    write_sharded(tmp_path)
    save_file({"alone": np.zeros(1, np.float32)}, tmp_path / TENSORS)
    with opened(tmp_path) as tensors:
        assert tensors.keys() == {"alone"}


@pytest.mark.parametrize(
    ("index", "message"),
    [
        (
            {"weight_map": {**PLACES, "layer9.weight": PARTS[0]}},
            f"{PARTS[0]}: key layer9.weight is in one of",
        ),
        (
            {"weight_map": {k: v for k, v in PLACES.items() if "2" not in k}},
            f"{PARTS[0]}: key layer2.weight is in",
        ),
        ({"weight_map": {**PLACES, "x": "absent.safetensors"}}, "absent.safetensors: cannot be read"),
        ({"weight_map": {"x": "../outside.safetensors"}}, "is not the index .*does not name files beside it"),
        ({"weight_map": {"x": "/etc/passwd"}}, "is not the index .*does not name files beside it"),
        ({"weight_map": {"x": 7}}, "is not the index of a checkpoint"),
        ({"weight_map": []}, "is not the index of a checkpoint"),
        ({"weight_map": {}}, "is not the index of a checkpoint"),
        ({"weights": PLACES}, "is not the index of a checkpoint .'weight_map'"),
        ([1], "is not the index of a checkpoint"),
    ],
)
def test_an_index_that_does_not_describe_its_files_is_one_line(tmp_path, index, message):
    write_sharded(tmp_path, index=index)
    with pytest.raises(UserError, match=message) as caught, opened(tmp_path):
        pass
    assert "\n" not in str(caught.value)


def test_a_part_that_is_damaged_is_named(tmp_path):
    write_sharded(tmp_path)
    (tmp_path / PARTS[1]).write_bytes(b"\x10")
    with pytest.raises(UserError, match=f"{PARTS[1]}: cannot be read as safetensors"), opened(tmp_path):
        pass


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("net.pth", r"net.pth is not read: a pickle may run any program; convert it .*save_file"),
        (
            "net.safetensors",
            r"net.safetensors is a file; give the directory that holds it as model.safetensors",
        ),
    ],
)
def test_a_file_in_a_directorys_place_is_refused_with_what_to_do(tmp_path, monkeypatch, name, message):
    (tmp_path / name).touch()
    with pytest.raises(UserError, match=f"backbone.weights: .*{message}"):
        locate("net", str(tmp_path / name), tmp_path, HUB)


# ---- the hub


@pytest.fixture
def hub(monkeypatch, tmp_path):
    """A hub that has the files a test names, an empty cache, and a list of what was fetched."""

    class Hub:
        files: tuple[str, ...] = ()
        fetched: list[str] = []  # noqa: RUF012 (a new class per test)
        commit = "a" * 40

    def download(hub_id, file, *, revision, local_files_only=False):
        path = tmp_path / "cache" / revision / file
        if local_files_only and not path.exists():
            raise LocalEntryNotFoundError(file)
        if file not in hub.files:
            response = type("Response", (), {"headers": {}, "request": None, "status_code": 404})()
            raise RemoteEntryNotFoundError(file, response=response)
        if not path.exists():
            hub.fetched.append(file)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(json.dumps({"weight_map": PLACES}) if file == INDEX else "")
        return str(path)

    hub = Hub()
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", download)
    monkeypatch.setattr(
        huggingface_hub,
        "get_hf_file_metadata",
        lambda url, timeout: type("M", (), {"commit_hash": hub.commit}),
    )
    monkeypatch.chdir(tmp_path)
    return hub


def test_a_hub_without_config_is_enough_and_with_one_it_is_fetched(hub, tmp_path):
    hub.files = (TENSORS,)
    assert locate("net", "auto", tmp_path, HUB, optional=("config.json",)).name == "a" * 40
    assert hub.fetched == [TENSORS]
    hub.files, hub.commit = (TENSORS, "config.json"), "c" * 40
    locate("net", "auto", tmp_path, HUB, optional=("config.json",))
    assert sorted(hub.fetched) == ["config.json", TENSORS, TENSORS]


def test_a_checkpoint_in_several_files_is_fetched_whole(hub, tmp_path):
    hub.files = (INDEX, *PARTS)
    found = locate("net", "somebody/other", tmp_path, HUB)
    assert {path.name for path in found.iterdir()} == {INDEX, *PARTS}


def test_a_hub_that_has_only_pickles_is_one_line(hub, tmp_path):
    hub.files = ("pytorch_model.bin",)
    with pytest.raises(
        UserError, match="no weights somebody/net: .*the hub gave RemoteEntryNotFoundError"
    ) as caught:
        locate("net", "auto", tmp_path, HUB)
    assert "\n" not in str(caught.value)


def test_every_backbone_of_the_hub_has_an_id_and_a_commit_or_a_branch():
    found = [*RESNETS.values(), *(kind.hub for kind in KINDS.values() if kind.hub)]
    assert all(hub_id.startswith("timm/") for hub_id, _ in found)
    assert all(re.fullmatch("[0-9a-f]{40}|main", revision) for _, revision in found)
    pinned = {hub_id for hub_id, revision in found if revision != "main"}
    assert pinned == {"timm/resnet18.tv_in1k", "timm/resnet50.tv_in1k", "timm/wide_resnet50_2.tv_in1k"}
