"""Real-IAD Variety on disk -> Listing: Real-IAD's lists, of 160 categories, with other names of files.

    <root>/realiadvariety_<size>/<category>/.../<object>/<name>_C01_<...>.jpg     or below <category>/<category>/
    <root>/realiadvariety_jsons/<category>.json                                   or a folder deeper

An object is a folder. Every view of a defective object bears its class; one without a mask does not show the
defect.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from mvead_jax.data.published_counts import differing
from mvead_jax.data.realiad import read_lists
from mvead_jax.data.realiad_list import ListReader
from mvead_jax.data.realiad_names import Named, sample_of
from mvead_jax.data.records import GOOD, Incomplete, Listing, Sample, Split, View
from mvead_jax.data.safe_paths import unsafe_name
from mvead_jax.runtime.errors import UserError

LISTS, _IMAGES = "realiadvariety_jsons", "realiadvariety_"
_VIEW = re.compile(r"_C0?([1-5])(?=[_.])")
_CATEGORIES = 160
_PUBLISHED = {
    "train images": 19_955,
    "train samples": 3_991,
    "test images": 178_995,
    "test samples": 35_799,
}


@dataclass(frozen=True)
class VarietyOptions:
    """Which size.

    Attributes:
      size: of the folder of images: 1024 or raw; empty = the one that holds the category.
    """

    size: str = ""

    def __post_init__(self):
        if self.size and (why := unsafe_name(self.size)):
            raise UserError(f"config data.options='size={self.size}': {why}; write 1024 or raw")


class VarietyReader:
    """The reader of this layout, as readers.Reader."""

    layout = f"Real-IAD Variety's {LISTS}/<category>.json beside {_IMAGES}<size>/<category>/"
    options = VarietyOptions

    def detect(self, root: Path) -> bool:
        """Return whether a folder has a name of this data set's."""
        return root.is_dir() and any(
            path.name.startswith(_IMAGES) for path in root.iterdir() if path.is_dir()
        )

    def read(
        self, root: Path, categories: Sequence[str], options: VarietyOptions, incomplete: Incomplete
    ) -> Listing:
        """Return what the lists hold, with every path in them checked."""
        nested = sorted(path.parent.name for path in (root / LISTS).glob("*/*.json"))
        lists = f"{LISTS}/{nested[0]}" if nested and not any((root / LISTS).glob("*.json")) else LISTS
        images = f"{_IMAGES}{options.size}" if options.size else ""
        return read_lists(
            root, categories, lists=lists, images=images, incomplete=incomplete, layout=_VarietyList
        )

    def check(self, samples: Sequence[Sample], options: VarietyOptions) -> list[str]:
        """Return the counts of all categories that are not those of the data set."""
        if len({sample.category for sample in samples}) != _CATEGORIES:
            return []
        return differing(samples, "Real-IAD Variety", _PUBLISHED)

    def words(self, root: Path, options: VarietyOptions, views: Sequence[str]) -> dict[str, str]:
        """Return the lists."""
        return {"lists": LISTS, "list_views": f"list of all views ({', '.join(views)})"}


READER = VarietyReader()


class _VarietyList(ListReader):
    """Reads one list."""

    pattern = "rename it: a name holds _C1 to _C5, or _C01 to _C05, before its next _ or its ending"

    def image_folders(self) -> list[Path]:
        """Return the folders of images, and those of the category in them, in which its folder lies again."""
        named = self.root.glob(self.images or f"{_IMAGES}*")
        return [
            folder for path in sorted(named) if path.name != LISTS for folder in (path, path / self.category)
        ]

    def named(self, split: Split, image: str, mask: str | None, kind: str, normal: bool) -> Named | None:
        """Return an entry with the sample that its folder tells, and the view that its name tells."""
        path = PurePosixPath(image)
        if (view := _VIEW.search(path.name)) is None:
            return None
        folders = [part for part in path.parts[1:-1] if part != self.category]
        key = f"{GOOD if normal else kind}/{'_'.join(folders)}"
        return Named(key, split, View(f"C{view[1]}", image, int(mask is not None and not normal), mask))

    def sample(self, key: str, entries: Sequence[Named]) -> Sample:
        """Return the sample of the entries of one object, which its class says to be defective or not."""
        return sample_of(self.category, key, entries, int(not key.startswith(f"{GOOD}/")))
