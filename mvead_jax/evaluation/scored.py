"""What was found about one sample: the maps, and the scores that follow from them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float32

from mvead_jax.data.records import Sample


@dataclass(frozen=True)
class ScoredSample:
    """A sample and what was found: patch maps [V,h,w] of raw distances, NaN where the view is missing."""

    sample: Sample
    views: tuple[str, ...]
    maps: Float32[np.ndarray, "V h w"]

    def image_score(self, view: str) -> np.float32:
        """The highest patch distance of one view (eq. 11)."""
        return self.maps[self.views.index(view)].max()

    @property
    def worst_view(self) -> str:
        """The view with the highest score; the first of them on a tie."""
        return max((view.name for view in self.sample.views), key=self.image_score)

    @property
    def score(self) -> np.float32:
        """The highest score of any view (eq. 11)."""
        return self.image_score(self.worst_view)
