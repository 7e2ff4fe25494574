"""A folder of new pictures, without lists and labels, named as in Real-IAD -> DatasetIndex."""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

from mvead_jax.data.realiad_names import PATTERN, Named, by_sample, category_of_key, sample_of, sample_of_name
from mvead_jax.data.records import (
    PICTURE_FILES,
    DatasetIndex,
    Folder,
    View,
    build_index,
    defect_code,
    unsafe_path,
)
from mvead_jax.runtime.errors import DataProblems, UserError

_DEEPEST = 20  # folders in one another, of which Real-IAD has 5


def load_pictures(folder: Path) -> DatasetIndex:
    """The index of new pictures without labels: all files below `folder` that are named as in Real-IAD.

    The category, the sample and the view come from the name. A .png beside a picture of its view in another
    format is a mask, as in Real-IAD's own folders. Samples may lack views.

    Raises:
      UserError: no such folder, no picture in it, or folders too deep in one another.
      DataProblems: pictures whose names don't follow the pattern, two pictures of one view, or a .png that
        may be a picture or a mask.
    """
    if not folder.is_dir():
        raise UserError(f"--input {folder}: no such folder")
    problems = []
    by_name: dict[tuple[str, str], list[str]] = defaultdict(list)
    inside = Folder(folder)
    for path in sorted(_below(folder)):
        if path.suffix.lower() not in PICTURE_FILES or path.name.startswith("."):
            continue
        name = path.relative_to(folder).as_posix()
        parsed = sample_of_name(path.name)
        if why := unsafe_path(name) or inside.problem(name):
            problems.append(f"{name}: {why}")
        elif parsed is None:
            problems.append(f"{name}: {PATTERN}")
        else:
            by_name[parsed].append(name)
    listed = []
    others = {
        one: [name for name in names if not name.lower().endswith(".png")] for one, names in by_name.items()
    }
    with_others = {key for (key, _), names in others.items() if names}
    for (key, view), names in by_name.items():
        pictures = others[key, view] or names
        if not others[key, view] and key in with_others and defect_code(key):
            problems.append(
                f"{names[0]}: a mask without its picture, or a picture among others that are no .png; "
                "put the picture there, or save all of the sample in one format"
            )
        listed += [Named(key, "test", View(view, name)) for name in pictures]
    grouped, doubled = by_sample(listed)
    problems += doubled
    if problems:
        raise DataProblems(str(folder), problems)
    if not grouped:
        raise UserError(f"--input {folder}: no picture ({', '.join(PICTURE_FILES)}) in it")
    return build_index(folder, [sample_of(category_of_key(key), key, own) for key, own in grouped])


def holds_named_pictures(folder: Path) -> bool:
    """Whether any picture below `folder` is named as in Real-IAD."""
    return any(path.suffix.lower() in PICTURE_FILES and sample_of_name(path.name) for path in _below(folder))


def _below(folder: Path) -> Iterator[Path]:
    """Everything below `folder`; links to folders are not followed.

    Raises:
      UserError: folders too deep in one another.
    """
    top = len(folder.parts)
    for place, folders, files in os.walk(folder):
        inside = Path(place)
        if len(inside.parts) - top > _DEEPEST:
            short = Path(*inside.parts[: top + 3])
            raise UserError(f"{short}: more than {_DEEPEST} folders in one another; move the pictures up")
        yield from (inside / name for name in (*folders, *files))
