r"""The papers' tables on a data set: runs what is missing, and prints it beside the papers' figures.

mvead reproduce table3 --output runs/table3 --config.data.root=DIR [--rows 1 10]
mvead reproduce table1 --output runs/realiad --config.data.root=DIR [--setting single] \
    [--categories audiojack,usb] [--methods CONFIG CONFIG ...] [--share 2/4] [--budget]
mvead reproduce table2 --output runs/realiad --config.data.root=DIR
mvead reproduce all --output runs/papers --config.data.root=DIR --budget
mvead reproduce fig5 --output runs/fig5 --config.data.root=DIR [--backbones dinov2-small] \
    [--centers 1,20]
mvead reproduce compare --output runs/study --root DIR [--root DIR ...] CONFIG CONFIG ...
mvead reproduce kinds --workdir runs/patchcore --workdir runs/mvead [--output runs/kinds]
mvead reproduce missing-views --workdir runs/mvead --workdir runs/idif --output runs/missing

table3 is the ablation, ten rows. table1 (samples) and table2 (images) have a line for each category, and
share their runs if they share --output: one for each category, and one for all (--setting single, multi, or
both). With --methods they have a column for each config, beside its paper's. all makes both, by default of
every method as its paper has it. --share deals the runs out: started as 1/4 to 4/4, on four devices or
machines with one --output, four processes do all. --budget says what is left, in hours on this device and
bytes, and does nothing. fig5 varies the backbone at K = 20 centres and K on dinov2-base. compare sets any
configs beside the first, over all categories of one data set or several, with standard errors and what each
costs. kinds compares finished runs by kind of defect, and by whether another view sees the defect too.
missing-views scores the test samples of finished runs again with one view left out, with two, and so on;
workdirs of one name, such as runs/0/mvead and runs/1/mvead, are one line.

Run again with the same --output it goes on with the next row. The table is in <output>/<table>.json, .md, .tex
and .html, made anew after each row. Any config field is set by --config.<section>.<field>=<value> for all rows,
such as --config.backbone.name=efficientnet-lite0 --config.data.image_size=256 for the demo's rig; one that only
some of several methods have is set in theirs. A row that fails or crashes is named at the end.

exit codes: 0 all rows are there; 1 a row failed; 2 a mistake in the command or the data; 130 Ctrl-C
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from mvead_jax.commands.parsing import Parser, command_parser
from mvead_jax.comparison import papers
from mvead_jax.runtime import console
from mvead_jax.runtime.errors import UserError
from mvead_jax.runtime.memory import keep_freed_memory
from mvead_jax.runtime.paths import expanded

BACKBONES = "dinov2-small,dinov2-base,dinov2-large,dinov2-giant"
CENTERS = "1,5,10,20,30"
LEVELS = {"table1": "sample", "table2": "image"}
OF_FINISHED_RUNS = ("kinds", "missing_views")  # jobs that train nothing


def _share(text: str) -> tuple[int, int]:
    """2/4 -> (2, 4)."""
    parts = text.split("/")
    if len(parts) == 2 and all(part.isdecimal() for part in parts):
        which, shares = map(int, parts)
        if 1 <= which <= shares:
            return which, shares
    raise UserError(f"--share {text}: give which one of how many, from 1, as 2/4")


def _draws(text: str) -> int:
    if not text.isdecimal() or not int(text):
        raise UserError(f"--draws {text}: give a whole number from 1 on")
    return int(text)


def _seed(text: str) -> int:
    if not text.isdecimal():
        raise UserError(f"--seed {text}: give a whole number from 0 on")
    return int(text)


def parser() -> Parser:
    """Return the parser of the command. The job of a table is the name of a function of tables.py."""
    own = command_parser("reproduce", __doc__, console.flags())
    tables = own.add_subparsers(dest="what", required=True)
    shared = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    shared.add_argument("--output", required=True, type=expanded, help="folder of the runs and the table")
    based = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    based.add_argument("--config", default="realiad", help="what all rows start from")

    table = tables.add_parser("table3", parents=[shared], help="the ablation", allow_abbrev=False)
    table.add_argument("--rows", nargs="+", default=[], help="numbers, or <fusion>,<pretraining>,<bank>")
    table.set_defaults(job="ablation")

    dealt = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    dealt.add_argument("--methods", nargs="+", metavar="CONFIG", help="a column of ours for each config")
    dealt.add_argument("--setting", choices=(*papers.SETTINGS, "both"), default="both")
    dealt.add_argument("--categories", default="", help="comma-separated; default all of the data set")
    dealt.add_argument(
        "--share", type=_share, default=(1, 1), metavar="I/N", help="do the Ith of every N runs only"
    )
    dealt.add_argument("--budget", action="store_true", help="say hours and disk of what is left; do nothing")
    dealt.set_defaults(job="categories")
    single = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    single.add_argument("--config", help="without --methods: of the one method; default realiad")
    for name, level in LEVELS.items():
        about = f"categories, {level} level"
        tables.add_parser(name, parents=[shared, dealt, single], help=about, allow_abbrev=False)
    about = "tables 1 and 2, by default of every method as its paper has it"
    tables.add_parser("all", parents=[shared, dealt], help=about, allow_abbrev=False).set_defaults(
        config=None
    )

    table = tables.add_parser("fig5", parents=[shared, based], help="cost and AUROC", allow_abbrev=False)
    table.add_argument("--backbones", default=BACKBONES, help="comma-separated")
    table.add_argument("--centers", default=CENTERS, help="K, comma-separated")
    table.set_defaults(job="cost")

    table = tables.add_parser(
        "compare", parents=[shared], help="any configs beside the first", allow_abbrev=False
    )
    table.add_argument(
        "--root", action="append", type=expanded, default=[], help="a data set; give it for each of several"
    )
    table.add_argument("configs", nargs="+", help="<name>, <name>:<argument>, or files of configs")
    table.set_defaults(job="compare")

    table = tables.add_parser("kinds", help="finished runs by kind of defect", allow_abbrev=False)
    table.add_argument(
        "--workdir", action="append", required=True, type=expanded, help="give it for each run"
    )
    table.add_argument("--output", type=expanded, help="folder for kinds.json, .md, .tex and .html")
    table.set_defaults(job="kinds")

    table = tables.add_parser("missing-views", parents=[shared], help="cameras that fail", allow_abbrev=False)
    table.add_argument(
        "--workdir", action="append", required=True, type=expanded, help="give it for each finished run"
    )
    table.add_argument("--draws", type=_draws, default=3, help="of the views to leave out (default 3)")
    table.add_argument("--seed", type=_seed, default=0, help="of the draws (default 0)")
    table.set_defaults(job="missing_views")
    return own


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command; sys.argv if no arguments are given."""
    keep_freed_memory()
    given, overrides = parser().parse_with_fields(arguments)
    console.apply(given)
    if given.job in OF_FINISHED_RUNS and overrides:
        raise UserError(f"--config.{next(iter(overrides))}: {given.what} reads finished runs; leave it out")

    from mvead_jax.commands import tables  # not before: --help needs no JAX

    job = getattr(tables, given.job)
    if given.job in OF_FINISHED_RUNS:
        job(given)
        return
    if failed := job(given, overrides):
        for error in dict.fromkeys(failed.values()):
            names = ", ".join(name for name, own in failed.items() if own == error)
            print(f"error: {names}: {error}", file=sys.stderr)
        sys.exit(1)
