"""Loading a checkpoint: the strict table both ways, damaged files, half precision, and finding the files."""

from __future__ import annotations

import importlib.util
import json
import logging
import re
import time
from pathlib import Path

import huggingface_hub
import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
from flax import nnx
from safetensors.numpy import load_file, save_file

from mvead_jax.backbones.base import load_network
from mvead_jax.backbones.dinov2.config import DINOV2_SIZES, DinoV2Config
from mvead_jax.backbones.dinov2.modeling import DinoV2
from mvead_jax.backbones.dinov2.params import HUB, key_table, load_dinov2, locate_weights, read_config
from mvead_jax.config.schema import BackboneConfig
from mvead_jax.runtime.errors import UserError

_SPEC = importlib.util.spec_from_file_location(
    "make_dinov2", Path(__file__).parents[2] / "golden" / "make_dinov2.py"
)
golden = importlib.util.module_from_spec(_SPEC)
_SPEC.loader.exec_module(golden)


@pytest.fixture
def directory(tmp_path):
    """A complete checkpoint: 3 blocks of width 24, no registers, MLP."""
    return golden.write_checkpoint(tmp_path / "plain", "plain")


def _edit(directory: Path, change) -> None:
    """Apply `change` to the dict of a checkpoint's tensors."""
    path = directory / "model.safetensors"
    tensors = load_file(path)
    change(tensors)
    save_file(tensors, path)


def _edit_config(directory: Path, **changes) -> None:
    path = directory / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def _leaves(model: DinoV2) -> dict[str, np.ndarray]:
    return {".".join(map(str, k)): np.asarray(v[...]) for k, v in nnx.to_flat_state(nnx.state(model))}


# ---- the table


@pytest.mark.parametrize("case", list(golden.CASES))
def test_the_table_is_what_transformers_saves(case):
    made = json.loads((golden.HERE / "dinov2.json").read_text())[case]
    config = DinoV2Config(
        **golden.NETWORK,
        use_swiglu_ffn="swiglu" in case,
        with_registers="registers" in case,
        num_register_tokens=4 if "registers" in case else 0,
    )
    shapes = {key: tuple(shape) for key, shape in made["shapes"].items()}
    assert shapes.pop("embeddings.mask_token") == (1, 24)
    assert {key: source.shape for key, source in key_table(config).items()} == shapes


@pytest.mark.parametrize("name", ["dinov2-small", "dinov2-giant-registers"])
def test_the_table_sets_every_parameter_once(name):
    config = DINOV2_SIZES[name]
    model = nnx.eval_shape(lambda: DinoV2(config, rngs=nnx.Rngs(0)))
    parameters = [".".join(map(str, path)) for path, _ in nnx.to_flat_state(nnx.state(model))]
    assert sorted(source.target for source in key_table(config).values()) == sorted(parameters)


def test_parameters_hold_the_files_numbers(directory):
    tensors, ours = load_file(directory / "model.safetensors"), _leaves(load_dinov2(directory))
    key = "encoder.layer.2.attention.attention.value.weight"
    np.testing.assert_array_equal(ours["blocks.2.attention.value.kernel"], tensors[key].T)
    patch = tensors["embeddings.patch_embeddings.projection.weight"]  # [out, channel, row, column]
    kernel = ours["patch_embedding.kernel"].reshape(4, 4, 3, 24)
    np.testing.assert_array_equal(kernel[1, 3, 2], patch[:, 2, 1, 3])
    assert all(leaf.dtype == np.float32 for leaf in ours.values())


def test_cutting_blocks_off_loads_a_subset_of_the_parameters(directory):
    whole, cut = _leaves(load_dinov2(directory)), _leaves(load_dinov2(directory, num_blocks=2))
    assert {name for name in whole if not name.startswith(("blocks.2.", "norm."))} == set(cut)
    assert all(np.array_equal(whole[name], value) for name, value in cut.items())


def test_models_without_qkv_bias_load(directory):
    _edit_config(directory, qkv_bias=False)

    def drop(tensors):
        for key in [k for k in tensors if re.search(r"(query|key|value)\.bias", k)]:
            del tensors[key]

    _edit(directory, drop)
    model = load_dinov2(directory)
    assert model.blocks[0].attention.query.bias is None
    assert bool(jnp.isfinite(model.tokens(jnp.ones((1, 20, 20, 3)))["block1"]).all())


@pytest.mark.parametrize("kind", [ml_dtypes.bfloat16, np.float16])
def test_half_precision_checkpoints_are_widened_exactly(directory, kind):
    tensors = load_file(directory / "model.safetensors")
    save_file({k: v.astype(kind) for k, v in tensors.items()}, directory / "model.safetensors")
    widened = _leaves(load_dinov2(directory))["blocks.1.mlp.hidden.kernel"]
    expected = tensors["encoder.layer.1.mlp.fc1.weight"].astype(kind).astype(np.float32).T
    np.testing.assert_array_equal(widened, expected)


def test_the_family_cuts_after_the_taps_and_gives_the_block_after_the_patch_features(directory, caplog):
    config = BackboneConfig(name="dinov2-small", weights=str(directory), block=2)
    loaded = load_network(config, ("patches",))
    assert "is no dinov2-small as published: width 24, 3 blocks, 0 registers" in caplog.text
    assert (loaded.info.weights, loaded.info.heads, len(loaded.network.blocks)) == (str(directory), 3, 2)
    assert "unknown to this program" in loaded.info.licence
    following = load_dinov2(directory).blocks[2]
    pairs = zip(*(jax.tree.leaves(nnx.state(one)) for one in (loaded.next_block(), following)), strict=True)
    assert all(np.array_equal(one, two) for one, two in pairs)
    assert load_network(config, ("norm", "patches")).network.norm is not None


def test_the_mask_token_may_be_there_or_not(directory):
    before = _leaves(load_dinov2(directory))
    _edit(directory, lambda tensors: tensors.pop("embeddings.mask_token"))
    after = _leaves(load_dinov2(directory))
    assert all(np.array_equal(before[name], after[name]) for name in before)


# ---- files that do not fit


@pytest.mark.parametrize("num_blocks", [None, 1])
@pytest.mark.parametrize(
    "key",
    [
        "embeddings.cls_token",
        "encoder.layer.0.norm1.weight",
        "encoder.layer.2.attention.output.dense.bias",
        "encoder.layer.1.layer_scale2.lambda1",
        "layernorm.bias",
    ],
)
def test_a_missing_key_is_named_even_in_blocks_cut_off(directory, key, num_blocks):
    _edit(directory, lambda tensors: tensors.pop(key))
    with pytest.raises(UserError, match=f"model.safetensors: missing key {re.escape(key)}") as caught:
        load_dinov2(directory, num_blocks)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "key",
    [
        "classifier.weight",
        "encoder.layer.3.norm1.weight",
        "encoder.layer.00.norm1.weight",
        "embeddings.register_tokens",
        "encoder.layer.0.mlp.weights_in.weight",
        "dinov2.layernorm.weight",
    ],
)
def test_an_extra_key_is_named(directory, key):
    _edit(directory, lambda tensors: tensors.update({key: np.ones(24, np.float32)}))
    with pytest.raises(UserError, match=f"model.safetensors: extra key {re.escape(key)};") as caught:
        load_dinov2(directory)
    assert "\n" not in str(caught.value)


def test_a_wrong_shape_is_named_even_in_blocks_cut_off(directory):
    key = "encoder.layer.2.mlp.fc1.weight"
    _edit(directory, lambda tensors: tensors.update({key: np.ones((24, 96), np.float32)}))
    with pytest.raises(UserError, match=rf"key {key} has shape \(24, 96\).*\(96, 24\)"):
        load_dinov2(directory, num_blocks=1)


@pytest.mark.parametrize(("kind", "name"), [(np.int64, "I64"), (np.float64, "F64")])
def test_an_element_type_that_is_no_weight_is_named(directory, kind, name):
    _edit(directory, lambda tensors: tensors.update({"layernorm.bias": np.ones(24, kind)}))
    with pytest.raises(UserError, match=f"key layernorm.bias is {name}"):
        load_dinov2(directory)


def test_numbers_that_are_not_finite_are_counted_and_named(directory):
    def spoil(tensors):
        tensors["encoder.layer.0.norm2.bias"][[3, 5]] = np.nan, np.inf

    _edit(directory, spoil)
    with pytest.raises(UserError, match="key encoder.layer.0.norm2.bias has 2 numbers that are not finite"):
        load_dinov2(directory)


def test_a_file_cut_short_is_named(directory):
    path = directory / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(UserError, match="model.safetensors: cannot be read as safetensors.*cut short"):
        load_dinov2(directory)


def test_a_git_lfs_pointer_is_recognised(directory):
    (directory / "model.safetensors").write_text("version https://example/spec/v1\noid sha256:0\nsize 9\n")
    with pytest.raises(UserError, match="git-lfs pointer"):
        load_dinov2(directory)


def test_weights_of_another_architecture_are_refused(directory):
    _edit_config(directory, use_swiglu_ffn=True)
    with pytest.raises(UserError, match="extra key encoder.layer.0.mlp.fc1.bias and 11 more"):
        load_dinov2(directory)


# ---- the config


def test_config_fields_left_out_take_the_defaults_of_transformers(tmp_path):
    path = tmp_path / "config.json"
    path.write_text('{"model_type": "dinov2"}')
    assert read_config(tmp_path) == DinoV2Config()
    path.write_text('{"model_type": "dinov2_with_registers"}')
    assert read_config(tmp_path) == DinoV2Config(with_registers=True, num_register_tokens=4, patch_size=16)


def test_square_sizes_may_be_lists(directory):
    _edit_config(directory, image_size=[20, 20], patch_size=[4, 4])
    assert (read_config(directory).image_size, read_config(directory).patch_size) == (20, 4)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model_type": "dinov3_vit"}, "model_type 'dinov3_vit'"),
        ({"hidden_act": "relu"}, "hidden_act 'relu'"),
        ({"patch_size": [4, 8]}, r"patch_size \[4, 8\]; only squares"),
        ({"hidden_size": "24"}, "hidden_size '24'"),
        ({"num_attention_heads": 0}, "num_attention_heads 0"),
        ({"num_hidden_layers": True}, "num_hidden_layers True"),
        ({"layer_norm_eps": None}, "layer_norm_eps None"),
        ({"use_swiglu_ffn": 1}, "use_swiglu_ffn 1"),
        ({"num_attention_heads": 5}, "hidden_size 24 is not a multiple of num_attention_heads 5"),
    ],
)
def test_a_config_that_is_no_dinov2_is_refused(directory, changes, message):
    _edit_config(directory, **changes)
    with pytest.raises(UserError, match=f"config.json: {message}") as caught:
        load_dinov2(directory)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("text", ["{", "[]", "null", ""])
def test_a_config_that_is_no_json_object_is_named(directory, text):
    (directory / "config.json").write_text(text)
    with pytest.raises(UserError, match="config.json"):
        load_dinov2(directory)


@pytest.mark.parametrize(
    ("present", "message"),
    [
        ((), "lacks model.safetensors;"),
        (("config.json",), "is not JSON"),
        (("config.json", "model.safetensors"), "is not JSON"),
        (("pytorch_model.bin",), r"lacks model.safetensors \(pytorch_model.bin is not read"),
        (
            ("dinov2_vitb14_pretrain.pth",),
            r"lacks model.safetensors \(dinov2_vitb14_pretrain.pth is not read",
        ),
        (("model.safetensors.index.json",), "index.json: is not the index of a checkpoint"),
    ],
)
def test_a_directory_that_lacks_a_file_says_which(tmp_path, present, message):
    for file in present:
        (tmp_path / file).touch()
    with pytest.raises(UserError, match=message):
        load_dinov2(tmp_path)


# ---- locating


@pytest.fixture
def hub(monkeypatch, tmp_path):
    """A hub of our own: an empty cache, and every request recorded and answered by what a test sets."""

    class Hub:
        cache = tmp_path / "hub"
        requests: list[str] = []  # noqa: RUF012 (a new class per test)
        answer: Exception | str = ConnectionError("name or service not known")

        def metadata(self, url, timeout):
            self.requests.append(url)
            if isinstance(self.answer, Exception):
                raise self.answer
            return type("Metadata", (), {"commit_hash": self.answer})

        def download(self, hub_id, file, *, revision, local_files_only=False):
            snapshot = self.cache / f"models--{hub_id.replace('/', '--')}" / "snapshots" / revision
            if not local_files_only:
                assert re.fullmatch("[0-9a-f]{40}", revision), "a download must be of a commit"
                snapshot.mkdir(parents=True, exist_ok=True)
                (snapshot / file).touch()
            elif not (snapshot / file).exists():
                raise huggingface_hub.errors.LocalEntryNotFoundError(file)
            return str(snapshot / file)

    hub = Hub()
    monkeypatch.setattr(huggingface_hub, "get_hf_file_metadata", hub.metadata)
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", hub.download)
    monkeypatch.chdir(tmp_path)
    return hub


def test_every_size_has_a_pinned_commit_of_its_own():
    assert list(HUB) == list(DINOV2_SIZES)
    commits = [commit for _, commit in HUB.values()]
    assert all(re.fullmatch("[0-9a-f]{40}", commit) for commit in commits)
    assert len(set(commits)) == len(commits)
    assert all(
        ("with-registers" in hub_id) == name.endswith("registers") for name, (hub_id, _) in HUB.items()
    )


def test_auto_takes_the_local_directory_first(hub, tmp_path):
    golden.write_checkpoint(tmp_path / "weights" / "dinov2-small", "plain")
    found = locate_weights("dinov2-small", "auto", tmp_path / "weights")
    assert found == tmp_path / "weights" / "dinov2-small"
    assert not hub.requests


def test_auto_does_not_pass_over_a_local_directory_that_lacks_a_file(hub, tmp_path):
    (tmp_path / "weights" / "dinov2-small").mkdir(parents=True)
    with pytest.raises(UserError, match="dinov2-small lacks model.safetensors"):
        locate_weights("dinov2-small", "auto", tmp_path / "weights")
    assert not hub.requests


def test_auto_takes_the_hub_cache_at_the_pinned_commit_without_asking_the_network(hub, tmp_path):
    hub_id, commit = HUB["dinov2-base-registers"]
    for file in ("config.json", "model.safetensors"):
        hub.download(hub_id, file, revision=commit)
    found = locate_weights("dinov2-base-registers", "auto", tmp_path / "weights")
    assert found.name == commit
    assert not hub.requests


def test_a_real_hub_cache_is_found(monkeypatch, tmp_path):
    hub_id, commit = HUB["dinov2-small"]
    snapshot = tmp_path / "models--facebook--dinov2-small" / "snapshots" / commit
    golden.write_checkpoint(snapshot, "plain")
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    assert locate_weights("dinov2-small", "auto", tmp_path / "weights") == snapshot
    assert locate_weights("dinov2-small", hub_id, tmp_path / "weights") == snapshot


def test_auto_downloads_the_pinned_commit(hub, tmp_path):
    hub.answer = commit = HUB["dinov2-large"][1]
    found = locate_weights("dinov2-large", "auto", tmp_path / "weights")
    assert found.name == commit
    assert len(hub.requests) == 1
    assert commit in hub.requests[0]
    assert {path.name for path in found.iterdir()} == {"config.json", "model.safetensors"}


def test_without_network_auto_says_which_files_to_put_where(hub, tmp_path):
    with pytest.raises(UserError) as caught:
        locate_weights("dinov2-small", "auto", tmp_path / "weights")
    message = str(caught.value)
    assert "\n" not in message
    parts = ("facebook/dinov2-small", HUB["dinov2-small"][1], "config.json and model.safetensors")
    for part in (*parts, str(tmp_path / "weights" / "dinov2-small"), "ConnectionError"):
        assert part in message


def test_without_network_the_real_client_gives_up_within_seconds(monkeypatch, tmp_path):
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    begin = time.monotonic()
    with pytest.raises(UserError, match="no weights facebook/dinov2-small"):
        locate_weights("dinov2-small", "auto", tmp_path)
    assert time.monotonic() - begin < 15


def test_offline_mode_asks_nobody(monkeypatch, tmp_path):
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(UserError, match="OfflineModeIsEnabled"):
        locate_weights("dinov2-small", "auto", tmp_path)


def test_a_hub_id_without_a_pin_is_resolved_to_a_commit_that_the_log_names(hub, tmp_path, caplog):
    hub.answer = "a" * 40
    with caplog.at_level(logging.INFO):
        found = locate_weights("dinov2-small", "somebody/dinov2-tuned", tmp_path)
    assert "main" in hub.requests[0]
    assert found.name == "a" * 40
    assert f"somebody/dinov2-tuned at commit {'a' * 40}" in caplog.text


def test_a_published_hub_id_is_pinned(hub, tmp_path):
    hub.answer = HUB["dinov2-giant"][1]
    locate_weights("dinov2-giant", "facebook/dinov2-giant", tmp_path)
    assert hub.answer in hub.requests[0]


def test_a_hub_id_that_the_hub_does_not_know_is_named(hub, tmp_path):
    hub.answer = OSError("404 Client Error\n\nRepository Not Found")
    with pytest.raises(
        UserError, match="no weights somebody/dinov2-typo: no directory of that name"
    ) as caught:
        locate_weights("dinov2-small", "somebody/dinov2-typo", tmp_path)
    assert "\n" not in str(caught.value)


def test_a_directory_is_taken_as_it_is(hub, directory, tmp_path):
    assert locate_weights("dinov2-small", str(directory), tmp_path) == directory
    assert locate_weights("dinov2-small", "plain", tmp_path) == Path("plain")


@pytest.mark.parametrize(
    "policy", ["weights/dinov2-bsae", "./nowhere/here", "/nowhere", "nowhere", "a/b/c", "../x"]
)
def test_a_mistyped_directory_never_reaches_for_the_hub(hub, tmp_path, policy):
    (tmp_path / "weights").mkdir()
    with pytest.raises(UserError, match="there is no directory"):
        locate_weights("dinov2-small", policy, tmp_path)
    assert not hub.requests


def test_half_precision_compute_is_chosen_on_loading(directory):
    images = jnp.asarray(golden.images("plain", (20, 20)))
    exact, rough = (
        load_dinov2(directory, 1, dtype).tokens(images)["block1"] for dtype in (jnp.float32, jnp.bfloat16)
    )
    assert rough.dtype == jnp.float32
    assert 1e-5 < float(jnp.abs(exact - rough).max()) < 0.2
    parameters = jax.tree.leaves(nnx.state(load_dinov2(directory, 1, jnp.bfloat16)))
    assert {leaf.dtype for leaf in parameters} == {jnp.dtype("float32")}
