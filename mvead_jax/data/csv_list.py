"""A user's own pictures, listed in a CSV -> DatasetIndex.

    sample,view,path,label,mask,split
    0001,top,pictures/a17.png,0,,train
    scratch/0007,top,pictures/b03.png,1,masks/b03.png,test

A line is a picture. Paths are relative to the folder of the CSV. label: 1 a defect is seen in this picture,
0 none, empty unknown. mask: may be empty. Optional columns: category, and sample_label, 1 or 0, what is known
of the part as a whole. A sample called <kind>/<name> has that kind of defect, but for good/<name>.
"""

from __future__ import annotations

import csv
import io
import os
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Literal, NamedTuple

from mvead_jax.data.folders import settle_views
from mvead_jax.data.records import (
    Folder,
    Listed,
    Sample,
    View,
    chosen_categories,
    defects_learned,
    natural_key,
    normal_form,
    read_at_most,
    unsafe_name,
    unsafe_path,
)
from mvead_jax.runtime.errors import UserError, printable

NAME = "manifest.csv"
COLUMNS = ("sample", "view", "path", "label", "mask", "split")
_OPTIONAL = ("category", "sample_label")
_LABELS = {"": None, "0": 0, "1": 1}
_LARGEST = 64 * 2**20  # 500,000 lines; Python takes many times as much for them
_MOST_PROBLEMS = 1000  # that are gathered

Key = tuple[str, str, str]  # category, split, sample


def manifest_of(root: Path) -> Path | None:
    """The CSV that `root` is or holds."""
    path = root if root.suffix.lower() == ".csv" else root / NAME
    return path if path.is_file() else None


class _Line(NamedTuple):
    """A line that was understood. number: of the line in the file."""

    number: int
    key: Key
    view: View
    stated: int | None


def read_manifest(
    path: Path, categories: Sequence[str] = (), *, incomplete: Literal["error", "drop", "keep"] = "error"
) -> Listed:
    """What a manifest lists, with every path in it checked.

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
    rows, columns = _rows(path)
    only = None
    if "category" not in columns:
        only = categories[0] if len(categories) == 1 else normal_form(Path(os.path.abspath(root)).name)
    problems: list[str] = []
    lines: list[_Line] = []
    try:
        for number, row in rows:
            try:
                lines.append(_line(number, row, only, inside))
            except ValueError as error:
                if len(problems) == _MOST_PROBLEMS:
                    problems.append(f"{path.name} has more problems, which are not listed")
                    return Listed(root, [], [], problems)
                problems.append(f"{path.name} line {number}: {printable(str(error))}")
    except csv.Error as error:
        raise _no_csv(path, error) from None
    found = {line.key[0] for line in lines} | ({only} if only else set())
    chosen = chosen_categories(root, categories, found) if found else []
    grouped: dict[Key, list[_Line]] = defaultdict(list)
    for line in lines:
        if line.key[0] in chosen:
            grouped[line.key].append(line)
    problems += [f"{path.name} {problem}" for problem in _contradictions(lines, grouped)]
    notes: list[str] = []
    if others := [name for name in columns if name not in (*COLUMNS, *_OPTIONAL)]:
        notes.append(f"{path}: column {', '.join(map(repr, others))} is passed over")
    samples: list[Sample] = []
    for category in chosen:
        own = [_sample(key, part) for key, part in grouped.items() if key[0] == category]
        notes += defects_learned(category, own)
        if not any(sample.split == "train" for sample in own):
            problems.append(f"{category}: no line of split train: nothing to learn from; add good parts")
        if not problems:
            own, more_notes, more_problems = settle_views(own, incomplete)
            notes += more_notes
            problems += [f"{category}: {problem}" for problem in more_problems]
        samples += own
    return Listed(root, samples, notes, problems)


def _rows(path: Path) -> tuple[Iterator[tuple[int, dict[str, str]]], list[str]]:
    """(number of the line, its values by column) of every line as it is read, and the columns.

    Raises:
      UserError: not UTF-8, not a CSV, or a column is missing.
      csv.Error: from the iterator, not a CSV further below.
    """
    try:
        if (content := read_at_most(path, _LARGEST)) is None:
            raise UserError(f"{path}: a manifest has at most {_LARGEST} bytes; this one has more")
        text = content.decode("utf-8-sig")  # Excel begins with a mark
    except OSError as error:
        raise UserError(f"{path}: {error.strerror}") from None
    except UnicodeDecodeError:
        raise UserError(f'{path}: not UTF-8; save it as "CSV UTF-8"') from None
    head = text.partition("\n")[0]
    delimiter = ";" if ";" in head and "," not in head else ","  # as spreadsheets of many countries write
    try:
        reader = csv.DictReader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
        columns = [name.strip() for name in reader.fieldnames or ()]
        if missing := [name for name in COLUMNS if name not in columns]:
            raise UserError(
                f"{path}: no column {', '.join(missing)}; the first line is {','.join(COLUMNS)}, and "
                f"{' and '.join(_OPTIONAL)} if wanted"
            )
        if doubled := [name for name, count in Counter(columns).items() if count > 1]:
            raise UserError(f"{path}: column {', '.join(doubled)} twice; keep one")
        reader.fieldnames = columns
        return ((reader.line_num, row) for row in reader), columns
    except csv.Error as error:
        raise _no_csv(path, error) from None


def _no_csv(path: Path, error: csv.Error) -> UserError:
    return UserError(f"{path}: not a CSV ({error}); save it again")


def _line(number: int, row: dict[str, str], only: str | None, inside: Folder) -> _Line:
    """Raises ValueError: why a line can't be used, with the value and the fix."""
    if None in row or None in row.values():
        raise ValueError("has another number of values than the first line; quote what holds a comma")
    values = {name: value.strip() for name, value in row.items()}
    category = normal_form(values["category"]) if only is None else only
    sample, view = normal_form(values["sample"]), normal_form(values["view"])
    for what, name in (("category", category), ("view", view), *(("sample", n) for n in sample.split("/"))):
        if why := unsafe_name(name):
            raise ValueError(f"{what} {name!r} {why}; name it otherwise")
    split = values["split"]
    if split not in ("train", "test"):
        raise ValueError(f"split {split!r}; write train or test")
    for column in ("label", "sample_label"):
        if values.get(column, "") not in _LABELS:
            raise ValueError(f"{column} {values[column]!r}; write 0, 1, or nothing if it is unknown")
    paths = []
    for column in ("path", "mask"):
        path = values[column].replace("\\", "/")
        if path or column == "path":
            if why := unsafe_path(path) or inside.problem(path):
                raise ValueError(f"{column} {path!r} {why}")
            paths.append(path)
    own = View(view, paths[0], _LABELS[values["label"]], *paths[1:])
    return _Line(number, (category, split, sample), own, _LABELS[values.get("sample_label", "")])


def _contradictions(lines: Sequence[_Line], grouped: dict[Key, list[_Line]]) -> list[str]:
    """What only several lines show."""
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
        stated = {line.stated for line in own if line.stated is not None}
        if len(stated) > 1 or (stated == {0} and any(line.view.label == 1 for line in own)):
            where = ", ".join(str(line.number) for line in own)
            found.append(f"lines {where}: {split} sample {sample} is called both good and defective")
    return found


def _sample(key: Key, lines: Sequence[_Line]) -> Sample:
    category, split, sample = key
    views = sorted((line.view for line in lines), key=lambda view: natural_key(view.name))
    stated = next((line.stated for line in lines if line.stated is not None), None)
    return Sample(sample, category, split, tuple(views), stated)
