"""A job in several processes: its flags, and the guard that outlives each of them.

When a process has died, JAX ends the others by abort() from a thread of its own, with a C++ stack and without
a word that a user understands. So with these flags a script runs itself again as a child; what it was is the
guard: it passes on output and signals, and says in one line why the child is gone. If the guard is killed,
so is its child. Imports no JAX: a guard takes next to no memory.
"""

from __future__ import annotations

import argparse
import os
import re
import signal
import subprocess
import sys
import threading
from contextlib import suppress
from dataclasses import dataclass
from typing import BinaryIO

from mvead_jax.runtime.errors import UserError

PEER_ENDED = 75  # exit code of a process that ended because another one did: EX_TEMPFAIL, try again
_GUARDED = "MVEAD_JAX_GUARDED"  # in the environment of a child
_FORWARDED = [getattr(signal, name) for name in ("SIGTERM", "SIGINT", "SIGHUP") if hasattr(signal, name)]
_GLOO = re.compile(rb"\[Gloo\] Rank|is connected to \d+ peer ranks")
_COORDINATION = re.compile(rb"^[EFIW]\d{4} .*coordination_service")
_FATAL = b"Terminating process because the JAX distributed service detected fatal errors"
_CONTINUED = 8  # lines, at most, that a note of the service goes on for


@dataclass(frozen=True)
class Processes:
    """Who runs a job together; None: the platform knows (Slurm, Open MPI, TPU, GKE).

    Attributes:
      coordinator: "host:port" of process 0. count: of the processes. number: of this one, from 0.
    """

    coordinator: str | None = None
    count: int | None = None
    number: int | None = None


def flags() -> argparse.ArgumentParser:
    """The flags, as a parent of a script's parser."""
    parser = argparse.ArgumentParser(add_help=False)
    group = parser.add_argument_group(
        "several processes", "on one machine or many, which share the folders of workdir and feature cache"
    )
    group.add_argument(
        "--distributed",
        action="store_true",
        help="the platform knows who they are (Slurm, Open MPI, TPU, GKE)",
    )
    group.add_argument("--coordinator", metavar="HOST:PORT", help="where process 0 can be reached")
    group.add_argument("--processes", type=int, metavar="N", help="how many there are")
    group.add_argument("--process", type=int, metavar="I", help="which one this is, from 0")
    return parser


def from_flags(arguments: argparse.Namespace) -> Processes | None:
    """What the flags say; None: one process.

    Raises:
      UserError: some of the flags without the others, or values that make no sense.
    """
    names = ("coordinator", "processes", "process")
    given = {name: getattr(arguments, name) for name in names if getattr(arguments, name) is not None}
    if not given:
        return Processes() if arguments.distributed else None
    if missing := [f"--{name}" for name in names if name not in given]:
        raise UserError(
            f"--{next(iter(given))}: also give {' and '.join(missing)}, or --distributed alone on a platform "
            "that knows them"
        )
    host, _, port = arguments.coordinator.rpartition(":")
    if not host or not port.isdigit() or not 0 < int(port) < 2**16:
        raise UserError(f"--coordinator {arguments.coordinator}: expected HOST:PORT, as node1:9876")
    if arguments.processes < 1:
        raise UserError(f"--processes {arguments.processes}: must be at least 1")
    if not 0 <= arguments.process < arguments.processes:
        raise UserError(
            f"--process {arguments.process}: of {arguments.processes} processes the numbers are 0 to "
            f"{arguments.processes - 1}"
        )
    return Processes(arguments.coordinator, arguments.processes, arguments.process)


def is_guarded() -> bool:
    """Whether this process is the child that does the work."""
    return _GUARDED in os.environ


def guard() -> int:
    """Runs this program again as a child; returns its exit code, or PEER_ENDED. See the module."""
    child = subprocess.Popen(
        [sys.executable, *sys.orig_argv[1:]],
        env=os.environ | {_GUARDED: "1"},
        stdin=subprocess.PIPE,  # the leash: its end tells the child that the guard is gone
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,  # Ctrl-C comes once, from here
    )
    for number in _FORWARDED:
        signal.signal(number, lambda number, _: child.send_signal(number))
    relays = [_Relay(child.stdout, sys.stdout.buffer), _Relay(child.stderr, sys.stderr.buffer)]
    code = child.wait()
    for relay in relays:
        relay.thread.join()
    if code == PEER_ENDED or (code < 0 and any(relay.fatal for relay in relays)):
        print(
            "error: another process of this run ended, or can't be reached; look at its output, then run the "
            "same commands again to resume",
            file=sys.stderr,
        )
        return PEER_ENDED
    if code < 0:
        why = ", by hand or for want of memory" if code == -signal.SIGKILL else ""
        print(
            f"error: this process was ended by {signal.Signals(-code).name}{why}; run the same commands "
            "again to resume",
            file=sys.stderr,
        )
        return 128 - code
    return code


def end_with_guard() -> None:
    """Of a child: ends at once when its guard is gone."""

    def wait() -> None:
        while os.read(0, 1):
            pass
        os._exit(PEER_ENDED)

    threading.Thread(target=wait, daemon=True).start()


class _Relay:
    """Passes lines on but for the notes of Gloo and of JAX's coordination service.

    Attributes:
      fatal: whether the service has ended the process: all that follows is a C++ stack.
    """

    def __init__(self, source: BinaryIO, target: BinaryIO):
        self.fatal = False
        self._source, self._target = source, target
        self.thread = threading.Thread(target=self._run, daemon=True)
        self.thread.start()

    def _pass_on(self, line: bytes) -> None:
        """Nobody may be there to read; the process must be read from all the same, or it would hang."""
        with suppress(OSError, ValueError):
            self._target.write(line)
            self._target.flush()

    def _run(self) -> None:
        left = 0  # lines of a note of the service that are still to come
        for line in self._source:
            self.fatal |= _FATAL in line
            noted = _COORDINATION.match(line)
            if noted:
                left = _CONTINUED if line.endswith(b":\n") else 0
            if not (self.fatal or noted or left or _GLOO.search(line)):
                self._pass_on(line)
            if left and not noted:
                left = 0 if b"CoordinationServiceError" in line else left - 1
