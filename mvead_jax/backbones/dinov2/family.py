"""DINOv2 as a backbone: any of its blocks is a tap, and what comes after the highest one is not loaded."""

from __future__ import annotations

import dataclasses
import functools
import logging
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike

from mvead_jax.backbones.dinov2.blocks import Block
from mvead_jax.backbones.dinov2.config import DINOV2_SIZES, DinoV2Config
from mvead_jax.backbones.dinov2.modeling import DinoV2, random_dinov2
from mvead_jax.backbones.dinov2.params import HUB, architecture, load_dinov2, locate_weights
from mvead_jax.backbones.info import Info, Loaded, Tap, check_taps, expanded, licence_of
from mvead_jax.config.schema import BackboneConfig
from mvead_jax.runtime.errors import UserError

log = logging.getLogger(__name__)

_LICENCE = "DINOv2, by Meta AI: Apache-2.0 by the model cards of facebook/dinov2-* on the Hugging Face hub"
_NORMALISATION = "by the ImageNet mean and deviation, as the authors and their model cards have it"


def load(config: BackboneConfig, taps: Sequence[str], seed: int) -> Loaded:
    """Return the DINOv2 that a config names, cut off after the highest block that `taps` need.

    Raises:
      UserError: a block or tap that it does not have, or weights that can't be found or don't fit.
    """
    taps = expanded(config.name, taps, ())
    directory, shape = None, DINOV2_SIZES[config.name]
    if config.weights != "random":
        directory = locate_weights(config.name, config.weights, Path(config.directory))
        shape = _found(config.name, directory)
    depth = shape.num_hidden_layers
    wants_patches = "patches" in taps
    if wants_patches and config.block > depth:
        raise UserError(f"config backbone.block={config.block}: this {config.name} has {depth} blocks")
    info = Info(
        name=config.name,
        weights=f"random, seed {seed}" if directory is None else str(directory),
        trained=directory is not None,
        licence=licence_of(config, _LICENCE, [hub_id for hub_id, _ in HUB.values()]),
        normalisation=_NORMALISATION,
        multiple=shape.patch_size,
        taps=taps_of(shape),
        pyramid=(),
        heads=shape.num_attention_heads,
        has_next=config.block < depth,
    )
    check_taps(config.name, info.taps, taps)
    blocks = max(_block_of(tap, config.block, depth) for tap in taps)
    patches = config.block if wants_patches else None  # which block it is matters to nothing else
    make = functools.partial(_made, directory, shape, seed, dtype=jnp.dtype(config.precision))
    return Loaded(
        network=make(blocks, patches),
        info=info,
        recipe={"config": dataclasses.asdict(shape), "blocks": blocks, "block": patches},
        next_block=_next_block(make, config.block) if config.block < depth else None,
    )


def empty(recipe: dict[str, Any], dtype: DTypeLike) -> DinoV2:
    """Return the architecture of a recipe; its numbers do not matter."""
    config, blocks = DinoV2Config(**recipe["config"]), recipe["blocks"]
    return DinoV2(config, blocks, patches=recipe["block"], dtype=dtype, rngs=nnx.Rngs(0))


def _made(
    directory: Path | None,
    shape: DinoV2Config,
    seed: int,
    blocks: int,
    patches: int | None,
    *,
    dtype: DTypeLike,
) -> DinoV2:
    if directory is None:
        return random_dinov2(shape, seed, blocks, patches=patches, dtype=dtype)
    return load_dinov2(directory, blocks, dtype, patches=patches)


def _next_block(make: Callable[[int, int | None], DinoV2], block: int) -> Callable[[], Block]:
    """Return what gives the block after the one whose patch tokens are the features, loaded anew."""
    return lambda: make(block + 1, None).blocks[-1]


def taps_of(shape: DinoV2Config) -> dict[str, Tap]:
    names = ("patches", *(f"block{k}" for k in range(1, shape.num_hidden_layers + 1)), "norm")
    return dict.fromkeys(names, Tap(shape.patch_size, shape.hidden_size))


def _block_of(tap: str, patches: int, depth: int) -> int:
    """Return the last block that a tap needs."""
    numbers = {"patches": patches, "norm": depth}
    return numbers[tap] if tap in numbers else int(re.fullmatch(r"block(\d+)", tap)[1])


def _found(name: str, directory: Path) -> DinoV2Config:
    """Return the architecture of the weights that were found, and say so when it is not the published one."""
    found = architecture(directory)
    if found != DINOV2_SIZES[name]:
        log.warning(
            "%s is no %s as published: width %d, %d blocks, %d registers",
            *(directory, name, found.hidden_size, found.num_hidden_layers, found.num_register_tokens),
        )
    return found
