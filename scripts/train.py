"""Learn what good parts look like.

python scripts/train.py --config configs/realiad.py --workdir runs/realiad --config.data.root=DIR

Any field of the config is set by --config.<section>.<field>=<value>; lists are comma-separated.
"""

import argparse
from pathlib import Path

from mvead_jax.config import load_config, split_overrides
from mvead_jax.errors import run
from mvead_jax.train import train


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("--config", required=True, help="a config file, configs/<name>.py")
    parser.add_argument("--workdir", required=True, type=Path, help="folder of the run; run again to resume")
    arguments, rest = parser.parse_known_args()
    train(load_config(arguments.config, split_overrides(rest)), arguments.workdir)


if __name__ == "__main__":
    run(main)
