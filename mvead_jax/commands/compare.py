"""Compare two scored runs: metrics with paired intervals, scores, ranks, settings, machines; pass or fail.

mvead compare A B [--tolerance-score 1e-4] [--tolerance-metric 1e-3] [--json FILE] [--html FILE]

A and B are workdirs that `mvead score` has scored, or their scores folders. Differences are B - A. With
two methods the verdict says that they are two; the intervals and p say whether one is better. Writes nothing
but --json and --html: one page with both runs side by side, the parts on which they disagree first, with the heat of
both over the pictures of A's report (of B's, if A has none).

exit codes: 0 the same experiment with the same result, within the tolerances; 1 not; 2 an error
"""

from __future__ import annotations

import math
import sys
from collections.abc import Sequence

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
    own.add_argument("a", type=expanded, metavar="A", help="workdir or scores folder")
    own.add_argument("b", type=expanded, metavar="B", help="workdir or scores folder")
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

    from mvead_jax.comparison.agreement_text import format_comparison
    from mvead_jax.comparison.two_runs import Tolerances, compare, read_run, scores_folder
    from mvead_jax.runtime.files import write_json  # not before: --help needs no NumPy

    tolerances = Tolerances(_number(given.tolerance_score), _number(given.tolerance_metric))
    found = compare(read_run(given.a), read_run(given.b), tolerances)
    if given.json:
        write_json(given.json, found)
    if given.html:
        from mvead_jax.report.two_runs_page import write_two_runs

        write_two_runs(given.html, scores_folder(given.a), scores_folder(given.b), found)
    print(format_comparison(found))
    sys.exit(0 if found["pass"] else 1)
