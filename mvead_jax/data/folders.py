"""A user's own pictures, sorted into folders -> DatasetIndex.

    <root>/train/good/<sample>/<view>.<ext>            good parts, to learn from
    <root>/test/good/<sample>/<view>.<ext>
    <root>/test/<defect>/<sample>/<view>.<ext>         <defect>: any name, scratch
    <root>/ground_truth/<defect>/<sample>/<view>.png   where the defect is, if someone marked it

or the same below <root>/<category>/ for several kinds of parts. A view has one name in all samples.

A sample is called by its folders, "scratch/0007". Labels of its views come from the masks: a view is
defective if its mask has a pixel that is white, normal if it has none, or if other views of the sample have
masks and it has not. Without any mask the part is known to be defective, its views are not (but for the one
view of a category that has no other).
"""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Literal

from mvead_jax.data.loading import mask_label
from mvead_jax.data.records import (
    GOOD,
    MOST_VIEWS,
    PICTURE_FILES,
    DatasetIndex,
    Folder,
    Listed,
    Sample,
    Split,
    View,
    build_index,
    chosen_categories,
    natural_key,
    normal_form,
    settle_incomplete,
    unsafe_name,
    view_names,
)
from mvead_jax.runtime.errors import DataProblems, UserError
from mvead_jax.runtime.progress import progress

_TRUTH = "ground_truth"
_PARTS = ("train", "test", _TRUTH)
_LEFT_BY_SYSTEMS = ("thumbs.db", "desktop.ini", "__macosx")
_MEAN_GOOD = ("ok", "good", "normal")
_SECOND = "a second folder of this name, spelled with other code points; rename one"
_THREADS = 8

Pictures = dict[str, dict[str, str]]  # sample -> view -> path below the root


def is_folder_layout(root: Path) -> bool:
    """Whether `root` holds a category, or categories, sorted into folders."""
    return bool(_category_folders(root))


def read_folder(
    root: Path, categories: Sequence[str] = (), *, incomplete: Literal["error", "drop", "keep"] = "error"
) -> Listed:
    """What the folders of some categories hold. Opens the masks, not the pictures.

    Args:
      root: the folder of one category, or of several.
      categories: names; empty = all. Of a root that is one category itself: what to call it, else it is
        called as its folder.
      incomplete: what to do with a sample that lacks a view which others of its category have.

    Raises:
      UserError: no such category.
    """
    found = _category_folders(root)
    if found == {"": ""}:
        name = categories[0] if len(categories) == 1 else Path(os.path.abspath(root)).name
        found = {normal_form(name): ""}
        notes, problems = [], []
    else:
        notes, problems = _beside(root, found)
    samples: list[Sample] = []
    for category in chosen_categories(root, categories, found):
        if why := unsafe_name(category):
            problems.append(f"category {category!r} {why}; rename the folder")
        reader = _CategoryReader(root, category, found[category])
        own = reader.read()
        problems += reader.problems
        notes += reader.notes
        if not reader.problems:  # what is wrong above leaves samples without views
            own, more_notes, more_problems = settle_views(own, incomplete)
            notes += more_notes
            problems += [f"{category}: {problem}" for problem in more_problems]
        samples += own
    return Listed(root, samples, notes, problems)


def read_parts(folder: Path, views: Mapping[str, Sequence[str]]) -> DatasetIndex:
    """The index of new parts without labels: <folder>/<sample>/<view>.<ext>, and with several categories
    <folder>/<category>/<sample>/<view>.<ext>. Samples may lack views.

    Args:
      views: of each category that is known, the names of its views.

    Raises:
      UserError: no such folder, or no picture in it.
      DataProblems: everything that is not named so, at once.
    """
    if not folder.is_dir():
        raise UserError(f"--input {folder}: no such folder")
    if not views:
        raise UserError(f"--input {folder}: nothing is trained to score it by; run scripts/train.py")
    lister = _Lister(folder)
    known = {normal_form(name): name for name in views}
    places = {next(iter(views)): ""} if len(views) == 1 else {}
    if len(views) > 1:
        for entry in lister.folders("", f"it holds a folder for each of {', '.join(views)}"):
            category = known.get(normal_form(entry))
            if category is None:
                lister.problem(entry, f"no category of this run; {', '.join(views)} are")
            elif category in places:
                lister.problem(f"{entry}/", _SECOND)
            else:
                places[category] = f"{entry}/"
    samples = []
    for category, place in places.items():
        for name, pictures in lister.samples(place).items():
            for view in sorted(pictures.keys() - set(views[category])):
                lister.problem(pictures[view], f"view {view!r} is unknown; {', '.join(views[category])} are")
            samples.append(_sample(name, category, "test", {v: View(v, p) for v, p in pictures.items()}))
    if lister.problems:
        raise DataProblems(f"--input {folder}", lister.problems)
    if not samples:
        raise UserError(f"--input {folder}: no <sample>/<view> ({', '.join(PICTURE_FILES)}) in it")
    return build_index(folder, samples)


def settle_views(
    samples: list[Sample], incomplete: Literal["error", "drop", "keep"]
) -> tuple[list[Sample], list[str], list[str]]:
    """As `settle_incomplete`; more views than a rig has are one problem, not thousands."""
    names = view_names(samples)
    if len(names) > MOST_VIEWS:
        few = f"{len(names)} views ({', '.join(names[:3])}, ...), at most {MOST_VIEWS}"
        return samples, [], [f"{few}: a view has one name in all samples; rename the files"]
    return settle_incomplete(samples, incomplete)


class _Lister:
    """Lists folders of samples; gathers problems and what it passes over instead of stopping."""

    def __init__(self, root: Path):
        self.root, self.inside = root, Folder(root)
        self.problems: list[str] = []
        self.others: dict[str, int] = {}

    def problem(self, path: str, text: str) -> None:
        self.problems.append(f"{path}: {text}")

    def folders(self, place: str, expected: str) -> list[str]:
        """Names of the folders in `place`; a picture beside them is a problem."""
        folders, files = self.entries(place)
        for name in files:
            if self._is_picture(name):
                self.problem(place + name, f"a picture in the wrong place; {expected}")
        return folders

    def samples(self, place: str) -> Pictures:
        """The pictures of <place>/<sample>/<view>.<ext>."""
        found: Pictures = {}
        for folder in self.folders(place, "a sample is a folder that holds its views"):
            own = f"{place}{folder}/"
            name = normal_form(folder)
            if why := unsafe_name(name):
                self.problem(own, f"its name {why}; rename it")
            elif name in found:
                self.problem(own, _SECOND)
            elif pictures := self._views(own):
                found[name] = pictures
        return found

    def _views(self, place: str) -> dict[str, str]:
        folders, files = self.entries(place)
        for folder in folders:
            self.problem(f"{place}{folder}/", "a folder inside a sample; views are files")
        found: dict[str, list[str]] = {}
        for file in files:
            if not self._is_picture(file):
                continue
            view = normal_form(Path(file).stem)
            why = self.inside.problem(place + file)
            if not why and (bad := unsafe_name(view)):
                why = f"its name {bad}; rename it"
            if why:
                self.problem(place + file, why)
            else:
                found.setdefault(view, []).append(place + file)
        for view, paths in found.items():
            if len(paths) > 1:
                self.problem(place, f"view {view} twice, keep one: {', '.join(Path(p).name for p in paths)}")
        if not found and not folders:
            self.problem(place, f"no picture ({', '.join(PICTURE_FILES)}) in it")
        return {view: paths[0] for view, paths in found.items()}

    def _is_picture(self, file: str) -> bool:
        suffix = Path(file).suffix.lower()
        if suffix not in PICTURE_FILES:
            self.others[suffix] = self.others.get(suffix, 0) + 1
        return suffix in PICTURE_FILES

    def entries(self, place: str) -> tuple[list[str], list[str]]:
        """Names of folders and of files, sorted, without what systems leave."""
        folders, files = [], []
        if not os.path.lexists(self.root / place):
            return folders, files  # as ground_truth/, where nobody marked a defect
        try:
            with os.scandir(self.root / place) as listing:
                for entry in listing:
                    if not entry.name.startswith(".") and entry.name.lower() not in _LEFT_BY_SYSTEMS:
                        (folders if entry.is_dir() else files).append(entry.name)
        except OSError as error:
            self.problem(place, f"{error.strerror}")
        return sorted(folders), sorted(files)


class _CategoryReader(_Lister):
    """Reads one category."""

    def __init__(self, root: Path, category: str, folder: str):
        super().__init__(root)
        self.category, self.place = category, f"{folder}/" if folder else ""
        self.notes: list[str] = []

    def read(self) -> list[Sample]:
        kinds = {("train", kind): own for kind, own in self._kinds("train").items()}
        kinds |= {("test", kind): own for kind, own in self._kinds("test").items()}
        masks = self._kinds(_TRUTH)
        self._check_kinds(kinds)
        only = len({view for own in kinds.values() for pictures in own.values() for view in pictures}) == 1
        labels = self._labels(masks)
        samples = []
        for (split, kind), own in kinds.items():
            for name, pictures in own.items():
                marked = masks.get(kind, {}).get(name, {}) if split == "test" else {}
                samples.append(self._labelled(split, kind, name, pictures, marked, labels, only))
        for kind, own in masks.items():
            for name, marked in own.items():
                pictures = kinds.get(("test", kind), {}).get(name, {})
                for view in sorted(marked.keys() - pictures.keys()):
                    self.problem(marked[view], f"a mask without its picture test/{kind}/{name}/{view}")
        if not any(split == "train" for split, _ in kinds):
            self.problem(f"{self.place}train/{GOOD}/", "no sample to learn from; put good parts there")
        if not any(split == "test" for split, _ in kinds):
            self.notes.append(f"{self.category}: no test samples: nothing to score")
        for name in self.entries(self.place)[0]:
            if name not in _PARTS:
                self.notes.append(
                    f"{self.place}{name}/: passed over; a category holds the folders {', '.join(_PARTS)}"
                )
        for suffix, count in sorted(self.others.items()):
            self.notes.append(
                f"{self.category}: {count} files {suffix or 'without an ending'} are passed over"
            )
        return samples

    def _kinds(self, split: str) -> dict[str, Pictures]:
        """Of each kind below a split its samples; kinds without any are left out."""
        place, found = f"{self.place}{split}/", {}
        for kind in self.folders(place, f"pictures lie in {split}/<kind>/<sample>/"):
            if why := unsafe_name(normal_form(kind)):
                self.problem(f"{place}{kind}/", f"its name {why}; rename it")
            elif normal_form(kind) in found:
                self.problem(f"{place}{kind}/", _SECOND)
            elif own := self.samples(f"{place}{kind}/"):
                found[normal_form(kind)] = own
        return found

    def _check_kinds(self, kinds: Collection[tuple[str, str]]) -> None:
        for split, kind in sorted(kinds):
            place = f"{self.place}{split}/{kind}/"
            if kind != GOOD and kind.lower() in _MEAN_GOOD:
                self.problem(place, f"if these parts are good, call the folder {GOOD}")
            elif split == "train" and kind != GOOD:
                self.problem(place, f"training has good parts only; move these to test/{kind}/")

    def _labels(self, masks: Mapping[str, Pictures]) -> dict[str, int]:
        """Of each mask by its path; those that can't be read are a problem and are left out."""
        paths = [path for own in masks.values() for marked in own.values() for path in marked.values()]
        found = {}

        def label(path: str) -> int | str:
            try:
                return mask_label(self.root / path)
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
        pictures: Mapping[str, str],
        marked: Mapping[str, str],
        labels: Mapping[str, int],
        only: bool,
    ) -> Sample:
        """A sample with the labels of its views.

        Args:
          marked: its masks by view. labels: of the masks by path. only: the category has one view.
        """
        views = {}
        for view, path in pictures.items():
            mask = marked.get(view)
            if kind == GOOD:
                label, white = 0, labels.get(mask) == 1
                if white:
                    self.problem(mask, f"marks a defect of a part in test/{GOOD}; move the part or the mask")
                mask = None
            elif marked:
                label = labels.get(mask, 0)
                mask = mask if mask in labels else None  # one that can't be read is a problem already
            else:
                label = 1 if only else None
            views[view] = View(view, path, label, mask)
        return _sample(f"{kind}/{name}", self.category, split, views, int(kind != GOOD))


def _sample(
    name: str, category: str, split: Split, views: Mapping[str, View], stated: int | None = None
) -> Sample:
    ordered = tuple(views[view] for view in sorted(views, key=natural_key))
    return Sample(name, category, split, ordered, stated)


def _category_folders(root: Path) -> dict[str, str]:
    """Category -> its folder below the root; {"": ""} if the root is one itself; empty if it is neither.

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


def _beside(root: Path, found: Mapping[str, str]) -> tuple[list[str], list[str]]:
    """Notes on folders beside the categories, and the problem of two that have one name."""
    notes, problems = [], []
    for name in _Lister(root).entries("")[0]:
        if not os.path.isdir(root / name / "train"):
            notes.append(f"{name}/: passed over; it has no folder train, so it is no category")
        elif found[normal_form(name)] != name:
            problems.append(f"{name}/: {_SECOND}")
    return notes, problems
