"""Compare two scored runs: metrics with paired intervals, scores, ranks, settings, machines; pass or fail.

python scripts/compare_runs.py A B [--tolerance-score 1e-4] [--tolerance-metric 1e-3] [--json FILE]

A and B are workdirs that scripts/score.py has scored, or their scores folders. Differences are B - A. With
two methods the verdict says that they are two; the intervals and p say whether one is better. Writes nothing
but --json.

exit codes: 0 the same experiment with the same result, within the tolerances; 1 not; 2 an error
"""

import argparse
import math
import sys

from mvead_jax.comparison.agreement_text import format_comparison
from mvead_jax.comparison.two_runs import Tolerances, compare, read_run
from mvead_jax.runtime.errors import UserError, run
from mvead_jax.runtime.files import write_json
from mvead_jax.runtime.paths import expanded


def _number(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 <= value < math.inf:
        raise UserError(f"--tolerance {text!r}: expected a number from 0 on")
    return value


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    default = Tolerances()
    parser.add_argument("a", type=expanded, metavar="A", help="workdir or scores folder")
    parser.add_argument("b", type=expanded, metavar="B", help="workdir or scores folder")
    parser.add_argument(
        "--tolerance-score",
        default=str(default.score),
        help="of an image score, relative to its category's median score; default %(default)s",
    )
    parser.add_argument(
        "--tolerance-metric", default=str(default.metric), help="of a metric in [0,1]; default %(default)s"
    )
    parser.add_argument(
        "--json", type=expanded, help="write everything that is printed, and more, to this file"
    )
    arguments = parser.parse_args()
    tolerances = Tolerances(_number(arguments.tolerance_score), _number(arguments.tolerance_metric))
    found = compare(read_run(arguments.a), read_run(arguments.b), tolerances)
    if arguments.json:
        write_json(arguments.json, found)
    print(format_comparison(found))
    sys.exit(0 if found["pass"] else 1)


if __name__ == "__main__":
    run(main)
