"""Score the test split of a trained run, or new pictures.

python scripts/score.py --workdir runs/realiad [--input DIR] [--output DIR] [--config.data.root=DIR ...]
"""

import argparse
from pathlib import Path

from mvead_jax.config import split_overrides
from mvead_jax.errors import run
from mvead_jax.evaluation.tables import format_table
from mvead_jax.score import default_output, score


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("--workdir", required=True, type=Path, help="folder of a finished scripts/train.py")
    parser.add_argument("--input", type=Path, help="folder of new pictures named as in Real-IAD")
    parser.add_argument(
        "--output",
        type=Path,
        help="folder of the results; default <workdir>/scores, with --input <workdir>/scores_<its name>",
    )
    arguments, rest = parser.parse_known_args()
    output = arguments.output or default_output(arguments.workdir, arguments.input)
    metrics = score(arguments.workdir, output, pictures=arguments.input, overrides=split_overrides(rest))
    if arguments.input is None:
        print(format_table(metrics))
    print(f"written to {output}")


if __name__ == "__main__":
    run(main)
