"""A backbone as an artefact carries it: one safetensors file, read without hub, package or pickle.

Tensors have the names of our modules and are the float32 parameters that are in use, bit by bit. One metadata
entry, `facts`, tells which backbone they are and where they came from.
"""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
from flax import nnx
from safetensors import SafetensorError, safe_open

from mvead_jax.backbones.dinov2.modeling import DinoV2, DinoV2Config
from mvead_jax.backbones.efficientnet.modeling import EfficientNetLite0
from mvead_jax.runtime.errors import UserError
from mvead_jax.runtime.files import write_tensors

STORED = "backbone.safetensors"


def named_parameters(model: nnx.Module) -> dict[str, np.ndarray]:
    """Parameters by dotted path: "blocks.0.norm1.scale"."""
    return {
        ".".join(map(str, path)): np.asarray(leaf[...]) for path, leaf in nnx.to_flat_state(nnx.state(model))
    }


def write_stored(path: Path, model: DinoV2 | EfficientNetLite0, facts: dict[str, Any]) -> None:
    """Writes a network; `facts`: JSON of "name", "weights" (where they are from), "trained" and "block"."""
    shape = dataclasses.asdict(model.config) if isinstance(model, DinoV2) else None
    tensors = {name: np.ascontiguousarray(value) for name, value in named_parameters(model).items()}
    write_tensors(path, tensors, {"facts": json.dumps({**facts, "shape": shape}, sort_keys=True)})


def read_stored(path: Path, name: str, block: int, dtype: np.dtype) -> tuple[Any, dict[str, Any]]:
    """The network that `write_stored` wrote, and its facts.

    Args:
      name, block: that are wanted; the file may hold another backbone.

    Raises:
      UserError: another backbone or block, or no such file.
    """
    try:
        with safe_open(path, framework="numpy") as file:
            facts = json.loads(file.metadata()["facts"])
            keys = file.keys()
            tensors = {key: file.get_tensor(key) for key in keys}
        if (facts["name"], facts["block"]) != (name, block):
            raise UserError(
                f"{path}: holds {facts['name']} to block {facts['block']}, wanted is {name} to block {block}"
            )
        model = nnx.eval_shape(lambda: _empty(facts["shape"], block, dtype))
        graph, state = nnx.split(model)
        flat = nnx.to_flat_state(state)
        wanted = {".".join(map(str, place)): (leaf.shape, np.dtype(np.float32)) for place, leaf in flat}
        if {key: (value.shape, value.dtype) for key, value in tensors.items()} != wanted:
            raise ValueError("its tensors are not those of its facts")
    except (OSError, SafetensorError, KeyError, TypeError, ValueError) as error:
        raise UserError(f"{path}: not a backbone of scripts/export.py ({error}); export again") from error
    loaded = [(place, leaf.replace(jnp.asarray(tensors[".".join(map(str, place))]))) for place, leaf in flat]
    return nnx.merge(graph, nnx.from_flat_state(loaded)), facts


def _empty(shape: dict[str, Any] | None, block: int, dtype: np.dtype) -> DinoV2 | EfficientNetLite0:
    if shape is None:
        return EfficientNetLite0(dtype=dtype, rng=np.random.default_rng(0))
    return DinoV2(DinoV2Config(**shape), block, dtype=dtype, rngs=nnx.Rngs(0))
