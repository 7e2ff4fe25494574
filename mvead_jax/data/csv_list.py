"""A user's own images, listed in a CSV -> Listing.

    sample,view,path,label,mask,split
    0001,top,images/a17.png,0,,train
    scratch/0007,top,images/b03.png,1,masks/b03.png,test

A line is an image. Paths are relative to the folder of the CSV. label: 1 a defect is seen in this image, 0
none, empty unknown. mask: may be empty. Optional columns: category, and sample_label, 1 or 0, what is known
of the sample as a whole. A sample called <kind>/<name> has that kind of defect, but for good/<name>. Commas,
semicolons or tabs separate; columns and splits are written in letters of any case.
"""

from __future__ import annotations

import csv
import io
import os
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from mvead_jax.data.folders import NoOptions
from mvead_jax.data.records import Incomplete, Listing, Sample, View, natural_key
from mvead_jax.data.safe_paths import (
    Folder,
    decoded,
    normal_form,
    read_at_most,
    unsafe_name,
)
from mvead_jax.data.sample_rules import chosen_categories, defects_learned, handle_views
from mvead_jax.runtime.errors import UserError, printable

NAME = "manifest.csv"
COLUMNS = ("sample", "view", "path", "label", "mask", "split")
_OPTIONAL = ("category", "sample_label")
_SUFFIXES = (".csv", ".tsv")
_LABELS = {"": None, "0": 0, "1": 1, "0.0": 0, "1.0": 1}  # with a point, as programs write numbers with gaps
_LARGEST = 64 * 2**20  # 500,000 lines; Python takes many times as much for them
_MOST_PROBLEMS = 1000  # that are gathered

Key = tuple[str, str, str]  # category, split, sample


class ManifestReader:
    """The reader of this layout, as readers.Reader."""

    layout = f"{NAME}, or a .csv or .tsv file itself, with the columns {', '.join(COLUMNS)}"
    options = NoOptions

    def detect(self, root: Path) -> bool:
        """Return whether `root` is a CSV, or holds one of the name of a manifest."""
        return manifest_of(root) is not None

    def read(
        self, root: Path, categories: Sequence[str], options: NoOptions, incomplete: Incomplete
    ) -> Listing:
        """Return what `read_manifest` finds."""
        return read_manifest(manifest_of(root), categories, incomplete=incomplete)

    def check(self, samples: Sequence[Sample], options: NoOptions) -> list[str]:
        """Return nothing: a user's own data has no published counts."""
        return []

    def words(self, root: Path, options: NoOptions, views: Sequence[str]) -> dict[str, str]:
        """Return that there are no lists but the manifest."""
        return {"lists": "none: manifest", "list_views": f"all views: {', '.join(views)}"}


READER = ManifestReader()


def manifest_of(root: Path) -> Path | None:
    """Return the CSV that `root` is or holds, None if there is none."""
    path = root if root.suffix.lower() in _SUFFIXES else root / NAME
    return path if path.is_file() else None


class _Line(NamedTuple):
    """A line that was understood. number: of the line in the file."""

    number: int
    key: Key
    view: View
    sample_label: int | None


def read_manifest(path: Path, categories: Sequence[str] = (), *, incomplete: Incomplete = "error") -> Listing:
    """Return what a manifest lists, with every path in it checked.

    Args:
      categories: names; empty = all. Of a manifest without that column: what to call its one category, else
        it is called as the folder.
      incomplete: what to do with a sample that lacks a view which others of its category have.

    Raises:
      UserError: not a manifest, or no such category.
    """
    root = path.parent
    inside = Folder(root)
    if why := inside.problem(path.name):
        raise UserError(f"{path}: {why}")
    rows, columns = read_rows(path, COLUMNS, _OPTIONAL)
    only = None
    if "category" not in columns:
        only = categories[0] if len(categories) == 1 else Path(os.path.abspath(root)).name
        only = normal_form(only)
    lines, problems = _lines(path, rows, only, inside)
    if len(problems) > _MOST_PROBLEMS:
        return Listing(root, [], [], problems)
    found = {line.key[0] for line in lines} | ({only} if only else set())
    chosen = chosen_categories(root, categories, found) if found else []
    grouped: dict[Key, list[_Line]] = defaultdict(list)
    for line in lines:
        if line.key[0] in chosen:
            grouped[line.key].append(line)
    rejected = bool(problems)  # a line that was may be the training image that a category lacks
    problems += [f"{path.name} {problem}" for problem in _contradictions(lines, grouped)]
    notes: list[str] = []
    if others := [name for name in columns if name not in (*COLUMNS, *_OPTIONAL)]:
        notes.append(f"{path}: column {', '.join(map(repr, others))} is passed over")
    samples: list[Sample] = []
    for category in chosen:
        own = [_sample(key, part) for key, part in grouped.items() if key[0] == category]
        notes += defects_learned(category, own)
        if not rejected and not any(sample.split == "train" for sample in own):
            problems.append(f"{category}: no line of split train: nothing to learn from; add good samples")
        if not problems:
            own, more_notes, more_problems = handle_views(own, incomplete)
            notes += more_notes
            problems += [f"{category}: {problem}" for problem in more_problems]
        samples += own
    return Listing(root, samples, notes, problems)


def _lines(
    path: Path, rows: Iterator[tuple[int, dict[str, str]]], only: str | None, inside: Folder
) -> tuple[list[_Line], list[str]]:
    """Return the lines that were understood, and a problem for each other, at most one above _MOST_PROBLEMS.

    Args:
      only: the category of all lines, where no column says it.

    Raises:
      UserError: not a CSV further below.
    """
    lines: list[_Line] = []
    problems: list[str] = []
    try:
        for number, row in rows:
            try:
                lines.append(_line(number, row, only, inside))
            except ValueError as error:
                if len(problems) == _MOST_PROBLEMS:
                    problems.append(f"{path.name} has more problems, which are not listed")
                    break
                problems.append(f"{path.name} line {number}: {printable(str(error))}")
    except csv.Error as error:
        raise no_csv(path, error) from None
    return lines, problems


def read_rows(
    path: Path, wanted: Sequence[str], optional: Sequence[str] = ()
) -> tuple[Iterator[tuple[int, dict[str, str]]], list[str]]:
    """Return (number of the line, its values by column) of every line as it is read, and the columns.

    Args:
      wanted: the columns that it has. optional: those that it may have, for messages.

    Raises:
      UserError: not text, not a CSV, or a column is missing.
      csv.Error: from the iterator, not a CSV further below.
    """
    try:
        if (content := read_at_most(path, _LARGEST)) is None:
            raise UserError(f"{path}: a manifest has at most {_LARGEST} bytes; this one has more")
        text = decoded(content)
    except OSError as error:
        raise UserError(f"{path}: {error.strerror}") from None
    except UnicodeDecodeError:
        raise UserError(f'{path}: not UTF-8; save it as "CSV UTF-8"') from None
    try:
        reader = csv.DictReader(io.StringIO(text, newline=""), delimiter=_delimiter(text), strict=True)
        columns = [name.strip().lower() for name in reader.fieldnames or ()]
        if missing := [name for name in wanted if name not in columns]:
            more = f", and {' and '.join(optional)} if wanted" if optional else ""
            raise UserError(
                f"{path}: no column {', '.join(missing)}; the first line is {','.join(wanted)}{more}"
            )
        if doubled := [name for name, count in Counter(columns).items() if count > 1]:
            raise UserError(f"{path}: column {', '.join(doubled)} twice; keep one")
        reader.fieldnames = columns
        return ((reader.line_num, row) for row in reader), columns
    except csv.Error as error:
        raise no_csv(path, error) from None


def _delimiter(text: str) -> str:
    """Return what separates the columns of the first line: spreadsheets of many countries write semicolons,
    others tabs."""
    head = text.partition("\n")[0]
    return max(",;\t", key=head.count)  # a comma where none is there


def no_csv(path: Path, error: csv.Error) -> UserError:
    """Return the error of a file that is no CSV."""
    return UserError(f"{path}: not a CSV ({error}); save it again")


def _line(number: int, row: dict[str, str], only: str | None, inside: Folder) -> _Line:
    """Return a line that can be used. Raises ValueError: why it can't, with the value and the fix."""
    if None in row or None in row.values():
        raise ValueError("has another number of values than the first line; quote what holds a comma")
    values = {name: value.strip() for name, value in row.items()}
    category = normal_form(values["category"]) if only is None else only
    sample, view = normal_form(values["sample"]), normal_form(values["view"])
    for what, name in (("category", category), ("view", view), *(("sample", n) for n in sample.split("/"))):
        if why := unsafe_name(name):
            raise ValueError(f"{what} {name!r} {why}; name it otherwise")
    split = values["split"].lower()
    if split not in ("train", "test"):
        raise ValueError(f"split {values['split']!r}; write train or test")
    for column in ("label", "sample_label"):
        if values.get(column, "") not in _LABELS:
            raise ValueError(f"{column} {values[column]!r}; write 0, 1, or nothing if it is unknown")
    columns = ("path", "mask") if values["mask"] else ("path",)
    paths = [inside.named(values[column], column) for column in columns]
    own = View(view, paths[0], _LABELS[values["label"]], *paths[1:])
    return _Line(number, (category, split, sample), own, _LABELS[values.get("sample_label", "")])


def _contradictions(lines: Sequence[_Line], grouped: dict[Key, list[_Line]]) -> list[str]:
    """Return what only several lines show."""
    found = []
    by_path: dict[str, list[int]] = defaultdict(list)
    for line in lines:
        by_path[os.path.normpath(line.view.image)].append(line.number)
    for path, numbers in by_path.items():
        if len(numbers) > 1:
            found.append(f"lines {', '.join(map(str, numbers))}: all list {path}; keep one")
    for (_, split, sample), own in grouped.items():
        by_view: dict[str, list[int]] = defaultdict(list)
        for line in own:
            by_view[line.view.name].append(line.number)
        for view, numbers in by_view.items():
            if len(numbers) > 1:
                where = ", ".join(map(str, numbers))
                found.append(f"lines {where}: {split} sample {sample} has view {view} twice; keep one")
        said = {line.sample_label for line in own if line.sample_label is not None}
        if len(said) > 1 or (said == {0} and any(line.view.label == 1 for line in own)):
            where = ", ".join(str(line.number) for line in own)
            found.append(f"lines {where}: {split} sample {sample} is called both good and defective")
    return found


def _sample(key: Key, lines: Sequence[_Line]) -> Sample:
    category, split, sample = key
    views = sorted((line.view for line in lines), key=lambda view: natural_key(view.name))
    said = next((line.sample_label for line in lines if line.sample_label is not None), None)
    return Sample(sample, category, split, tuple(views), said)
