"""Check an artefact of scripts/export.py: the hash of every file, and the scores of its golden samples.

python scripts/verify.py artefacts/realiad

Prints every file that is missing, changed or new, and every golden sample that scores differently, by this
program or by the exported function. Needs neither network nor the data set.

exit codes: 0 all is as exported; 1 something is not, each on its line; 2 no artefact; 130 Ctrl-C
"""

import argparse
import sys

from mvead_jax.runtime import console
from mvead_jax.runtime.errors import run
from mvead_jax.runtime.paths import expanded


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
        parents=[console.flags()],
    )
    parser.add_argument("artefact", type=expanded, help="folder of scripts/export.py")
    arguments = parser.parse_args()
    console.apply(arguments)

    from mvead_jax.serving.export.artefact import verify  # not before: --help needs no JAX

    problems, words = verify(arguments.artefact)
    for problem in problems:
        print(f"{arguments.artefact}: {problem}")
    print(words)
    sys.exit(1 if problems else 0)


if __name__ == "__main__":
    run(main)
