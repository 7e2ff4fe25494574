"""How much a script says: --quiet and --verbose, and the command that started it."""

from __future__ import annotations

import argparse
import logging
import os
import sys
from datetime import UTC, datetime
from typing import Any

from mvead_jax.runtime import errors, progress


def flags() -> argparse.ArgumentParser:
    """The flags, as a parent of a script's parser."""
    parser = argparse.ArgumentParser(add_help=False)
    group = parser.add_mutually_exclusive_group()
    group.add_argument("--quiet", action="store_true", help="say only results, warnings and errors")
    group.add_argument(
        "--verbose",
        action="store_true",
        help="say how figures came about (the protocol), when and where each line was said; errors with traceback",
    )
    return parser


def apply(arguments: argparse.Namespace) -> None:
    """Makes the log, the progress and the errors of this process as the flags say."""
    log = logging.getLogger("mvead_jax")
    progress.shown = not arguments.quiet
    errors.traced = arguments.verbose
    log.setLevel(logging.WARNING if arguments.quiet else logging.INFO)
    if not arguments.verbose and not _several(arguments):
        # Before JAX is loaded: XLA's alarms of slow compilations, which nobody can act on. What is fatal is still said.
        os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    if arguments.verbose:
        log.setLevel(logging.DEBUG)
        for handler in log.handlers:
            handler.setFormatter(errors.Lines("%(asctime)s %(name)s: %(message)s", "%H:%M:%S"))


def _several(arguments: argparse.Namespace) -> bool:
    """Return whether several processes are named: their guard (processes.py) reads what JAX says of them."""
    return bool(getattr(arguments, "distributed", False) or getattr(arguments, "coordinator", None))


def command() -> dict[str, Any]:
    """JSON of what was typed, where and when; on the disk beside what came of it."""
    return {
        "command": sys.argv,
        "folder": os.getcwd(),
        "started": datetime.now(UTC).isoformat(timespec="seconds"),
    }
