"""Epipolar lines on images: a few points of one view, and their lines in the others."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from matplotlib import colormaps
from PIL import Image

from mvead_jax.geometry.category import CategoryGeometry
from mvead_jax.runtime.files import whole

_POINTS = 6
_CELL_INCHES = 1.8
_DPI = 110


@contextmanager
def any_letter() -> Iterator[None]:
    """Matplotlib's font lacks many letters that names have; it draws a box and need not say so each time."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing from font")
        yield


def draw_lines(geometry: CategoryGeometry, images: Sequence[Image.Image], path: Path) -> None:
    """A sheet with a row for each view: its points, and their lines in the other views, in the same colours.

    Lines of a pair that is not trusted are dotted. The points stand where the image has most contrast.

    Args:
      images: one sample's, in the order of geometry.views.
    """
    count = len(geometry.views)
    F = geometry.fundamental()
    from matplotlib.backends.backend_agg import FigureCanvasAgg  # here: an Inspector draws no figure
    from matplotlib.figure import Figure

    figure = Figure(figsize=(_CELL_INCHES * count + 0.3, _CELL_INCHES * count + 0.3), dpi=_DPI)
    FigureCanvasAgg(figure)
    axes = figure.subplots(count, count, squeeze=False)
    colours = colormaps["tab10"](np.arange(_POINTS))
    for a in range(count):
        points = _telling_points(images[a])
        for b in range(count):
            axis = axes[a, b]
            axis.imshow(images[b], interpolation="nearest", extent=(0, *images[b].size, 0))
            axis.set(xlim=(0, images[b].width), ylim=(images[b].height, 0), xticks=[], yticks=[])
            if a == 0:
                axis.set_title(geometry.views[b], fontsize=8, parse_math=False)
            if b == 0:
                axis.set_ylabel(f"points of {geometry.views[a]}", fontsize=7, parse_math=False)
            if a == b:
                axis.scatter(*points.T, c=colours, s=14, edgecolors="white", linewidths=0.5)
                continue
            trusted = geometry.pairs[min(a, b), max(a, b)].ok
            for point, colour in zip(points, colours, strict=True):
                line = np.array([*point, 1.0]) @ F[a, b]
                if np.hypot(*line[:2]) > 0:
                    foot = -line[2] * line[:2] / (line[:2] @ line[:2])
                    axis.axline(
                        foot,
                        foot + np.array([-line[1], line[0]]),
                        color=colour,
                        lw=0.8,
                        ls="-" if trusted else ":",
                    )
    with whole(path) as temporary, any_letter():
        figure.tight_layout(pad=0.3)
        figure.savefig(temporary, format="png")


def _telling_points(image: Image.Image) -> np.ndarray:
    """Pixels [_POINTS,2] on edges, spread over the part: greedily the steepest, away from those before."""
    gray = np.asarray(image.convert("L"), np.float32)
    steep = np.hypot(*np.gradient(gray))
    h, w = gray.shape
    rows, columns = np.mgrid[:h, :w]
    points = []
    for _ in range(_POINTS):
        row, column = np.unravel_index(steep.argmax(), steep.shape)
        points.append((column + 0.5, row + 0.5))
        steep[(rows - row) ** 2 + (columns - column) ** 2 < (min(h, w) / 7) ** 2] = 0.0
    return np.array(points)
