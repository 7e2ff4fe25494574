"""The sections of a config that every method with memory banks has."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from mvead_jax.bank.nearest import MOST_NEIGHBOURS
from mvead_jax.config.schema import ScoreConfig
from mvead_jax.config.validation import number


@dataclass(frozen=True)
class BankConfig:
    """The memory bank.

    Attributes:
      kind: what a bank keeps of the training patches: all (`full`), a greedy k-centre `coreset`, or the
        centres of `kmeans`. Decision D10.
      share: of the patches that a coreset or k-means keeps, above 0 and at most 1.
      projection: dimensions of the random projection in which a coreset is chosen; 0 = the features' own.
      per_view: one bank for each view (MVEAD's), or one for all.
    """

    kind: Literal["full", "coreset", "kmeans"] = "full"
    share: float = number(0.1, above=0, most=1)
    projection: int = number(128, least=0)
    per_view: bool = True

    def size(self, patches: int) -> int:
        """Return how many rows a bank keeps of so many patches, at least one. Decision D10."""
        return patches if self.kind == "full" else max(1, int(self.share * patches))

    def words(self) -> str:
        """Return what a bank holds, for the protocol."""
        views = "one for each view" if self.per_view else "one for all views"
        if self.kind == "full":
            return f"full, {views}"
        if self.kind == "kmeans":
            return f"k-means centres, {self.share:.3g} of the patches, {views}"
        distances = f"in {self.projection} random dimensions" if self.projection else "of the features"
        return f"greedy coreset of {self.share:.3g} of the patches, distances {distances}, {views}"


@dataclass(frozen=True)
class BankScoreConfig(ScoreConfig):
    """How patches are scored by memory banks, and what is done with the scores.

    Attributes:
      distance: how far a patch is from a bank: to its `nearest` row, or to the affine `hull` of its nearest
        rows, which fills the gaps between few samples (bank/hull.py).
      neighbours: rows that span the hull. ridge: lambda of the hull.
      search: the precision of the matrix products that rule bank rows out. The scores do not depend on it;
        `bfloat16` is faster where the device multiplies it faster.
    """

    distance: Literal["nearest", "hull"] = "nearest"
    neighbours: int = number(20, least=1, most=MOST_NEIGHBOURS)
    ridge: float = number(0.1, above=0)
    search: Literal["float32", "bfloat16"] = "float32"

    def deciding(self) -> dict[str, Any]:
        fields = super().deciding()
        del fields["search"]
        if self.distance == "nearest":
            del fields["neighbours"], fields["ridge"]
        return fields
