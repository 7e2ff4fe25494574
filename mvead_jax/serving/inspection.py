"""What an Inspector found on one part: scores, decision, place, and words for people and programs."""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from html import escape

import numpy as np
from jaxtyping import Float32, UInt8
from PIL import Image

from mvead_jax.decision.decide import Decision
from mvead_jax.evaluation.enlarging import enlarge
from mvead_jax.postprocess.pooling import Pooling, pooled
from mvead_jax.report.heat import heat_scale
from mvead_jax.runtime.errors import UserError
from mvead_jax.serving.overlay import overlay
from mvead_jax.serving.result import ResultJson, decision_json


@dataclass(frozen=True)
class Place:
    """The patch with the highest score of a view: its row and column in the map, and where it lies in the
    upright image, in pixels: left, top, right, bottom."""

    row: int
    column: int
    box: tuple[int, int, int, int]


@dataclass(frozen=True, repr=False)
class Inspection:
    """What was found on one part.

    Attributes:
      category: the kind of part. views: the model's cameras, in the order of axis V.
      maps: anomaly maps; NaN where the view is missing, as in the scores.
      view_scores: by which the part is scored and decided about. image_scores: of the images by themselves.
      sizes: (W, H) of the upright images, by the views that were given.
      decision: pass or fail, if the run holds samples out for that, or the user set a threshold
        (docs/decision.md).
      warnings: what speaks against the scores: images of another shape than in training, by view.
      shown: the upright images by view, reduced to at most overlay.SIDE pixels, for `overlay`.
    """

    category: str
    views: tuple[str, ...]
    maps: Float32[np.ndarray, "V h w"]
    view_scores: Float32[np.ndarray, " V"]
    image_scores: Float32[np.ndarray, " V"]
    sizes: Mapping[str, tuple[int, int]]
    pooling: Pooling = "max"
    decision: Decision | None = None
    warnings: tuple[str, ...] = ()
    shown: Mapping[str, UInt8[np.ndarray, "H W 3"]] = field(default_factory=dict, repr=False, compare=False)

    @property
    def scores(self) -> dict[str, float]:
        """The score of each image that was given, as images.csv has it."""
        return {
            view: float(score)
            for view, score in zip(self.views, self.image_scores, strict=True)
            if view in self.sizes
        }

    @property
    def missing(self) -> tuple[str, ...]:
        return tuple(view for view in self.views if view not in self.sizes)

    @property
    def worst_view(self) -> str:
        """The view with the highest score; the first of them on a tie."""
        given = [at for at, view in enumerate(self.views) if view in self.sizes]
        return self.views[max(given, key=lambda at: self.view_scores[at])]

    @property
    def score(self) -> float:
        """The score of the part, as samples.csv has it."""
        given = [view in self.sizes for view in self.views]
        return float(pooled(self.view_scores[None, given], self.pooling)[0])

    @property
    def place(self) -> Place:
        """Where in the worst view its score was found."""
        own = self.map_of(self.worst_view)
        (rows, columns), (width, height) = own.shape, self.sizes[self.worst_view]
        row, column = (int(at) for at in np.unravel_index(int(own.argmax()), own.shape))
        left, right = (round(at * width / columns) for at in (column, column + 1))
        top, bottom = (round(at * height / rows) for at in (row, row + 1))
        return Place(row, column, (left, top, right, bottom))

    @property
    def text(self) -> str:
        """One sentence for people."""
        if self.decision is not None:
            words = self.decision.text()
        else:
            left, top, right, bottom = self.place.box
            where = f"x {left} to {right}, y {top} to {bottom}"
            words = f"most unusual in {self.worst_view}, score {self.score:.4g}, at {where}"
        words += f"; without {', '.join(self.missing)}" if self.missing else ""
        return words + "".join(f"; warning: {warning}" for warning in self.warnings)

    def map_of(self, view: str) -> Float32[np.ndarray, "h w"]:
        """The patch scores of one view."""
        return self.maps[self.views.index(view)]

    def overlay(self, view: str | None = None, scale: tuple[float, float] | None = None) -> Image.Image:
        """Return the image of a view under the heat of its scores; what is above the view's threshold is outlined.

        Args:
          view: None: the worst one.
          scale: the scores where heat begins and where it is full. None: from the score that 90 % of this part's
            patches stay below, to that of 99.9 % or, where it is higher, the view's threshold.
        """
        view = self._given(self.worst_view if view is None else view)
        threshold = None if self.decision is None else self.decision.view(view).threshold
        if scale is None:
            low, high = heat_scale(self.maps)
            scale = low, high if threshold is None else max(high, threshold)
        return overlay(self.shown[view], self.map_of(view), scale, threshold)

    def _given(self, view: str) -> str:
        """Return the name of a view that the sample has, or raise a UserError."""
        if view not in self.sizes:
            raise UserError(f"view {view}: the sample has none; it has {', '.join(self.sizes)}")
        return view

    def pixel_map(self, view: str) -> Float32[np.ndarray, "H W"]:
        """The scores of one view at the size of its upright image, bilinear."""
        self._given(view)
        width, height = self.sizes[view]
        return enlarge(self.map_of(view)[None], height, width)[0]

    def __repr__(self) -> str:
        return f"Inspection({self.category}: {self.text})"

    def _repr_html_(self) -> str:
        """Return the text and the overlays of all views, as a notebook shows them."""
        figures = []
        for view, score in self.scores.items():
            content = io.BytesIO()
            self.overlay(view).save(content, "PNG")
            source = f"data:image/png;base64,{base64.b64encode(content.getvalue()).decode()}"
            words = escape(f"{view}: {score:.4g}")
            figures.append(
                f'<figure style="display:inline-block;margin:0 .5em 0 0"><img style="height:12em" src="{source}" '
                f'alt="{words}"><figcaption>{words}</figcaption></figure>'
            )
        return (
            f"<div><strong>{escape(self.category)}: {escape(self.text)}</strong><br>{''.join(figures)}</div>"
        )

    def to_json(self) -> str:
        """Return `as_json` as one line of JSON."""
        return json.dumps(self.as_json(), allow_nan=False)

    def as_json(self) -> ResultJson:
        """Return all but the maps, in plain types."""
        return {
            "category": self.category,
            "score": self.score,
            "worst_view": self.worst_view,
            "place": list(self.place.box),
            "views": self.scores,
            "missing": list(self.missing),
            "warnings": list(self.warnings),
            "decision": None if self.decision is None else decision_json(self.decision),
            "text": self.text,
        }
