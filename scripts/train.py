"""Learn what good parts look like.

python scripts/train.py --config configs/realiad.py --workdir runs/realiad --config.data.root=DIR

Any field of the config is set by --config.<section>.<field>=<value>; lists are comma-separated.
"""

from mvead_jax.config import from_command_line
from mvead_jax.errors import run
from mvead_jax.train import train


def main() -> None:
    train(*from_command_line(__doc__))


if __name__ == "__main__":
    run(main)
