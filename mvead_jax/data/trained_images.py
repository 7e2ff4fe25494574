"""What a model remembers of its training images, so that images at work are read and judged as these were.

facts["images"] = TrainedImages.of(training).to_json()     # facts.json of the model
trained = TrainedImages.from_json(facts["images"])
check_shapes(index, trained, config.data.strict)
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from mvead_jax.data.deep_images import BIT_DEPTHS
from mvead_jax.data.records import DatasetIndex
from mvead_jax.data.shapes import Sizes, report_shapes, seen_images, shape_problems, training_sizes


@dataclass(frozen=True)
class TrainedImages:
    """The images that a model, or all models of a run, learned from.

    Attributes:
      bit_depth: how many bits held the values of images that store 16 bits a channel (bit_depth.py).
      sizes: of each category and view the (width, height) of its images (shapes.py).
    """

    bit_depth: int
    sizes: Mapping[str, Sizes]

    @classmethod
    def of(cls, index: DatasetIndex) -> TrainedImages:
        """Return the facts of the training split of an index; opens the header of each image.

        Raises:
          UserError: an image that can't be opened.
        """
        return cls(index.bit_depth, training_sizes(index))

    def to_json(self) -> dict[str, Any]:
        """Return the content as JSON takes it."""
        return {"bit_depth": self.bit_depth, "sizes": self.sizes}

    @classmethod
    def from_json(cls, content: Any) -> TrainedImages:
        """Return what `to_json` gave.

        Raises:
          ValueError: it is something else.
        """
        try:
            found = cls(content["bit_depth"], content["sizes"])
            pairs = [tuple(size) for own in found.sizes.values() for view in own.values() for size in view]
            if found.bit_depth not in BIT_DEPTHS:
                raise ValueError(f"bit depth {found.bit_depth!r}")
            if odd := [one for one in pairs if len(one) != 2 or not all(_is_side(side) for side in one)]:
                raise ValueError(f"size {odd[0]!r}")
        except (KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"no facts of training images ({error!r})") from None
        return found

    @classmethod
    def joined(cls, models: Iterable[TrainedImages]) -> TrainedImages:
        """Return the facts of several models of one run, whose images were read with one bit depth.

        Raises:
          ValueError: they were not.
        """
        models = list(models)
        depths = {one.bit_depth for one in models}
        if len(depths) != 1:
            raise ValueError(f"models of bit depths {sorted(depths)}")
        return cls(depths.pop(), {name: own for one in models for name, own in one.sizes.items()})


def check_shapes(index: DatasetIndex, trained: TrainedImages, strict: bool) -> None:
    """Say in the log which views of an index have images of another shape than in training.

    Raises:
      DataProblems: there are any, and `strict` (data.strict).
      UserError: an image that can't be opened.
    """
    report_shapes(index.root, shape_problems(seen_images(index), trained.sizes), strict)


def _is_side(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value > 0
