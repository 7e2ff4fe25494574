"""Scripts called in this process: what a command line prints and ends with, without a start of Python with JAX."""

from __future__ import annotations

import contextlib
import io
import logging
import runpy
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from mvead_jax.runtime import errors, progress

ROOT = Path(__file__).parents[1]


class Done(NamedTuple):
    """What is left of a script, under the names of `subprocess.CompletedProcess`."""

    returncode: int
    stdout: str
    stderr: str


def call(script: str | Path, *arguments: object) -> Done:
    """Run a script from the checkout with a command line; what is no SystemExit is raised.

    Args:
      script: the name of one of scripts/, or a file.
    """
    out, err, code = _stream(), _stream(), 0
    with (
        pytest.MonkeyPatch.context() as patch,
        _loudness_kept(),
        contextlib.chdir(ROOT),
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
    ):
        path = script if isinstance(script, Path) else f"scripts/{script}.py"
        patch.setattr(sys, "argv", [str(path), *map(str, arguments)])
        try:
            runpy.run_path(sys.argv[0], run_name="__main__")
        except SystemExit as end:
            code = end.code or 0
    return Done(code, *(own.buffer.getvalue().decode() for own in (out, err)))


def _stream() -> io.TextIOWrapper:
    return io.TextIOWrapper(io.BytesIO(), "utf-8", write_through=True)


@contextlib.contextmanager
def _loudness_kept() -> Iterator[None]:
    """A script sets the program's log, progress and tracebacks up for the process that is its own."""
    log = logging.getLogger("mvead_jax")
    before = log.level, log.propagate, list(log.handlers), progress.shown, errors.traced
    try:
        yield
    finally:
        log.level, log.propagate, log.handlers[:], progress.shown, errors.traced = before
        log.setLevel(before[0])  # the loggers below it forget what they had found
