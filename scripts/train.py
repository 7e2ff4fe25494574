"""Learn what good parts look like.

python scripts/train.py --config configs/realiad.py --workdir runs/realiad --config.data.root=DIR

Any field of the config is set by --config.<section>.<field>=<value>; lists are comma-separated.

All devices of this machine are used; with --distributed, or --coordinator, --processes and --process, those
of all processes.
"""

import sys

from mvead_jax.config_io import from_command_line
from mvead_jax.errors import run
from mvead_jax.processes import flags, from_flags, guard, is_guarded


def main() -> None:
    config, workdir, arguments = from_command_line(__doc__, flags())
    processes = from_flags(arguments)
    if processes and not is_guarded():
        sys.exit(guard())

    from mvead_jax.sharding import joined  # not before: a guard needs no JAX
    from mvead_jax.train import train

    with joined(processes):
        train(config, workdir)


if __name__ == "__main__":
    run(main)
