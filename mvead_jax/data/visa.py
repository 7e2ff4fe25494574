"""VisA on disk -> Listing: single images that a CSV lists.

    <root>/split_csv/1cls.csv                          object,split,label,image,mask
    <root>/<object>/Data/Images/Normal/0001.JPG
    <root>/<object>/Data/Masks/Anomaly/0001.png        0 where the object is good, else the number of the defect's kind

The lists 2cls_fewshot and 2cls_highshot hold defects in their training too.
"""

from __future__ import annotations

import csv
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from mvead_jax.data.csv_list import no_csv, read_rows
from mvead_jax.data.made_images import MadeFolder, marked
from mvead_jax.data.published_counts import other_counts
from mvead_jax.data.records import GOOD, Incomplete, Listing, Sample, View
from mvead_jax.data.safe_paths import Folder, normal_form, unsafe_name
from mvead_jax.data.sample_rules import chosen_categories, defects_learned, repeated_images
from mvead_jax.data.single_view import VIEW
from mvead_jax.runtime.errors import UserError

_FOLDER = "split_csv"
_COLUMNS = ("object", "split", "label", "image", "mask")
_LABELS = {"normal": 0, "anomaly": 1}


@dataclass(frozen=True)
class VisaOptions:
    """Which list: 1cls, 2cls_fewshot or 2cls_highshot."""

    split: str = "1cls"

    def __post_init__(self):
        if why := unsafe_name(self.split):
            raise UserError(f"config data.options='split={self.split}': {why}; name a list of {_FOLDER}/")


class VisaReader:
    """The reader of this layout, as readers.Reader."""

    layout = f"VisA's {_FOLDER}/1cls.csv beside <object>/Data/"
    options = VisaOptions

    def detect(self, root: Path) -> bool:
        """Return whether `root` holds VisA's folder of lists."""
        return (root / _FOLDER).is_dir()

    def read(
        self, root: Path, categories: Sequence[str], options: VisaOptions, incomplete: Incomplete
    ) -> Listing:
        """Return what the list names, with every path in it checked; samples have one view."""
        path = root / _FOLDER / f"{options.split}.csv"
        if not path.is_file():
            known = ", ".join(sorted(own.stem for own in path.parent.glob("*.csv"))) or "nothing"
            raise UserError(
                f"{path}: no such list; {_FOLDER}/ holds {known}; name one by data.options=split=..."
            )
        rows, _ = read_rows(path, _COLUMNS)
        samples, problems = [], []
        inside = Folder(root)
        try:
            for number, row in rows:
                try:
                    samples.append(_sample(row, inside))
                except ValueError as error:
                    problems.append(f"{_FOLDER}/{path.name} line {number}: {error}")
        except csv.Error as error:
            raise no_csv(path, error) from None
        by_category = defaultdict(list)
        for sample in samples:
            by_category[sample.category].append(sample)
        chosen = chosen_categories(root, categories, by_category) if samples else []
        samples = [sample for category in chosen for sample in by_category[category]]
        notes = [note for category in chosen for note in defects_learned(category, by_category[category])]
        problems += [f"{image}: listed more than once; keep one line" for image in repeated_images(samples)]
        for category in chosen if not problems else ():
            if not any(sample.split == "train" for sample in by_category[category]):
                problems.append(f"{category}: no line of split train: nothing to learn from")
        made = {view.mask: marked(view.mask) for sample in samples for view in sample.views if view.mask}
        return Listing(MadeFolder(root, made), samples, notes, problems)

    def check(self, samples: Sequence[Sample], options: VisaOptions) -> list[str]:
        """Return the counts of the list 1cls that are not those of VisA."""
        return other_counts(samples) if options == VisaOptions() else []

    def words(self, root: Path, options: VisaOptions, views: Sequence[str]) -> dict[str, str]:
        """Return the list."""
        return {"lists": f"{_FOLDER}/{options.split}.csv", "list_views": "one view"}


READER = VisaReader()


def _sample(row: dict[str, str], inside: Folder) -> Sample:
    """Return the sample of a line. Raises ValueError: why it can't be used, with the value and the fix."""
    if None in row or None in row.values():
        raise ValueError("has another number of values than the first line; unpack the data set again")
    values = {name: value.strip() for name, value in row.items()}
    category, split, label = normal_form(values["object"]), values["split"].lower(), values["label"].lower()
    if why := unsafe_name(category):
        raise ValueError(f"object {category!r} {why}; correct the list")
    if split not in ("train", "test"):
        raise ValueError(f"split {split!r}; write train or test")
    if label not in _LABELS:
        raise ValueError(f"label {label!r}; write {' or '.join(_LABELS)}")
    columns = ("image", "mask") if values["mask"] else ("image",)
    paths = [inside.named(values[column], column) for column in columns]
    kind = label if _LABELS[label] else GOOD
    view = View(VIEW, paths[0], _LABELS[label], *paths[1:])
    return Sample(f"{kind}/{PurePosixPath(paths[0]).stem}", category, split, (view,))
