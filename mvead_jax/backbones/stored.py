"""A backbone as an artefact carries it: one safetensors file, read without hub, package or pickle.

Tensors have the names of our modules and are the float32 parameters that are in use, bit by bit. One metadata
entry, `facts`, is JSON: what `Info` knows of it, with the taps that it gives, and the recipe by which its
family builds the same architecture.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
from flax import nnx
from safetensors import SafetensorError, safe_open

from mvead_jax.backbones.info import Info, Loaded, Tap, expanded
from mvead_jax.backbones.registry import REGISTRY
from mvead_jax.config.schema import BackboneConfig
from mvead_jax.runtime.errors import UserError
from mvead_jax.runtime.files import write_tensors

STORED = "backbone.safetensors"


def named_parameters(network: nnx.Module) -> dict[str, np.ndarray]:
    """Return parameters and running statistics by dotted path: "blocks.0.norm1.scale"."""
    return {
        ".".join(map(str, path)): np.asarray(leaf[...])
        for path, leaf in nnx.to_flat_state(nnx.state(network))
    }


def write_stored(path: Path, loaded: Loaded, taps: Sequence[str]) -> None:
    """Write a backbone that gives these taps, and no others."""
    info = dataclasses.asdict(loaded.info)
    info["taps"] = {tap: list(loaded.info.taps[tap]) for tap in taps}
    info["pyramid"] = list(loaded.info.pyramid) if set(loaded.info.pyramid) <= set(taps) else []
    tensors = {name: np.ascontiguousarray(value) for name, value in named_parameters(loaded.network).items()}
    write_tensors(path, tensors, {"facts": json.dumps({**info, "recipe": loaded.recipe}, sort_keys=True)})


def read_stored(path: Path, config: BackboneConfig, taps: Sequence[str]) -> Loaded:
    """Return the backbone that `write_stored` wrote; it has no next block.

    Args:
      config: the name, block and precision that are wanted; the file may hold another backbone.
      taps: that are wanted.

    Raises:
      UserError: another backbone, block or taps, or no such file.
    """
    try:
        with safe_open(path, framework="numpy") as file:
            facts = json.loads(file.metadata()["facts"])
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 (no dictionary)
        recipe = facts.pop("recipe")
        facts["taps"] = {name: Tap(*map(int, tap)) for name, tap in facts["taps"].items()}
        info = Info(**{**facts, "pyramid": tuple(facts["pyramid"])})
        _check_wanted(path, info, recipe, config, expanded(info.name, taps, info.pyramid))
        network = _filled(recipe, config, tensors)
    except (OSError, SafetensorError, KeyError, TypeError, ValueError, AttributeError) as error:
        raise UserError(f"{path}: not a backbone of mvead export ({error}); export again") from error
    return Loaded(network, info, recipe)


def _check_wanted(
    path: Path, info: Info, recipe: dict[str, Any], config: BackboneConfig, taps: Sequence[str]
) -> None:
    block = recipe.get("block")
    if info.name != config.name or block not in (None, config.block) or not set(taps) <= info.taps.keys():
        held = info.name if block is None else f"{info.name} to block {block}"
        wanted = config.name if block is None else f"{config.name} to block {config.block}"
        raise UserError(
            f"{path}: holds {held}, taps {', '.join(info.taps)}; wanted is {wanted}, taps {', '.join(taps)}"
        )


def _filled(recipe: dict[str, Any], config: BackboneConfig, tensors: dict[str, np.ndarray]) -> nnx.Module:
    family = REGISTRY.load(config.name)
    graph, state = nnx.split(nnx.eval_shape(lambda: family.empty(recipe, jnp.dtype(config.precision))))
    flat = {".".join(map(str, place)): (place, leaf) for place, leaf in nnx.to_flat_state(state)}
    wanted = {name: (leaf.shape, np.dtype(np.float32)) for name, (_, leaf) in flat.items()}
    if {name: (value.shape, value.dtype) for name, value in tensors.items()} != wanted:
        raise ValueError("its tensors are not those of its facts")
    loaded = [(place, leaf.replace(jnp.asarray(tensors[name]))) for name, (place, leaf) in flat.items()]
    return nnx.merge(graph, nnx.from_flat_state(loaded))
