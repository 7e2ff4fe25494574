"""What a data set is to the program: whole samples, each with its views, in a fixed order."""

from __future__ import annotations

import difflib
import os
import re
import unicodedata
from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Literal

import numpy as np

from mvead_jax.data.pictures import PictureFolder
from mvead_jax.runtime.errors import DataProblems, UserError

Split = Literal["train", "test", "held_out"]
PICTURE_FILES = (".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp")


@dataclass(frozen=True)
class View:
    """One picture of a sample.

    Attributes:
      name: the camera, "C1".
      image: path of the picture below the data set's root, with forward slashes.
      label: 1 defect visible here, 0 none, None unknown. A label belongs to a view: a defective part can
        look normal from one side.
      mask: path of the defect mask below the root, or None.
    """

    name: str
    image: str
    label: int | None = None
    mask: str | None = None


@dataclass(frozen=True)
class Sample:
    """One part, photographed once by every camera.

    Attributes:
      id: unique within its split, "audiojack_0001_NG_HS".
      category: the kind of part.
      split: "train" or "test"; "held_out" are training samples that only calibrate the decision
        (mvead_jax/decision/split.py), which no list names.
      views: in the order of their names.
      stated: what is known of the part as a whole, where its views do not tell it: 1 defective (though
        nobody marked where, or no view shows it), 0 normal, None nothing.
    """

    id: str
    category: str
    split: Split
    views: tuple[View, ...]
    stated: int | None = None

    @property
    def label(self) -> int | None:
        """1 if a defect is visible in any view or the part is stated to be defective, 0 if in none of the
        labelled views, None if nothing is known."""
        known = [view.label for view in self.views] + [self.stated]
        return max((label for label in known if label is not None), default=None)


@dataclass(frozen=True)
class DatasetIndex:
    """Samples of a data set, sorted by (split, category, id) whatever the order of its lists.

    Attributes:
      root: what all paths start from: `root / view.image` opens (pictures.py). A folder, or prepared data.
      samples: the samples.
      views: names of the cameras; axis V of every array made from this index.
      notes: what a reader should know and nobody has to mend ("usb: 2 incomplete samples left out").
    """

    root: PictureFolder
    samples: tuple[Sample, ...]
    views: tuple[str, ...]
    notes: tuple[str, ...] = field(default=())

    @property
    def categories(self) -> tuple[str, ...]:
        return tuple(sorted({sample.category for sample in self.samples}))

    def __len__(self) -> int:
        return len(self.samples)

    def select(self, *, split: Split | None = None, category: str | None = None) -> DatasetIndex:
        """The part of one split, one category, or both. A category has its own cameras."""
        views = self.views
        samples = self.samples
        if category is not None:
            samples = tuple(sample for sample in samples if sample.category == category)
            views = view_names(samples)
        if split is not None:
            samples = tuple(sample for sample in samples if sample.split == split)
        return DatasetIndex(self.root, samples, views, self.notes)

    def present(self) -> np.ndarray:
        """bool [S,V]: which sample has a picture from which camera."""
        names = [{view.name for view in sample.views} for sample in self.samples]
        return np.array([[view in has for view in self.views] for has in names], bool).reshape(len(self), -1)


@dataclass(frozen=True)
class Listed:
    """What the reader of a layout found: as much as could be read, and all that is wrong with it."""

    root: PictureFolder
    samples: Sequence[Sample]
    notes: Sequence[str]
    problems: Sequence[str]

    def index(self) -> DatasetIndex:
        """Raises DataProblems if there is anything wrong."""
        if self.problems:
            raise DataProblems(str(self.root), self.problems)
        return build_index(self.root, self.samples, self.notes)


def build_index(root: PictureFolder, samples: Iterable[Sample], notes: Sequence[str] = ()) -> DatasetIndex:
    """The index of `samples` in their fixed order."""
    ordered = tuple(sorted(samples, key=lambda sample: (sample.split, sample.category, sample.id)))
    return DatasetIndex(root, ordered, view_names(ordered), tuple(notes))


def view_names(samples: Iterable[Sample]) -> tuple[str, ...]:
    """All cameras that any sample has, C2 before C10."""
    return tuple(sorted({view.name for sample in samples for view in sample.views}, key=natural_key))


def spread_evenly(count: int, most: int) -> np.ndarray:
    """Up to `most` of `count` positions, from the first to the last: samples that stand for all."""
    return np.unique(np.linspace(0, count - 1, min(most, count)).round().astype(int))


def natural_key(name: str) -> list[tuple[bool, int, str]]:
    """Sort key in which the numbers inside names count as numbers."""
    parts = re.split(r"(\d+)", name)  # \d is what isdecimal() says, and not the 2 of "cam²"
    return [(part.isdecimal(), int(part) if part.isdecimal() else 0, part) for part in parts if part]


def incomplete_samples(samples: Sequence[Sample]) -> list[tuple[Sample, list[str]]]:
    """Samples of one category that lack views which other samples of it have, with the missing names."""
    names = view_names(samples)
    found = []
    for sample in samples:
        missing = [name for name in names if name not in {view.name for view in sample.views}]
        if missing:
            found.append((sample, missing))
    return found


def settle_incomplete(
    samples: list[Sample], policy: Literal["error", "drop", "keep"]
) -> tuple[list[Sample], list[str], list[str]]:
    """What data.incomplete makes of the samples of one category: those that stay, notes, problems."""
    lacking = incomplete_samples(samples)
    if not lacking:
        return samples, [], []
    count, category = len(lacking), samples[0].category
    if policy == "keep":
        return samples, [f"{category}: {count} samples lack a view and are kept"], []
    if policy == "drop":
        left_out = {id(sample) for sample, _ in lacking}
        kept = [sample for sample in samples if id(sample) not in left_out]
        return kept, [f"{category}: {count} samples lack a view and are left out"], []
    problems = [
        f"{sample.split} sample {sample.id} has no {', '.join(missing)}; "
        "leave such samples out by data.incomplete=drop or use them by data.incomplete=keep"
        for sample, missing in lacking
    ]
    return samples, [], problems


def defects_learned(category: str, samples: Iterable[Sample]) -> list[str]:
    """The notes on what one category learns from and is labelled defective: views, and whole samples."""
    training = [sample for sample in samples if sample.split == "train"]
    notes = []
    if count := sum(view.label == 1 for sample in training for view in sample.views):
        notes.append(f"{category}: {count} training views are labelled defective and are used")
    if count := stated_only(training):
        notes.append(
            f"{category}: {count} training samples are labelled defective, none of their views is, "
            "and are used"
        )
    return notes


def stated_only(samples: Iterable[Sample]) -> int:
    """How many samples are labelled defective of which no view is."""
    return sum(one.label == 1 and all(view.label != 1 for view in one.views) for one in samples)


def chosen_categories(root: object, categories: Sequence[str], found: Collection[str]) -> list[str]:
    """The categories asked for, all of `found` if none is named; sorted.

    Raises:
      UserError: one that is not there.
    """
    for category in categories:
        if category not in found:
            close = difflib.get_close_matches(category, list(found), n=1)
            hint = f", did you mean {close[0]!r}?" if close else ";"
            raise UserError(f"unknown category {category!r}{hint} {root} holds: {', '.join(sorted(found))}")
    return sorted(set(categories) or found)


GOOD = "good"  # the kind of parts without a defect in a user's own data: "good/0001"
MOST_VIEWS = 16
_LONGEST_NAME = 100
_NO_LETTERS = ("Cc", "Cs")  # Unicode's control characters, NUL among them, and surrogates

# An underscore may be doubled in Real-IAD's names, and a category may hold anything: read from the right.
_DEFECT_CODE = re.compile(r"_NG_+([A-Z](?:[A-Z_]*[A-Z])?)$")


def defect_code(sample_id: str) -> str | None:
    """HS of "audiojack_0001_NG_HS", scratch of "scratch/0001"; None where the name tells none."""
    kind, slash, _ = sample_id.partition("/")
    if slash:
        return None if kind == GOOD else kind
    found = _DEFECT_CODE.search(sample_id)
    return found[1] if found else None


def repeated_images(samples: Iterable[Sample]) -> list[str]:
    """Images that stand in the lists more than once, within a split or across splits."""
    counts = Counter(view.image for sample in samples for view in sample.views)
    return sorted(image for image, count in counts.items() if count > 1)


def normal_form(name: str) -> str:
    """One spelling of a name that file systems spell in several (NFC)."""
    return unicodedata.normalize("NFC", name)


def unsafe_name(name: str) -> str | None:
    """Why a view or category can't be called so, or None: it names files of the workdir."""
    if not name or name != name.strip():
        return "is empty, or begins or ends with a space"
    if name.startswith(".") or any(letter in "/\\" or not letter.isprintable() for letter in name):
        return "begins with a dot, or holds a slash or a control character"
    if len(name.encode()) > _LONGEST_NAME:
        return f"is longer than {_LONGEST_NAME} bytes"
    return None


def unsafe_path(path: object) -> str | None:
    """Why `path` from a data set's list must not be opened, or None. Paths are relative and stay inside."""
    if not isinstance(path, str) or not path:
        return "is not a file name"
    if "\0" in path:
        return "contains a NUL character"
    if not path.isprintable() and any(unicodedata.category(letter) in _NO_LETTERS for letter in path):
        return "contains a control character, or half of a character"
    pure = PurePosixPath(path.replace("\\", "/"))
    if pure.is_absolute() or re.match(r"[A-Za-z]:", path):
        return "is absolute; paths are relative to the image folder"
    if ".." in pure.parts:
        return "leaves the image folder by '..'"
    return None


def read_at_most(path: Path, most: int) -> bytes | None:
    """The bytes of a file, None if there are more than `most`, whatever its size is said to be.

    Raises:
      OSError: it can't be read.
    """
    with path.open("rb") as file:
        content = file.read(most + 1)
    return content if len(content) <= most else None


class Folder:
    """Answers "is this file really inside?" with one directory listing per folder, not per file.

    The root itself may be a link: that is where its owner keeps the data. Links below it must stay inside.
    """

    def __init__(self, root: Path):
        self.root = root.resolve()
        self._listed: dict[Path, tuple[str | None, set[str], set[str]]] = {}

    def problem(self, path: str) -> str | None:
        """Why the file `path` below the root can't be used, or None."""
        full = self.root / path
        try:
            outside, files, links = self._list(full.parent)
        except (OSError, RuntimeError):  # a link that leads to itself
            return "no such file"
        if outside:
            return outside
        if full.name not in files:
            return "no such file"
        if full.name in links and not _inside(full, self.root):
            return f"is a link out of {self.root}; copy the file"
        return None

    def _list(self, folder: Path) -> tuple[str | None, set[str], set[str]]:
        if folder not in self._listed:
            outside, files, links = None, set(), set()
            if not _inside(folder, self.root):
                outside = f"its folder is a link out of {self.root}; copy the files"
            else:
                with suppress(OSError), os.scandir(folder) as listing:
                    entries = list(listing)
                    links = {entry.name for entry in entries if entry.is_symlink()}
                    files = {entry.name for entry in entries if _is_file(entry)}
            self._listed[folder] = (outside, files, links)
        return self._listed[folder]


def _inside(path: Path, root: Path) -> bool:
    """Whether a path, with all its links followed, lies below `root`."""
    try:
        return path.resolve().is_relative_to(root)
    except (OSError, RuntimeError):  # a link that leads to itself
        return False


def _is_file(entry: os.DirEntry) -> bool:
    try:
        return entry.is_file()
    except OSError:
        return False
