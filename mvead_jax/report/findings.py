"""What a scores folder says about each sample, for people to read: lines of samples.csv and images.csv.

Columns of a calibrated run (p_value, decision, reason) are read where they are.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float

from mvead_jax.data.records import defect_code
from mvead_jax.evaluation.score_files import read_images, read_samples
from mvead_jax.runtime.errors import UserError


@dataclass(frozen=True)
class FoundView:
    """A line of images.csv. place: its number among those of the category, as in its maps."""

    name: str
    image: str
    label: int | None
    score: float
    p_value: float | None
    place: int


@dataclass(frozen=True)
class FoundSample:
    """A line of samples.csv with its views.

    Attributes:
      number: among the lines of samples.csv; by it the report names its files.
      decision, reason: of a calibrated run, else empty.
    """

    number: int
    category: str
    id: str
    label: int | None
    score: float
    worst_view: str
    views: tuple[FoundView, ...]
    p_value: float | None = None
    decision: str = ""
    reason: str = ""

    @property
    def defect(self) -> str:
        """The kind of defect that its name tells: HS of "cap_0001_NG_HS", scratch of "scratch/0001"."""
        return defect_code(self.id) or ""


def read_findings(folder: Path) -> list[FoundSample]:
    """All samples of a scores folder, in the order of samples.csv.

    Raises:
      UserError: one of the files is missing, or the two do not fit.
    """
    views: dict[tuple[str, str], list[FoundView]] = {}
    counts: Counter[str] = Counter()
    for line in read_images(folder):
        view = FoundView(
            line.view, line.image, line.label, float(line.score), line.p_value, counts[line.category]
        )
        counts[line.category] += 1
        views.setdefault((line.category, line.sample), []).append(view)
    found = []
    for number, line in enumerate(read_samples(folder)):
        own = views.get((line.category, line.sample), [])
        if line.worst_view not in [view.name for view in own]:
            raise UserError(f"{folder / 'samples.csv'}: {line.sample} is not that of images.csv; score again")
        found.append(
            FoundSample(
                *(number, line.category, line.sample, line.label, float(line.score), line.worst_view),
                *(tuple(own), line.p_value, line.decision or "", line.reason),
            )
        )
    return found


def by_category(samples: Sequence[FoundSample]) -> dict[str, list[FoundSample]]:
    """In the order of their first sample."""
    found: dict[str, list[FoundSample]] = {}
    for one in samples:
        found.setdefault(one.category, []).append(one)
    return found


def maps_decide(samples: Sequence[FoundSample], maps: Float[np.ndarray, "n h w"]) -> bool:
    """Whether the score of each sample of a category is the highest of its maps: then a patch fails by itself.

    Args: maps: of the category, with the precision of their file.
    """
    highest = maps.max((1, 2)).astype(np.float32)
    views = [view for one in samples for view in one.views]
    of_views = np.allclose(highest[[view.place for view in views]], [view.score for view in views], rtol=2e-3)
    return bool(of_views) and all(max(view.score for view in one.views) == one.score for one in samples)
