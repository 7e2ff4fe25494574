"""The one door of all backbones: a frozen feature extractor from a config, compiled on its first use."""

from __future__ import annotations

import functools
import hashlib
import json
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.sharding import NamedSharding, PartitionSpec
from jaxtyping import Array, Float32

from mvead_jax.backbones.engines import by_engine, engine_of
from mvead_jax.backbones.info import Info, Loaded, Tap, expanded
from mvead_jax.backbones.registry import REGISTRY
from mvead_jax.backbones.stored import STORED, read_stored
from mvead_jax.config.schema import BackboneConfig
from mvead_jax.runtime import paths, sharding
from mvead_jax.runtime.device_memory import most_at_a_time
from mvead_jax.runtime.errors import UserError

log = logging.getLogger(__name__)

_VERSION = 3  # raise it when the same weights and images give other features: it is part of every digest

_MOST_IMAGES = {"cpu": 32}  # in one forward pass
_MOST_IMAGES_ELSEWHERE = 256

Maps = dict[str, Float32[Array, "B h w D"]]


@dataclass(frozen=True)
class Backbone:
    """A frozen feature extractor: ImageNet-normalised images [B,H,W,3] -> {tap: map [B,h,w,D] float32}.

    Attributes:
      info: what is known of it.
      taps: the feature maps that it computes.
      shapes: (h,w,D) of each at `image_size`; the cell at row i, column j sees mostly the input pixels from
        (i,j) times the stride on.
      image_size: side of the square input in pixels.
      digest: SHA-256 of all that decides its numbers: weights, architecture, taps, image size, precision, and
        the version of this code.
      next_block: as of `Loaded`.
      apply: what `__call__` does.
      on_devices: the same for as many batches at once as this process has devices, [n B,H,W,3]; each device
        computes its own batch as `apply` would. None: there is but one, or another engine than XLA computes.
      engine: what computes `apply`, in words.
      by_xla: nearly the same by XLA, which can be traced; None: `apply` can.
    """

    info: Info
    taps: tuple[str, ...]
    shapes: Mapping[str, tuple[int, int, int]]
    image_size: int
    digest: str
    next_block: Callable[[], Any] | None
    apply: Callable[[Float32[Array, "B H W 3"]], Maps]
    on_devices: Callable[[Float32[Array, "nB H W 3"]], Maps] | None = None
    engine: str = "XLA"
    by_xla: Callable[[Float32[Array, "B H W 3"]], Maps] | None = None

    def __call__(self, images: Float32[Array, "B H W 3"]) -> Maps:
        return self.apply(images)

    def images_at_a_time(self, asked: int) -> int:
        """Return how many images are in one forward pass: as `backbone.batch_size` asks, 0 as the memory allows."""
        return asked or self._within_memory

    @functools.cached_property
    def _within_memory(self) -> int:
        image = jax.ShapeDtypeStruct((1, self.image_size, self.image_size, 3), jnp.float32)
        most = _MOST_IMAGES.get(jax.default_backend(), _MOST_IMAGES_ELSEWHERE)
        return most_at_a_time(self.by_xla or self.apply, image, most=most)


def load_backbone(config: BackboneConfig, image_size: int, taps: Sequence[str], seed: int = 0) -> Backbone:
    """Return the backbone that `config` names, giving the feature maps that `taps` names.

    Args:
      taps: of `Info.taps`; "patches" is one of every backbone, and "pyramid" stands for all of `Info.pyramid`.
      seed: of random weights.

    Raises:
      UserError: unknown name, a tap or block that it does not have, an image size that is no multiple of its
        own, weights that can't be found or don't fit, or an engine that is not installed.
    """
    engine = None if config.engine == "xla" else engine_of(config)
    loaded = load_network(config, taps, seed)
    info = loaded.info
    taps = expanded(info.name, taps, info.pyramid)
    if image_size % info.multiple or image_size < 1:
        near = max(info.multiple, round(image_size / info.multiple) * info.multiple)
        raise UserError(
            f"config data.image_size={image_size}: {config.name} takes multiples of {info.multiple} pixels "
            f"for {', '.join(taps)}, for example {near}"
        )
    if not info.trained:
        log.warning("backbone %s is UNTRAINED: %s", info.name, info.weights)

    forward, state = as_function(loaded.network, taps)
    state = jax.device_put(state)
    compiled = jax.jit(forward)
    recipe = json.dumps(loaded.recipe, sort_keys=True)
    key = [_VERSION, info.name, recipe, weights_digest(state), sorted(taps), image_size, config.precision]

    def by_xla(images: Float32[Array, "B H W 3"]) -> Maps:
        return compiled(state, images)

    apply = by_xla
    if engine:
        key.append(str(engine))
        wide = forward
        if config.precision != "float32":
            in_float32 = load_network(replace(config, precision="float32"), taps, seed).network
            wide, _ = as_function(in_float32, taps)
        network = functools.partial(wide, state)
        apply = by_engine(engine, info.name, network, by_xla, taps, config.precision)
    many = sharding.local_mesh().size > 1 and not engine
    return Backbone(
        info=info,
        taps=taps,
        shapes={tap: _shape(info.taps[tap], image_size) for tap in taps},
        image_size=image_size,
        digest=hashlib.sha256(repr(key).encode()).hexdigest(),
        next_block=loaded.next_block,
        apply=apply,
        on_devices=_on_devices(forward, state) if many else None,
        engine=str(engine or "XLA"),
        by_xla=by_xla if engine else None,
    )


def load_network(config: BackboneConfig, taps: Sequence[str], seed: int = 0) -> Loaded:
    """Return the network that `config` names, with what its taps need and no more.

    A backbone.weights that names a folder of mvead export takes any backbone from there.

    Raises as `load_backbone`.
    """
    REGISTRY.check(config.name)
    if (stored := paths.expanded(config.weights) / STORED).is_file():
        return read_stored(stored, config, taps)
    return REGISTRY.load(config.name).load(config, taps, seed)


def as_function(
    network: nnx.Module, taps: Sequence[str]
) -> tuple[Callable[[nnx.State, Float32[Array, "B H W 3"]], Maps], nnx.State]:
    """Return a network as a pure function (parameters, images) -> {tap: map}, and its parameters."""
    graph, state = nnx.split(network)

    def forward(state: nnx.State, images: Float32[Array, "B H W 3"]) -> Maps:
        maps = nnx.merge(graph, state)(images, taps)
        return {tap: maps[tap].astype(jnp.float32) for tap in taps}

    return forward, state


def weights_digest(state: nnx.State) -> str:
    """Return the SHA-256 over the names, shapes and values of all parameters."""
    digest = hashlib.sha256()
    for path, leaf in jax.tree_util.tree_leaves_with_path(state):
        value = np.asarray(leaf)
        digest.update(f"{jax.tree_util.keystr(path)} {value.shape} {value.dtype};".encode())
        digest.update(value.tobytes())
    return digest.hexdigest()


def _shape(tap: Tap, image_size: int) -> tuple[int, int, int]:
    return image_size // tap.stride, image_size // tap.stride, tap.width


def _on_devices(forward: Callable, state: nnx.State) -> Callable:
    """Return `Backbone.on_devices` of a function of parameters and images."""
    each = jax.jit(sharding.on_each_device(forward, sharding.local_mesh()))

    @functools.cache
    def copies() -> nnx.State:
        return jax.device_put(state, NamedSharding(sharding.local_mesh(), PartitionSpec()))

    return lambda images: each(copies(), images)
