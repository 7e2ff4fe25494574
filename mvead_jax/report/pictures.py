"""Sheets of pictures with their heat maps: what the scores look like on the parts."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Float32
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image

from mvead_jax.data.loading import open_image
from mvead_jax.data.pictures import PictureFolder
from mvead_jax.data.records import View
from mvead_jax.evaluation.scored import ScoredSample
from mvead_jax.report.lines import any_letter

_CELL_INCHES, _DPI = 2.0, 110
_SIDE = 220  # pixels that a picture is drawn with


def heat_scale(maps: Float32[np.ndarray, ...]) -> tuple[float, float]:
    """Patch distances where heat begins and where it is full: 90 % and 99.9 % of these patches lie below."""
    low, high = np.nanquantile(maps, [0.9, 0.999])
    return float(low), float(high)


def draw_category(
    root: PictureFolder, found: Sequence[ScoredSample], path: Path, scale: tuple[float, float], source: str
) -> None:
    """A PNG of a few telling samples of one category, a row each, a column for each view.

    A white line is the outline of the true defect, where the data set has one.

    Args:
      scale: of `heat_scale`, the same in the whole sheet.
      source: whose patches it was taken from, for the note below; normal parts glow on a scale of their own.
    """
    chosen = _telling(found)
    views = found[0].views
    low, high = scale
    figure = Figure(
        figsize=(_CELL_INCHES * len(views) + 0.7, (_CELL_INCHES + 0.1) * len(chosen) + 0.6), dpi=_DPI
    )
    FigureCanvasAgg(figure)
    axes = figure.subplots(len(chosen), len(views), squeeze=False)
    for row, (why, one) in enumerate(chosen):
        for column, name in enumerate(views):
            axis = axes[row, column]
            axis.set_xticks([])
            axis.set_yticks([])
            if row == 0:
                axis.set_title(name, fontsize=9, parse_math=False)
            view = next((view for view in one.sample.views if view.name == name), None)
            if view is None:
                axis.set_facecolor("0.9")
                continue
            _draw_view(axis, root, view, one.maps[column], low, high)
            axis.set_xlabel(f"{one.image_score(name):.3g}", fontsize=7, labelpad=2)
        axes[row, 0].set_ylabel(
            f"{one.sample.id}\n{why}\nscore {one.score:.3g}", fontsize=7, parse_math=False
        )
    note = f"patch score: no heat below {low:.3g}, full from {high:.3g} (90 and 99.9 % quantile of {source})"
    figure.text(0.01, 0.004, note, fontsize=7)
    with any_letter():
        figure.tight_layout(pad=0.4, h_pad=0.3, w_pad=0.2, rect=(0, 0.2 / figure.get_figheight(), 1, 1))
        figure.savefig(path, format="png", metadata={"Software": None})


def _telling(found: Sequence[ScoredSample]) -> list[tuple[str, ScoredSample]]:
    """The clearest and the most missed defects, the worst false alarm, the calmest normal; each once."""
    ranked = sorted(found, key=lambda one: (-one.score, one.sample.id))
    defective = [one for one in ranked if one.sample.label == 1]
    normal = [one for one in ranked if one.sample.label == 0]
    if not defective and not normal:
        return [("highest score", one) for one in ranked[:3]] + [
            ("lowest score", one) for one in ranked[3:][-1:]
        ]
    chosen = [("defective, highest", one) for one in defective[:2]]
    chosen += [("defective, lowest", one) for one in defective[2:][-2:]]
    chosen += [("normal, highest", one) for one in normal[:1]] + [
        ("normal, lowest", one) for one in normal[1:][-1:]
    ]
    return chosen


def _draw_view(
    axis, root: PictureFolder, view: View, heat: Float32[np.ndarray, "h w"], low: float, high: float
) -> None:
    image = open_image(root / view.image)
    scale = _SIDE / max(image.size)
    size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
    strength = np.clip((heat - low) / max(high - low, 1e-12), 0, 1)
    strength = np.asarray(
        Image.fromarray(strength.astype(np.float32)).resize(size, Image.Resampling.BILINEAR)
    )
    axis.imshow(np.asarray(image.resize(size, Image.Resampling.BICUBIC)))
    axis.imshow(strength, cmap="inferno", vmin=0, vmax=1, alpha=0.75 * strength)
    if view.mask is not None:
        marked = np.asarray(open_image(root / view.mask).convert("L")) > 0
        mask = np.asarray(
            Image.fromarray(marked.astype(np.uint8) * 255).resize(size, Image.Resampling.BILINEAR)
        )
        if mask.max() > 127 > mask.min():
            axis.contour(mask, levels=[127], colors="white", linewidths=0.8)
