"""Learn what good parts look like.

python scripts/train.py --config configs/realiad.py --workdir runs/realiad --config.data.root=DIR
python scripts/train.py --config configs/folder.py --workdir runs/own --config.data.root=DIR --dry_run

Any field of the config is set by --config.<section>.<field>=<value>; lists are comma-separated. --dry_run
prints what would be computed and how many bytes would be written, and writes nothing.

Writes into the workdir all that scoring needs: config.json, environment.json, command.json, metrics.jsonl,
geometry/, checkpoints/, models/ and manifest.json (docs/usage.md); feature maps go into
feature_cache/ beside it. Run again with the same workdir, it goes on where it stopped.

--add LIST takes the parts that a person labelled good on the report's page (labels.json) as further good parts:
the bank of a method that allows it grows, another model is trained anew. The workdir keeps them in added.json.

All devices of this machine are used; with --distributed, or --coordinator, --processes and --process, those
of all processes.

exit codes: 0 trained; 2 a mistake in the command, the config or the data, said in one line; 75 another
process of the run ended; 130 Ctrl-C; 143 SIGTERM, after which the same command goes on; 1 a bug
"""

import argparse
import sys

from mvead_jax.config.io import from_command_line
from mvead_jax.runtime import console
from mvead_jax.runtime.errors import UserError, run
from mvead_jax.runtime.memory import keep_freed_memory
from mvead_jax.runtime.paths import expanded
from mvead_jax.runtime.processes import flags, from_flags, guard, is_guarded


def main() -> None:
    keep_freed_memory()
    own = argparse.ArgumentParser(add_help=False)
    own.add_argument("--dry_run", "--dry-run", action="store_true", help="print the plan and write nothing")
    own.add_argument(
        "--tensorboard", action="store_true", help="losses also into <workdir>/tensorboard/, for TensorBoard"
    )
    own.add_argument(
        "--add",
        action="append",
        type=expanded,
        default=[],
        metavar="LIST",
        help="labels.json of the report's page: its good parts are learned from too",
    )
    config, workdir, arguments = from_command_line(__doc__, own, console.flags(), flags())
    console.apply(arguments)
    processes = from_flags(arguments)
    if arguments.dry_run:
        if arguments.add:
            raise UserError("--dry_run: plans without further parts; leave out --add")
        if processes:
            raise UserError("--dry_run: one process plans; leave out the flags of several")
        from mvead_jax.jobs.dry_run import plan_training
        from mvead_jax.runtime.disk import check_room

        text, parts = plan_training(config, workdir)
        print(text)
        check_room(parts)
        return
    if processes and not is_guarded():
        sys.exit(guard())

    from mvead_jax.jobs.train import train
    from mvead_jax.runtime.sharding import joined  # not before: a guard needs no JAX

    with joined(processes):
        train(config, workdir, tensorboard=arguments.tensorboard, add=arguments.add)


if __name__ == "__main__":
    run(main)
