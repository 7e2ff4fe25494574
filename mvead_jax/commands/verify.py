"""Check an artefact of `mvead export`: the hash of every file, and the scores of its golden samples.

mvead verify artefacts/realiad

Prints every file that is missing, changed or new, and every golden sample that scores differently, by this
program or by the exported function. Needs neither network nor the data set.

exit codes: 0 all is as exported; 1 something is not, each on its line; 2 no artefact; 130 Ctrl-C
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

from mvead_jax.commands.parsing import Parser, command_parser
from mvead_jax.runtime import console
from mvead_jax.runtime.paths import expanded


def parser() -> Parser:
    """Return the parser of the command."""
    own = command_parser("verify", __doc__, console.flags())
    own.add_argument("artefact", type=expanded, help="folder of `mvead export`")
    return own


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command; sys.argv if no arguments are given."""
    given = parser().parse(arguments)
    console.apply(given)

    from mvead_jax.serving.export.artefact import verify  # not before: --help needs no JAX

    problems, words = verify(given.artefact)
    for problem in problems:
        print(f"{given.artefact}: {problem}")
    print(words)
    sys.exit(1 if problems else 0)
