"""Names on disk: Real-IAD's folders, file names and JSON entries, and which sample gets which.

A sample is (category, split, index). Its name depends on nothing else, so rendering more samples renames
none: training samples are numbered from 0001, normal test samples from 5001, both under OK/; defective sample
i has kind i mod 5 and number i div 5 + 1 under NG/<CODE>/.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta

from mvead_jax.rig.cameras import VIEWS

FAMILIES = ("flange", "terminal", "cogwheel")
SPLITS = ("train", "test_normal", "test_defective")
# Defect kind -> Real-IAD's code (pit, contamination, missing part, foreign object by their usual reading).
CODES = {"scratch": "HS", "dent": "AK", "stain": "ZW", "missing": "QS", "foreign": "YW"}
KINDS = tuple(CODES)
MIRRORED = {"flange": "C3", "terminal": "C5", "cogwheel": "C2"}  # the view stored flipped left-right
MOST = 4999  # samples per split; keeps numbers of four digits apart

_FIRST_SHIFT = datetime(2026, 3, 2, 6, 0, 0)
_TEST_NUMBER = 5000


@dataclass(frozen=True)
class SampleName:
    """Which sample: category, split, index within the split from 0."""

    category: str
    split: str
    index: int

    @property
    def kind(self) -> str | None:
        """Defect kind, None for a normal sample."""
        return KINDS[self.index % len(KINDS)] if self.split == "test_defective" else None

    @property
    def label(self) -> str:
        """ "OK" or "NG_<CODE>", as in file names."""
        return "OK" if self.kind is None else f"NG_{CODES[self.kind]}"

    @property
    def number(self) -> int:
        """The four-digit number, unique within category and label."""
        if self.split == "test_defective":
            return self.index // len(KINDS) + 1
        return self.index + 1 + (_TEST_NUMBER if self.split == "test_normal" else 0)

    def stem(self, view: int) -> str:
        """File name without its ending; every view has its own second."""
        days = SPLITS.index(self.split)
        time = _FIRST_SHIFT + timedelta(days=days, seconds=40 * self.index + 2 * view)
        return f"{self.category}_{self.number:04d}_{self.label}_{VIEWS[view]}_{time:%Y%m%d%H%M%S}"

    @property
    def folder(self) -> str:
        """Folder under the category's, with forward slashes."""
        return f"{self.label.replace('_', '/')}/S{self.number:04d}"


def image_folder(size: int) -> str:
    """Folder of the images under the root, named by their size as Real-IAD's are."""
    return f"realiad_{size}"


def entry(name: SampleName, view: int, has_mask: bool) -> dict[str, str | None]:
    """One JSON entry; the label is the view's, not the folder's."""
    path = f"{name.folder}/{name.stem(view)}"
    return {
        "category": name.category,
        "anomaly_class": CODES[name.kind] if has_mask else "OK",
        "image_path": f"{path}.jpg",
        "mask_path": f"{path}.png" if has_mask else None,
    }


def mask_threshold(size: int) -> int:
    """A view is labelled defective from this many defective pixels on: 4 at 256 x 256, at least 1."""
    return max(1, round(4 * (size / 256) ** 2))
