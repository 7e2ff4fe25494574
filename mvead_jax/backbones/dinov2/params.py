"""DINOv2 weights: where they are found, what their config.json says, and how they fill the network.

Checkpoints of transformers, of timm and of the authors are read (naming.py), whole or in parts, plain or
fine-tuned; a strict table for each (tables.py) sees to it that nothing is guessed.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike

from mvead_jax.backbones.checkpoint import Source, Tensors, fill, unwrapped
from mvead_jax.backbones.dinov2 import naming
from mvead_jax.backbones.dinov2.config import DinoV2Config
from mvead_jax.backbones.dinov2.modeling import DinoV2
from mvead_jax.backbones.dinov2.tables import transformers_table
from mvead_jax.backbones.weights import CONFIG, locate, opened
from mvead_jax.runtime.errors import UserError

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
_MOST_BLOCKS = 1000


def locate_weights(name: str, policy: str, directory: Path) -> Path:
    """Return the directory that holds the weights of a DINOv2, and config.json where it has one.

    Args:
      name: a name of `DINOV2_SIZES`.
      policy, directory: as of `weights.locate`.

    Raises:
      UserError: nothing there; it says which file to put where.
    """
    return locate(name, policy, directory, HUB, optional=(CONFIG,))


def key_table(config: DinoV2Config) -> dict[str, Source]:
    """Return every key that a complete checkpoint of `config` has, by transformers' names."""
    return transformers_table(config)


def load_dinov2(
    directory: Path | str,
    num_blocks: int | None = None,
    dtype: DTypeLike = jnp.float32,
    *,
    patches: int | None = None,
) -> DinoV2:
    """Return DINOv2 with the weights of a directory, cut off after `num_blocks` blocks.

    The whole checkpoint is checked against the table by its header; only the parameters in use are read.
    Parameters are float32 (bfloat16 and float16 checkpoints are widened); `dtype` is the compute type.

    Args:
      directory: holds model.safetensors or its index and parts, and config.json unless names and shapes tell
        the architecture (`naming.config_from_shapes`).
      patches: as of `DinoV2`.

    Raises:
      UserError: one line naming the file and the key.
    """
    with _understood(Path(directory)) as (config, own, tensors, what):

        def empty() -> DinoV2:
            return DinoV2(config, num_blocks, patches=patches, dtype=dtype, rngs=nnx.Rngs(0))

        return fill(empty, own.table(config), tensors, left_out=(own.mask_token,), what=what)


def architecture(directory: Path) -> DinoV2Config:
    """Return what the checkpoint of a directory is, by its config.json or by names and shapes.

    Raises:
      UserError: no DINOv2 that this port computes.
    """
    with _understood(directory) as (config, *_):
        return config


@contextmanager
def _understood(directory: Path) -> Iterator[tuple[DinoV2Config, naming.Naming, Tensors, str]]:
    """Open a checkpoint: architecture, naming, the tensors without wrapping, and what it is in words."""
    path = directory / CONFIG
    raw = _read_object(path) if path.is_file() else None
    config = _parsed(path, raw) if raw is not None and raw.get("model_type") in _MODEL_TYPES else None
    with opened(directory) as found:
        own = naming.recognised(found)
        tensors = unwrapped(found, own.own, naming.HEADS, own.bare_heads)
        if config is not None:
            yield config, own, tensors, f"the model of its {CONFIG}"
            return
        if raw is not None and own is naming.TRANSFORMERS:
            _parsed(path, raw)  # says what is wrong with it; timm's config.json is of another kind
        config = naming.config_from_shapes(tensors, own)
        size = f"{config.num_hidden_layers} blocks, {config.hidden_size} wide"
        yield config, own, tensors, f"a DINOv2 of {size}, in the names of {own.title},"


# ---- the config


_MODEL_TYPES = {
    # A number of registers has no meaning for the first type, whatever the file says.
    "dinov2": DinoV2Config(),
    "dinov2_with_registers": DinoV2Config(with_registers=True, num_register_tokens=4, patch_size=16),
}


def read_config(directory: Path) -> DinoV2Config:
    """Return the typed config of `<directory>/config.json`.

    Raises:
      UserError: it is not a DINOv2 that this port computes.
    """
    path = Path(directory) / CONFIG
    return _parsed(path, _read_object(path))


def _read_object(path: Path) -> dict[str, Any]:
    try:
        raw = json.loads(path.read_text(encoding="utf-8-sig"))
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}); put the model's own there") from error
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path}: is not JSON ({error}); copy it from the hub again") from error
    if not isinstance(raw, dict):
        raise UserError(f"{path}: is no JSON object; copy it from the hub again")
    return raw


def _parsed(path: Path, raw: dict[str, Any]) -> DinoV2Config:
    model_type = raw.get("model_type")
    if model_type not in _MODEL_TYPES:
        raise UserError(f"{path}: model_type {model_type!r}; this port reads {' and '.join(_MODEL_TYPES)}")
    base = _MODEL_TYPES[model_type]
    if not base.with_registers:
        raw = {key: value for key, value in raw.items() if key != "num_register_tokens"}
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
    """Return `value`, checked to be of the default's type and no less than makes sense."""
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
