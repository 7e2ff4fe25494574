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

import difflib
import json
import re
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, Literal

from mvead_jax.data.records import (
    DatasetIndex,
    Folder,
    Sample,
    Split,
    View,
    build_index,
    incomplete_samples,
    repeated_images,
    unsafe_path,
)
from mvead_jax.errors import DataProblems, UserError

# The official evaluator's sample key, then the view, anchored at both ends. A real name has two
# underscores before its number (audiojack__0064_NG_HS_...), so the category's end is not its first digit.
_NAME = re.compile(r"(?P<key>[a-zA-Z][a-zA-Z0-9_]*_[0-9]{4}_[A-Z][A-Z_]*[A-Z])_(?P<view>C[0-9]+)_")
_FIELDS = ("category", "anomaly_class", "image_path", "mask_path")
_ADER = "explicit_full"
_PATTERN = "the name is not <category>_<4 digits>_<OK or NG_CODE>_C<view>_<time>"
_PICTURES = (".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp")
_LARGEST_LIST = 256 * 2**20


def load_index(
    root: str | Path,
    categories: Sequence[str] = (),
    *,
    lists: str = "realiad_jsons",
    images: str = "",
    incomplete: Literal["error", "drop", "keep"] = "error",
) -> DatasetIndex:
    """Reads the lists of some categories and checks every path in them.

    Args:
      root: the data set's folder.
      categories: names; empty = all lists that the root holds.
      lists: folder of lists below the root (variants: realiad_jsons_sv, realiad_jsons_fuiad_0.1 ...).
      images: folder of images below the root; empty = the one that holds the category.
      incomplete: what to do with a sample that lacks a view which others of its category have.

    Raises:
      UserError: no such root or category.
      DataProblems: everything wrong with the lists, at once.
    """
    if not str(root):
        raise UserError("data.root is empty; set --config.data.root=<folder of the data set>")
    root = Path(root)
    if not root.is_dir():
        raise UserError(f"data.root {root}: no such folder")
    found = _find_lists(root, lists)
    for category in categories:
        if category not in found:
            close = difflib.get_close_matches(category, list(found), n=1)
            hint = f", did you mean {close[0]!r}?" if close else ";"
            raise UserError(f"unknown category {category!r}{hint} {root} holds: {', '.join(sorted(found))}")

    problems: list[str] = []
    notes: list[str] = []
    samples: list[Sample] = []
    for category in sorted(set(categories) or found):
        reader = _CategoryReader(root, category, found[category], images, incomplete)
        samples += reader.read()
        problems += reader.problems
        notes += reader.notes
    if problems:
        raise DataProblems(str(root), problems)
    return build_index(root, samples, notes)


def load_pictures(folder: Path) -> DatasetIndex:
    """The index of new pictures without labels: all files below `folder` that are named as in Real-IAD.

    The category, the sample and the view come from the name. Where a .png lies beside another picture of the
    same view, it is taken for a mask, as in Real-IAD's own folders.

    Raises:
      UserError: no such folder, or no picture in it.
      DataProblems: pictures whose names don't follow the pattern, or two pictures of one view.
    """
    if not folder.is_dir():
        raise UserError(f"--input {folder}: no such folder")
    found: dict[tuple[str, str], list[str]] = defaultdict(list)
    problems = []
    for path in sorted(path for path in folder.rglob("*") if path.suffix.lower() in _PICTURES):
        name = path.relative_to(folder).as_posix()
        parsed = sample_of_name(path.name)
        if parsed is None:
            problems.append(f"{name}: {_PATTERN}")
        else:
            found[parsed].append(name)
    samples: dict[str, list[View]] = defaultdict(list)
    for (key, view), names in found.items():
        if len(names) > 1:
            names = [name for name in names if not name.lower().endswith(".png")]
        if len(names) != 1:
            problems.append(f"sample {key} has view {view} more than once: {', '.join(found[key, view])}")
            continue
        samples[key].append(View(view, names[0]))
    if problems:
        raise DataProblems(str(folder), problems)
    if not samples:
        raise UserError(f"--input {folder}: no picture ({', '.join(_PICTURES)}) in it")
    category = {key: re.sub(r"_+[0-9]{4}_[A-Z_]+$", "", key) for key in samples}
    by_view = {
        key: tuple(sorted(views, key=lambda view: int(view.name[1:]))) for key, views in samples.items()
    }
    return build_index(folder, [Sample(key, category[key], "test", by_view[key]) for key in samples])


def sample_of_name(name: str) -> tuple[str, str] | None:
    """(sample key, view) of a file name in Real-IAD's pattern, or None."""
    match = _NAME.match(name)
    return (match["key"], match["view"]) if match else None


def _find_lists(root: Path, lists: str) -> dict[str, Path]:
    """Category -> list file, from the first of the known places that holds any."""
    places = [root / lists, root / lists / lists, root / _ADER, root]
    for place in places:
        found = {path.stem: path for path in place.glob("*.json") if _is_category(root, place, path)}
        if found:
            return found
    looked = ", ".join(str(place) for place in places)
    raise UserError(
        f"data.root {root}: no list <category>.json in any of {looked}; name its folder by data.lists"
    )


def _is_category(root: Path, place: Path, path: Path) -> bool:
    """A JSON beside other things (cameras.json) is a list only if it has a folder of its name."""
    return place not in (root, root / _ADER) or (place / path.stem).is_dir()


@dataclass
class _Entry:
    key: str
    split: Split
    view: View


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
        meta = content["meta"]
        prefix, normal = meta.get("prefix", ""), meta.get("normal_class", "OK")
        if prefix and (why := unsafe_path(prefix)):
            self._problem(f"meta.prefix {prefix!r} {why}")
            return []
        base = self._image_folder(prefix, content)
        if base is None:
            return []
        self._folder, self._base = Folder(self.root), base
        entries = []
        for split in ("train", "test"):
            for number, raw in enumerate(content[split]):
                entry = self._entry(raw, split, f"{split}[{number}]", normal)
                if entry is not None:
                    entries.append(entry)
        if not content["train"]:
            self._problem("the train list is empty")
        samples = list(self._samples(entries))
        for image in repeated_images(samples):
            self._problem(f"{image}: listed more than once")
        return self._complete(samples)

    def _problem(self, text: str) -> None:
        self.problems.append(f"{self.path.relative_to(self.root)}: {text}")

    def _content(self) -> dict[str, Any] | None:
        if (size := self.path.stat().st_size) > _LARGEST_LIST:
            self._problem(f"{size} bytes; a list has at most {_LARGEST_LIST}")
            return None
        try:
            content = json.loads(self.path.read_text(encoding="utf-8"))
        except (ValueError, RecursionError) as error:
            self._problem(f"not JSON: {error}")
            return None
        kinds = {"meta": dict, "train": list, "test": list}
        for key, kind in kinds.items():
            if not isinstance(content, dict) or not isinstance(content.get(key), kind):
                self._problem(f"needs {key!r} to be {'an object' if kind is dict else 'a list'}")
                return None
        return content

    def _image_folder(self, prefix: str, content: dict[str, Any]) -> PurePosixPath | None:
        """Where this category's paths start, relative to the root: where its first picture lies."""
        if self.images:
            candidates = [self.root / self.images]
        elif self.path.parent in (self.root, self.root / _ADER):
            candidates = [self.path.parent]
        else:
            folders = sorted(
                p for p in self.root.iterdir() if p.is_dir() and not p.name.startswith("realiad_jsons")
            )
            candidates = [p for p in folders if p.name.startswith("realiad_")] + [
                self.root / _ADER,
                self.root,
            ]
        listed = (
            entry.get("image_path") for entry in content["train"] + content["test"] if isinstance(entry, dict)
        )
        first = next((path for path in listed if unsafe_path(path) is None), self.category)
        holding = [folder for folder in candidates if (folder / prefix / first).is_file()]
        # That one picture is missing is a problem of its own; its folder is known all the same.
        holding = holding or [
            folder for folder in candidates if (folder / (prefix or self.category)).is_dir()
        ]
        if not holding:
            tried = ", ".join(str(folder / prefix / first) for folder in candidates)
            self._problem(f"no folder of images; tried {tried}; name it by data.images")
            return None
        if len(holding) > 1:
            names = ", ".join(str(folder.relative_to(self.root)) for folder in holding)
            self._problem(f"images in several folders ({names}); choose one by data.images")
            return None
        return PurePosixPath((holding[0] / prefix).relative_to(self.root).as_posix())

    def _entry(self, raw: Any, split: Split, where: str, normal: str) -> _Entry | None:
        if not isinstance(raw, dict) or any(field not in raw for field in _FIELDS):
            self._problem(f"{where} is not an object with {', '.join(_FIELDS)}")
            return None
        image, mask = raw["image_path"], raw["mask_path"]
        if raw["category"] != self.category:
            self._problem(f"{where} {image}: category is {raw['category']!r}, not {self.category!r}")
            return None
        if not isinstance(raw["anomaly_class"], str):
            self._problem(f"{where} {image}: anomaly_class {raw['anomaly_class']!r} is not a name")
            return None
        for path in [image] if mask is None else [image, mask]:
            if why := unsafe_path(path) or self._folder.problem(str(self._base / path)):
                self._problem(f"{where} {path!r} {why}")
                return None
        parsed = sample_of_name(PurePosixPath(image).name)
        if parsed is None:
            self._problem(
                f"{where} {image}: the name is not <category>_<4 digits>_<OK or NG_CODE>_C<view>_<time>"
            )
            return None
        key, name = parsed
        label = int(raw["anomaly_class"] != normal)
        view = View(name, str(self._base / image), label, None if mask is None else str(self._base / mask))
        return _Entry(key, split, view)

    def _samples(self, entries: Sequence[_Entry]) -> Iterator[Sample]:
        """Groups by sample key. A doubled underscore before the number is taken as a slip of the pen, unless
        that would give a sample the same view twice."""
        groups: dict[tuple[Split, str], list[_Entry]] = defaultdict(list)
        for entry in entries:
            groups[entry.split, re.sub(r"_+([0-9]{4}_)", r"_\1", entry.key)].append(entry)
        for (split, key), group in groups.items():
            if len({entry.view.name for entry in group}) == len(group):
                yield self._sample(key, split, group)
                continue
            parts: dict[str, list[_Entry]] = defaultdict(list)
            for entry in group:
                parts[entry.key].append(entry)
            for own_key, part in parts.items():
                names = [entry.view.name for entry in part]
                if len(set(names)) < len(names):
                    files = ", ".join(sorted(entry.view.image for entry in part))
                    self._problem(f"{split} sample {own_key} has a view twice: {files}")
                else:
                    yield self._sample(own_key, split, part)

    def _sample(self, key: str, split: Split, group: Sequence[_Entry]) -> Sample:
        views = sorted((entry.view for entry in group), key=lambda view: int(view.name[1:]))
        return Sample(key, self.category, split, tuple(views))

    def _complete(self, samples: list[Sample]) -> list[Sample]:
        lacking = incomplete_samples(samples)
        if not lacking or self.incomplete == "keep":
            if lacking:
                self.notes.append(f"{self.category}: {len(lacking)} samples lack a view and are kept")
            return samples
        if self.incomplete == "drop":
            self.notes.append(f"{self.category}: {len(lacking)} samples lack a view and are left out")
            left_out = {id(sample) for sample, _ in lacking}
            return [sample for sample in samples if id(sample) not in left_out]
        for sample, missing in lacking:
            self._problem(
                f"{sample.split} sample {sample.id} has no {', '.join(missing)}; "
                "leave such samples out by data.incomplete=drop or use them by data.incomplete=keep"
            )
        return samples
