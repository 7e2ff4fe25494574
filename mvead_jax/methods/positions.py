"""Where a pixel of a feature map is, as a fixed feature that is added to it."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float


def position_map(height: int, width: int, channels: int) -> Float[Array, "height width channels"]:
    """Return a position map of sines and cosines in float32, as the released codes of MVAD and UniAD have it.

    The first half of the channels tells the row, the second half the column: sines of even and cosines of odd
    channels, of (i + 1) / side turns over 10000**(2 floor(k / 2) / F) for channel k of the F = channels / 2.
    """
    if channels % 2:
        raise ValueError(f"a position map has an even number of channels, not {channels}")
    half = channels // 2
    power = 2 * (np.arange(half) // 2).astype(np.float32) / np.float32(half)
    divisor = np.float32(10000) ** power

    def along(side: int) -> np.ndarray:
        turns = np.arange(1, side + 1, dtype=np.float32) / np.float32(side + 1e-6)
        angle = (turns * np.float32(2 * np.pi))[:, None] / divisor[None]
        return np.where(np.arange(half) % 2, np.cos(angle), np.sin(angle)).astype(np.float32)

    rows = np.broadcast_to(along(height)[:, None], (height, width, half))
    columns = np.broadcast_to(along(width)[None], (height, width, half))
    return jnp.asarray(np.concatenate([rows, columns], axis=-1))
