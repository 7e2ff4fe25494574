"""Heat maps: one fixed scale and one row of colours, and patch scores as the page reads them."""

from __future__ import annotations

import base64

import numpy as np
from jaxtyping import Float, Float32
from matplotlib import colormaps


def heat_scale(maps: Float32[np.ndarray, ...]) -> tuple[float, float]:
    """Patch distances where heat begins and where it is full: 90 % and 99.9 % of these patches lie below."""
    low, high = np.nanquantile(np.asarray(maps, np.float32), [0.9, 0.999])
    return float(low), float(high)


def heat_colours() -> list[str]:
    """256 colours from no heat to full, "#rrggbb". How opaque each is follows from its place (heat.js)."""
    table = (colormaps["inferno"](np.arange(256))[:, :3] * 255).round().astype(int)
    return ["#{:02x}{:02x}{:02x}".format(*row) for row in table]


def halves(values: Float[np.ndarray, ...]) -> str:
    """float16 numbers, little-endian, in base64."""
    return base64.b64encode(np.ascontiguousarray(values, "<f2").tobytes()).decode()
