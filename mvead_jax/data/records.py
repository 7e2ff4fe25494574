"""What a data set is to the program: whole samples, each with its views, in a fixed order."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

import numpy as np

from mvead_jax.data.image_files import ImageFolder
from mvead_jax.runtime.errors import DataProblems

Split = Literal["train", "test", "held_out"]
Incomplete = Literal["error", "drop", "keep"]  # what happens to a sample that lacks a view of its category
GOOD = "good"  # the kind of samples without a defect in a user's own data: "good/0001"

# An underscore may be doubled in Real-IAD's names, and a category may hold anything: read from the right.
_DEFECT_CODE = re.compile(r"_NG_+([A-Z](?:[A-Z_]*[A-Z])?)$")


@dataclass(frozen=True)
class View:
    """One image of a sample.

    Attributes:
      name: the camera, "C1".
      image: path of the image below the data set's root, with forward slashes.
      label: 1 if a defect is visible in this image, 0 if none is, None if nobody knows. A label belongs to a
        view: a defective object can look normal from one side.
      mask: path of the defect mask below the root, or None.
      mirrored: whether image and mask are flipped left-right when they are loaded (mirroring.py).
    """

    name: str
    image: str
    label: int | None = None
    mask: str | None = None
    mirrored: bool = False


@dataclass(frozen=True)
class Sample:
    """One object, photographed once by every camera.

    Attributes:
      id: unique within its split and category, "audiojack_0001_NG_HS".
      category: the kind of object.
      split: "train" or "test"; "held_out" are training samples that only calibrate the decision
        (mvead_jax/decision/split.py), which no list names.
      views: in the order of their names.
      sample_label: what is known of the object as a whole, where its views do not tell it: 1 defective
        (though nobody marked where, or no view shows it), 0 normal, None nothing.
    """

    id: str
    category: str
    split: Split
    views: tuple[View, ...]
    sample_label: int | None = None

    @property
    def label(self) -> int | None:
        """Return 1 if any view or the sample itself is labelled defective, 0 if all known labels say normal,
        and None if nothing is known."""
        known = [view.label for view in self.views] + [self.sample_label]
        return max((label for label in known if label is not None), default=None)


@dataclass(frozen=True)
class DatasetIndex:
    """Samples of a data set, sorted by (split, category, id) whatever the order of its lists.

    Attributes:
      root: what all paths start from: `root / view.image` opens (image_files.py). A folder, or prepared data.
      samples: the samples.
      views: names of the cameras; axis V of every array made from this index.
      notes: what the user should know and need not mend ("usb: 2 samples lack a view and are left out").
      bit_depth: how many bits of an image that stores more than 8 bits a channel hold its values
        (bit_depth.py).
    """

    root: ImageFolder
    samples: tuple[Sample, ...]
    views: tuple[str, ...]
    notes: tuple[str, ...] = field(default=())
    bit_depth: int = 8

    @property
    def categories(self) -> tuple[str, ...]:
        """Return the names of all categories, sorted."""
        return tuple(sorted({sample.category for sample in self.samples}))

    def __len__(self) -> int:
        return len(self.samples)

    def select(self, *, split: Split | None = None, category: str | None = None) -> DatasetIndex:
        """Return the part of one split, one category, or both. A category has its own cameras."""
        views = self.views
        samples = self.samples
        if category is not None:
            samples = tuple(sample for sample in samples if sample.category == category)
            views = view_names(samples)
        if split is not None:
            samples = tuple(sample for sample in samples if sample.split == split)
        return replace(self, samples=samples, views=views)

    def with_samples(self, samples: Iterable[Sample]) -> DatasetIndex:
        """Return the index of other samples of the same data set, sorted, on the axis of their own views."""
        ordered = sort_samples(samples)
        return replace(self, samples=ordered, views=view_names(ordered))

    def present(self) -> np.ndarray:
        """Return bool [S,V]: which sample has an image from which camera."""
        names = [{view.name for view in sample.views} for sample in self.samples]
        return np.array([[view in has for view in self.views] for has in names], bool).reshape(len(self), -1)


@dataclass(frozen=True)
class Listing:
    """What a reader found: as much as could be read, and all that is wrong with it.

    Attributes:
      root: as DatasetIndex.root.
      samples: in the order in which the reader found them.
      notes: what the user should know. problems: what must be mended, one line each.
    """

    root: ImageFolder
    samples: Sequence[Sample]
    notes: Sequence[str]
    problems: Sequence[str]

    def index(self) -> DatasetIndex:
        """Return the index of the samples.

        Raises:
          DataProblems: all problems, if there is any.
        """
        if self.problems:
            raise DataProblems(str(self.root), self.problems)
        return build_index(self.root, self.samples, self.notes)


def build_index(root: ImageFolder, samples: Iterable[Sample], notes: Sequence[str] = ()) -> DatasetIndex:
    """Return the index of `samples` in their fixed order."""
    ordered = sort_samples(samples)
    return DatasetIndex(root, ordered, view_names(ordered), tuple(notes))


def sort_samples(samples: Iterable[Sample]) -> tuple[Sample, ...]:
    """Return the samples in the order of every index."""
    return tuple(sorted(samples, key=lambda sample: (sample.split, sample.category, sample.id)))


def view_names(samples: Iterable[Sample]) -> tuple[str, ...]:
    """Return the names of all cameras that any sample has, C2 before C10."""
    return tuple(sorted({view.name for sample in samples for view in sample.views}, key=natural_key))


def spread_evenly(count: int, most: int) -> np.ndarray:
    """Return up to `most` of `count` positions, from the first to the last: samples that stand for all."""
    return np.unique(np.linspace(0, count - 1, min(most, count)).round().astype(int))


def natural_key(name: str) -> list[tuple[bool, int, str]]:
    """Return a sort key in which the numbers inside names count as numbers."""
    parts = re.split(r"(\d+)", name)  # \d is what isdecimal() says, and not the 2 of "cam²"
    return [(part.isdecimal(), int(part) if part.isdecimal() else 0, part) for part in parts if part]


def defect_code(sample_id: str) -> str | None:
    """Return the kind of defect that a sample's name tells: HS of "audiojack_0001_NG_HS", scratch of
    "scratch/0001"; None where it tells none."""
    kind, slash, _ = sample_id.partition("/")
    if slash:
        return None if kind == GOOD else kind
    found = _DEFECT_CODE.search(sample_id)
    return found[1] if found else None
