"""A user's own images, sorted into folders -> Listing.

    <root>/train/good/<sample>/<view>.<ext>            good samples, to learn from
    <root>/test/good/<sample>/<view>.<ext>
    <root>/test/<defect>/<sample>/<view>.<ext>         <defect>: any name, scratch
    <root>/ground_truth/<defect>/<sample>/<view>.png   where the defect is, if someone marked it

or the same below <root>/<category>/ for several kinds of objects. A view has one name in all samples.

A sample is called by its folders, "scratch/0007". Labels of its views come from the masks: a view is
defective if its mask has a pixel that is white, normal if it has none, or if other views of the sample have
masks and it has not. Without any mask the sample is known to be defective, its views are not (but for the one
view of a category that has no other).
"""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

from mvead_jax.data.folder_listing import SECOND, FolderListing, Images
from mvead_jax.data.made_images import MadeFolder, Recipe
from mvead_jax.data.masks import mask_label
from mvead_jax.data.records import (
    GOOD,
    Incomplete,
    Listing,
    Sample,
    Split,
    View,
    natural_key,
)
from mvead_jax.data.safe_paths import normal_form, unsafe_name
from mvead_jax.data.sample_rules import chosen_categories, handle_views
from mvead_jax.runtime.errors import UserError
from mvead_jax.runtime.progress import progress

TRUTH = "ground_truth"
_MEAN_GOOD = ("ok", "good", "normal")
_THREADS = 8


@dataclass(frozen=True)
class NoOptions:
    """The options of a reader that has none."""


class FolderReader:
    """The reader of this layout, as readers.Reader."""

    layout = "train/good/<sample>/<view>.png, or <category>/train/good/<sample>/<view>.png"
    options = NoOptions

    def detect(self, root: Path) -> bool:
        """Return whether `root` holds a category, or categories, sorted into folders of samples."""
        return bool(category_folders(root)) and not holds_single_images(root)

    def read(
        self, root: Path, categories: Sequence[str], options: NoOptions, incomplete: Incomplete
    ) -> Listing:
        """Return what `read_folder` finds."""
        return read_folder(root, categories, incomplete=incomplete)

    def check(self, samples: Sequence[Sample], options: NoOptions) -> list[str]:
        """Return nothing: a user's own data has no published counts."""
        return []

    def words(self, root: Path, options: NoOptions, views: Sequence[str]) -> dict[str, str]:
        """Return that there are no lists."""
        return {"lists": "none: folder", "list_views": f"all views: {', '.join(views)}"}


READER = FolderReader()


def read_folder(
    root: Path,
    categories: Sequence[str] = (),
    *,
    incomplete: Incomplete = "error",
    layout: type[CategoryReader] | None = None,
) -> Listing:
    """Return what the folders of some categories hold. It opens the masks, not the images.

    Args:
      root: the folder of one category, or of several.
      categories: names; empty = all. Of a root that is one category itself: what to call it, else it is
        called as its folder.
      incomplete: what to do with a sample that lacks a view which others of its category have.
      layout: of a category's folder, where it is another than this file's.

    Raises:
      UserError: no such category.
    """
    found, layout = category_folders(root), layout or CategoryReader
    if found == {"": ""}:
        name = categories[0] if len(categories) == 1 else Path(os.path.abspath(root)).name
        return read_categories(root, {normal_form(name): ""}, categories, incomplete, layout)
    notes, problems = _beside(root, found)
    listing = read_categories(root, found, categories, incomplete, layout)
    return replace(listing, notes=[*notes, *listing.notes], problems=[*problems, *listing.problems])


def read_categories(
    root: Path,
    found: Mapping[str, str],
    categories: Sequence[str],
    incomplete: Incomplete,
    layout: type[CategoryReader],
) -> Listing:
    """Return what the folders of some categories hold.

    Args:
      found: the folder below the root of each category that is there; the other arguments as of `read_folder`.

    Raises:
      UserError: no such category.
    """
    notes: list[str] = []
    problems: list[str] = []
    samples: list[Sample] = []
    made: dict[str, Recipe] = {}
    for category in chosen_categories(root, categories, found):
        if why := unsafe_name(category):
            problems.append(f"category {category!r} {why}; rename the folder")
        reader = layout(root, category, found[category])
        own = reader.read()
        problems += reader.problems
        notes += reader.notes
        if not reader.problems:  # what is wrong above leaves samples without views
            own, more_notes, more_problems = handle_views(own, incomplete)
            notes += more_notes
            problems += [f"{category}: {problem}" for problem in more_problems]
        samples += own
        made |= reader.made
    return Listing(MadeFolder(root, made) if made else root, samples, notes, problems)


class CategoryReader(FolderListing):
    """Reads one category.

    Attributes:
      parts: its folders, beside which others are passed over with a note.
      made: how images and masks are made that are no files themselves, by path.
    """

    parts = ("train", "test", TRUTH)

    def __init__(self, root: Path, category: str, folder: str):
        super().__init__(root)
        self.category, self.place = category, f"{folder}/" if folder else ""
        self.notes: list[str] = []
        self.made: dict[str, Recipe] = {}

    def read(self) -> list[Sample]:
        """Return the samples of the category, as far as they can be read."""
        kinds = {("train", kind): own for kind, own in self.kinds("train").items()}
        wrong_in_training = len(self.problems)
        kinds |= {("test", kind): own for kind, own in self.kinds("test").items()}
        masks = self.kinds(TRUTH)
        self._check_kinds(kinds)
        only = len({view for own in kinds.values() for images in own.values() for view in images}) == 1
        labels = self._labels(masks)
        samples = []
        for (split, kind), own in kinds.items():
            for name, images in own.items():
                marked = masks.get(kind, {}).get(name, {}) if split == "test" else {}
                samples.append(self._labelled(split, kind, name, images, marked, labels, only))
        self.check_masks(kinds, masks)
        # What is wrong in train/ is the cause, and that nothing is left to learn from its consequence.
        if not wrong_in_training and not any(split == "train" for split, _ in kinds):
            self.problem(f"{self.place}train/{GOOD}/", "no sample to learn from; put good samples there")
        self._note_rest(kinds)
        return samples

    def _note_rest(self, kinds: Collection[tuple[str, str]]) -> None:
        if not any(split == "test" for split, _ in kinds):
            self.notes.append(f"{self.category}: no test samples: nothing to score")
        for name in self.entries(self.place)[0]:
            if name not in self.parts:
                self.notes.append(
                    f"{self.place}{name}/: passed over; a category holds the folders {', '.join(self.parts)}"
                )
        for suffix, count in sorted(self.others.items()):
            self.notes.append(
                f"{self.category}: {count} files {suffix or 'without an ending'} are passed over"
            )

    def kinds(self, split: str) -> dict[str, Images]:
        """Return the samples of each kind below a split; kinds without any are left out."""
        place, found = f"{self.place}{split}/", {}
        for kind in self.folders(place, f"images lie in {split}/<kind>/<sample>/"):
            if why := unsafe_name(normal_form(kind)):
                self.problem(f"{place}{kind}/", f"its name {why}; rename it")
            elif normal_form(kind) in found:
                self.problem(f"{place}{kind}/", SECOND)
            elif own := self.samples(f"{place}{kind}/"):
                found[normal_form(kind)] = own
        return found

    def check_masks(self, kinds: Mapping[tuple[str, str], Images], masks: Mapping[str, Images]) -> None:
        """Add the masks without their image to the problems. Args: kinds: by split and kind. masks: by kind."""
        for kind, own in masks.items():
            for name, marked in own.items():
                images = kinds.get(("test", kind), {}).get(name, {})
                for view in sorted(marked.keys() - images.keys()):
                    self.problem(marked[view], f"a mask without its image test/{kind}/{name}/{view}")

    def _check_kinds(self, kinds: Collection[tuple[str, str]]) -> None:
        for split, kind in sorted(kinds):
            place = f"{self.place}{split}/{kind}/"
            if kind != GOOD and kind.lower() in _MEAN_GOOD:
                self.problem(place, f"if these samples are good, call the folder {GOOD}")
            elif split == "train" and kind != GOOD:
                self.problem(place, f"training has good samples only; move these to test/{kind}/")

    def _labels(self, masks: Mapping[str, Images]) -> dict[str, int]:
        """Return the label of each mask by its path; masks that can't be read are a problem and are left
        out."""
        paths = [path for own in masks.values() for marked in own.values() for path in marked.values()]
        found = {}

        def label(path: str) -> int | str:
            try:
                return mask_label(MadeFolder(self.root, self.made) / path)
            except UserError as error:
                return str(error).removeprefix(f"{self.root / path}: ")

        if not paths:
            return {}
        with (
            progress(f"masks {self.category}", len(paths), "files") as bar,
            ThreadPoolExecutor(_THREADS) as pool,
        ):
            for path, one in zip(paths, pool.map(label, paths), strict=True):
                bar.advance()
                if isinstance(one, int):
                    found[path] = one
                else:
                    self.problem(path, one)
        return found

    def _labelled(
        self,
        split: Split,
        kind: str,
        name: str,
        images: Mapping[str, str],
        marked: Mapping[str, str],
        labels: Mapping[str, int],
        only: bool,
    ) -> Sample:
        """Return a sample with the labels of its views.

        Args:
          marked: its masks by view. labels: of the masks by path. only: the category has one view.
        """
        views = {}
        for view, path in images.items():
            mask = marked.get(view)
            if kind == GOOD:
                label, white = 0, labels.get(mask) == 1
                if white:
                    self.problem(
                        mask, f"marks a defect of a sample in test/{GOOD}; move the sample or the mask"
                    )
                mask = None
            elif marked:
                label = labels.get(mask, 0)
                mask = mask if mask in labels else None  # one that can't be read is a problem already
            else:
                label = 1 if only else None
            views[view] = View(view, path, label, mask)
        ordered = tuple(views[view] for view in sorted(views, key=natural_key))
        return Sample(f"{kind}/{name}", self.category, split, ordered, int(kind != GOOD))


def category_folders(root: Path) -> dict[str, str]:
    """Return category -> its folder below the root; {"": ""} if the root is one itself; empty if it is
    neither.

    Raises:
      OSError: the root can't be listed.
    """
    if (root / "train").is_dir():
        return {"": ""}
    if not root.is_dir():
        return {}
    # os.path: a folder that can't be looked into is no category, as lost+found.
    folders = sorted(path.name for path in root.iterdir() if os.path.isdir(path / "train"))
    found: dict[str, str] = {}
    for name in folders:
        if not name.startswith("."):
            found.setdefault(normal_form(name), name)
    return found


def holds_single_images(root: Path) -> bool:
    """Return whether the folders of categories hold images where those of this layout hold folders of samples.

    Raises:
      OSError: a folder can't be listed.
    """
    for folder in category_folders(root).values():
        for kind in sorted((root / folder).glob("train/*")) + sorted((root / folder).glob("test/*")):
            if kind.is_dir() and not kind.name.startswith("."):
                listing = FolderListing(kind)
                folders, files = listing.entries("")
                if folders or any(listing.is_image(file) for file in files):
                    return not folders
    return False


def _beside(root: Path, found: Mapping[str, str]) -> tuple[list[str], list[str]]:
    """Return the notes on folders beside the categories, and the problem of two that have one name."""
    notes, problems = [], []
    for name in FolderListing(root).entries("")[0]:
        if not os.path.isdir(root / name / "train"):
            notes.append(f"{name}/: passed over; it has no folder train, so it is no category")
        elif found[normal_form(name)] != name:
            problems.append(f"{name}/: {SECOND}")
    return notes, problems
