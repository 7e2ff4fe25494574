"""Estimate how the views of each category see each other, or take it from known cameras.

    mvead geometry --config realiad --workdir runs/realiad --config.data.root=DIR

writes geometry/<category>.json and geometry/images/<category>.png into the workdir and prints the evidence
for each pair of views. --config.geometry.cameras=cameras.json takes given cameras instead;
--config.geometry.matches=features or both matches patch features of the backbone too. An estimate that is
already in the workdir is kept; delete it to estimate again.

exit codes: 0 written; 2 a mistake in the command, the config or the data; 130 Ctrl-C; 1 a bug
"""

from __future__ import annotations

from collections.abc import Sequence

from mvead_jax.commands.parsing import Parser, add_run, command_parser
from mvead_jax.config.io import load_config
from mvead_jax.runtime import console


def parser() -> Parser:
    """Return the parser of the command."""
    own = command_parser("geometry", __doc__, console.flags())
    add_run(own)
    return own


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command; sys.argv if no arguments are given."""
    given, fields = parser().parse_with_fields(arguments)
    console.apply(given)
    config, workdir = load_config(given.config, fields), given.workdir

    from mvead_jax.jobs.estimate_geometry import estimate_geometries, format_geometry
    from mvead_jax.jobs.inputs import open_index  # not before: --help needs no JAX
    from mvead_jax.jobs.workdir import refuse_artefact
    from mvead_jax.runtime.files import locked, make_folder

    refuse_artefact(workdir)
    index = open_index(config)
    make_folder(workdir)
    with locked(workdir):
        found = estimate_geometries(config, index, workdir)
    for category, geometry in found.items():
        print(format_geometry(geometry, category))
