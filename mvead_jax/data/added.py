"""Further good parts: what a person labelled good on the report's page, learned from as if it were training data.

    {"schema": "mvead_jax labels 1", "scored": "test split", "samples":
     [{"category": "bolt", "sample": "bolt_0012_OK", "label": "good"}, ...]}

`scored` is "test split", or the folder of new images that were scored. A workdir keeps all that were added to it in
added.json, in this form; they are no test samples any more. Parts that are labelled defective are learned by nothing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from mvead_jax.data.mirroring import mirrored_table, with_mirrored
from mvead_jax.data.readers import open_pictures
from mvead_jax.data.records import DatasetIndex, Sample
from mvead_jax.runtime.errors import UserError
from mvead_jax.runtime.files import read_json

SCHEMA = "mvead_jax labels 1"
TEST_SPLIT = "test split"
FILE = "added.json"  # of a workdir
_LABELS = ("good", "defective")


class Added(NamedTuple):
    """A good part: where it was scored, and which it is."""

    scored: str
    category: str
    sample: str


def read_labels(path: Path) -> list[Added]:
    """Return the good parts of a list that the report's page gave.

    Raises:
      UserError: no such list, or no good part in it.
    """
    content = read_json(path, "a list of labels that the report's page gave")
    try:
        if content["schema"] != SCHEMA:
            raise ValueError(f"schema {content['schema']!r}")
        entries = [(str(one["category"]), str(one["sample"]), one["label"]) for one in content["samples"]]
        scored = str(content["scored"])
        if odd := [label for _, _, label in entries if label not in _LABELS]:
            raise ValueError(f"label {odd[0]!r}")
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(
            f"{path}: no list of labels ({error!r}); download it from the report's page"
        ) from None
    good = [Added(scored, category, sample) for category, sample, label in entries if label == "good"]
    if not good:
        raise UserError(f"{path}: labels no part as good, and only good parts are learned from")
    return good


def added_before(workdir: Path) -> list[Added]:
    """Return what was added to a workdir, in the order in which it was."""
    path = workdir / FILE
    if not path.exists():
        return []
    content = read_json(path, "what was added to a workdir by train.py --add")
    try:
        return [
            Added(*map(str, (one["scored"], one["category"], one["sample"]))) for one in content["samples"]
        ]
    except (KeyError, TypeError) as error:
        raise UserError(
            f"{path}: not written by train.py --add ({error!r}); delete it and train again"
        ) from None


def as_json(added: Sequence[Added]) -> dict[str, Any]:
    """Return the content of added.json."""
    return {"schema": SCHEMA, "samples": [one._asdict() | {"label": "good"} for one in added]}


def with_added(index: DatasetIndex, added: Sequence[Added], mirrored: str = "") -> DatasetIndex:
    """Return the index with the added parts as the last training samples of their categories.

    Args:
      index: of the data set, with what is held out. mirrored: data.mirrored.

    Raises:
      UserError: a part that is not there, or is no test sample; or prepared data with images of a folder.
    """
    if not added:
        return index
    views = {category: index.select(category=category).views for category in index.categories}
    folders: dict[str, Mapping[tuple[str, str], Sample]] = {}
    rest, last = list(index.samples), []
    for one in added:
        if one.category not in views:
            continue  # data.categories leaves it out
        if one.scored == TEST_SPLIT:
            found = next((own for own in rest if (own.category, own.id) == one[1:]), None)
            if found is None or found.split != "test":
                what = "no such sample" if found is None else f"a sample of the split {found.split}"
                raise UserError(
                    f"added part {one.sample} of {one.category}: {what} in {index.root}; take it out of the list"
                )
            rest.remove(found)
        else:
            if one.scored not in folders:
                folders[one.scored] = _samples_of(index, one.scored, views, mirrored)
            if (found := folders[one.scored].get(one[1:])) is None:
                raise UserError(
                    f"added part {one.sample} of {one.category}: not in {one.scored}; put it back there"
                )
        last.append(replace(found, split="train"))
    samples = [
        own for name in index.categories for part in (rest, last) for own in part if own.category == name
    ]
    return replace(index, samples=tuple(samples))  # in this order: a bank grows at its end


def without_added(index: DatasetIndex, added: Sequence[Added]) -> DatasetIndex:
    """Return the index as it was before: what is measured of its training samples stays what it was."""
    names = {one[1:] for one in added}
    samples = [own for own in index.samples if own.split != "train" or (own.category, own.id) not in names]
    return replace(index, samples=tuple(samples))


def _samples_of(
    index: DatasetIndex, folder: str, views: Mapping[str, Sequence[str]], mirrored: str
) -> dict[tuple[str, str], Sample]:
    """Samples of a folder of new images, with the paths of their images whole."""
    if not isinstance(index.root, Path):
        raise UserError(
            f"{index.root}: prepared data takes no further images; train with the data set as it was"
        )
    found = with_mirrored(
        open_pictures(Path(folder), views, bit_depth=index.bit_depth), mirrored_table(mirrored)
    )

    def whole(sample: Sample) -> Sample:
        own = tuple(
            replace(view, image=str(Path(folder).absolute() / view.image), label=0) for view in sample.views
        )
        return replace(sample, views=own)

    return {(one.category, one.id): whole(one) for one in found.samples}
