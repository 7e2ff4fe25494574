"""Make one folder to ship of a trained run: models, thresholds, backbone, geometry, golden samples, the
scoring function for cpu, cuda and tpu, and hashes of all of it.

mvead export --workdir runs/realiad --output artefacts/realiad [--golden N] [--onnx]
    [--config.data.root=DIR ...]

Golden samples are taken from the data set that the run was trained on (--config.data.root if it has moved).
The folder is loaded as a workdir is: Inspector.load("artefacts/realiad"), mvead score --workdir
artefacts/realiad --input DIR --output DIR; it needs neither network nor the data set. docs/serving.md.

exit codes: 0 written and verified; 2 a mistake in the command, the workdir or the data; 130 Ctrl-C; 1 a bug
"""

from __future__ import annotations

from collections.abc import Sequence

from mvead_jax.commands.parsing import Parser, command_parser
from mvead_jax.runtime import console
from mvead_jax.runtime.paths import expanded


def parser() -> Parser:
    """Return the parser of the command."""
    own = command_parser("export", __doc__, console.flags())
    own.add_argument("--workdir", required=True, type=expanded, help="folder of a finished training")
    own.add_argument("--output", required=True, type=expanded, help="the artefact, a new folder")
    own.add_argument("--onnx", action="store_true", help="write the scoring functions as ONNX models too")
    own.add_argument(
        "--golden", type=int, default=2, help="samples of each category to keep with their scores; default 2"
    )
    return own


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command; sys.argv if no arguments are given."""
    given, overrides = parser().parse_with_fields(arguments)
    console.apply(given)

    from mvead_jax.serving.export.artefact import export  # not before: --help needs no JAX

    export(given.workdir, given.output, golden=given.golden, overrides=overrides, onnx=given.onnx)
    print(f"written to {given.output}; check it by: mvead verify {given.output}")
