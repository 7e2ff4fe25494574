"""DINOv2 weights: where they are found, and how a Hugging Face checkpoint becomes NNX state.

One strict table (`key_table`) names every key of a checkpoint. An unknown or missing key, a wrong shape or
element type, or a parameter in use that is not finite is an error that names the file and the key: nothing
is skipped silently, nothing keeps its random initial value.
"""

from __future__ import annotations

import dataclasses
import json
import logging
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
import safetensors
from flax import nnx
from jax.typing import DTypeLike

from mvead_jax.backbones.dinov2.modeling import DinoV2, DinoV2Config
from mvead_jax.runtime.errors import UserError

_log = logging.getLogger(__name__)

# Name -> hub id, pinned commit. Each has config.json and one unsharded model.safetensors (giant: 4.55 GB).
_PLAIN, _REGISTERS = "facebook/dinov2-", "facebook/dinov2-with-registers-"
HUB: dict[str, tuple[str, str]] = {
    "dinov2-small": (_PLAIN + "small", "ed25f3a31f01632728cabb09d1542f84ab7b0056"),
    "dinov2-base": (_PLAIN + "base", "f9e44c814b77203eaa57a6bdbbd535f21ede1415"),
    "dinov2-large": (_PLAIN + "large", "47b73eefe95e8d44ec3623f8890bd894b6ea2d6c"),
    "dinov2-giant": (_PLAIN + "giant", "611a9d42f2335e0f921f1e313ad3c1b7178d206d"),
    "dinov2-small-registers": (_REGISTERS + "small", "0d9846e56b43a21fa46d7f3f5070f0506a5795a9"),
    "dinov2-base-registers": (_REGISTERS + "base", "a1d738ccfa7ae170945f210395d99dde8adb1805"),
    "dinov2-large-registers": (_REGISTERS + "large", "e4c89a4e05589de9b3e188688a303d0f3c04d0f3"),
    "dinov2-giant-registers": (_REGISTERS + "giant", "8d0d49f77fb8b5dd78842496ff14afe7dd4d85cb"),
}
CONFIG, TENSORS = "config.json", "model.safetensors"
_HUB_ID = re.compile(r"[A-Za-z0-9][\w-]*/[\w.-]+")
_MOST_BLOCKS = 1000
_HUB_TIMEOUT = 5.0  # seconds to reach the hub before giving up


# ---- locating


def locate_weights(name: str, policy: str, directory: Path) -> Path:
    """The directory that holds config.json and model.safetensors of a backbone.

    Args:
      name: a name of `DINOV2_SIZES`.
      policy: "auto" (`<directory>/<name>/`, then the hub cache, then the network at the pinned commit), a
        directory, or a hub id. A text of the form org/name is a hub id unless that directory, or its parent
        here, exists; everything else is a directory. ("random" needs no weights: `random_dinov2`.)
      directory: where a user keeps weights.

    Raises:
      UserError: nothing there; it says which file to put where. Without a network it takes seconds.
    """
    local = Path(directory) / name
    if policy == "auto":
        return _complete(local, "backbone.weights=auto") if local.exists() else _from_hub(*HUB[name], local)
    path = Path(policy).expanduser()
    # A text like weights/dinov2-bsae could be either; a parent that exists makes it a mistyped path.
    if _HUB_ID.fullmatch(policy) and not path.exists() and not path.parent.exists():
        pinned = dict(HUB.values())
        return _from_hub(policy, pinned.get(policy, "main"), local)
    return _complete(path, "backbone.weights")


def _complete(directory: Path, option: str) -> Path:
    """The directory itself when both files are in it, else a UserError naming what is missing."""
    if not directory.is_dir():
        raise UserError(
            f"{option}: there is no directory {directory}; give one that holds {CONFIG} and {TENSORS}, a hub "
            "id such as facebook/dinov2-base, auto, or random"
        )
    for file in (CONFIG, TENSORS):
        if not (directory / file).is_file():
            hint = ""
            if (directory / f"{TENSORS}.index.json").exists():
                hint = " (a sharded checkpoint: save it as one file)"
            elif (directory / "pytorch_model.bin").exists():
                hint = " (pytorch_model.bin is not read: the hub has a model.safetensors beside it)"
            raise UserError(f"{option}: {directory} lacks {file}{hint}; put it there")
    return directory


def _from_hub(hub_id: str, revision: str, local: Path) -> Path:
    """Snapshot directory in the hub cache, downloaded when it is not there yet."""
    import huggingface_hub as hub

    def fetch(commit: str, **options) -> Path:
        paths = [hub.hf_hub_download(hub_id, file, revision=commit, **options) for file in (CONFIG, TENSORS)]
        return Path(paths[0]).parent

    try:
        snapshot = fetch(revision, local_files_only=True)
    except OSError:
        try:
            # One request without retries: a machine without network learns so at once, where
            # hf_hub_download alone tries six times in 23 s. It also resolves a branch to its commit.
            url = hub.hf_hub_url(hub_id, CONFIG, revision=revision)
            commit = hub.get_hf_file_metadata(url, timeout=_HUB_TIMEOUT).commit_hash or revision
            _log.info("downloading %s at commit %s", hub_id, commit)
            snapshot = fetch(commit)
        except Exception as error:  # whatever HTTP client the hub library uses, it is outside this program
            reason = " ".join(str(error).split())[:160]
            raise UserError(
                f"no weights {hub_id}: no directory of that name, nothing in {local} or the hub cache, and "
                f"the hub gave {type(error).__name__} ({reason}); put {CONFIG} and {TENSORS} of revision "
                f"{revision} into {local} and take backbone.weights=auto"
            ) from error
    _log.info("%s at commit %s: %s", hub_id, snapshot.name, snapshot)
    return snapshot


# ---- the config


def read_config(directory: Path) -> DinoV2Config:
    """The typed config of `<directory>/config.json`; UserError when it is not a DINOv2 this port computes."""
    path = Path(directory) / CONFIG
    try:
        raw = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}); put the model's own there") from error
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path}: is not JSON ({error}); copy it from the hub again") from error
    model_type = raw.get("model_type") if isinstance(raw, dict) else None
    if model_type == "dinov2":
        # A number of registers has no meaning for this type, whatever the file says.
        base = DinoV2Config()
        raw = {key: value for key, value in raw.items() if key != "num_register_tokens"}
    elif model_type == "dinov2_with_registers":
        base = DinoV2Config(with_registers=True, num_register_tokens=4, patch_size=16)
    else:
        raise UserError(
            f"{path}: model_type {model_type!r}; this port reads dinov2 and dinov2_with_registers"
        )
    if raw.get("hidden_act", "gelu") != "gelu":
        raise UserError(f"{path}: hidden_act {raw['hidden_act']!r}; only the exact gelu is supported")
    fields = (field.name for field in dataclasses.fields(base) if field.name != "with_registers")
    read = {field: _value(path, field, raw[field], getattr(base, field)) for field in fields if field in raw}
    config = dataclasses.replace(base, **read)
    if config.num_hidden_layers > _MOST_BLOCKS:
        raise UserError(
            f"{path}: num_hidden_layers {config.num_hidden_layers}; at most {_MOST_BLOCKS} are read"
        )
    if config.hidden_size % config.num_attention_heads:
        raise UserError(
            f"{path}: hidden_size {config.hidden_size} is not a multiple of num_attention_heads "
            f"{config.num_attention_heads}"
        )
    return config


def _value(path: Path, field: str, value: Any, default: Any) -> Any:
    """`value`, checked to be of the default's type and no less than makes sense."""
    if field in ("image_size", "patch_size") and isinstance(value, list):
        if len(set(value)) != 1:
            raise UserError(f"{path}: {field} {value}; only squares are supported")
        value = value[0]
    if isinstance(default, bool):
        good = isinstance(value, bool)
    else:
        number = (int, float) if isinstance(default, float) else int
        least = 1 if isinstance(default, int) and field != "num_register_tokens" else 0
        good = isinstance(value, number) and not isinstance(value, bool) and value >= least
    if not good:
        raise UserError(f"{path}: {field} {value!r}; expected a value like {default!r}")
    return value


# ---- the table


class Source(NamedTuple):
    """One tensor of a checkpoint: its path in `DinoV2`, its shape in the file, the transform to ours."""

    target: str
    shape: tuple[int, ...]
    transform: Callable[[np.ndarray], np.ndarray]


def _same(array: np.ndarray) -> np.ndarray:
    return array


def _transposed(array: np.ndarray) -> np.ndarray:
    """Linear weights [out, in] -> [in, out]."""
    return array.T


def _patch_matrix(array: np.ndarray) -> np.ndarray:
    """Convolution weights [out, channel, row, column] -> [row * column * channel, out]."""
    return array.transpose(2, 3, 1, 0).reshape(-1, array.shape[0])


def key_table(config: DinoV2Config) -> dict[str, Source]:
    """Every key that a complete checkpoint of `config` has, by the hub's names."""
    width, hidden, patch = config.hidden_size, config.mlp_width, config.patch_size
    vector, square = (width,), (width, width)
    grid, kernel = (1, 1 + config.trained_grid**2, width), (width, config.num_channels, patch, patch)
    table = {
        "embeddings.cls_token": Source("cls_token", (1, 1, width), _same),
        "embeddings.position_embeddings": Source("position_embeddings", grid, _same),
        "embeddings.patch_embeddings.projection.weight": Source(
            "patch_embedding.kernel", kernel, _patch_matrix
        ),
        "embeddings.patch_embeddings.projection.bias": Source("patch_embedding.bias", vector, _same),
        "layernorm.weight": Source("norm.scale", vector, _same),
        "layernorm.bias": Source("norm.bias", vector, _same),
    }
    if config.num_register_tokens:
        tokens = (1, config.num_register_tokens, width)
        table["embeddings.register_tokens"] = Source("register_tokens", tokens, _same)
    # Hidden and output layer of the feed-forward part; SwiGLU's hidden layer holds gate and value.
    names, inner = (
        (("weights_in", "weights_out"), 2 * hidden) if config.use_swiglu_ffn else (("fc1", "fc2"), hidden)
    )
    for index in range(config.num_hidden_layers):
        theirs, ours = f"encoder.layer.{index}.", f"blocks.{index}."
        for norm in ("norm1", "norm2"):
            table[f"{theirs}{norm}.weight"] = Source(f"{ours}{norm}.scale", vector, _same)
            table[f"{theirs}{norm}.bias"] = Source(f"{ours}{norm}.bias", vector, _same)
        for scale in ("layer_scale1", "layer_scale2"):
            table[f"{theirs}{scale}.lambda1"] = Source(f"{ours}{scale}", vector, _same)
        linear = [
            *(
                (f"attention.attention.{part}", f"attention.{part}", square)
                for part in ("query", "key", "value")
            ),
            ("attention.output.dense", "attention.projection", square),
            (f"mlp.{names[0]}", "mlp.hidden", (inner, width)),
            (f"mlp.{names[1]}", "mlp.output", (width, hidden)),
        ]
        for key, target, shape in linear:
            table[f"{theirs}{key}.weight"] = Source(f"{ours}{target}.kernel", shape, _transposed)
            if config.qkv_bias or "attention.attention" not in key:
                table[f"{theirs}{key}.bias"] = Source(f"{ours}{target}.bias", shape[:1], _same)
    return table


# Only pre-training uses it; checkpoints may have it or not.
_MASK_TOKEN = "embeddings.mask_token"


# ---- loading


def load_dinov2(
    directory: Path | str, num_blocks: int | None = None, dtype: DTypeLike = jnp.float32
) -> DinoV2:
    """DINOv2 with the weights of a Hugging Face directory, cut off after `num_blocks` blocks.

    The whole file is checked against the table by its header; only the parameters in use are read.
    Parameters are float32 (bfloat16 and float16 checkpoints are widened); `dtype` is the compute type.

    Raises:
      UserError: one line naming the file and the key.
    """
    directory = _complete(Path(directory), "weights")
    config, path = read_config(directory), directory / TENSORS
    graph, state = nnx.split(
        nnx.eval_shape(lambda: DinoV2(config, num_blocks, dtype=dtype, rngs=nnx.Rngs(0)))
    )
    table = key_table(config)
    keys = {source.target: key for key, source in table.items()}
    loaded = []
    try:
        with safetensors.safe_open(path, framework="numpy") as file:
            _check_header(path, file, table)
            for where, leaf in nnx.to_flat_state(state):
                key = keys[".".join(map(str, where))]
                array = file.get_tensor(key).astype(np.float32)
                if bad := np.count_nonzero(~np.isfinite(array)):
                    raise UserError(f"{path}: key {key} has {bad} numbers that are not finite")
                array = np.ascontiguousarray(table[key].transform(array))
                assert array.shape == leaf.shape, (key, array.shape, leaf.shape)
                loaded.append((where, leaf.replace(jnp.asarray(array))))
    except safetensors.SafetensorError as error:
        raise UserError(f"{path}: cannot be read as safetensors ({error}){_hint(path)}") from error
    return nnx.merge(graph, nnx.from_flat_state(loaded))


def _check_header(path: Path, file: Any, table: dict[str, Source]) -> None:
    """UserError unless the file has the table's keys, all of them and no others, in its shapes."""
    keys = set(file.keys()) - {_MASK_TOKEN}
    for kind, odd, fix in (
        (
            "extra",
            keys - set(table),
            f"its {CONFIG} describes a model without it: use the files of one model",
        ),
        ("missing", set(table) - keys, f"its {CONFIG} describes a model with it: use the files of one model"),
    ):
        if odd:
            first, *rest = sorted(odd)
            more = f" and {len(rest)} more" if rest else ""
            raise UserError(f"{path}: {kind} key {first}{more}; {fix}")
    for key, source in table.items():
        view = file.get_slice(key)
        shape, kind = tuple(view.get_shape()), view.get_dtype()
        if shape != source.shape:
            raise UserError(f"{path}: key {key} has shape {shape}; its {CONFIG} makes it {source.shape}")
        if kind not in ("F32", "F16", "BF16"):
            raise UserError(f"{path}: key {key} is {kind}; weights must be F32, F16 or BF16")


def _hint(path: Path) -> str:
    with path.open("rb") as file:
        if file.read(8) == b"version ":
            return ": it is a git-lfs pointer, fetch the file itself (git lfs pull)"
    return "; the file is damaged or cut short, copy it again"
