"""Errors that a user can mend. Everything else is a bug and keeps its traceback."""

from __future__ import annotations

import logging
import os
import re
import select
import sys
import traceback
from collections.abc import Callable, Sequence
from typing import TextIO

traced = False  # --verbose: a user's error shows where it was raised
_LONGEST = 2000  # letters of one line
_NAMED = 3  # of problems of one kind
_NAME = re.compile(r"'[^']*'|\"[^\"]*\"|\S*[\d/]\S*")


class UserError(Exception):
    """A mistake outside the program: one line that names the file, the value and the fix.

    Attributes:
      in_all_processes: every process of a run raises it, so that all can end in order.
    """

    in_all_processes = False


def printable(text: str) -> str:
    """Text that came from outside, in one line: a name may hold what a terminal obeys, or be endless."""
    if len(text) > _LONGEST:
        text = f"{text[: _LONGEST // 2]} ... ({len(text)} letters) ... {text[-_LONGEST // 2 :]}"
    return "".join(letter if letter.isprintable() else ascii(letter)[1:-1] for letter in text)


class Lines(logging.Formatter):
    """One printable line a message, whatever names of strangers are in it; a traceback keeps its lines."""

    def formatMessage(self, record: logging.LogRecord) -> str:
        return printable(super().formatMessage(record))


class Stopped(Exception):
    """A run was asked to stop, and what it needs to go on is saved."""


class DataProblems(UserError):
    """All problems of a data set at once, one line each."""

    def __init__(self, where: str, problems: Sequence[str], shown: int = 50):
        self.problems = [printable(problem) for problem in dict.fromkeys(problems)]
        kinds = by_kind(self.problems)
        if len(kinds) == 1:
            super().__init__(f"{where}: {kinds[0]}")
            return
        lines = [f"{where}: {len(self.problems)} problems", *(f"  {kind}" for kind in kinds[:shown])]
        if len(kinds) > shown:
            lines.append(f"  ... and {len(kinds) - shown} more")
        super().__init__("\n".join(lines))


def by_kind(problems: Sequence[str]) -> list[str]:
    """Return the problems in their order, those of one kind in one line with their count and three names.

    Problems are of one kind if they differ in what precedes the first colon, in quoted text, and in words that
    hold a digit or a slash. Up to three of a kind stay as they are.
    """
    kinds: dict[str, list[str]] = {}
    for problem in problems:
        kinds.setdefault(_NAME.sub("#", problem.partition(": ")[2] or problem), []).append(problem)
    lines = []
    for own in kinds.values():
        if len(own) <= _NAMED:
            lines += own
            continue
        heads, texts = zip(
            *((head, text) for head, _, text in (one.partition(": ") for one in own)), strict=True
        )
        if all(texts) and len(set(heads)) > 1:
            names, text = heads, texts[0]
        else:  # the difference is further inside, as in the entries of one list
            words = zip(*(_NAME.findall(one) for one in own), strict=False)
            names, text = next((word for word in words if len(set(word)) > 1), own), own[0]
        lines.append(f"{len(own)} times ({', '.join(dict.fromkeys(names[:_NAMED]))}, ...): {text}")
    return lines


def run(main: Callable[[], None]) -> None:
    """Call a script's `main`: a UserError becomes its own text on stderr and exit code 2, and so does a
    file that the system refuses; Ctrl-C 130, a run that was asked to stop 143, a pipe whose reader has gone
    (`| head`) 141.

    The program's log goes to stderr, one line a message. A terminal that lacks a letter shows its number.
    """
    for stream in (sys.stdout, sys.stderr):
        stream.reconfigure(errors="backslashreplace")
    handler = logging.StreamHandler()
    handler.setFormatter(Lines("%(message)s"))
    log = logging.getLogger("mvead_jax")
    log.addHandler(handler)
    log.setLevel(logging.INFO)
    log.propagate = False  # a library may have given the root logger a handler of its own
    try:
        try:
            main()
        except (UserError, Stopped, KeyboardInterrupt) as error:
            sys.exit(report(error))
        except OSError as error:
            if error.filename is None:
                raise  # a bug, or a pipe without a reader
            sys.exit(report(error))
        finally:
            sys.stdout.flush()  # now, while it can still be said well that nobody reads
    except BrokenPipeError:
        if not any([_unread(sys.stdout), _unread(sys.stderr)]):
            raise
        sys.exit(141)  # 128 + SIGPIPE


def _unread(stream: TextIO) -> bool:
    """Return whether a stream is a pipe whose reader has gone; what it still holds is then dropped."""
    try:
        looked = select.poll()  # a write would tell it too, but to a reader who is there
        looked.register(stream.fileno(), 0)
    except (AttributeError, OSError):  # Windows, or no file
        return False
    gone = bool(looked.poll(0))
    if gone:
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
    return gone


def report(error: BaseException) -> int:
    """Says on stderr what ended a program; returns the exit code."""
    if traced and not isinstance(error, KeyboardInterrupt):
        traceback.print_exception(error)
    if isinstance(error, UserError):
        lines = (
            str(error).split("\n")
            if isinstance(error, DataProblems) or error.in_all_processes
            else [str(error)]
        )
        print("error:", "\n".join(map(printable, lines)), file=sys.stderr)
        return 2
    if isinstance(error, OSError) and error.filename is not None:
        print("error:", printable(f"{_name(error.filename)}: {error.strerror}"), file=sys.stderr)
        return 2
    if isinstance(error, Stopped):
        print(f"{error}; run the same command again to go on", file=sys.stderr)
        return 143  # 128 + SIGTERM
    if isinstance(error, KeyboardInterrupt):
        print("interrupted", file=sys.stderr)
        return 130
    traceback.print_exception(error)
    return 1


def _name(file: object) -> str:
    """A file as an OSError names it."""
    return os.fsdecode(file) if isinstance(file, str | bytes | os.PathLike) else str(file)
