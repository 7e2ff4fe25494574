"""Compare two scored runs, or any number of studies of devices.

mvead compare A B [--tolerance-score 1e-4] [--tolerance-metric 1e-3] [--json FILE] [--html FILE]
mvead compare STUDY STUDY ... [--json FILE]

A and B are workdirs that `mvead score` has scored, or their scores folders: metrics with paired intervals, scores,
ranks, settings, machines; pass or fail. Differences are B - A. With two methods the verdict says that they are two;
the intervals and p say whether one is better. --html is one page with both runs side by side, the parts on which they
disagree first, with the heat of both over the pictures of A's report (of B's, if A has none).

A STUDY is a folder of `mvead study-device`, or its study.json: device x precision x flags, against how far the runs
of each differ by themselves. Writes nothing but --json and --html, and neither into a run or study that it reads.

exit codes: 0 the same experiment with the same result, within the tolerances; 1 not; 2 an error
"""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mvead_jax.commands.parsing import Parser, command_parser
from mvead_jax.runtime.errors import UserError
from mvead_jax.runtime.paths import expanded


def _number(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 <= value < math.inf:
        raise UserError(f"--tolerance {text!r}: expected a number from 0 on")
    return value


def parser() -> Parser:
    """Return the parser of the command."""
    own = command_parser("compare", __doc__)
    own.add_argument("a", type=expanded, metavar="A", help="workdir or scores folder, or a study")
    own.add_argument("b", type=expanded, metavar="B", help="as A")
    own.add_argument("others", type=expanded, nargs="*", metavar="STUDY", help="further studies")
    own.add_argument(
        "--tolerance-score",
        default="1e-4",
        help="of an image score, relative to its category's median score; default %(default)s",
    )
    own.add_argument("--tolerance-metric", default="1e-3", help="of a metric in [0,1]; default %(default)s")
    own.add_argument("--json", type=expanded, help="write everything that is printed, and more, to this file")
    own.add_argument("--html", type=expanded, help="write both runs side by side as a page to this file")
    return own


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command; sys.argv if no arguments are given."""
    given = parser().parse(arguments)

    from mvead_jax.runtime.files import write_json  # not before: --help needs no NumPy
    from mvead_jax.study.report import is_study

    paths = [given.a, given.b, *given.others]
    are_studies = [is_study(path) for path in paths]
    if any(are_studies) and not all(are_studies):
        other = paths[are_studies.index(False)]
        what = (
            "no study, and others are; compare studies with studies"
            if other.exists()
            else "no such file or folder"
        )
        raise UserError(f"{other}: {what}")
    if given.html and all(are_studies):
        raise UserError(
            f"--html {given.html}: a page of two scored runs; studies have their matrix, and --json"
        )
    _refuse_to_overwrite({"--json": given.json, "--html": given.html}, paths)
    if given.json and given.html and given.json.resolve() == given.html.resolve():
        raise UserError(f"--html {given.html}: --json writes this file too; name two files")
    tolerances = _number(given.tolerance_score), _number(given.tolerance_metric)
    if all(are_studies):
        found, text = _studies(paths, tolerances)
    else:
        found, text = _runs(given, tolerances)
    if given.json:
        write_json(given.json, found)
    if given.html:
        from mvead_jax.comparison.two_runs import scores_folder
        from mvead_jax.report.two_runs_page import write_two_runs

        write_two_runs(given.html, scores_folder(given.a), scores_folder(given.b), found)
    print(text)
    sys.exit(0 if found["pass"] else 1)


def _refuse_to_overwrite(written: Mapping[str, Path | None], read: Sequence[Path]) -> None:
    """Raise a UserError if a file is one of those that are read, or lies in a folder of them."""
    own = [*read, *(path / "scores" for path in read)]  # which may be a link to another place
    of_workdirs = [path.parent for path in read if (path / "images.csv").exists()]
    own += [folder / name for folder in of_workdirs for name in ("config.json", "environment.json")]
    for option, file in written.items():
        places = [file.resolve(), file.parent.resolve() / file.name] if file else []
        for path in own:
            if any(place.is_relative_to(path.resolve()) for place in places):
                raise UserError(f"{option} {file}: {path} is read; name a file outside of what is compared")


def _runs(given: argparse.Namespace, tolerances: tuple[float, float]) -> tuple[dict[str, Any], str]:
    from mvead_jax.comparison.agreement_text import format_comparison
    from mvead_jax.comparison.two_runs import Tolerances, compare, read_run

    if given.others:
        raise UserError(
            f"{given.others[0]}: scored runs are compared two by two; more are for mvead reproduce compare"
        )
    found = compare(read_run(given.a), read_run(given.b), Tolerances(*tolerances))
    return found, format_comparison(found)


def _studies(paths: Sequence[Path], tolerances: tuple[float, float]) -> tuple[dict[str, Any], str]:
    from mvead_jax.comparison.two_runs import Tolerances
    from mvead_jax.study.matrix import TOLERANCE, format_matrix, matrix
    from mvead_jax.study.report import read_study

    if len({path.resolve() for path in paths}) < len(paths):
        raise UserError("the same study twice; name different ones")
    if Tolerances(*tolerances) != Tolerances():
        raise UserError(
            f"--tolerance-score {tolerances[0]:g}, --tolerance-metric {tolerances[1]:g}: of scored runs; studies have "
            f"{TOLERANCE:g} always, so leave them out"
        )
    found = matrix({str(path): read_study(path) for path in paths})
    return found, format_matrix(found)
