"""Learn what good parts look like.

mvead train --config realiad --workdir runs/realiad --config.data.root=DIR
mvead train --config folder --workdir runs/own --config.data.root=DIR --dry_run

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

from __future__ import annotations

import sys
from collections.abc import Sequence

from mvead_jax.commands.parsing import Parser, add_run, command_parser
from mvead_jax.config.io import load_config
from mvead_jax.runtime import console
from mvead_jax.runtime.errors import UserError
from mvead_jax.runtime.memory import keep_freed_memory
from mvead_jax.runtime.paths import expanded
from mvead_jax.runtime.processes import flags, from_flags, guard, is_guarded


def parser() -> Parser:
    """Return the parser of the command."""
    own = command_parser("train", __doc__, console.flags(), flags())
    add_run(own)
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
    return own


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command; sys.argv if no arguments are given."""
    keep_freed_memory()
    given, fields = parser().parse_with_fields(arguments)
    config, workdir = load_config(given.config, fields), given.workdir
    console.apply(given)
    processes = from_flags(given)
    if given.dry_run:
        if given.add:
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

    from mvead_jax.commands.answer import training_answer
    from mvead_jax.jobs.train import train
    from mvead_jax.runtime.sharding import is_first, joined  # not before: a guard needs no JAX

    with joined(processes):
        train(config, workdir, tensorboard=given.tensorboard, add=given.add)
        if is_first():
            print(training_answer(workdir))
