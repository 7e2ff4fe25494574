"""Operations, bytes and memory of the program's compiled functions, told by XLA without running them.

Used by scripts/scaling.py --compiled. Operations and bytes are XLA's own count of the program before it is optimised
for a device. It counts the body of a loop once, so of the search, which loops over blocks of rows as often as the
data need, there is no count. Memory is what the compilation says: what goes in and comes out, and what it sets aside
beyond that. The functions are traced as for a GPU (all samples of a batch at once, where a CPU takes one after the
other) and compiled for this device: a GPU's compiler may set aside more or less.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from types import SimpleNamespace
from typing import Any
from unittest import mock

import jax
import numpy as np
from flax import nnx

from mvead_jax.backbones.dinov2.config import DINOV2_SIZES
from mvead_jax.backbones.dinov2.modeling import DinoV2
from mvead_jax.bank.search.exact import search
from mvead_jax.config.schema import BackboneConfig
from mvead_jax.methods.base import PATCHES
from mvead_jax.methods.mvead.attention import AttentionConfig, EpipolarAttention, attend_batch
from mvead_jax.methods.mvead.config import PretrainConfig
from mvead_jax.methods.mvead.pretraining import batch_loss

DEVICES = (24e9, 40e9, 80e9)  # bytes


@dataclass(frozen=True)
class Sizes:
    """Of a run; the defaults are those of configs/realiad.py with the full banks of all categories in one model.

    Attributes:
      side: patches along each side of an image. rows: of the bank of one view. queries: of a view at once.
    """

    backbone: str = BackboneConfig().name
    blocks: int = BackboneConfig().block
    images: int = 32
    side: int = 16
    views: int = 5
    samples: int = PretrainConfig().batch_size
    rows: int = 1_867_008
    queries: int = 2048


@dataclass(frozen=True)
class Cost:
    """What XLA says of one call of a stage.

    Attributes:
      operations, moved: FLOP and bytes as counted; None where a loop hides them.
      given: bytes that go in and come out. aside: bytes set aside beyond.
    """

    name: str
    operations: float | None
    moved: float | None
    given: int
    aside: int

    @property
    def memory(self) -> int:
        """Return the bytes on the device while it runs."""
        return self.given + self.aside


def costs(sizes: Sizes, names: tuple[str, ...] = ()) -> list[Cost]:
    """Return the costs of the stages, or of some of them, by compiling each for this device."""
    found = []
    for name, lower in _stages(sizes).items():
        if names and name not in names:
            continue
        with traced_as_for_a_gpu():
            lowered = lower()
        counted = {} if name == "search" else lowered.cost_analysis()
        memory = lowered.compile().memory_analysis()
        given = memory.argument_size_in_bytes + memory.output_size_in_bytes - memory.alias_size_in_bytes
        operations, moved = counted.get("flops"), counted.get("bytes accessed")
        found.append(Cost(name, operations, moved, given, memory.temp_size_in_bytes))
    return found


@contextmanager
def traced_as_for_a_gpu() -> Iterator[None]:
    """Let functions that ask for the device be told that it is a GPU; what was traced so is forgotten afterwards."""

    def default(*arguments: Any, default: Callable[..., Any], **_: Callable[..., Any]) -> Any:
        return default(*arguments)

    jax.clear_caches()
    with (
        mock.patch.object(jax, "default_backend", return_value="gpu"),
        mock.patch.object(jax.lax, "platform_dependent", default),
    ):
        yield
    jax.clear_caches()


def _stages(sizes: Sizes) -> dict[str, Callable[[], Any]]:
    return {
        "features": partial(_features, sizes),
        "pre-training": partial(_pretraining, sizes),
        "fusing": partial(_fusing, sizes),
        "search": partial(_search, sizes),
    }


def _features(sizes: Sizes) -> Any:
    config = DINOV2_SIZES[sizes.backbone]
    network = nnx.eval_shape(lambda: DinoV2(config, sizes.blocks, rngs=nnx.Rngs(0)))
    graph, state = nnx.split(network)
    pixels = sizes.side * config.patch_size

    def run(state, images):
        return nnx.merge(graph, state)(images, ("patches",))

    return jax.jit(run).lower(state, _shape(sizes.images, pixels, pixels, 3))


def _attention(sizes: Sizes) -> tuple[Any, Any]:
    network = DINOV2_SIZES[sizes.backbone]
    config = AttentionConfig(network.hidden_size, network.num_attention_heads)
    return nnx.split(nnx.eval_shape(lambda: EpipolarAttention(config, nnx.Rngs(0))))


def _maps(sizes: Sizes) -> jax.ShapeDtypeStruct:
    return _shape(
        sizes.samples, sizes.views, sizes.side, sizes.side, DINOV2_SIZES[sizes.backbone].hidden_size
    )


def _fusing(sizes: Sizes) -> Any:
    graph, state = _attention(sizes)
    patches = sizes.side**2
    present = _shape(sizes.samples, sizes.views, dtype=np.bool_)
    mask = _shape(sizes.views, sizes.views, patches, patches, dtype=np.bool_)
    return jax.jit(partial(attend_batch, graph)).lower(state, _maps(sizes), present, mask)


def _pretraining(sizes: Sizes) -> Any:
    graph, state = _attention(sizes)
    patches, views = sizes.side**2, sizes.views
    mask = np.ones((views, views, patches, patches), bool)
    config = PretrainConfig(batch_size=sizes.samples)
    loss = batch_loss(graph, SimpleNamespace(masks=mask[None], keys=[mask], gather=False), config)
    batch = {
        "features": {PATCHES: _maps(sizes)},
        "present": _shape(sizes.samples, views, dtype=np.bool_),
        "category": _shape(sizes.samples, dtype=np.int32),
        "weight": _shape(sizes.samples),
    }
    centers = _shape(views, config.centers, _maps(sizes).shape[-1])
    step = jax.jit(jax.value_and_grad(loss, has_aux=True))
    return step.lower(nnx.to_pure_dict(state), centers, batch, jax.random.key(0))


def _search(sizes: Sizes) -> Any:
    width = DINOV2_SIZES[sizes.backbone].hidden_size
    arrays = _shape(sizes.queries, width), _shape(sizes.rows, width), None
    return search.lower(*arrays, k=1, block_size=None, precision="float32")


def _shape(*sizes: int, dtype: Any = np.float32) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(sizes, dtype)
