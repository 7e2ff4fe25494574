"""What was found about one sample: the maps, and the scores of its images and of itself."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float32

from mvead_jax.data.records import Sample
from mvead_jax.postprocess.pooling import Pooling, pooled


@dataclass(frozen=True)
class ScoredSample:
    """A sample and what was found; NaN where a view is missing.

    Attributes:
      views: of the model, axis V. maps: anomaly maps.
      view_scores: by which the sample and the decision are scored. image_scores: of the images by themselves.
        They differ only where score.image_evidence adds to the second.
      pooling: how view scores become the sample's.
    """

    sample: Sample
    views: tuple[str, ...]
    maps: Float32[np.ndarray, "V h w"]
    view_scores: Float32[np.ndarray, " V"]
    image_scores: Float32[np.ndarray, " V"]
    pooling: Pooling = "max"

    def image_score(self, view: str) -> np.float32:
        """Return the score of one image."""
        return self.image_scores[self.views.index(view)]

    @property
    def worst_view(self) -> str:
        """The view with the highest score; the first of them on a tie."""
        scores = dict(zip(self.views, self.view_scores, strict=True))
        return max((view.name for view in self.sample.views), key=scores.__getitem__)

    @property
    def score(self) -> np.float32:
        """The score of the sample (eq. 11 where it is the highest of its views)."""
        own = [self.views.index(view.name) for view in self.sample.views]
        return pooled(self.view_scores[None, own], self.pooling)[0]
