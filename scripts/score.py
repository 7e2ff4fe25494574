"""Score the test split of a trained run, or new pictures.

python scripts/score.py --workdir runs/realiad [--input DIR] [--output DIR] [--config.data.root=DIR ...]

All devices of this machine are used; with --distributed, or --coordinator, --processes and --process, those
of all processes.
"""

import argparse
import sys
from pathlib import Path

from mvead_jax.config import split_overrides
from mvead_jax.errors import run
from mvead_jax.processes import flags, from_flags, guard, is_guarded


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
        parents=[flags()],
    )
    parser.add_argument("--workdir", required=True, type=Path, help="folder of a finished scripts/train.py")
    parser.add_argument("--input", type=Path, help="folder of new pictures named as in Real-IAD")
    parser.add_argument(
        "--output",
        type=Path,
        help="folder of the results; default <workdir>/scores, with --input <workdir>/scores_<its name>",
    )
    arguments, rest = parser.parse_known_args()
    overrides = split_overrides(rest)
    processes = from_flags(arguments)
    if processes and not is_guarded():
        sys.exit(guard())

    from mvead_jax.evaluation.tables import format_table  # not before: a guard needs no JAX
    from mvead_jax.score import default_output, score
    from mvead_jax.sharding import is_first, joined

    with joined(processes):
        output = arguments.output or default_output(arguments.workdir, arguments.input)
        metrics = score(arguments.workdir, output, pictures=arguments.input, overrides=overrides)
        if not is_first():
            return
        if arguments.input is None:
            print(format_table(metrics))
        print(f"written to {output}")


if __name__ == "__main__":
    run(main)
