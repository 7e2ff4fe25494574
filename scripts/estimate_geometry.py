"""Estimate how the views of each category see each other, or take it from known cameras.

python scripts/estimate_geometry.py --config configs/realiad.py --workdir runs/realiad --config.data.root=DIR

writes geometry/<category>.json and geometry/images/<category>.png into the workdir and prints the evidence
for each pair of views. --config.geometry.cameras=cameras.json takes given cameras instead;
--config.geometry.matches=features or both matches patch features of the backbone too. An estimate that is
already in the workdir is kept; delete it to estimate again.

exit codes: 0 written; 2 a mistake in the command, the config or the data; 130 Ctrl-C; 1 a bug
"""

from mvead_jax.config.io import from_command_line
from mvead_jax.jobs.estimate_geometry import estimate_geometries, format_geometry
from mvead_jax.jobs.inputs import open_index
from mvead_jax.jobs.workdir import refuse_artefact
from mvead_jax.runtime.errors import run
from mvead_jax.runtime.files import locked, make_folder


def main() -> None:
    config, workdir, _ = from_command_line(__doc__)
    refuse_artefact(workdir)
    index = open_index(config)
    make_folder(workdir)
    with locked(workdir):
        found = estimate_geometries(config, index, workdir)
    for category, geometry in found.items():
        print(format_geometry(geometry, category))


if __name__ == "__main__":
    run(main)
