"""One list of Real-IAD: JSON of one category -> its samples, with everything that is wrong in it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from typing import Any

from mvead_jax.data.realiad_names import PATTERN, Named, by_sample, sample_of, sample_of_name
from mvead_jax.data.records import Incomplete, Sample, Split, View
from mvead_jax.data.safe_paths import (
    NO_FILE,
    Folder,
    decoded,
    forward_slashes,
    normal_form,
    read_at_most,
    respelled,
    unsafe_path,
)
from mvead_jax.data.sample_rules import defects_learned, handle_incomplete, repeated_images
from mvead_jax.runtime.errors import printable

LISTS, ADER = (
    "realiad_jsons",
    "explicit_full",
)  # folders of lists: Real-IAD's own, and that of another program

_FIELDS = ("category", "anomaly_class", "image_path", "mask_path")
_LARGEST_LIST = 64 * 2**20  # 200,000 images of a category; Python takes many times as much for it
_MOST_PROBLEMS = 1000  # of a list that are gathered


class ListReader:
    """Reads one list; gathers problems and notes instead of stopping at the first.

    Attributes:
      pattern: what is wrong with a file name that tells no sample and view.
    """

    pattern = PATTERN

    def __init__(self, root: Path, category: str, path: Path, images: str, incomplete: Incomplete):
        """
        Args:
          path: of the list. images: folder of images below the root; empty = the one that holds the category.
        """
        self.root, self.category, self.path = root, category, path
        self.images, self.incomplete = images, incomplete
        self.problems: list[str] = []
        self.notes: list[str] = []

    def read(self) -> list[Sample]:
        """Return the samples of the list, as far as they can be read."""
        content = self._content()
        if content is None:
            return []
        prefix = content["meta"].get("prefix") or ""
        if prefix and (why := unsafe_path(prefix)):
            self._problem(f"meta.prefix {prefix!r} {why}; correct the list")
            return []
        prefix = forward_slashes(prefix)
        folder = self._image_folder(prefix, content)
        if folder is None:
            return []
        entries = self._entries(content, folder, prefix)
        if not content["train"]:
            self._problem("the train list is empty: there is nothing to learn from; add normal samples to it")
        grouped, doubled = by_sample(entries)
        for problem in doubled:
            self._problem(problem)
        samples = [self.sample(key, own) for key, own in grouped]
        self.notes += defects_learned(self.category, samples)
        for image in repeated_images(samples) if not doubled else []:
            self._problem(f"{image}: listed in both splits; keep one entry")
        # A rejected entry leaves its sample without a view, which is no problem of its own.
        if self.problems:
            return samples
        samples, notes, problems = handle_incomplete(samples, self.incomplete)
        self.notes += notes
        for problem in problems:
            self._problem(problem)
        return samples

    def image_folders(self) -> list[Path]:
        """Return the folders below the root that may hold the images."""
        if self.images:
            return [self.root / self.images]
        if self.path.parent in (self.root, self.root / ADER):
            return [self.path.parent]
        folders = sorted(p for p in self.root.iterdir() if p.is_dir() and not p.name.startswith(LISTS))
        named = [p for p in folders if p.name.startswith("realiad_")]
        return [*named, self.root / ADER, self.root]

    def named(self, split: Split, image: str, mask: str | None, kind: str, normal: bool) -> Named | None:
        """Return an entry with the sample and the view that its image's path tells, None if it tells none.

        Args:
          image, mask: paths below the root. kind: its anomaly_class. normal: whether that is the normal one.
        """
        if (found := sample_of_name(PurePosixPath(image).name)) is None:
            return None
        key, view = found
        return Named(key, split, View(view, image, int(not normal), mask))

    def sample(self, key: str, entries: Sequence[Named]) -> Sample:
        """Return the sample of the entries of one key."""
        return sample_of(self.category, key, entries)

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
            content = json.loads(decoded(text))
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
        """Return the folder of images, below the root, in which this category's first image lies."""
        candidates = self.image_folders()
        listed = [
            entry.get("image_path") for entry in content["train"] + content["test"] if isinstance(entry, dict)
        ]
        first = next((forward_slashes(path) for path in listed if not unsafe_path(path)), self.category)
        holding = [folder for folder in candidates if _is_file(respelled(folder / prefix / first))]
        # That one image is missing is a problem of its own; its folder is known all the same.
        holding = holding or [
            folder for folder in candidates if _is_folder(respelled(folder / (prefix or self.category)))
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
        """Return the entries that can be used; a list whose every image is missing is one problem."""
        normal = content["meta"].get("normal_class", "OK")
        inside = Folder(folder)
        entries, missing = [], 0
        before = len(self.problems)
        for split in ("train", "test"):
            for number, raw in enumerate(content[split]):
                entry = self._entry(raw, split, inside, folder, prefix, normal)
                if isinstance(entry, Named):
                    entries.append(entry)
                else:
                    missing += entry.endswith(NO_FILE)
                    self._problem(f"{split}[{number}] {entry}")
        if missing == len(content["train"]) + len(content["test"]) > 1:
            del self.problems[before:]
            self._problem(
                f"none of its {missing} images is below {folder / prefix}; "
                "check meta.prefix, or name the folder of images by data.images"
            )
        learned = [entry for entry in entries if entry.split == "train"]
        if learned and all(entry.view.label == 1 for entry in learned):
            self._problem(
                f"meta.normal_class {normal!r} is the anomaly_class of no training view; correct the list"
            )
        return entries

    def _entry(
        self, raw: Any, split: Split, inside: Folder, folder: Path, prefix: str, normal: str
    ) -> Named | str:
        """Return an entry of the list, or why it can't be used, with the value and the fix."""
        if not isinstance(raw, dict) or any(field not in raw for field in _FIELDS):
            return f"is not an object with {', '.join(_FIELDS)}; correct the list"
        image, mask = raw["image_path"], raw["mask_path"]
        if not isinstance(raw["category"], str) or normal_form(raw["category"]) != self.category:
            return f"{image}: category is {raw['category']!r}, not {self.category!r}; correct the list"
        if not isinstance(raw["anomaly_class"], str):
            return f"{image}: anomaly_class {raw['anomaly_class']!r} is not a name; correct the list"
        if isinstance(mask, str) and not mask.strip():
            mask = None  # as lists are written in which every entry is text
        base = PurePosixPath(folder.relative_to(self.root).as_posix())
        paths = []
        for path in [image] if mask is None else [image, mask]:
            if why := unsafe_path(path):
                return f"{path!r} {why}; correct the list"
            found, why = inside.find(str(PurePosixPath(prefix) / forward_slashes(path)))
            if why:
                return f"{path!r} {why}"
            paths.append(str(base / found))
        kind = raw["anomaly_class"]
        named = self.named(split, paths[0], paths[1] if mask else None, kind, kind == normal)
        return named or f"{image}: {self.pattern}"


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
