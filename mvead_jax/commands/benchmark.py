"""Time the program beside its peers: scripts/benchmark.py of a checkout.

    mvead benchmark nearest [options]
    mvead benchmark all [--quick] [--json FILE]

The contests and the peers' code (PyTorch, FAISS, scikit-image: the extra `bench`) are no part of the installed
package. From a checkout, or an editable installation of one (pip install -e .[bench]), this prints what
`python scripts/benchmark.py` prints, and takes its flags; `mvead benchmark --help` lists them there.

exit codes: 0 all ran; 2 a mistake in the command, no checkout, or a benchmark failed; 130 Ctrl-C
"""

from __future__ import annotations

import runpy
import sys
from collections.abc import Sequence
from pathlib import Path

from mvead_jax.commands.parsing import Parser, command_parser
from mvead_jax.runtime.errors import UserError

SCRIPTS = Path(__file__).parents[2] / "scripts"


def parser() -> Parser:
    """Return the parser of the command without a checkout; in one, the script has its own."""
    return command_parser("benchmark", __doc__)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command; sys.argv if no arguments are given."""
    given = sys.argv[1:] if arguments is None else list(arguments)
    script = SCRIPTS / "benchmark.py"
    if not script.is_file():
        if {"-h", "--help"} & set(given):
            parser().parse(["--help"])
        raise UserError(
            "benchmark: the contests lie in scripts/ of a checkout of the source, which the installed package does not "
            "hold; run it there"
        )
    sys.path.insert(0, str(SCRIPTS))  # as Python does for a script
    sys.argv = [str(script), *given]
    runpy.run_path(str(script))["main"]()
