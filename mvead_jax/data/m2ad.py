"""M2AD on disk -> Listing: an object in 12 views under 10 lights.

    <root>/M2AD_<size>/<Category>/{Good,NG}/<object>/<name>.png     view = name[1:4] in degrees, light = name[6:8]
    <root>/M2AD_<size>/<Category>/GT/<object>/<name>_mask.png
    <root>/jsons/meta_unsupervised.json     {"train": {Category: [{img_path, image_anomaly, detectable}]}, "test": ...}

A light is a further view, or its images are a sample of their own (`lights`). A defect that the list calls not
detectable in an image does not show there: the image is normal, or left out as in the protocol M2AD-Invariant
(`undetectable`).
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

from mvead_jax.data.records import GOOD, Incomplete, Listing, Sample, View, natural_key
from mvead_jax.data.safe_paths import Folder, decoded, forward_slashes, read_at_most, unsafe_name, unsafe_path
from mvead_jax.data.sample_rules import chosen_categories, defects_learned, handle_incomplete, repeated_images
from mvead_jax.runtime.errors import UserError

_LISTS = ("jsons/meta_unsupervised.json", "meta_unsupervised.json")
_IMAGES = "M2AD_"
_LARGEST = 256 * 2**20
_ALL = frozenset(["Bird", "Car", "Cube", "Dice", "Doll", "Holder", "Motor", "Ring", "Teapot", "Tube"])
_VIEWS, _LIGHTS = 12, 10


@dataclass(frozen=True)
class M2adOptions:
    """What a sample is.

    Attributes:
      lights: `views`: each light of a view is a view of its own; `samples`: each light of an object is a sample;
        a number, such as 01: that light alone.
      undetectable: an image in which the list calls the defect not detectable is `normal`, or left out (`drop`).
      size: of the folder of images, 256 or 1024; empty = the one that is there.
    """

    lights: str = "views"
    undetectable: str = "normal"
    size: str = ""

    def __post_init__(self):
        if self.lights not in ("views", "samples") and not self.lights.isdecimal():
            raise UserError(
                f"config data.options='lights={self.lights}': write views, samples, or a light such as 01"
            )
        if self.undetectable not in ("normal", "drop"):
            raise UserError(f"config data.options='undetectable={self.undetectable}': write normal or drop")
        if self.size and (why := unsafe_name(self.size)):
            raise UserError(f"config data.options='size={self.size}': {why}; write 256 or 1024")


class _Image(NamedTuple):
    """An image of the list, with its object's kind and number."""

    split: str
    kind: str
    number: str
    view: str
    light: str
    image: View
    undetectable: bool


class M2adReader:
    """The reader of this layout, as readers.Reader."""

    layout = f"M2AD's {_LISTS[0]} beside {_IMAGES}<size>/<Category>/"
    options = M2adOptions

    def detect(self, root: Path) -> bool:
        """Return whether `root` holds the list, or a folder of images that is named as M2AD's."""
        if not root.is_dir():
            return False
        return any((root / path).is_file() for path in _LISTS) or any(root.glob(f"{_IMAGES}*/"))

    def read(
        self, root: Path, categories: Sequence[str], options: M2adOptions, incomplete: Incomplete
    ) -> Listing:
        """Return what the list names, with every path in it checked."""
        path, content = _content(root)
        images = _image_folder(root, content, options.size)
        found = {name for rows in content.values() for name in rows}
        reader = _ListReader(root, path, images, options)
        samples, notes = [], []
        for category in chosen_categories(root, categories, found):
            own = reader.read(category, content)
            notes += defects_learned(category, own)
            if not reader.problems:
                own, more, problems = handle_incomplete(own, incomplete) if own else (own, [], [])
                notes += more
                reader.problems += [f"{category}: {problem}" for problem in problems]
            samples += reader.detectable(own)
            if not reader.problems and not any(sample.split == "train" for sample in own):
                reader.problems.append(
                    f"{category}: the list has no training image of it; unpack the list again"
                )
        reader.problems += [f"{image}: listed more than once; keep one" for image in repeated_images(samples)]
        return Listing(root, samples, notes, reader.problems)

    def check(self, samples: Sequence[Sample], options: M2adOptions) -> list[str]:
        """Return how many views the samples of all ten categories have, if these are not M2AD's."""
        if {sample.category for sample in samples} != _ALL:
            return []
        views = {view.name for sample in samples for view in sample.views}
        wanted = _VIEWS * (_LIGHTS if options.lights == "views" else 1)
        return [] if len(views) == wanted else [f"views {len(views)}, M2AD has {wanted}"]

    def words(self, root: Path, options: M2adOptions, views: Sequence[str]) -> dict[str, str]:
        """Return the list, and what a sample is."""
        kind = {"views": "all views under all lights", "samples": "all views, a sample for each light"}
        views_of = kind.get(options.lights, f"all views under light {options.lights}")
        lists = f"meta_unsupervised, images without a detectable defect {_DONE[options.undetectable]}"
        return {"lists": lists, "list_views": f"{views_of} ({len(views)} views)"}


_DONE = {"normal": "are normal", "drop": "are left out"}
READER = M2adReader()


class _ListReader:
    """Reads the rows of a category; gathers problems."""

    def __init__(self, root: Path, path: str, images: str, options: M2adOptions):
        self.path, self.images, self.options = path, images, options
        self.inside = Folder(root)
        self.problems: list[str] = []
        self.hidden: set[str] = set()  # images in which the defect of their object is not detectable

    def read(self, category: str, content: dict[str, dict[str, list]]) -> list[Sample]:
        """Return the samples of a category, with images that do not show the defect."""
        groups: dict[tuple[str, str, str], list[View]] = defaultdict(list)
        if why := unsafe_name(category):
            self.problems.append(f"{self.path}: the category {category!r} {why}; correct the list")
        for split, rows in content.items():
            for number, row in enumerate(rows.get(category, [])):
                try:
                    one = self._image(split, row)
                except ValueError as error:
                    self.problems.append(f"{self.path}: {split}.{category}[{number}] {error}")
                    continue
                if one.undetectable:
                    self.hidden.add(one.image.image)
                name, lights = f"{one.kind}/{one.number}", self.options.lights
                if lights == "views":
                    groups[split, one.kind, name].append(replace(one.image, name=f"{one.view}_{one.light}"))
                elif lights == "samples":
                    groups[split, one.kind, f"{name}_{one.light}"].append(one.image)
                elif int(one.light) == int(lights):
                    groups[split, one.kind, name].append(one.image)
        if not groups and not self.problems:
            self.problems.append(
                f"{category}: no image under light {self.options.lights}; set data.options=lights=..."
            )
        return [
            Sample(
                name,
                category,
                split,
                tuple(sorted(views, key=lambda view: natural_key(view.name))),
                int(kind != GOOD),
            )
            for (split, kind, name), views in groups.items()
        ]

    def detectable(self, samples: Sequence[Sample]) -> list[Sample]:
        """Return the samples without images that are to be left out; a sample without any other is left out."""
        if self.options.undetectable == "normal":
            return list(samples)
        kept = [
            replace(sample, views=tuple(view for view in sample.views if view.image not in self.hidden))
            for sample in samples
        ]
        return [sample for sample in kept if sample.views]

    def _image(self, split: str, row: Any) -> _Image:
        """Return a row that can be used. Raises ValueError: why it can't, with the value and the fix."""
        if not isinstance(row, dict) or not {"img_path", "image_anomaly"} <= row.keys():
            raise ValueError("is not an object with img_path, image_anomaly; unpack the list again")
        image, label = row["img_path"], row["image_anomaly"]
        if why := unsafe_path(image):
            raise ValueError(f"img_path {image!r} {why}; correct the list")
        if label not in (0, 1):
            raise ValueError(f"image_anomaly {label!r}; write 0 or 1")
        path = PurePosixPath(self.images) / forward_slashes(image)
        view, light = path.stem[1:4], path.stem[6:8]
        if not (view.isdecimal() and light.isdecimal() and len(path.parts) >= 4):
            raise ValueError(
                f"{image!r}: a name has its view in letters 2 to 4 and its light in letters 7 and 8"
            )
        undetectable = bool(label) and row.get("detectable") is False
        mask = None
        if label and not undetectable:
            mask = str(path.parents[2] / "GT" / path.parent.name / f"{path.stem}_mask.png")
        for what in filter(None, (str(path), mask)):
            if why := self.inside.problem(what):
                raise ValueError(f"{what!r} {why}; unpack the data set again")
        shown = int(label and not undetectable)
        kind = path.parent.parent.name if label else GOOD
        return _Image(
            split, kind, path.parent.name, view, light, View(view, str(path), shown, mask), undetectable
        )


def _content(root: Path) -> tuple[str, dict[str, dict[str, list]]]:
    """Return where the list lies below the root, and its rows by split and category."""
    path = next((path for path in _LISTS if (root / path).is_file()), None)
    if path is None:
        raise UserError(f"{root / _LISTS[0]}: no such list; unpack jsons/ beside the images")
    try:
        text = read_at_most(root / path, _LARGEST)
        content = json.loads(decoded(text if text is not None else b""))
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"{root / path}: not JSON ({error}); unpack it again") from None
    if not isinstance(content, dict) or not all(
        isinstance(content.get(split), dict)
        and all(isinstance(rows, list) for rows in content[split].values())
        for split in ("train", "test")
    ):
        raise UserError(f"{root / path}: needs train and test with a list for each category; unpack it again")
    return path, {split: content[split] for split in ("train", "test")}


def _image_folder(root: Path, content: dict[str, dict[str, list]], size: str) -> str:
    """Return the folder below the root that the paths of the list start from; empty = the root itself."""
    rows = [row for split in content.values() for own in split.values() for row in own]
    listed = [row.get("img_path") for row in rows if isinstance(row, dict)]
    first = next((forward_slashes(path) for path in listed if not unsafe_path(path)), None)
    if first is None:
        raise UserError(f"{root}: M2AD's list names no image; unpack it again")
    folders = (
        [f"{_IMAGES}{size}"]
        if size
        else ["", "images", *sorted(path.name for path in root.glob(f"{_IMAGES}*/"))]
    )
    # That one image is missing is a problem of its own; its category is there all the same.
    for place in (first, PurePosixPath(first).parts[0]):
        holding = [folder for folder in folders if (root / folder / place).exists()]
        if len(holding) > 1:
            raise UserError(f"{root}: images in {', '.join(holding)}; choose one by data.options=size=256")
        if holding:
            return holding[0]
    looked = ", ".join(str(root / folder / first) for folder in folders)
    raise UserError(
        f"{root}: no image of the list is there; looked for {looked}; unpack the images beside jsons/"
    )
