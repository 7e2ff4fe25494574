"""Score the test split of a trained run, or new images; or evaluate maps again.

mvead score --workdir runs/realiad [--protocol mvad,official] [--config.data.root=DIR ...]
mvead score --workdir runs/realiad --from-maps [--protocol mvad,official]
mvead score --workdir runs/realiad --input DIR [--output DIR] [--dry_run]
mvead score --workdir runs/realiad --input DIR --watch [--timeout S] [--category NAME] [--mqtt ADDRESS]

metrics.json is by the run's own protocol (--config.eval.protocol, default mvead); --protocol adds
metrics_<name>.json and regions_<name>.csv by each of the named ones; `custom` is what the fields
--config.eval.* say. --from-maps needs the scores folder and the data set's images and masks, and neither
model nor features.

Open <output>/report/index.html to see what was found; --no-report leaves it out. --overlays writes heat over
every image in its own size too, as overlays/<category>/<n>_<view>.png, also with --from-maps.

Writes samples.csv, images.csv, maps/, metrics.json, report/ and more (docs/usage.md) into <workdir>/scores/,
or scores_<name of DIR>/, or --output. New images are <DIR>/<sample>/<view>.png by the views of training
(several categories: <DIR>/<category>/<sample>/<view>.png), or named as in Real-IAD.

A run trained with decision.held_out says pass or fail too, for a false-alarm rate that may be changed here:
--config.decision.false_alarms=0.1. --threshold-from-test-labels decides by the labels of the samples that
are scored, to see what could be had at best: optimistic, and flagged so in all results. --threshold 52.3, or the
file that the report saves under its histogram, decides by a threshold of your own (docs/decision.md).

--watch scores images as they come into DIR and appends a line for each sample to decisions.jsonl in the
output folder (docs/serving.md), and with --mqtt sends it to a broker; it ends by Ctrl-C (exit code 130) or
SIGTERM (143), after the sample in hand.

All devices of this machine are used; with --distributed, or --coordinator, --processes and --process, those
of all processes.

exit codes: 0 scored; 2 a mistake in the command, the workdir or the data, said in one line; 75 another
process of the run ended; 130 Ctrl-C; 143 SIGTERM while watching; 1 a bug
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence

from mvead_jax.commands.parsing import Parser, command_parser
from mvead_jax.evaluation.protocols import NAMES
from mvead_jax.runtime import console
from mvead_jax.runtime.errors import UserError
from mvead_jax.runtime.memory import keep_freed_memory
from mvead_jax.runtime.paths import expanded
from mvead_jax.runtime.processes import flags, from_flags, guard, is_guarded

TIMEOUT = 60.0  # seconds


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command; sys.argv if no arguments are given."""
    keep_freed_memory()
    given, overrides = parser().parse_with_fields(arguments)
    console.apply(given)
    overrides = _with_threshold(overrides, given.threshold)
    named = [name.strip() for name in given.protocol.split(",")]
    protocols = list(dict.fromkeys(name for name in named if name))
    _check(given, protocols)
    if given.dry_run:
        _print_plan(given, overrides, protocols)
        return
    processes = from_flags(given)
    if processes and not is_guarded():
        sys.exit(guard())
    if given.watch:
        _watch(given, overrides)
        return

    from mvead_jax.commands.answer import scoring_answer
    from mvead_jax.jobs.evaluate_again import evaluate_again
    from mvead_jax.jobs.score import score  # not before: a guard needs no JAX
    from mvead_jax.jobs.scores_folder import default_output
    from mvead_jax.runtime.sharding import is_first, joined

    with joined(processes):
        output = given.output or default_output(given.workdir, given.input)
        options = {"overrides": overrides, "protocols": protocols, "report": not given.no_report}
        options["overlays"] = given.overlays
        if given.from_maps:
            metrics = evaluate_again(given.workdir, output, **options)
        else:
            options["from_test_labels"] = given.threshold_from_test_labels
            metrics = score(given.workdir, output, images=given.input, **options)
        if is_first():
            print(
                scoring_answer(output, metrics, protocols, labelled=given.input is None, full=given.verbose)
            )


def parser() -> Parser:
    """Return the parser of the command."""
    own = command_parser("score", __doc__, console.flags(), flags())
    own.add_argument("--workdir", required=True, type=expanded, help="folder of a finished training")
    own.add_argument(
        "--input",
        type=expanded,
        help="folder of new images: <sample>/<view>.<ext>, or named as in Real-IAD",
    )
    own.add_argument(
        "--output",
        type=expanded,
        help="folder of the results; default <workdir>/scores, with --input <workdir>/scores_<its name>",
    )
    own.add_argument("--protocol", default="", help=f"comma-separated: {', '.join(NAMES)}")
    own.add_argument("--from-maps", action="store_true", help="evaluate the maps of a finished scoring")
    own.add_argument("--dry_run", "--dry-run", action="store_true", help="print the plan, write nothing")
    own.add_argument(
        "--threshold-from-test-labels", action="store_true", help="decide by the best F1 on test labels"
    )
    own.add_argument(
        "--threshold", help="your own: a sample fails from this score on; or the file that the report saved"
    )
    own.add_argument("--no-report", action="store_true", help="leave out report/index.html")
    own.add_argument(
        "--overlays", action="store_true", help="write heat over every image as a PNG into <output>/overlays"
    )
    own.add_argument("--watch", action="store_true", help="score what comes into --input until stopped")
    own.add_argument(
        "--timeout",
        type=float,
        help=f"with --watch: seconds without news until a sample that lacks views is scored; {TIMEOUT:g}",
    )
    own.add_argument("--category", help="with --watch: what is photographed, if the run has several")
    own.add_argument("--mqtt", help="with --watch: send each line to mqtt[s]://[user@]host[:port]/topic")
    return own


def _with_threshold(overrides: dict[str, str], threshold: str | None) -> dict[str, str]:
    """The config fields to change, with --threshold among them."""
    if threshold is None:
        return overrides
    if "decision.threshold" in overrides:
        raise UserError("--threshold: is --config.decision.threshold; leave out one of both")
    if not threshold:
        raise UserError("--threshold: no value; write a number, or the file that the report saved")
    return overrides | {"decision.threshold": threshold}


def _check(arguments: argparse.Namespace, protocols: Sequence[str]) -> None:
    """Raises UserError: options that do not go together."""
    if arguments.input and (protocols or arguments.from_maps):
        raise UserError("--input: new images have no labels; leave out --protocol and --from-maps")
    if arguments.threshold_from_test_labels and (arguments.input or arguments.from_maps):
        raise UserError(
            "--threshold-from-test-labels: decides while the test split is scored; leave out "
            "--input and --from-maps"
        )
    if arguments.threshold is not None and (arguments.threshold_from_test_labels or arguments.from_maps):
        raise UserError(
            "--threshold: decides while samples are scored, in place of any other threshold; leave out "
            "--threshold-from-test-labels and --from-maps"
        )
    _check_watch(arguments)
    several = from_flags(arguments)
    if several and arguments.from_maps:
        raise UserError("--from-maps: one process evaluates; leave out the flags of several")
    if arguments.dry_run and (several or arguments.from_maps):
        raise UserError("--dry_run: leave out --from-maps, and the flags of several processes")


def _check_watch(arguments: argparse.Namespace) -> None:
    if arguments.watch and arguments.dry_run:
        raise UserError("--watch: there is no plan of what may come; leave out --dry_run")
    if not arguments.watch:
        for option in ("timeout", "category", "mqtt"):
            if getattr(arguments, option) is not None:
                raise UserError(f"--{option}: belongs to --watch")
        return
    if arguments.input is None:
        raise UserError("--watch: name the folder to watch by --input")
    if arguments.overlays:
        raise UserError("--watch: writes decisions and no images; leave out --overlays")
    if from_flags(arguments):
        raise UserError("--watch: one process watches; leave out the flags of several")
    if arguments.timeout is not None and not arguments.timeout >= 0:
        raise UserError(f"--timeout={arguments.timeout:g}: must not be negative")


def _watch(arguments: argparse.Namespace, overrides: Mapping[str, str]) -> None:
    """--watch: until it is stopped."""
    from mvead_jax.jobs.scores_folder import default_output
    from mvead_jax.jobs.workdir import refuse_artefact
    from mvead_jax.serving.inspector import Inspector
    from mvead_jax.serving.watch.mqtt import published
    from mvead_jax.serving.watch.watcher import JOURNAL, watch

    output = arguments.output or default_output(arguments.workdir, arguments.input)
    refuse_artefact(output, "--output")
    timeout = TIMEOUT if arguments.timeout is None else arguments.timeout
    with published(arguments.mqtt, output / JOURNAL):
        inspector = Inspector.load(
            arguments.workdir, category=arguments.category, overrides=overrides, warm=True
        )
        watch(inspector, arguments.input, output, timeout=timeout)


def _print_plan(
    arguments: argparse.Namespace, overrides: Mapping[str, str], protocols: Sequence[str]
) -> None:
    """--dry_run. Raises UserError as the scoring would."""
    from mvead_jax.jobs.dry_run import plan_scoring
    from mvead_jax.runtime.disk import check_room

    text, parts = plan_scoring(
        arguments.workdir,
        arguments.output,
        images=arguments.input,
        overrides=overrides,
        protocols=protocols,
        from_test_labels=arguments.threshold_from_test_labels,
    )
    print(text)
    check_room(parts)
