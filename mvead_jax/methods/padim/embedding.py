"""PaDiM's embedding: the channels, chosen once, of three feature maps side by side at the size of the finest.

Defard et al., "PaDiM: a patch distribution modeling framework for anomaly detection and localization", ICPR 2021,
as the port and anomalib compute it. A coarser map is repeated: each value fills a block of equal sides.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Literal

import jax
import numpy as np
from jaxtyping import Array, Float, Int32

from mvead_jax.runtime.errors import UserError

_PORT_SEED = 1024


def chosen_channels(
    total: int, count: int, variant: Literal["port", "anomalib"], key: jax.Array
) -> Int32[np.ndarray, " d"]:
    """Return which of all channels are kept, in their order.

    The port's are always the same: Python's `random.sample` with seed 1024. anomalib's are the start of a random
    permutation, here one that follows from `key`.
    """
    if variant == "port":
        return np.array(random.Random(_PORT_SEED).sample(range(total), count), np.int32)
    return np.asarray(jax.random.permutation(key, total)[:count], np.int32)


def embed(
    maps: Sequence[Float[Array, "*batch h w C"]], channels: Int32[Array, " d"]
) -> Float[Array, "*batch H W d"]:
    """Return the chosen channels of maps, from fine to coarse, at the size of the first.

    Works on NumPy and on JAX arrays.
    """
    height, width = maps[0].shape[-3:-1]
    xp = np if isinstance(maps[0], np.ndarray) else jax.numpy
    wide = [
        x.repeat(height // x.shape[-3], axis=-3).repeat(width // x.shape[-2], axis=-2)
        if x is not maps[0]
        else x
        for x in maps
    ]
    return xp.take(xp.concatenate(wide, axis=-1), channels, axis=-1)


def check_maps(shapes: Sequence[tuple[int, int, int]], channels: int) -> None:
    """Raise a UserError unless maps of these shapes (h, w, C) can be embedded with so many channels."""
    total = sum(shape[2] for shape in shapes)
    if channels > total:
        raise UserError(
            f"config padim.channels={channels}: the backbone's maps have {total} channels together"
        )
    height, width = shapes[0][:2]
    if any(height % h or width % w for h, w, _ in shapes):
        raise UserError(
            f"PaDiM: feature maps of {', '.join(f'{h} x {w}' for h, w, _ in shapes)} pixels; each must divide the "
            "first: data.image_size must be a multiple of the last map's stride"
        )
