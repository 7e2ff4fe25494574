"""Golden numbers of other implementations against this project's.

python tests/oracles/check.py DIR [DIR ...] [--only PATTERN]

Prints one line a case with its largest difference beside what is allowed, and a line for each case that nothing
here implements. Every module of families/ knows some cases by the names of their files:

    CASES: tuple[str, ...]                              patterns of file names
    def check(path: Path) -> Iterable[Difference]       all that one case compares

exit codes: 0 every case that is implemented passes; 1 one fails; 2 no such folder, or no case in it
"""

from __future__ import annotations

import argparse
import fnmatch
import importlib
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

HERE = Path(__file__).parent
# Files that a case reads, and that are no cases themselves.
_PARTS = ("recipe_*.json", "precision.json", "padim_port_indices.json")


class Difference(NamedTuple):
    """One comparison: what, how far it is off, and how far it may be."""

    name: str
    found: float
    allowed: float

    @property
    def ratio(self) -> float:
        """Above 1, or not a number: a failure."""
        return self.found / self.allowed if self.allowed else (0.0 if self.found == 0 else np.inf)


def compare(name: str, found: Any, expected: Any, allowed: float) -> Difference:
    """The largest absolute difference of two arrays; infinite if their shapes differ."""
    found, expected = np.asarray(found, np.float64), np.asarray(expected, np.float64)
    if found.shape != expected.shape:
        return Difference(f"{name}: shape {found.shape} for {expected.shape}", np.inf, allowed)
    return Difference(name, float(np.abs(found - expected).max(initial=0)), allowed)


def sampled(case: Any, name: str, found: Any, allowed: float) -> Difference:
    """`compare` of an array that a case holds whole, or at some flat positions."""
    found = np.asarray(found)
    if name in case:
        return compare(name, found, case[name], allowed)
    if f"{name}.full" in case:
        return compare(name, found, case[f"{name}.full"], allowed)
    if tuple(case[f"{name}.shape"]) != found.shape:
        return Difference(f"{name}: shape {found.shape}", np.inf, allowed)
    return compare(name, found.reshape(-1)[case[f"{name}.pos"]], case[f"{name}.val"], allowed)


def families() -> dict[str, Any]:
    """The modules of families/ by pattern."""
    found = {}
    for path in sorted((HERE / "families").glob("[a-z]*.py")):
        module = importlib.import_module(f"oracles.families.{path.stem}")
        found |= dict.fromkeys(module.CASES, module)
    return found


def cases(folder: Path, only: str = "*") -> Iterator[Path]:
    """The cases of a folder, by name."""
    for path in sorted([*folder.glob("*.npz"), *folder.glob("*.json")]):
        if fnmatch.fnmatch(path.name, only) and not any(fnmatch.fnmatch(path.name, one) for one in _PARTS):
            yield path


def run(path: Path, known: dict[str, Any]) -> tuple[str, bool | None]:
    """A line about one case, and whether it passes; None where nothing implements it."""
    module = next((own for pattern, own in known.items() if fnmatch.fnmatch(path.name, pattern)), None)
    if module is None:
        return f"{path.stem}: no implementation yet", None
    found: list[Difference] = list(_checked(module.check(path)))
    worst = max(found, key=lambda one: np.inf if np.isnan(one.ratio) else one.ratio)
    passed = bool(worst.ratio <= 1)
    words = f"largest difference {worst.found:.1e}, allowed {worst.allowed:.1e} ({worst.name})"
    return f"{path.stem}: {words}, {len(found)} comparisons{'' if passed else ': FAILED'}", passed


def _checked(found: Iterable[Difference]) -> Iterator[Difference]:
    count = 0
    for one in found:
        count += 1
        yield one
    if not count:
        yield Difference("nothing was compared", np.inf, 0.0)


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("folder", nargs="+", type=Path, metavar="DIR", help="folder of golden cases")
    parser.add_argument("--only", default="*", help="pattern of file names, as 'mvad_*'")
    arguments = parser.parse_args()
    known, passed = families(), []
    for folder in arguments.folder:
        paths = list(cases(folder, arguments.only))
        if not paths:
            print(f"error: {folder}: no golden case {arguments.only} there", file=sys.stderr)
            return 2
        for path in paths:
            line, good = run(path, known)
            print(line, flush=True)
            passed.append(good)
    failed, unknown = passed.count(False), passed.count(None)
    print(f"{passed.count(True)} cases pass, {failed} fail, {unknown} have no implementation")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.path[:0] = [str(HERE.parent), str(HERE.parents[1])]
    from oracles import check as itself  # so that the families' Difference is the one that is run here

    sys.exit(itself.main())
