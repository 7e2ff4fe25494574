"""The geometry of one category as the workdir keeps it: F of every pair, and how far to trust it."""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool, Float

from mvead_jax.geometry.images import between_new_images, resizing
from mvead_jax.runtime.errors import UserError
from mvead_jax.runtime.files import read_json, write_json


@dataclass(frozen=True)
class PairGeometry:
    """One unordered pair of views.

    Attributes:
      F: [3,3], x_aᵀ F x_b = 0 in pixels of the stored images, a before b in the category's views; zeros where
        there is none.
      ok: attention may use it.
      source: "given", "rig_fit" or "pairwise".
      quality: the evidence, for people and tables.
    """

    F: Float[np.ndarray, "3 3"]
    ok: bool
    source: str
    quality: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class CategoryGeometry:
    """F of every pair of views of a category.

    Attributes:
      views: names in order. sizes: (W, H) in pixels of the stored images.
      pairs: (a, b) with a < b, indices of views -> the pair.
      mirrored: views found to be stored flipped left-right; None where that is not known.
      origin: JSON of what an estimate was made from; None where nobody said.
    """

    views: tuple[str, ...]
    sizes: tuple[tuple[int, int], ...]
    pairs: dict[tuple[int, int], PairGeometry]
    mirrored: tuple[bool, ...] | None = None
    origin: Any = None

    def fundamental(self, input_size: int | None = None) -> Float[np.ndarray, "V V 3 3"]:
        """F of every ordered pair, between the stored images or between images of input_size² pixels."""
        count = len(self.views)
        F = np.zeros((count, count, 3, 3))
        for (a, b), pair in self.pairs.items():
            F[a, b], F[b, a] = pair.F, pair.F.T
        if input_size is None:
            return F
        return between_new_images(
            F, np.stack([resizing(size, (input_size, input_size)) for size in self.sizes])
        )

    def valid(self) -> Bool[np.ndarray, "V V"]:
        """Which ordered pairs attention may use."""
        count = len(self.views)
        valid = np.zeros((count, count), bool)
        for (a, b), pair in self.pairs.items():
            valid[a, b] = valid[b, a] = pair.ok
        return valid

    def write(self, path: Path) -> None:
        """Writes the file of design.md: one entry for each unordered pair."""
        content = {
            "views": list(self.views),
            "image_size": {view: list(size) for view, size in zip(self.views, self.sizes, strict=True)},
            "mirrored": None if self.mirrored is None else dict(zip(self.views, self.mirrored, strict=True)),
            "origin": self.origin,
            "pairs": [
                {
                    "a": self.views[a],
                    "b": self.views[b],
                    "F": pair.F.tolist(),
                    "ok": pair.ok,
                    "source": pair.source,
                    "quality": pair.quality,
                }
                for (a, b), pair in sorted(self.pairs.items())
            ],
        }
        write_json(path, content)


def read_geometry(path: Path) -> CategoryGeometry:
    """What `CategoryGeometry.write` wrote.

    Raises:
      UserError: missing, or something else.
    """
    content = read_json(path, "geometry of a category, as mvead geometry writes it")
    try:
        views = tuple(content["views"])
        sizes = tuple((int(w), int(h)) for w, h in (content["image_size"][view] for view in views))
        pairs = {}
        for entry in content["pairs"]:
            a, b = views.index(entry["a"]), views.index(entry["b"])
            F = np.asarray(entry["F"], np.float64)
            good = F.shape == (3, 3) and np.isfinite(F).all() and a != b
            if not good or not isinstance(entry["ok"], bool):
                raise ValueError(f"pair {entry['a']}, {entry['b']}")
            flip = a > b
            pairs[min(a, b), max(a, b)] = PairGeometry(
                F.T if flip else F, entry["ok"], str(entry["source"]), dict(entry["quality"])
            )
        missing = [pair for pair in combinations(range(len(views)), 2) if pair not in pairs]
        if missing:
            raise ValueError(f"pair {views[missing[0][0]]}, {views[missing[0][1]]} is missing")
        flags = content.get("mirrored")
        mirrored = None if flags is None else tuple(bool(flags[view]) for view in views)
    except (KeyError, ValueError, TypeError, AttributeError, IndexError) as error:
        raise UserError(f"{path}: not the geometry of a category ({error}); delete it") from error
    return CategoryGeometry(views, sizes, pairs, mirrored, content.get("origin"))
