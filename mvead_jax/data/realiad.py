"""Real-IAD on disk -> DatasetIndex.

    <root>/realiad_<size>/<category>/OK/S0001/<category>_0001_OK_C1_<time>.jpg
    <root>/realiad_<size>/<category>/NG/<CODE>/S0001/<category>_0001_NG_<CODE>_C1_<time>.jpg, mask beside it
    <root>/realiad_jsons/<category>.json                 or
    <root>/realiad_jsons/realiad_jsons/<category>.json   or
    <root>/explicit_full/<category>.json                 with the category folders beside it (ADer)

Labels come from the lists, never from the path: a defective part has views in which it looks normal, and
their files lie under NG/ all the same.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from typing import Any, Literal

from mvead_jax.data.realiad_names import PATTERN, Named, by_sample, sample_of, sample_of_name
from mvead_jax.data.records import (
    DatasetIndex,
    Folder,
    Listed,
    Sample,
    Split,
    View,
    chosen_categories,
    defects_learned,
    read_at_most,
    repeated_images,
    settle_incomplete,
    unsafe_name,
    unsafe_path,
)
from mvead_jax.runtime.errors import UserError, printable

_FIELDS = ("category", "anomaly_class", "image_path", "mask_path")
_LISTS = "realiad_jsons"
_ADER = "explicit_full"
_LARGEST_LIST = 64 * 2**20  # 200,000 pictures of a category; Python takes many times as much for it
_MOST_PROBLEMS = 1000  # of a list that are gathered
_MISSING = "no such file"  # as Folder.problem says it


def load_index(
    root: str | Path,
    categories: Sequence[str] = (),
    *,
    lists: str = _LISTS,
    images: str = "",
    incomplete: Literal["error", "drop", "keep"] = "error",
) -> DatasetIndex:
    """Reads the lists of some categories and checks every path in them.

    Args and errors as `read_lists`.

    Raises:
      DataProblems: everything wrong with the lists, at once.
    """
    return read_lists(root, categories, lists=lists, images=images, incomplete=incomplete).index()


def read_lists(
    root: str | Path,
    categories: Sequence[str] = (),
    *,
    lists: str = _LISTS,
    images: str = "",
    incomplete: Literal["error", "drop", "keep"] = "error",
) -> Listed:
    """What the lists of some categories hold, with every path in them checked.

    Args:
      root: the data set's folder.
      categories: names; empty = all lists that the root holds.
      lists: folder of lists below the root (variants: realiad_jsons_sv, realiad_jsons_fuiad_0.1 ...).
      images: folder of images below the root; empty = the one that holds the category.
      incomplete: what to do with a sample that lacks a view which others of its category have.

    Raises:
      UserError: no such root or category.
    """
    if not str(root):
        raise UserError("data.root is empty; set --config.data.root=<folder of the data set>")
    root = Path(root)
    if not root.is_dir():
        raise UserError(f"data.root {root}: no such folder; set --config.data.root=<folder of the data set>")
    for field, folder in (("lists", lists), ("images", images)):
        if folder and (why := unsafe_path(folder)):
            raise UserError(f"data.{field} {folder!r} {why}; name a folder below {root}")
    found = _find_lists(root, lists)
    problems: list[str] = []
    notes: list[str] = []
    samples: list[Sample] = []
    for category in chosen_categories(root, categories, found):
        if why := unsafe_name(category):
            place = found[category].relative_to(root)
            problems.append(f"{place}: the category {category!r} {why}; rename the list")
            continue
        reader = _CategoryReader(root, category, found[category], images, incomplete)
        samples += reader.read()
        problems += reader.problems
        notes += reader.notes
    return Listed(root, samples, notes, problems)


def _find_lists(root: Path, lists: str) -> dict[str, Path]:
    """Category -> list file, from the first of the known places that holds any."""
    places = [root / lists, root / lists / lists]
    if lists == _LISTS:  # who asks for a variant does not want the full lists instead
        places += [root / _ADER, root]
    for place in places:
        found = {path.stem: path for path in place.glob("*.json") if _is_category(root, place, path)}
        if found:
            return found
    looked = ", ".join(str(place) for place in places)
    raise UserError(
        f"data.root {root}: no list <category>.json in any of {looked}; name its folder by data.lists. "
        "Other layouts that are read: train/good/<sample>/<view>.png, <category>/train/good/<sample>/"
        "<view>.png, manifest.csv, and what scripts/prepare_data.py writes (docs/own_data.md)"
    )


def _is_category(root: Path, place: Path, path: Path) -> bool:
    """A JSON beside other things (cameras.json) is a list only if it has a folder of its name."""
    return place not in (root, root / _ADER) or (place / path.stem).is_dir()


class _CategoryReader:
    """Reads one list; gathers problems and notes instead of stopping at the first."""

    def __init__(self, root: Path, category: str, path: Path, images: str, incomplete: str):
        self.root, self.category, self.path = root, category, path
        self.images, self.incomplete = images, incomplete
        self.problems: list[str] = []
        self.notes: list[str] = []

    def read(self) -> list[Sample]:
        content = self._content()
        if content is None:
            return []
        prefix = content["meta"].get("prefix") or ""
        if prefix and (why := unsafe_path(prefix)):
            self._problem(f"meta.prefix {prefix!r} {why}; correct the list")
            return []
        folder = self._image_folder(prefix, content)
        if folder is None:
            return []
        entries = self._entries(content, folder, prefix)
        if not content["train"]:
            self._problem("the train list is empty: there is nothing to learn from; add normal samples to it")
        grouped, doubled = by_sample(entries)
        for problem in doubled:
            self._problem(problem)
        samples = [sample_of(self.category, key, own) for key, own in grouped]
        self.notes += defects_learned(self.category, samples)
        for image in repeated_images(samples) if not doubled else []:
            self._problem(f"{image}: listed in both splits; keep one entry")
        # A rejected entry leaves its sample without a view, which is no problem of its own.
        if self.problems:
            return samples
        samples, notes, problems = settle_incomplete(samples, self.incomplete)
        self.notes += notes
        for problem in problems:
            self._problem(problem)
        return samples

    def _problem(self, text: str) -> None:
        if len(self.problems) == _MOST_PROBLEMS:
            text = "has more problems, which are not listed"
        if len(self.problems) <= _MOST_PROBLEMS:
            self.problems.append(f"{self.path.relative_to(self.root)}: {printable(text)}")

    def _content(self) -> dict[str, Any] | None:
        try:
            if why := Folder(self.root).problem(self.path.relative_to(self.root).as_posix()):
                self._problem(why)  # before it is opened: a pipe would wait for ever
                return None
            text = read_at_most(self.path, _LARGEST_LIST)
            if text is None:
                self._problem(f"a list has at most {_LARGEST_LIST} bytes; this one has more")
                return None
            content = json.loads(text.decode())
        except OSError as error:
            self._problem(f"can't be read: {error.strerror}")
            return None
        except (ValueError, RecursionError) as error:
            self._problem(f"not JSON ({error}); copy it again")
            return None
        kinds = {"meta": dict, "train": list, "test": list}
        for key, kind in kinds.items():
            if not isinstance(content, dict) or not isinstance(content.get(key), kind):
                self._problem(
                    f"needs {key!r} to be {'an object' if kind is dict else 'a list'}; copy it again"
                )
                return None
        return content

    def _image_folder(self, prefix: str, content: dict[str, Any]) -> Path | None:
        """The folder of images, below the root, in which this category's first picture lies."""
        if self.images:
            candidates = [self.root / self.images]
        elif self.path.parent in (self.root, self.root / _ADER):
            candidates = [self.path.parent]
        else:
            folders = sorted(p for p in self.root.iterdir() if p.is_dir() and not p.name.startswith(_LISTS))
            candidates = [p for p in folders if p.name.startswith("realiad_")] + [
                self.root / _ADER,
                self.root,
            ]
        listed = [
            entry.get("image_path") for entry in content["train"] + content["test"] if isinstance(entry, dict)
        ]
        first = next((path for path in listed if unsafe_path(path) is None), self.category)
        holding = [folder for folder in candidates if _is_file(folder / prefix / first)]
        # That one picture is missing is a problem of its own; its folder is known all the same.
        holding = holding or [
            folder for folder in candidates if _is_folder(folder / (prefix or self.category))
        ]
        if not holding:
            tried = ", ".join(str(folder / prefix / first) for folder in candidates)
            self._problem(f"no folder of images; tried {tried}; name it by data.images")
            return None
        if len(holding) > 1:
            names = ", ".join(str(folder.relative_to(self.root)) for folder in holding)
            self._problem(f"images in several folders ({names}); choose one by data.images")
            return None
        return holding[0]

    def _entries(self, content: dict[str, Any], folder: Path, prefix: str) -> list[Named]:
        normal = content["meta"].get("normal_class", "OK")
        inside = Folder(folder)
        entries, missing = [], 0
        before = len(self.problems)
        for split in ("train", "test"):
            for number, raw in enumerate(content[split]):
                why = self._wrong(raw, inside, prefix)
                if why is None:
                    entries.append(self._listed(raw, split, folder, prefix, normal))
                else:
                    missing += why.endswith(_MISSING)
                    self._problem(f"{split}[{number}] {why}")
        if missing == len(content["train"]) + len(content["test"]) > 1:
            del self.problems[before:]
            self._problem(
                f"none of its {missing} pictures is below {folder / prefix}; "
                "check meta.prefix, or name the folder of images by data.images"
            )
        learned = [entry for entry in entries if entry.split == "train"]
        if learned and all(entry.view.label == 1 for entry in learned):
            self._problem(
                f"meta.normal_class {normal!r} is the anomaly_class of no training view; correct the list"
            )
        return entries

    def _wrong(self, raw: Any, inside: Folder, prefix: str) -> str | None:
        """Why an entry can't be used, with the value and the fix, or None."""
        if not isinstance(raw, dict) or any(field not in raw for field in _FIELDS):
            return f"is not an object with {', '.join(_FIELDS)}; correct the list"
        image, mask = raw["image_path"], raw["mask_path"]
        if raw["category"] != self.category:
            return f"{image}: category is {raw['category']!r}, not {self.category!r}; correct the list"
        if not isinstance(raw["anomaly_class"], str):
            return f"{image}: anomaly_class {raw['anomaly_class']!r} is not a name; correct the list"
        for path in [image] if mask is None else [image, mask]:
            if why := unsafe_path(path):
                return f"{path!r} {why}; correct the list"
            if why := inside.problem(str(PurePosixPath(prefix) / path)):
                return f"{path!r} {why}"
        if sample_of_name(PurePosixPath(image).name) is None:
            return f"{image}: {PATTERN}"
        return None

    def _listed(self, raw: dict[str, Any], split: Split, folder: Path, prefix: str, normal: str) -> Named:
        base = PurePosixPath(folder.relative_to(self.root).as_posix()) / prefix
        key, name = sample_of_name(PurePosixPath(raw["image_path"]).name)
        mask = raw["mask_path"]
        label = int(raw["anomaly_class"] != normal)
        return Named(key, split, View(name, str(base / raw["image_path"]), label, mask and str(base / mask)))


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except OSError:  # a name too long for the disk
        return False


def _is_folder(path: Path) -> bool:
    try:
        return path.is_dir()
    except OSError:
        return False
