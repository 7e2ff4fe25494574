"""Estimate how the views of each category see each other, or take it from known cameras.

python scripts/estimate_geometry.py --config configs/realiad.py --workdir runs/realiad --config.data.root=DIR

writes geometry/<category>.json and geometry/pictures/<category>.png into the workdir and prints the evidence
for each pair of views. --config.geometry.cameras=cameras.json takes given cameras instead. What is already
in the workdir is kept; delete it to estimate again.
"""

import argparse
from pathlib import Path

from mvead_jax.calibrate import calibrate, format_geometry
from mvead_jax.config import load_config, split_overrides
from mvead_jax.errors import run
from mvead_jax.train import open_index


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("--config", required=True, help="a config file, configs/<name>.py")
    parser.add_argument("--workdir", required=True, type=Path, help="folder of the run")
    arguments, rest = parser.parse_known_args()
    config = load_config(arguments.config, split_overrides(rest))
    for category, geometry in calibrate(config, open_index(config), arguments.workdir).items():
        print(format_geometry(geometry, category))


if __name__ == "__main__":
    run(main)
