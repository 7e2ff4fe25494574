"""Inputs as people bring them, each with what becomes of it: for test_inputs.py, and for the tables in
docs/own_data.md.

    PYTHONPATH=tests:tests/data python tests/data/input_cases.py    prints the tables

A case makes its input in an empty folder, and gives what the program says of it: "taken", "noted: ..." or
"refused: ...". The cases themselves are in mask_inputs.py, image_inputs.py, text_inputs.py,
shape_inputs.py and camera_inputs.py.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from own_data import write_folders

from mvead_jax.data.check import check_data
from mvead_jax.runtime.errors import UserError

TABLES = (
    "text_inputs",
    "mask_inputs",
    "image_inputs",
    "shape_inputs",
    "camera_inputs",
)  # in the order of the docs
SIDE = 64  # pixels of the images of own_data


class Case(NamedTuple):
    """table: of the docs. what: the input, for people. says: what becomes of it; of a note or a refusal a
    part of its words. run: makes the input in a folder and returns what the program says."""

    table: str
    what: str
    says: str
    run: Callable[[Path], str]


def cases() -> list[Case]:
    """Return all cases, in the order of the tables of the docs."""
    return [one for name in TABLES for one in importlib.import_module(name).CASES]


def said(one: Case, folder: Path) -> str:
    """Return what the program says of a case."""
    try:
        return one.run(folder)
    except UserError as error:
        return f"refused: {error}"


def of_check(root: Path, **fields) -> str:
    """Return what check_data.py says of a data set."""
    found = check_data(root, **fields)
    if found.problems:
        return f"refused: {' / '.join(found.problems)}"
    return f"noted: {' / '.join(found.notes)}" if found.notes else "taken"


def own_data(folder: Path, size: tuple[int, int] = (SIDE, SIDE)) -> Path:
    """Return a data set of one view, whose defects are marked."""
    cameras = {"top": (".png", size)}
    return write_folders(folder / "own", cameras, train=5, good=1, defects=("scratch",), defective=1)


def main() -> None:
    for table in dict.fromkeys(one.table for one in cases()):
        print(f"\n| {table} | what becomes of it |\n|---|---|")
        for one in cases():
            if one.table == table:
                print(f"| {one.what} | {one.says} |")


if __name__ == "__main__":
    main()
