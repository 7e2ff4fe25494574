"""Heat maps: one fixed scale and one row of colours, and patch scores as the page reads them."""

from __future__ import annotations

import base64
from pathlib import Path

import numpy as np
from jaxtyping import Float, Float32, Int
from matplotlib import colormaps

from mvead_jax.evaluation.score_files import maps_path, read_maps


def heat_scale(maps: Float32[np.ndarray, ...]) -> tuple[float, float]:
    """Patch distances where heat begins and where it is full: 90 % and 99.9 % of these patches lie below."""
    low, high = np.nanquantile(np.asarray(maps, np.float32), [0.9, 0.999])
    return float(low), float(high)


def category_scale(
    folder: Path, usual: Path | None, category: str, maps: Float[np.ndarray, "n h w"]
) -> tuple[float, float, str]:
    """The scale of a category of a scores folder, and of which samples it is, in words.

    Args:
      usual: scores of the test split, by whose scale new images are drawn. maps: of the folder.
    """
    if usual is not None and usual != folder and maps_path(usual, category).exists():
        return *heat_scale(read_maps(usual, category)), "the test split"
    return *heat_scale(maps), "these samples"


def heat_table() -> Int[np.ndarray, "256 3"]:
    """256 colours from no heat to full: red, green, blue from 0 to 255."""
    return (colormaps["inferno"](np.arange(256))[:, :3] * 255).round().astype(int)


def heat_colours() -> list[str]:
    """256 colours from no heat to full, "#rrggbb". How opaque each is follows from its place (common.js)."""
    return ["#{:02x}{:02x}{:02x}".format(*row) for row in heat_table()]


def halves(values: Float[np.ndarray, ...]) -> str:
    """float16 numbers, little-endian, in base64."""
    return base64.b64encode(np.ascontiguousarray(values, "<f2").tobytes()).decode()
