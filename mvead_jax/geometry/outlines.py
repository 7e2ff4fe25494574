"""What the outlines of a part say about an F, without any match.

Two planes through both camera centres touch the part, one on either side. In each view they are the epipolar
lines that touch the outline, at its frontier points (Cipolla, Åström and Giblin 1995). So the lines that
touch the outline in view a must touch it in view b.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import cv2
import numpy as np
from jaxtyping import Bool, Float, UInt8

from mvead_jax.data.mirroring import open_view
from mvead_jax.data.records import DatasetIndex, Sample, spread_evenly
from mvead_jax.runtime.progress import progress

_SIDE = 256  # pixels at which the part is cut out
_BORDER = 8  # of these, taken for background
_UNLIKE = 1.5  # times as far from the background's colour as 99 % of the border
_CUTS = 3  # GrabCut's rounds
_PIECE = 0.05  # of the largest piece; smaller ones are dirt
_LEAST = 50  # pixels
_THREADS = 2

Outline = Float[np.ndarray, "n 2"]


def category_outlines(index: DatasetIndex, most_samples: int = 6) -> list[dict[str, Outline]]:
    """By view, the outlines in a few samples of one category, spread evenly; views without one are left out.

    Raises:
      UserError: an unreadable image.
    """
    chosen = spread_evenly(len(index), most_samples)

    def look(sample: Sample) -> dict[str, Outline]:
        images = {view.name: open_view(index, view) for view in sample.views}
        found = {name: part_outline(np.asarray(image)) for name, image in images.items()}
        return {name: outline for name, outline in found.items() if outline is not None}

    out = []
    with (
        ThreadPoolExecutor(_THREADS) as pool,
        progress(f"outlines {index.samples[0].category}", len(chosen), "samples") as bar,
    ):
        for outlines in pool.map(look, [index.samples[i] for i in chosen]):
            out.append(outlines)
            bar.advance()
    return out


def part_outline(image: UInt8[np.ndarray, "h w 3"]) -> Outline | None:
    """Corners (x, y) in pixels of the convex hull of the part: all that touching lines can tell of it.

    GrabCut, started from what is unlike the image's border. None where nothing stands out from the border,
    or the part reaches it (then the outline is cut off).
    """
    scale = _SIDE / max(image.shape[:2])
    width, height = (max(1, round(side * scale)) for side in image.shape[1::-1])
    small = cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA)
    unlike = _unlike_border(small)
    if unlike.sum() < _LEAST:
        return None
    labels = np.where(unlike, cv2.GC_PR_FGD, cv2.GC_PR_BGD).astype(np.uint8)
    labels[_edge(labels.shape, _BORDER)] = cv2.GC_BGD
    if not (labels == cv2.GC_PR_FGD).any():
        return None
    cv2.setRNGSeed(0)  # of this thread: the same image gives the same outline
    cv2.grabCut(
        cv2.cvtColor(small, cv2.COLOR_RGB2BGR),
        *(labels, None, np.zeros((1, 65)), np.zeros((1, 65))),
        *(_CUTS, cv2.GC_INIT_WITH_MASK),
    )
    part = _largest_pieces(labels == cv2.GC_PR_FGD)
    if part.sum() < _LEAST or part[_edge(part.shape, _BORDER + 1)].any():
        return None
    # The corners of the outermost pixels, not their centres: the outline runs around them.
    rows, columns = np.nonzero(part)
    corners = np.concatenate([np.stack([columns + x, rows + y], 1) for x in (0, 1) for y in (0, 1)])
    hull = cv2.convexHull(corners.astype(np.int32))[:, 0]
    return hull * [image.shape[1] / small.shape[1], image.shape[0] / small.shape[0]]


def outline_mismatch(F: Float[np.ndarray, "3 3"], outline_a: Outline, outline_b: Outline) -> float:
    """By how many pixels the epipolar lines that touch one outline miss the other, in the mean of all four.

    nan where they say nothing: F is zero, or an epipole lies inside an outline, so that no line touches it.

    Args:
      F: x_aᵀ F x_b = 0.
    """
    missed = []
    if not F.any():
        return np.nan
    for own, other, to_other in ((outline_a, outline_b, F), (outline_b, outline_a, F.T)):
        touching = _touching(own, to_other)
        if touching is None or _touching(other, to_other.T) is None:
            return np.nan
        lines = np.concatenate([touching, np.ones((2, 1))], axis=1) @ to_other
        beside = _signed(other, lines)
        missed.append(np.minimum(np.abs(beside.min(1)), np.abs(beside.max(1))))
    return float(np.mean(missed))


def category_mismatch(
    F: Float[np.ndarray, "3 3"], outlines: Sequence[dict[str, Outline]], view_a: str, view_b: str
) -> float:
    """Median over samples of `outline_mismatch`; nan where no sample says anything."""
    told = [outline_mismatch(F, own[view_a], own[view_b]) for own in outlines if {view_a, view_b} <= set(own)]
    told = [value for value in told if np.isfinite(value)]
    return float(np.median(told)) if told else np.nan


def _touching(outline: Outline, F: Float[np.ndarray, "3 3"]) -> Float[np.ndarray, "2 2"] | None:
    """Where the two lines through the epipole (eᵀ F = 0) touch the outline; None if no line does."""
    epipole = np.linalg.svd(F)[0][:, -1]
    beside = _signed(outline, np.cross(np.concatenate([outline, np.ones((len(outline), 1))], 1), epipole))
    left, right = beside.min(1), beside.max(1)  # of the line through each corner, how far the part reaches
    a, b = left.argmax(), right.argmin()
    tolerance = 1e-6 * np.ptp(outline)
    return outline[[a, b]] if left[a] > -tolerance and right[b] < tolerance else None


def _signed(points: Float[np.ndarray, "n 2"], lines: Float[np.ndarray, "m 3"]) -> Float[np.ndarray, "m n"]:
    """Signed distances in pixels of every point from every line."""
    norm = np.maximum(np.hypot(lines[:, 0], lines[:, 1]), 1e-300)[:, None]
    return (lines[:, :2] @ points.T + lines[:, 2:]) / norm


def _unlike_border(image: UInt8[np.ndarray, "h w 3"]) -> Bool[np.ndarray, "h w"]:
    """Pixels whose colour lies farther from the border's than the border's own do."""
    lab = cv2.cvtColor(cv2.GaussianBlur(image, (5, 5), 0), cv2.COLOR_RGB2LAB).astype(np.float64)
    border = _edge(lab.shape[:2], _BORDER)
    off = lab - np.median(lab[border], axis=0)
    spread = np.cov(off[border].T) + np.eye(3)  # at least a level
    distance = np.sqrt(np.einsum("hwi,ij,hwj->hw", off, np.linalg.inv(spread), off))
    return distance > _UNLIKE * np.quantile(distance[border], 0.99)


def _edge(shape: tuple[int, ...], width: int) -> Bool[np.ndarray, "h w"]:
    edge = np.ones(shape, bool)
    edge[width:-width, width:-width] = False
    return edge


def _largest_pieces(part: Bool[np.ndarray, "h w"]) -> Bool[np.ndarray, "h w"]:
    """Without specks: the 8-connected pieces that are large beside the largest."""
    opened = cv2.morphologyEx(part.astype(np.uint8), cv2.MORPH_OPEN, np.ones((3, 3), np.uint8))
    count, labels, stats, _ = cv2.connectedComponentsWithStats(opened, connectivity=8)
    areas = stats[1:, cv2.CC_STAT_AREA]
    large = [k for k in range(1, count) if areas[k - 1] >= _PIECE * areas.max()]
    return np.isin(labels, large)
