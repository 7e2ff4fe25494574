"""Prepared data -> Listing whose images come from ArrayRecord, read by TFDS without TensorFlow."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import tensorflow_datasets as tfds
from google.protobuf.json_format import ParseError

from mvead_jax.data.records import Incomplete, Listing, Sample, View
from mvead_jax.data.sample_rules import (
    chosen_categories,
    defects_learned,
    handle_incomplete,
    repeated_images,
)
from mvead_jax.data.tfds_realiad.layout import REAL_IAD, prepared_folders, read_unfinished, seal_of
from mvead_jax.runtime.errors import UserError
from mvead_jax.runtime.files import read_json

_AGAIN = "delete this folder and run mvead prepare again"
_RECORDS = 16  # whole samples held in memory, for the threads that read one view after the other
_SOURCES = 4  # splits whose shards are kept open


def read_records(
    root: Path,
    categories: Sequence[str] = (),
    *,
    lists: str,
    images: str = "",
    incomplete: Incomplete = "error",
) -> Listing:
    """Return what the reader of the files found of what was prepared, by the same arguments; only samples
    that lack a view are problems.

    Raises:
      UserError: no such category, lists or images; not finished; not whole.
    """
    seen = [read_prepared(folder) for folder in prepared_folders(root)]
    found: dict[str, list[_Prepared]] = {}
    for one in seen:
        if one.lists == lists and images in ("", one.images):
            for category in {sample.category for sample, _ in one.samples}:
                found.setdefault(category, []).append(one)
    unfinished = {
        entry["category"]
        for entry in read_unfinished(root)
        if entry["lists"] == lists and images in ("", entry["images"])
    }
    if not found and not unfinished:
        has = "; ".join(sorted({f"data.lists={one.lists} with data.images={one.images}" for one in seen}))
        raise UserError(
            f"data.root {root}: prepared without lists {lists!r} of {images or 'any images'}; has {has}"
        )
    chosen = chosen_categories(root, categories, found.keys() | unfinished)
    if left := sorted(unfinished.intersection(chosen)):
        raise UserError(
            f"data.root {root}: preparing {', '.join(left)} was not finished; run mvead prepare again"
        )
    problems: list[str] = []
    notes: list[str] = []
    samples: list[Sample] = []
    folder = PreparedFolder(root)
    for category in chosen:
        if len(found[category]) > 1:
            names = ", ".join(f"{one.folder.relative_to(root)} of {one.images}" for one in found[category])
            raise UserError(
                f"{root}: {category} was prepared more than once ({names}); "
                "choose by data.images, or delete one"
            )
        (one,) = found[category]
        own = []
        for sample, place in one.samples:
            if sample.category == category:
                own.append(sample)
                folder.add(one, sample, place)
        notes += defects_learned(category, own)
        own, more_notes, more_problems = handle_incomplete(own, incomplete)
        samples += own
        notes += more_notes
        problems += [f"{category}: {problem}" for problem in more_problems]
    return Listing(folder, samples, notes, problems)


class _Place(NamedTuple):
    """Where a sample is: its split, the number of its record, and the SHA-256 of each file by path."""

    split: str
    row: int
    digests: dict[str, str]


class _Prepared:
    """One folder that the builder wrote; `samples` in the order of the records."""

    def __init__(self, folder: Path, content: dict[str, Any]):
        self.folder = folder
        self.lists, self.images = content["lists"], content["images"]
        self.reader = content.get("reader", REAL_IAD)  # of an earlier version: it prepared little else
        self.samples = [
            _sample_and_place(split, row, facts)
            for split, listed in content["samples"].items()
            for row, facts in enumerate(listed)
        ]


def _sample_and_place(split: str, row: int, facts: dict[str, Any]) -> tuple[Sample, _Place]:
    """Return the sample of one entry of metadata.json, and where it is."""
    views, digests = [], {}
    for view in facts["views"]:
        views.append(View(view["name"], view["image"], view["label"], view.get("mask")))
        digests[view["image"]] = view["sha256"]
        if "mask" in view:
            digests[view["mask"]] = view["mask_sha256"]
    sample = Sample(facts["sample"], facts["category"], split, tuple(views), facts.get("stated"))
    return sample, _Place(split, row, digests)


def read_prepared(folder: Path) -> _Prepared:
    """Return what the builder wrote into `folder`.

    Raises:
      UserError: not what it writes, or a shard is missing or cut.
    """
    content = read_json(folder / "metadata.json", "metadata of mvead prepare")
    try:
        one = _Prepared(folder, content)
        counts = {split: len(listed) for split, listed in content["samples"].items()}
        for sample, place in one.samples:
            if not _is_sound(sample, place):
                raise ValueError(f"record {place.row} of {place.split}")
        if repeated := repeated_images(sample for sample, _ in one.samples):
            raise ValueError(f"{repeated[0]} more than once")
        for name, split in tfds.builder_from_directory(folder).info.splits.items():
            if sum(Path(shard).stat().st_size for shard in split.filepaths) != split.num_bytes:
                raise UserError(f"{folder}: a shard of {name} is cut; {_AGAIN}")
            if counts.pop(name, 0) != split.num_examples:
                raise ValueError(f"{split.num_examples} records of {name}")
        if any(counts.values()):
            raise ValueError(f"no records of {', '.join(counts)}")
        if content.get("seal") not in (None, seal_of(content)):  # none: prepared by an earlier version
            raise UserError(f"{folder / 'metadata.json'}: changed since it was written; {_AGAIN}")
    except OSError as error:
        raise UserError(f"{error.filename or folder}: {error.strerror or error}; {_AGAIN}") from None
    except (KeyError, TypeError, ValueError, AttributeError, ParseError) as error:
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise UserError(f"{folder}: not what mvead prepare writes ({reason}); {_AGAIN}") from None
    return one


def _is_sound(sample: Sample, place: _Place) -> bool:
    """Return whether the values are what they are used as; a category names a folder of the workdir."""
    texts = [sample.id, sample.category, *place.digests, *place.digests.values()]
    texts += [view.name for view in sample.views]
    return (
        place.split in ("train", "test")
        and all(isinstance(text, str) and text for text in texts)
        and sample.category == Path(sample.category).name != ".."
        and all(
            label in (0, 1, None) for label in (sample.sample_label, *(view.label for view in sample.views))
        )
    )


class PreparedImage:
    """An image or mask inside a record, as image_files.StoredImageFile."""

    def __init__(self, root: PreparedFolder, path: str, digest: str):
        self._root, self._path, self.sha256 = root, path, digest

    def open(self, mode: str = "rb") -> BinaryIO:
        """Return the bytes, checked by their SHA-256.

        Raises:
          UserError: the record can't be read or holds something else.
        """
        return io.BytesIO(self._root.read(self._path, self.sha256))

    def __str__(self) -> str:
        return f"{self._root}: {self._path}"


class PreparedFolder:
    """The root of a prepared data set, as image_files.ImageFolder."""

    def __init__(self, root: Path):
        self._root = root
        self._places: dict[str, tuple[Path, _Place]] = {}
        # Shared by all categories, so that memory and open files do not grow with their number.
        self._record = lru_cache(_RECORDS)(self._read_record)
        self._source = lru_cache(_SOURCES)(_data_source)

    def __truediv__(self, path: str) -> PreparedImage:
        return PreparedImage(self, path, self._places[path][1].digests[path])

    def __str__(self) -> str:
        return str(self._root)

    def add(self, prepared: _Prepared, sample: Sample, place: _Place) -> None:
        """Make the files of a sample known.

        Raises:
          UserError: one is known already, and another image.
        """
        for path, digest in place.digests.items():
            folder, known = self._places.setdefault(path, (prepared.folder, place))
            if known.digests[path] != digest:
                raise UserError(f"{prepared.folder}: {path} is another image in {folder}; {_AGAIN}")

    def read(self, path: str, digest: str) -> bytes:
        """Return the bytes of an image or mask. Threads call it."""
        folder, place = self._places[path]
        content = self._record(folder, place.split, place.row).get(path, b"")
        if hashlib.sha256(content).hexdigest() != digest:
            raise UserError(f"{folder}: {path} is not what was prepared; {_AGAIN}")
        return content

    def _read_record(self, folder: Path, split: str, row: int) -> dict[str, bytes]:
        """Return the files of one sample by path."""
        try:
            views = self._source(folder, split)[row]["views"]
        except (RuntimeError, OSError, ValueError, IndexError) as error:  # ArrayRecord's are RuntimeErrors
            reason = (str(error) or type(error).__name__).splitlines()[0]
            raise UserError(f"{folder}: record {row} of {split} can't be read ({reason}); {_AGAIN}") from None
        files = {}
        for kind in ("image", "mask"):
            paths = [path.decode() for path in views[f"{kind}_path"]]
            files |= {path: content for path, content in zip(paths, views[kind], strict=True) if path}
        return files


def _data_source(folder: Path, split: str) -> Sequence[dict[str, Any]]:
    return tfds.builder_from_directory(folder).as_data_source(split)
